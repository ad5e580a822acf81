"""What is open: a copy of it is itself, and pickled is where it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Self

from gem_rag.errors import GemIndexError


class Handle:
    """Something open in a folder, or in memory.

    Attributes:
        path: The folder; None in memory.
    """

    path: Path | None
    _again: dict[str, Any]  # arguments, beside the path, to open it by in another process

    def __enter__(self) -> Self:
        return self

    def __copy__(self, memo: object = None) -> Self:
        """A copy is the thing itself."""
        return self

    __deepcopy__ = __copy__

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its path.

        Raises:
            GemIndexError: It is in memory, and would arrive empty.
        """
        if self.path is None:
            raise GemIndexError(
                f"a {type(self).__name__} in memory (as a vector store without a path has) cannot "
                "be pickled, as nothing of it would arrive; give a path, from which the other "
                "process opens it"
            )
        return partial(type(self), **self._again), (self.path.resolve(),)
