"""One object per checkpoint, device, dtype and forward in a process, while somebody uses it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from gem_rag.checkpoints.base import chosen_device
from gem_rag.checkpoints.origin import Origin
from gem_rag.forks import in_child

T = TypeVar("T")


class Shared(Generic[T]):
    """What was loaded and is still in use."""

    def __init__(self) -> None:
        self._loaded: weakref.WeakValueDictionary[tuple[str, int, str, str, str], T]
        self._loaded = weakref.WeakValueDictionary()
        self._start_anew()
        in_child(self._start_anew)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()

    def get(self, folder: Path, origin: Origin, load: Callable[[], T]) -> T:
        """What was loaded from a folder already, or what `load` gives."""
        where = str(chosen_device(origin.device))
        # A checkpoint that was trained on and saved again is another one.
        written = max((f.stat().st_mtime_ns for f in folder.iterdir()), default=0)
        key = (str(folder), written, where, origin.dtype, origin.forward)
        with self._lock:
            found = self._loaded.get(key)
            if found is None:
                found = load()
                self._loaded[key] = found
        return found
