"""An agent with the retriever as a tool; the loop is LangChain's messages and nothing else."""

from __future__ import annotations

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool

from gem_rag import ChatGem, GemEmbeddings, GemRetriever, GemVectorStore

KETTLE, TOASTER = "The warranty of the Zephyr kettle is seven years.", "The toaster comes in red."
store = GemVectorStore.from_texts([KETTLE, TOASTER], GemEmbeddings())
retriever = GemRetriever(vectorstore=store, k=1)


@tool
def search_manuals(question: str) -> str:
    """Search the manuals of our products: warranty, colours, use."""
    return retriever.invoke(question)[0].page_content


agent = ChatGem().bind_tools([search_manuals])


def ask(question: str) -> str:
    messages: list[BaseMessage] = [HumanMessage(question)]
    for _ in range(3):
        answer = agent.invoke(messages)
        assert isinstance(answer, AIMessage)
        messages.append(answer)
        if not answer.tool_calls:
            return answer.text
        messages += [search_manuals.invoke(call) for call in answer.tool_calls]
        print("searched for:", answer.tool_calls[0]["args"]["question"])
    return "no answer in three steps"


print(ask("How long is the warranty of the Zephyr kettle?"))
