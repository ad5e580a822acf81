"""What all requests share: the model once it is loaded, the index, and what follows it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from gem_rag.checkpoints.names import DEFAULT, public_name
from gem_rag.documents.find import absolute
from gem_rag.engine.streams import AwaitedPieces
from gem_rag.errors import GemError
from gem_rag.index.address import open_index
from gem_rag.model import GemModel
from gem_rag.rag.pipeline import GemRAG
from gem_rag.server.admission import Admission
from gem_rag.server.errors import ApiError, stopping
from gem_rag.server.folders import Folders
from gem_rag.server.hub import Hub
from gem_rag.server.indexing import Indexer, sized
from gem_rag.server.keys import Keys
from gem_rag.server.measures import Measures
from gem_rag.server.records import Records
from gem_rag.server.settings import Settings
from gem_rag.server.uploads import Uploads

LOADING_SECONDS = 2  # after which to ask again
SPARE_THREADS = 32  # beside those that wait for the model
State = Literal["loading", "ready", "stopping", "failed"]


@dataclass(frozen=True)
class Loaded:
    """What is there once the model is.

    Attributes:
        model: The model.
        rag: Finds and answers as `gem-rag ask` does.
        indexer: Indexes.
        folders: Watches.
        uploads: Keeps what is sent.
        name: What the model is called by.
    """

    model: GemModel
    rag: GemRAG
    indexer: Indexer
    folders: Folders
    uploads: Uploads
    name: str


class Service:
    """Loads, holds and ends what is served; lives on the event loop.

    Args:
        settings: How.
        on_failed: Called when the model cannot be loaded; `failure` says why.

    Attributes:
        failure: What kept it from starting.
    """

    def __init__(self, settings: Settings, on_failed: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        # A new one is for its owner alone: what people ask is nobody else's business.
        absolute(settings.home).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _held(absolute(settings.home) / "server.lock")
        self.keys = Keys(settings.key)
        self.hub = Hub()
        self.admission = Admission(settings.limits.requests)
        self.uploads = Uploads(settings.uploads, settings.limits.file_bytes)
        self.records = Records(settings.database)
        self.metrics = Measures(self._gauges)
        self.failure: Exception | None = None
        self.state: State = "loading"
        self._on_failed = on_failed
        self._loaded: Loaded | None = None
        self._answers: set[AwaitedPieces[Any, Any]] = set()
        self._loading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to load; answers at once."""
        threads = self.settings.limits.requests + SPARE_THREADS
        pool = ThreadPoolExecutor(threads, thread_name_prefix="gem-rag-server")
        asyncio.get_running_loop().set_default_executor(pool)
        self._be("loading")
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            model, rag = await asyncio.to_thread(_opened, self.settings)
            indexer, settings = Indexer(rag, self.hub), self.settings
            folders = Folders(rag, indexer, self.records, self.hub, settings)
            uploads = await asyncio.to_thread(lambda: sized(self.uploads.files()))
        except Exception as error:
            self.failure = error
            self._be("failed")
            self._on_failed()
            return
        name = public_name(settings.model or DEFAULT)
        loaded = Loaded(model, rag, indexer, folders, self.uploads, name)
        indexer.start()
        indexer.put(uploads, is_new=False)
        lost = await asyncio.to_thread(self._lost_uploads, rag)
        await indexer.forget(lost)
        folders.start(self.settings.paths)
        self._loaded = loaded
        self._be("ready")

    def _lost_uploads(self, rag: GemRAG) -> list[str]:
        """Uploads that are in the index and were deleted before it could forget them."""
        sources = [document.source for document in rag.index.documents.all()]
        return [s for s in sources if self.uploads.holds(s) and not os.path.lexists(s)]

    def _be(self, state: State) -> None:
        self.state = state
        self.hub.publish("state", {"state": state})

    @property
    def loaded(self) -> Loaded:
        """What is there once the model is.

        Raises:
            ApiError: 503, it is not yet, or not any more.
        """
        if self.state == "stopping":
            raise stopping()
        if self._loaded is None:
            message = "the model is being loaded; ask again in a moment"
            raise ApiError(503, message, "loading", retry_after=LOADING_SECONDS)
        return self._loaded

    @property
    def loaded_or_none(self) -> Loaded | None:
        """What is there, if it is."""
        return self._loaded

    def run(self, answer: AwaitedPieces[Any, Any]) -> AwaitedPieces[Any, Any]:
        """Have an answer end when the server does."""
        self._answers = {one for one in self._answers if not one.is_closed} | {answer}
        return answer

    def _gauges(self) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {
            ("ready", "Whether the model is loaded."): self.state == "ready",
            ("waiting", "Requests that want the model."): self.admission.taken,
            ("refused", "Requests that were refused because too many waited."): (
                self.admission.refused
            ),
        }
        if self._loaded is not None:
            stats = self._loaded.model.engine.stats()
            found |= {
                (f"engine_{name}", f"See Stats.{name} of gem_rag.engine."): float(value)
                for name, value in vars(stats).items()
            }
        return found

    def stop(self) -> None:
        """End all streams, each with a reason; what is asked from now on is refused."""
        self._be("stopping")
        for answer in self._answers:
            answer.close()
        self.hub.close()

    async def close(self) -> None:
        """End everything; the index is sound and closed."""
        if self.state != "stopping":
            self.stop()
        if self._loading is not None:
            self._loading.cancel()
            with suppress(asyncio.CancelledError):
                await self._loading
        if self._loaded is not None:
            self._loaded.folders.stop()
            await self._loaded.indexer.stop()
            await asyncio.to_thread(self._loaded.rag.index.close)
        self.records.close()
        self._lock.release()


def _held(file: Path) -> FileLock:
    """A lock that ends with the process, however that ends.

    Raises:
        GemError: Another process holds it.
    """
    lock = FileLock(file, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise GemError(
            f"another gem-rag serves {file.parent}; end that, or choose another folder (--index)"
        ) from None
    return lock


def _opened(settings: Settings) -> tuple[GemModel, GemRAG]:
    """The model and its index."""
    model = GemModel.from_pretrained(settings.model, dtype=settings.dtype)
    made_by: dict[str, Any] = {}
    if model.embeds:
        made_by = {"fingerprint": model.fingerprint, "dim": model.dim}
    index = open_index(settings.index or absolute(settings.home), **made_by)
    return model, GemRAG(model, index)
