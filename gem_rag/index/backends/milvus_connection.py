"""A connection to Milvus."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pymilvus import MilvusClient
from pymilvus.client.iterator import query_iterator
from pymilvus.exceptions import MilvusException

from gem_rag.errors import GemIndexError
from gem_rag.index.backends.store import AT_ONCE


class Client:
    """Milvus's client, whose errors are this library's.

    Args:
        url: Where.
        name: How messages call the collection.
        is_server: Whether it is one, and not Milvus Lite, which has no indexes of metadata.
        token: Of the server.
        timeout: Seconds.
    """

    def __init__(self, url: str, name: str, *, is_server: bool, token: str, timeout: float) -> None:
        self._name = name
        self._is_server = is_server
        if not is_server:  # Milvus Lite has no clock, of which each iterator would warn
            logging.getLogger(query_iterator.__name__).setLevel(logging.ERROR)
        self.api: MilvusClient = self.ask(MilvusClient, url, token=token, timeout=timeout)
        self.close: Callable[[], None] = self.api.close

    def ask(self, method: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """Call one of `api`'s methods."""
        try:
            return method(*given, **options)
        except (MilvusException, OSError, ValueError) as error:
            raise GemIndexError(f"{self._name}: {method.__name__} failed: {error}") from error

    def exists(self, name: str) -> bool:
        """Whether there is a collection."""
        return bool(self.ask(self.api.has_collection, name))

    def create(
        self,
        name: str,
        schema: Any,
        vectors: Mapping[str, tuple[str, str]],
        inverted: Sequence[str] = (),
    ) -> None:
        """Create a collection, of whose vectors the kinds of index and the metrics are given."""
        indexes = MilvusClient.prepare_index_params()
        for field, (kind, metric) in vectors.items():
            indexes.add_index(field, index_type=kind, metric_type=metric)
        for field in inverted if self._is_server else ():
            indexes.add_index(field, index_type="INVERTED")
        self.ask(
            self.api.create_collection,
            name,
            schema=schema,
            index_params=indexes,
            consistency_level="Strong",
        )

    def rows(self, name: str, where: str, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The fields of all rows that match."""
        options: dict[str, Any] = {"filter": where, "output_fields": [*fields]}
        first = self.ask(self.api.query, name, limit=AT_ONCE, **options)
        if len(first) < AT_ONCE:
            yield from first
            return
        pages = self.ask(self.api.query_iterator, name, batch_size=AT_ONCE, **options)
        try:
            while page := self.ask(pages.next):
                yield from page
        finally:
            pages.close()

    def count(self, name: str, where: str) -> int:
        """How many rows match."""
        found = self.ask(self.api.query, name, filter=where, output_fields=["count(*)"])
        return int(found[0]["count(*)"])
