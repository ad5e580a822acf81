"""GemRetriever and GemReranker as plug-ins of a chain that exists already."""

from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from gem_rag import ChatGem, GemEmbeddings, GemReranker, GemRetriever, GemVectorStore

TEXTS = [
    "The warranty of the Zephyr kettle is seven years.",
    "The Zephyr toaster comes in red and in grey.",
    "Rivers run to the sea.",
]


def one_text(documents: list[Document]) -> str:
    return "\n\n".join(d.page_content for d in documents)


prompt = ChatPromptTemplate.from_template(
    "{context}\n\nAnswer the question with the information above.\nQuestion: {question}"
)
retriever = GemRetriever(vectorstore=GemVectorStore.from_texts(TEXTS, GemEmbeddings()), k=1)
inputs = {"context": retriever | one_text, "question": RunnablePassthrough()}
chain = inputs | prompt | ChatGem()
print(chain.invoke("How long is the warranty of the Zephyr kettle?").text)

# Whatever retriever you have: let the loaded model rank what it found.
found = [Document(text) for text in TEXTS]
best = GemReranker(top_n=1).compress_documents(found, "Which colours has the toaster?")
print(best[0].page_content)
