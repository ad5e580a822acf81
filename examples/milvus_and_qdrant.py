"""The same GemEmbeddings with Milvus and Qdrant, for those who outgrow one machine.

pip install langchain-milvus milvus-lite langchain-qdrant
"""

import tempfile

from langchain_core.vectorstores import VectorStore
from langchain_milvus import Milvus
from langchain_qdrant import QdrantVectorStore

from gem_rag import GemEmbeddings

TEXTS = ["The warranty of the Zephyr kettle is seven years.", "Rivers run to the sea."]
embeddings = GemEmbeddings()

stores: list[VectorStore] = [
    QdrantVectorStore.from_texts(TEXTS, embeddings, location=":memory:", collection_name="gem"),
    Milvus.from_texts(
        TEXTS,
        embeddings,
        connection_args={"uri": f"{tempfile.mkdtemp()}/gem.db"},
        index_params={"index_type": "FLAT", "metric_type": "COSINE"},
    ),
]
for store in stores:
    (best,) = store.similarity_search("How long is the warranty?", k=1)
    print(type(store).__name__, best.page_content)
