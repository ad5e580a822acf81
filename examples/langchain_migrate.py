"""From two models and a FAISS store to one model: what changes in a LangChain program.

Before:

    embeddings = HuggingFaceEmbeddings(model_name="sentence-transformers/all-MiniLM-L6-v2")
    store = FAISS.from_texts(texts, embeddings)                        # langchain-community
    store.save_local("index")
    store = FAISS.load_local("index", embeddings, allow_dangerous_deserialization=True)
    llm = ChatHuggingFace(llm=HuggingFacePipeline.from_model_id(...))  # the second model

A FAISS index of langchain-community is a pickle, which is not read here: index the texts again.
"""

import tempfile
from pathlib import Path

from gem_rag import ChatGem, GemEmbeddings, GemVectorStore

texts = ["The warranty of the Zephyr kettle is seven years.", "Rivers run to the sea."]
metadatas = [{"product": "kettle", "year": 2024}, {"product": None, "year": 1990}]
folder = Path(tempfile.mkdtemp()) / "index"

embeddings = GemEmbeddings()
store = GemVectorStore.from_texts(texts, embeddings, metadatas, path=folder)  # on disk at once
llm = ChatGem()  # the same weights: nothing is loaded

recent = {"year": {"$gte": 2000}}  # applied in the search: k documents come whenever k match
(best, cosine), *_ = store.similarity_search_with_score("How long is the warranty?", filter=recent)
print(f"{best.page_content} ({cosine:.2f})")
print(llm.invoke(f"{best.page_content}\n\nHow long is the warranty?").text)
print("one copy of the weights:", llm.gem is embeddings.gem)
