"""A chatbot over your files in LangChain: one model embeds, ranks and answers.

python examples/langchain_chatbot.py FILE...
"""

from __future__ import annotations

import sys

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from gem_rag import ChatGem, GemEmbeddings, GemRetriever, GemVectorStore
from gem_rag.documents import load_file, split

ASK = "{context}\n\nAnswer the question with the information above.\nQuestion: {question}"


def main(paths: list[str], questions: list[str] | None = None) -> None:
    """Answer questions from a list, or from the keyboard until an empty line."""
    embeddings, chat = GemEmbeddings(), ChatGem()  # one copy of the weights
    store = GemVectorStore(embeddings)
    for path in paths:
        chunks = split(load_file(path), embeddings.gem.codec.backend, max_tokens=256)
        store.add_texts([c.text for c in chunks], [{"source": path} for _ in chunks])
    retriever = GemRetriever(vectorstore=store, k=1)
    history: list[BaseMessage] = []
    for question in questions or iter(lambda: input("> "), ""):
        best = retriever.invoke(question)[0]
        ask = ASK.format(context=best.page_content, question=question)
        answer = ""
        for piece in chat.stream([*history, HumanMessage(ask)]):
            answer += piece.text
            print(piece.text, end="", flush=True)
        print(f"  [{best.metadata['source']}]")
        history = [*history, HumanMessage(question), AIMessage(answer)][-4:]


if __name__ == "__main__":
    main(sys.argv[1:])
