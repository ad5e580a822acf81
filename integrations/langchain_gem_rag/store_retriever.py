"""What `GemVectorStore.as_retriever` gives: LangChain's retriever, with searches by words too."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStoreRetriever

from gem_rag.rag.question import readable

BY_WORDS = ("hybrid", "words")


class GemStoreRetriever(VectorStoreRetriever):
    """LangChain's `VectorStoreRetriever` that also takes ``search_type="hybrid" | "words"``."""

    allowed_search_types: ClassVar[Collection[str]] = (
        *VectorStoreRetriever.allowed_search_types,
        *BY_WORDS,
    )

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        query = readable(query)
        if self.search_type not in BY_WORDS:
            return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)
        options = self.search_kwargs | kwargs
        return self.vectorstore.search(query, self.search_type, **options)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        query = readable(query)
        if self.search_type not in BY_WORDS:
            return await super()._aget_relevant_documents(query, run_manager=run_manager, **kwargs)
        options = self.search_kwargs | kwargs
        return await self.vectorstore.asearch(query, self.search_type, **options)
