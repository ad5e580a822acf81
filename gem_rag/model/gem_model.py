"""GemModel: the face of a loaded model."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from gem_rag.checkpoints.folder import is_base, load_parts, save
from gem_rag.checkpoints.names import resolve, resolve_base
from gem_rag.checkpoints.origin import Origin, known
from gem_rag.checkpoints.shared import Shared
from gem_rag.compute.base import Base
from gem_rag.compute.embedder import Embedder
from gem_rag.compute.parts import Forward, Parts
from gem_rag.compute.ranker import Ranked, Ranker
from gem_rag.compute.reader import Reader
from gem_rag.compute.reading import Reading
from gem_rag.config import GemConfig, Task
from gem_rag.engine.committee import After
from gem_rag.engine.engine import Engine
from gem_rag.engine.options import GenerationOptions
from gem_rag.engine.request import Request
from gem_rag.engine.results import Generation
from gem_rag.engine.streams import AsyncStream, Stream
from gem_rag.engine.work import apart, when_started
from gem_rag.text.codec import TextCodec


class GemModel:
    """A decoder with special tokens: read a text once, then embed it, rank it, answer from it.

    Use `from_pretrained`. Safe to use from several threads at once; pickled by where it is from.

    Attributes:
        parts: Weights, tokenizer and config, and what they are known by.
        origin: What it can be loaded by again; None for a new one that was not saved.
        reader: Runs texts (pass 1).
        embedder: Runs special tokens (pass 2).
        ranker: Runs questions after passages.
        engine: Runs all of it for many callers.
    """

    def __init__(self, parts: Parts, origin: Origin | None = None) -> None:
        self.parts = parts
        self.origin = origin
        # Weakly, or the weights would outlive their last user until a garbage collection.
        self.reader = Reader(parts, weakref.ref(self))
        self.embedder = Embedder(self.reader)
        self.ranker = Ranker(self.reader)
        self.engine = Engine(self.reader, self.embedder, self.ranker)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        forward: Forward = "auto",
    ) -> GemModel:
        """Load a GEM checkpoint; the same checkpoint asked for twice is the same object.

        Args:
            name_or_path: Bundled name, local folder or hub id; None is the embedded default.
            device: ``auto`` (GEM_RAG_DEVICE, or CUDA, then MPS, then CPU) or a torch device.
            dtype: A number format (`FORMATS`); ``auto`` is `BOTH` on a CPU that computes bfloat16,
                float32 on others, the base's own on other devices (or what GEM_RAG_DTYPE says).
            revision: Hub revision.
            forward: ``auto`` is our own where it knows the base, ``transformers`` that library's.

        Raises:
            CheckpointError: Nothing there, or the base does not match the checkpoint's record.
            UnsupportedModelError: The base's architecture cannot be used.
        """
        folder = resolve(name_or_path, revision)
        if is_base(folder):
            warnings.warn(f"{folder.name} {PLAIN}", stacklevel=2)
        options = {"device": device, "dtype": dtype, "forward": forward}
        return _loaded(name_or_path, folder, revision, **options)

    @classmethod
    def from_base(
        cls, name_or_path: str | Path, *, revision: str | None = None, **options: Any
    ) -> GemModel:
        """Load a plain model, which reads, ranks and answers; embedding needs a checkpoint.

        Arguments as for `from_pretrained`; the embedded one is ``embedded:smollm2-135m-instruct``.
        """
        return _loaded(name_or_path, resolve_base(name_or_path, revision), revision, **options)

    def __copy__(self, memo: object = None) -> Self:
        """A copy of a model is the model: one copy of the weights."""
        return self

    __deepcopy__ = __copy__

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled is where it is from; `CheckpointError` if it is in no folder."""
        return _loaded_again, (known(self.origin, self.parts), self.fingerprint)

    def save_pretrained(
        self, folder: str | Path, *, card: str | None = None, with_base: bool = False
    ) -> Path:
        """Write config, adapter (PEFT's format), token vectors and card to a folder, atomically.

        Args:
            folder: Where: a new or empty folder, or a checkpoint's, which is replaced.
            card: Markdown of the model card; None writes a short one.
            with_base: Write the base's weights too: for a base that was trained.
        """
        saved = save(self.parts, Path(folder), card=card, with_base=with_base)
        if self.path is None:
            self.origin = Origin.of_saved(self.parts, saved)
        return saved

    @property
    def base(self) -> Base:
        """The base model, untouched."""
        return self.parts.base

    @property
    def codec(self) -> TextCodec:
        """Its tokenizer and chat template."""
        return self.parts.codec

    @property
    def config(self) -> GemConfig:
        """The checkpoint's config."""
        return self.parts.config

    @property
    def fingerprint(self) -> str:
        """Of all that decides an embedding: an index asks for it."""
        return self.parts.fingerprint

    @property
    def path(self) -> Path | None:
        """The folder it was loaded from; None for a new one."""
        return self.parts.path

    @property
    def dim(self) -> int:
        """Length d of an embedding."""
        return self.parts.dim

    @property
    def embeds(self) -> bool:
        """Whether it has learned to embed: not a base without a checkpoint."""
        return self.parts.embeds

    @property
    def skills(self) -> list[str]:
        """Names of what it has learned to do after a text: `GenerationOptions.skill`."""
        return sorted(self.parts.skills)

    @property
    def max_context(self) -> int:
        """Context window in tokens."""
        return self.parts.base.max_context

    @property
    def shares_readings(self) -> bool:
        """Whether what was read to embed can be ranked and continued (not for one scope)."""
        return self.parts.shares_readings

    def read(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> list[Reading]:
        """Read texts, each after the preamble, as the model would to generate.

        Args:
            texts: What to read.
            max_length: Tokens of each text to read at most; None is the config's. What is cut is
                warned about (`TruncationWarning`) and recorded in `Reading.cut_tokens`.
            show_progress: A progress bar; None shows one on a terminal when there is much to do.

        Returns:
            One `Reading` per text, in the order given.
        """
        return self.engine.read(texts, max_length, show_progress).result()

    async def aread(self, texts: Sequence[str], **options: Any) -> list[Reading]:
        """`read` without blocking the event loop."""
        return await self.engine.read(texts, **options)

    def join(self, readings: Sequence[Reading]) -> Reading:
        """Several readings as one: see `Reader.join`."""
        return self.engine.join(readings).result()

    def embed_documents(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> np.ndarray:
        """Embed passages, unchanged: float32 ``[n, d]``, L2-normalised. Arguments as `read`."""
        return self.engine.embed(texts, "document", max_length, show_progress).result()

    async def aembed_documents(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """`embed_documents` without blocking the event loop."""
        return await self.engine.embed(texts, "document", **options)

    def embed_queries(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> np.ndarray:
        """Embed questions to find passages with; arguments and result as `embed_documents`."""
        return self.engine.embed(texts, "query", max_length, show_progress).result()

    async def aembed_queries(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """`embed_queries` without blocking the event loop."""
        return await self.engine.embed(texts, "query", **options)

    def embed_query(self, text: str, *, max_length: int | None = None) -> np.ndarray:
        """Embed one question: float32 ``[d]``, L2-normalised."""
        return self.engine.embed_query(text, max_length).result()

    async def aembed_query(self, text: str, **options: Any) -> np.ndarray:
        """`embed_query` without blocking the event loop."""
        return await self.engine.embed_query(text, **options)

    def embed_readings(self, readings: Sequence[Reading], task: Task = "document") -> np.ndarray:
        """Embed texts already read: float32 ``[n, d]``; only the special tokens are run."""
        return self.engine.embed_readings(readings, task).result()

    async def aembed_readings(self, readings: Sequence[Reading], **options: Any) -> np.ndarray:
        """`embed_readings` without blocking the event loop."""
        return await self.engine.embed_readings(readings, **options)

    def embed_spans(self, reading: Reading, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        """Embed parts of one reading in one pass: see `Reading.embed`."""
        return self.engine.embed_spans(reading, spans).result()

    async def aembed_spans(self, reading: Reading, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        """`embed_spans` without blocking the event loop."""
        return await self.engine.embed_spans(reading, spans)

    def rank(
        self,
        query: str,
        texts_or_readings: Sequence[str | Reading],
        *,
        max_length: int | None = None,
        floor: float | None = None,
        skill: str | None = None,
    ) -> list[Ranked]:
        """Rank passages by how likely each makes the query (zero-shot), or by a skill that ranks.

        Args:
            query: The question.
            texts_or_readings: Passages; what was read already is not run again.
            max_length: Tokens of each text to read at most, as for `read`.
            floor: `Ranked.floor` of an earlier call for the query, which need not be run again.
            skill: Whose log-odds that a passage answers are the scores; None is likelihood.

        Returns:
            One `Ranked` per passage, best first.

        Raises:
            ReadingError: A reading is another model's, or was read with the adapter on.
            ContextLengthError: A passage and the query do not fit the context window.
        """
        return self.engine.rank(query, texts_or_readings, max_length, floor, skill).result()

    async def arank(
        self, query: str, texts_or_readings: Sequence[str | Reading], **options: Any
    ) -> list[Ranked]:
        """`rank` without blocking the event loop."""
        return await self.engine.rank(query, texts_or_readings, **options)

    def generate(
        self, messages_or_prompt: Request, *, after: After | None = None, **options: Any
    ) -> Generation:
        """Generate one answer: text, finish reason and token usage.

        Args:
            messages_or_prompt: Chat messages, or a string: one user message; templated.
            after: Go on from this reading, or `Committee` of readings, not run again: what is asked
                follows its text in the same user message (``reading.ids + new ids``).
            **options: See `GenerationOptions` (``max_new_tokens``, ``temperature``, ``stop``, ...).
        """
        readings = None if after is None else [after]
        return self.generate_batch([messages_or_prompt], after=readings, **options)[0]

    def generate_batch(
        self,
        requests: Sequence[Request],
        *,
        after: Sequence[After] | None = None,
        cancelled: Callable[[int], bool] | None = None,
        **options: Any,
    ) -> list[Generation]:
        """Generate several answers together; each is what it would be alone.

        Args:
            requests: As `generate` takes one.
            after: One reading per request to go on from.
            cancelled: Asked after each token with its request's place; True stops that request.
            **options: See `GenerationOptions`.

        Raises:
            ContextLengthError: A prompt leaves no room for an answer.
            GemError: A schema that cannot be enforced, or an unknown tool.
            ReadingError: A reading is another model's or cannot be continued.
        """
        chosen = GenerationOptions.of(options)
        return self.engine.generate(requests, after, chosen, cancelled).result()

    async def agenerate_batch(
        self, requests: Sequence[Request], **options: Any
    ) -> list[Generation]:
        """`generate_batch` without blocking the event loop."""
        after, cancelled = options.pop("after", None), options.pop("cancelled", None)
        chosen = GenerationOptions.of(options)
        return await self.engine.generate(requests, after, chosen, cancelled)

    def submit(
        self,
        messages_or_prompt: Request,
        *,
        after: After | None = None,
        wait: bool = True,
        **options: Any,
    ) -> Future[Generation]:
        """Queue a request, as `generate` has it; it joins the others as soon as there is room.

        Args:
            messages_or_prompt: As for `generate`, like ``after``.
            after: See there.
            wait: False refuses (`EngineFull`) where too many wait already: see `Engine.limits`.
            **options: As for `generate`.

        Returns:
            A future; cancelling it stops the computation.
        """
        return self.engine.submit(messages_or_prompt, after, GenerationOptions.of(options), wait)

    async def agenerate(self, messages_or_prompt: Request, **options: Any) -> Generation:
        """`generate` without blocking the event loop; cancelling stops after the next token."""
        return await when_started(partial(self.submit, messages_or_prompt, **options))

    def stream(
        self,
        messages_or_prompt: Request,
        *,
        after: After | None = None,
        wait: bool = True,
        **options: Any,
    ) -> Stream:
        """Generate one answer piece by piece; arguments as for `submit`.

        Returns:
            An iterator of text pieces that never split a character or show part of a stop string;
            its ``generation`` has finish reason and usage. Closing it stops the computation.
        """
        return self.engine.stream(messages_or_prompt, after, GenerationOptions.of(options), wait)

    def astream(self, messages_or_prompt: Request, **options: Any) -> AsyncStream:
        """`stream` without blocking the event loop."""
        return AsyncStream(partial(self.stream, messages_or_prompt, **options))


PLAIN = "is a plain model: it finds by words, ranks and answers; to embed, `gem-rag train` it"
_shared = Shared[GemModel]()


def _loaded(
    name: str | Path | None, folder: Path, revision: str | None, **options: Any
) -> GemModel:
    origin = Origin.of(name, folder, revision=revision, **options)
    return _shared.get(folder, origin, lambda: load(folder, origin=origin, **options))


def load(folder: Path, *, origin: Origin | None = None, **options: Any) -> GemModel:
    """A checkpoint's folder as a model of its own: see `load_parts`."""
    parts = apart(partial(load_parts, folder, **options))
    return GemModel(parts, origin or Origin.of(folder, folder, **options))


def _loaded_again(origin: Origin, fingerprint: str) -> GemModel:
    """What was pickled, maybe in another process."""
    model = GemModel.from_pretrained(origin.name, **origin.options)
    origin.require_same(model.parts, fingerprint)
    return model
