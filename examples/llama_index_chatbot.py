"""A chatbot over the files and folders named: one model embeds, ranks and answers."""

import sys
from collections.abc import Callable
from pathlib import Path

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.chat_engine import ContextChatEngine

from gem_rag.documents import find_files, load_file
from gem_rag.model import GemModel
from gem_rag.store import ReadingStore
from llama_index_gem_rag import GemEmbedding, GemRetriever, GemVectorStore, use_gem

Ask = Callable[[str], str]


def main(*paths: str | Path, model: GemModel | None = None, ask: Ask = input) -> None:
    model = use_gem(model, max_tokens=128)
    readings = ReadingStore(model)  # each chunk is read once, to embed it and to rank it
    embed = GemEmbedding(model, readings=readings)
    store = GemVectorStore(embed_model=embed)
    VectorStoreIndex.from_documents(
        [Document(text=load_file(f).text, metadata={"file": f.name}) for f in find_files(paths)],
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=embed,
    )
    retriever = GemRetriever(store, model, similarity_top_k=1, readings=readings)
    chat = ContextChatEngine.from_defaults(retriever)
    while question := ask("\n> ").strip():
        answer = chat.stream_chat(question)
        for piece in answer.response_gen:
            print(piece, end="", flush=True)
        print(f"\n[{', '.join(n.metadata['file'] for n in answer.source_nodes)}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
