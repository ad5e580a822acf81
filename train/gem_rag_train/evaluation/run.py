"""`evaluate`: the parts, one after the other, over vectors and answers that are made once."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gem_rag.errors import GemError, MissingExtraError
from gem_rag.model import GemModel, as_model, name_of
from gem_rag_train.evaluation import embedding, sets
from gem_rag_train.evaluation.kept import KeptVectors
from gem_rag_train.evaluation.measures import Measure
from gem_rag_train.evaluation.report import Report
from gem_rag_train.evaluation.sets import Retrieval
from gem_rag_train.evaluation.systems import (
    CHECKPOINT,
    MINILM,
    Embedder,
    GemEmbedder,
    MeanPooled,
    MiniLM,
    base_of,
)

PARTS = (
    "sts",
    "retrieval",
    "shifted",
    "ranking",
    "answerable",
    "classification",
    "clustering",
    "generation",
    "answers",
    "rag",
    "followups",
    "mteb",
)
SMALL_INDEX = 100  # paragraphs, as many as a user's first folder may have
SIZES = (
    "paragraphs",
    "questions",
    "ranked",
    "answerable",
    "labelled",
    "lm",
    "passages",
    "answers",
    "rag",
    "followups",
)
EXTRA = ("lm_eval", "matplotlib", "mteb", "scipy", "sentence_transformers", "sklearn")
PACKAGES = ("gem-rag", "torch", "transformers", "mteb", "lm-eval", "sentence-transformers")


@dataclass(frozen=True)
class EvalSettings:
    """What to measure and how much of it. None means all there is.

    Attributes:
        only: Parts to run; empty is all of `PARTS` that have what they need.
        stsb: A CSV of ``sentence1,sentence2,score`` rows, for ``sts``.
        paragraphs: Of each retrieval set.
        questions: Of each retrieval set.
        ranked: Questions of each set that are asked of words, vectors, both, and ranked.
        answerable: Questions that are asked with their paragraph in the index and without.
        labelled: Texts of each set for classification and clustering.
        lm: Questions of each multiple-choice task.
        passages: For perplexity.
        answers: Questions answered with the right passage given; of each shifted set a quarter.
        rag: Questions answered end to end.
        followups: Questions of conversations, of each kind.
        mteb: Tasks by mteb's names (from the hub), local retrieval folders and STS files.
        dtype: Number format of the checkpoint.
        mean_pooled: Measure the base mean-pooled too, which takes as long as the checkpoint.
        max_length: Tokens of a text that count, and of a chunk.
        seed: Draws all samples.
    """

    only: tuple[str, ...] = ()
    stsb: Path | None = None
    paragraphs: int | None = None
    questions: int | None = None
    ranked: int = 1000
    answerable: int = 500
    labelled: int | None = 1000
    lm: int | None = None
    passages: int | None = 500
    answers: int = 1000
    rag: int = 500
    followups: int = 300
    mteb: tuple[str, ...] = ()
    dtype: str = "float32"
    mean_pooled: bool = True
    max_length: int = 256
    seed: int = 1

    def __post_init__(self) -> None:
        unknown = [part for part in self.only if part not in PARTS]
        if unknown:
            raise GemError(f"no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
        for part, needed in (("sts", self.stsb), ("mteb", self.mteb)):
            if part in self.only and not needed:
                option = {"sts": "--stsb FILE", "mteb": "--mteb TASK"}[part]
                raise GemError(f"part {part} needs {option}")
        counts = vars(self)
        for name in SIZES:
            if counts[name] is not None and counts[name] < 2:
                raise GemError(f"{name} is {counts[name]}; expected 2 at least")

    @classmethod
    def quick(cls, **settings: Any) -> EvalSettings:
        """Small samples, for minutes and not hours; the intervals are wide."""
        sizes = {
            "paragraphs": 50,
            "questions": 50,
            "ranked": 20,
            "answerable": 20,
            "labelled": 100,
            "lm": 20,
            "passages": 10,
            "answers": 12,
            "rag": 10,
            "followups": 10,
        }
        return cls(**{**sizes, **settings})

    @property
    def parts(self) -> list[str]:
        """The parts that are run, in order."""
        needs = {"sts": self.stsb, "mteb": self.mteb}
        return [p for p in PARTS if (p in self.only if self.only else needs.get(p, True))]


def evaluate(
    model: GemModel | str | Path | None,
    output: Path,
    settings: EvalSettings | None = None,
    *,
    show_progress: bool | None = None,
) -> Report:
    """Measure a checkpoint beside its base, the base mean-pooled, and all-MiniLM-L6-v2.

    What is done is kept under ``output/kept``: an interrupted evaluation goes on where it was, and
    one with other sizes makes only what is new.

    Args:
        model: The checkpoint, or its name.
        output: Folder of the report, which is written anew after each part.
        settings: What to measure. The folder's report of the same checkpoint and sizes keeps its
            other parts; any other report there is renamed (``eval-1.json``).
        show_progress: Progress bars; None shows them on a terminal.

    Raises:
        MissingExtraError: A library it needs is not installed.
        GemError: Settings that do not fit together, or data that is not as expected.
    """
    require_extra()
    settings = settings or EvalSettings()
    loaded = as_model(model, dtype=settings.dtype)
    return Evaluation(loaded, output, settings, show_progress).run()


def require_extra() -> None:
    """Raise `MissingExtraError` unless all of the extra ``eval`` is there."""
    if any(importlib.util.find_spec(name) is None for name in EXTRA):
        raise MissingExtraError("evaluation", "eval")


class Evaluation:
    """A run: the systems, the sets, and where finished work is kept."""

    def __init__(
        self, model: GemModel, output: Path, settings: EvalSettings, show_progress: bool | None
    ) -> None:
        self.model = model
        self.output = output
        self.settings = settings
        self.show = show_progress
        self.kept = output / ("kept" if settings.dtype == "float32" else f"kept-{settings.dtype}")
        self.tasks = self._find_tasks()
        length = settings.max_length
        embedders: list[Embedder] = [MiniLM(length), GemEmbedder(model, length)]
        if settings.mean_pooled:
            embedders.insert(0, MeanPooled(self.base, length))
        self.systems = [
            KeptVectors(embedder, self.kept / "vectors", show_progress=show_progress)
            for embedder in embedders
        ]

    @cached_property
    def base(self) -> GemModel:
        """What the checkpoint was trained from."""
        return base_of(self.model)

    def run(self) -> Report:
        """All parts; the report is written after each."""
        steps: dict[str, Callable[[], Sequence[Measure]]] = {
            "sts": self._sts,
            "retrieval": self._retrieval,
            "shifted": self._shifted,
            "ranking": self._ranking,
            "answerable": self._answerable,
            "classification": self._classification,
            "clustering": self._clustering,
            "generation": self._generation,
            "answers": self._answers,
            "rag": self._rag,
            "followups": self._followups,
            "mteb": self._mteb,
        }
        report = Report(self._facts(), self._settings(), [])
        report = report.after(self.output)
        for part in self.settings.parts:
            report.measures.extend(steps[part]())
            report.write(self.output, draw=[part])
        return report

    def _facts(self) -> dict[str, Any]:
        config = self.model.config
        return {
            "checkpoint": name_of(self.model),
            "fingerprint": self.model.fingerprint[:16],
            "base": config.base.name,
            "scope": config.adapter_scope,
            "dimensions": self.model.dim,
            "versions": ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES),
        }

    def _settings(self) -> dict[str, Any]:
        values = dataclasses.asdict(self.settings)
        values["only"] = self.settings.parts
        values["stsb"] = None if self.settings.stsb is None else self.settings.stsb.name
        return {name: "all" if value is None else value for name, value in values.items()}

    def _system(self, name: str) -> KeptVectors:
        return next(system for system in self.systems if system.name == name)

    def _drawn(self, questions: int | None) -> Retrieval:
        """SQuAD dev's paragraphs and so many questions about them."""
        s = self.settings
        return Retrieval(*sets.squad()).sample(s.paragraphs, questions, s.seed)

    # The parts

    def _sts(self) -> list[Measure]:
        assert self.settings.stsb is not None
        return embedding.sts(self.systems, sets.load_stsb(self.settings.stsb))

    def _retrieval(self) -> list[Measure]:
        return self._find("retrieval", sets.SQUAD, "SQuAD dev")

    def _shifted(self) -> list[Measure]:
        lines: list[Measure] = []
        for name in sets.SHIFTED:
            lines += self._find("shifted", name, _shifted(name))
        return lines

    def _find(self, part: str, name: str, title: str) -> list[Measure]:
        s = self.settings
        data = Retrieval(*sets.squad(name)).sample(s.paragraphs, s.questions, s.seed)
        return embedding.find(part, title, self.systems, data)

    def _ranking(self) -> list[Measure]:
        from gem_rag_train.evaluation.finding import found

        s = self.settings
        lines: list[Measure] = []
        for name, title in ((sets.SQUAD, "SQuAD dev"), *((n, _shifted(n)) for n in sets.SHIFTED)):
            data = Retrieval(*sets.squad(name)).sample(s.paragraphs, s.ranked, s.seed)
            lines += found(
                self.model,
                self._system(CHECKPOINT),
                self._system(MINILM),
                title,
                data,
                self.kept / "ranking",
                max_length=s.max_length,
                show_progress=self.show,
            )
        return lines

    def _answerable(self) -> list[Measure]:
        from gem_rag_train.evaluation.answerable import decided

        return decided(
            self.model,
            "SQuAD dev",
            self._drawn(self.settings.answerable),
            self.kept / "answerable",
            max_length=self.settings.max_length,
            vectors=self._system(CHECKPOINT),
            show_progress=self.show,
        )

    def _classification(self) -> list[Measure]:
        return self._labelled(embedding.classify)

    def _clustering(self) -> list[Measure]:
        return self._labelled(embedding.cluster)

    def _labelled(self, step: Callable[..., list[Measure]]) -> list[Measure]:
        s = self.settings
        samples = [data.sample(s.labelled, s.seed) for data in sets.labelled_sets()]
        return [line for data in samples for line in step(self.systems, data, s.seed)]

    def _generation(self) -> list[Measure]:
        from gem_rag_train.evaluation.generation import generation

        s = self.settings
        return generation(
            self.model,
            self.base,
            self.kept / "lm",
            questions=s.lm,
            passages=s.passages,
            seed=s.seed,
        )

    def _answers(self) -> list[Measure]:
        from gem_rag_train.evaluation.given import given, small_index

        s, folder = self.settings, self.kept / "answers"
        lines: list[Measure] = []
        for name, title in ((sets.SQUAD, "SQuAD dev"), *((n, _shifted(n)) for n in sets.SHIFTED)):
            count = s.answers if name == sets.SQUAD else max(2, s.answers // 4)
            data = Retrieval(*sets.squad(name)).sample(None, count, s.seed)
            lines += given(self.model, title, data, folder, show_progress=self.show)
        few = min(SMALL_INDEX, s.answers)
        small = Retrieval(*sets.squad()).sample(few, few, s.seed)
        return [*lines, *small_index(self.model, small, folder, show_progress=self.show)]

    def _rag(self) -> list[Measure]:
        from gem_rag_train.evaluation.answers import end_to_end

        return end_to_end(
            self.model,
            self.base,
            self._system(CHECKPOINT),
            self._system(MINILM),
            self._drawn(self.settings.rag),
            self.kept / "rag",
            chunk_tokens=self.settings.max_length,
            show_progress=self.show,
        )

    def _followups(self) -> list[Measure]:
        from gem_rag_train.evaluation.conversations import followed

        s = self.settings
        return followed(self.model, s.followups, seed=s.seed, show_progress=self.show)

    def _mteb(self) -> list[Measure]:
        from gem_rag_train.evaluation.mteb_tasks import run_tasks

        return run_tasks(self.systems, self.tasks, self.kept / "mteb", self.show)

    def _find_tasks(self) -> list[Any]:
        """mteb's tasks: a name that is none is said at the start."""
        if "mteb" not in self.settings.parts:
            return []
        from gem_rag_train.evaluation.mteb_tasks import find_task

        return [find_task(name) for name in self.settings.mteb]


def _shifted(name: str) -> str:
    return f"shifted: {name.rpartition('_')[0]}"
