"""Files into an index by many processes: Ray's workers look, cut and embed, this process writes.

The one writer is what makes each source's effect happen exactly once: a block of sources that a
killed worker had is given to another by Ray Data, a source is written in one transaction with the
digest of its content, in the place of the one before, and a source that stands there with this
digest is looked at and left alone. So a killed run needs nothing to go on but the same command.

The weights of a node stand once in its memory: this process puts them into Ray's object store,
which hands them to each node once, and the node's actors compute from views of them
(`gem_rag.compute.lent`). On GPUs each actor loads the model to its own.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from gem_rag.compute.lent import Lent
from gem_rag.errors import GemError, MissingExtraError
from gem_rag.index.protocol import Index
from gem_rag.model import GemModel
from gem_rag.model.lending import borrowed, lent
from gem_rag.rag.ingest.plan import Cutter, Move, Part, Plan, Seen, Work
from gem_rag.rag.ingest.report import IngestReport, Report
from gem_rag.rag.ingest.write import Ingest
from gem_rag.store import ReadingStore

AT_ONCE = 16  # sources in a block: what a worker does, and does again where it is killed
RETRIES = 3  # of a block whose worker was killed
_COLUMN = "sources"  # of the blocks: pickled, one a row
_ENVIRONMENT = {  # where nobody says otherwise
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # it takes each actor's restart for dangerous
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns
}


class Indexing(Protocol):
    """What of a `GemRAG` is needed to index."""

    model: GemModel
    index: Index
    store: ReadingStore
    chunk_tokens: int


@dataclass(frozen=True)
class RayWorkers:
    """Has sources looked at, cut and embedded by Ray's workers, in the order given.

    Attributes:
        model: Embeds; it must be in a folder.
        actors: How many embed; None: one for each of the cluster's CPUs, or GPUs where the model
            is on one.
    """

    model: GemModel
    actors: int | None = None

    def __call__(
        self, sources: Mapping[str, list[Part]], plan: Plan, report: Report
    ) -> Iterator[Work | Move | None]:
        """What there is to do for each source, as its block comes back."""
        if not sources:
            return
        with connected():
            import ray

            left = dict(sources)
            weights = ray.put(lent(self.model)) if self._shares else None  # held until the end
            try:
                for row in self._dataset(sources, plan, weights).iter_rows():
                    seen: Seen = pickle.loads(row[_COLUMN])
                    parts = left.pop(seen.name, None)
                    if parts is not None:  # each once
                        yield plan.take(seen, parts, report)
            except _lost_workers() as error:
                raise GemError(
                    f"Ray's workers were lost again and again, {len(left)} of {len(sources)} "
                    f"sources are left, {next(iter(left))!r} the first; see which of them they "
                    "cannot read (--exclude leaves it out) or whether memory ran out, and run the "
                    f"command again: what was indexed is kept. Ray says: {_last_line(error)}"
                ) from error

    @property
    def _is_on_gpu(self) -> bool:
        return self.model.base.device.type == "cuda"

    @property
    def _shares(self) -> bool:
        """Whether actors of a node compute from one copy of the weights."""
        return self.model.embeds and not self._is_on_gpu

    def _dataset(self, sources: Mapping[str, list[Part]], plan: Plan, weights: Any) -> Any:
        """Blocks of sources to blocks of what was seen."""
        import ray.data

        ray.data.DataContext.get_current().execution_options.preserve_order = True
        rows = [
            {_COLUMN: pickle.dumps((name, parts, plan.known(name)))}
            for name, parts in sources.items()
        ]
        blocks = -(-len(rows) // AT_ONCE)
        dataset = ray.data.from_items(rows, override_num_blocks=blocks)
        cut = Look(plan.cutter, plan.gone())
        if not self._shares:  # a GPU should not wait for files
            dataset = dataset.map_batches(cut, batch_size=AT_ONCE)
        if not self.model.embeds:
            return dataset
        resource = "CPU" if self._shares else "GPU"
        most = max(1, int(ray.cluster_resources().get(resource, 1)))
        model = _Lent(weights) if self._shares else self.model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that `ray_remote_args_fn` will go in 2.64
            return dataset.map_batches(
                Embed,
                batch_size=AT_ONCE,
                compute=ray.data.ActorPoolStrategy(size=min(self.actors or most, blocks)),
                fn_constructor_args=(model, cut if self._shares else None),
                num_cpus=1 if self._shares else None,
                num_gpus=None if self._shares else 1,
                ray_remote_args_fn=_retries,
            )


def add(
    rag: Indexing,
    paths: Sequence[str | Path],
    *,
    remove_missing: bool = False,
    exclude: Sequence[str] = (),
    show_progress: bool | None = None,
    actors: int | None = None,
) -> IngestReport:
    """`GemRAG.add` on Ray: the same chunks, vectors (to rounding) and report.

    Takes the cluster of ``RAY_ADDRESS``, or this machine. Files are under the same paths on all
    nodes. What was read is not kept: passages are read when they are first ranked.

    Args:
        rag: Whose index and model.
        paths: Files and folders.
        remove_missing: As there, like `exclude` and `show_progress`.
        exclude: See there.
        show_progress: See there.
        actors: How many embed; None: one for each CPU, or GPU where the model is on one.

    Raises:
        GemError: Workers were killed again and again over the same sources.
        MissingExtraError: Ray is not installed.
    """
    require_ray()
    if actors is not None and actors < 1:
        raise GemError(f"actors is {actors}; expected at least 1")
    workers = RayWorkers(rag.model, actors)
    return Ingest(rag.index, rag.store, rag.chunk_tokens, workers).add(
        list(paths), remove_missing=remove_missing, exclude=exclude, show_progress=show_progress
    )


def require_ray() -> None:
    """Raise `MissingExtraError` where there is no Ray Data."""
    if not has_ray():
        raise MissingExtraError("indexing on Ray", "ray")


def has_ray() -> bool:
    """Whether Ray Data is installed."""
    try:
        import ray.data  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True)
class Look:
    """Looks at a block of sources and cuts them.

    Attributes:
        cutter: Cuts.
        gone: Digests of indexed sources that are gone.
    """

    cutter: Cutter
    gone: Collection[str]

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Pickled names, parts and known digests to pickled `Seen`."""
        return _column(self.see(block))

    def see(self, block: dict[str, np.ndarray]) -> list[Seen]:
        """Each source of a block."""
        sources = [pickle.loads(row) for row in block[_COLUMN]]
        return [
            self.cutter.look(name, parts, known, lambda: self.gone)
            for name, parts, known in sources
        ]


