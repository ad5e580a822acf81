"""Whose vectors an index holds: the model's fingerprint, their length, and how to search them."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import ArrayLike

from gem_rag.errors import GemIndexError
from gem_rag.index.ann import Kind
from gem_rag.index.database import Vectors
from gem_rag.index.records import check_vectors

_REMEDY = "use the model that made it, or ingest again into a new index"


class UnknownOriginError(GemIndexError):
    """It was never recorded which model made the vectors."""


class Recording(Protocol):
    """Where it is recorded whose vectors are held."""

    @property
    def read_only(self) -> bool:
        """Whether nothing can be recorded."""
        ...

    def properties(self) -> dict[str, Any]:
        """What is recorded."""
        ...

    def set_property(self, key: str, value: Any) -> None:
        """Record something."""
        ...

    def count_vectors(self) -> int:
        """How many chunks have a vector."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """What is recorded inside is recorded together, where the store can do that."""
        ...


class Identity:
    """What is recorded in a database about its vectors, and comparisons with it.

    Args:
        database: Where it is recorded.
        name: How error messages call the index.
    """

    def __init__(self, database: Recording, name: str) -> None:
        self._database = database
        self._name = name

    def open(self, fingerprint: str | None, dim: int | None, kind: Kind | None) -> Kind:
        """`claim`, and the kind to search by."""
        self.claim(fingerprint, dim, kind or "auto")
        recorded: Kind = self._database.properties().get("kind", "auto")
        return kind or recorded

    def claim(self, fingerprint: str | None, dim: int | None, kind: Kind | None = None) -> None:
        """Record what is not recorded yet, and check fingerprint and dim; None is neither.

        Raises:
            GemIndexError: Something given differs from what is recorded.
        """
        given = {"fingerprint": fingerprint, "dim": dim, "kind": kind}
        if self._unrecorded(given) and not self._database.read_only:
            with self._database.transaction():
                # Another process may have been faster.
                for key, value in self._unrecorded(given).items():
                    self._database.set_property(key, value)
        self.check_fingerprint(fingerprint)
        self.check_dim(dim)

    def _unrecorded(self, given: dict[str, Any]) -> dict[str, Any]:
        recorded = self._database.properties()
        new = {k: v for k, v in given.items() if v is not None and recorded.get(k) is None}
        if "fingerprint" in new and self._database.count_vectors():
            del new["fingerprint"]  # vectors of unknown origin are not attributed to a model
        return new

    @property
    def dim(self) -> int | None:
        """Numbers in a vector; None before the first is added."""
        return self._database.properties().get("dim")

    def check_fingerprint(self, fingerprint: str | None) -> None:
        """None is not checked.

        Raises:
            GemIndexError: Another model made the vectors, or it is not known which.
        """
        recorded = self._database.properties().get("fingerprint")
        if fingerprint is None or fingerprint == recorded:
            return
        if recorded is None and not self._database.count_vectors():
            return
        if recorded is None:
            raise UnknownOriginError(
                f"{self._name} does not say which model made its vectors, so they cannot be "
                f"compared with those of {fingerprint!r}: ingest again into a new index, or give "
                "no fingerprint if you know that they fit"
            )
        raise GemIndexError(
            f"{self._name} was made by the model {recorded!r}, but {fingerprint!r} is asking: "
            f"{_REMEDY}"
        )

    def check_dim(self, dim: int | None) -> None:
        """None is not checked; nor is anything before the first vector is added.

        Raises:
            GemIndexError: The vectors are of another length.
        """
        recorded = self.dim
        if dim is not None and recorded is not None and dim != recorded:
            raise GemIndexError(
                f"{self._name} holds vectors of {recorded} numbers, not {dim}: {_REMEDY}"
            )

    def accept(self, vectors: ArrayLike | None, count: int) -> Vectors | None:
        """Vectors to be added, one for each of `count` chunks: float32 [n, dim], or None.

        The first ones decide the length of all.

        Raises:
            GemIndexError: They are malformed, too many or too few, or of another length.
        """
        if vectors is None:
            return None
        matrix = check_vectors(vectors, count)
        if not count:
            return None
        self.check_dim(matrix.shape[1])
        if self.dim is None:
            self._database.set_property("dim", matrix.shape[1])
        return matrix
