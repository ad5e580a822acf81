"""GemEmbeddings in LangChain, and the same loaded weights generating."""

from langchain_core.vectorstores import InMemoryVectorStore

from gem_rag import GemEmbeddings

embeddings = GemEmbeddings()
store = InMemoryVectorStore(embeddings)
store.add_texts(["The warranty of the Zephyr kettle is seven years.", "Rivers run to the sea."])
(best,) = store.similarity_search("How long is the warranty?", k=1)
print(best.page_content)
print(embeddings.model.generate("What is the capital of France?").text)