class Embed:
    """An actor: embeds what was cut of a block of sources.

    Args:
        model: The model, loaded where this runs, or lent by the object store.
        look: Cuts first; None: the block was cut already.
    """

    def __init__(self, model: GemModel | _Lent, look: Look | None) -> None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self._model = model if isinstance(model, GemModel) else model.borrowed()
        self._look = look

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Pickled sources, or what was seen of them, to pickled `Seen` with vectors."""
        if self._look is None:
            seen: list[Seen] = [pickle.loads(row) for row in block[_COLUMN]]
        else:
            seen = self._look.see(block)
        texts = [p.words for s in seen if s.work for p in s.work.passages]
        vectors = self._model.embed_documents(texts, show_progress=False)
        at = 0
        for i, one in enumerate(seen):
            if one.work:
                own = vectors[at : at + len(one.work.passages)]
                seen[i] = one._replace(work=one.work._replace(vectors=own))
                at += len(own)
        return _column(seen)


@dataclass(frozen=True)
class _Lent:
    """A model in the object store: by reference, so that a node fetches it once."""

    reference: Any

    def borrowed(self) -> GemModel:
        import ray

        found: Lent = ray.get(self.reference)
        return borrowed(found)


def _retries() -> dict[str, int]:
    """Ray's own bound is none: a file that kills whoever reads it would be read for ever."""
    return {"max_task_retries": RETRIES}


def _column(seen: Sequence[Seen]) -> dict[str, np.ndarray]:
    return {_COLUMN: np.array([pickle.dumps(one) for one in seen], dtype=object)}


@contextmanager
def connected() -> Iterator[None]:
    """Within the cluster of ``RAY_ADDRESS``, one of this machine, or the one that is in use."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    began = not ray.is_initialized()
    if began:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = shown
        if began:
            ray.shutdown()


def _lost_workers() -> tuple[type[Exception], ...]:
    from ray.exceptions import ActorDiedError, ActorUnavailableError, WorkerCrashedError

    return ActorDiedError, ActorUnavailableError, WorkerCrashedError


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
