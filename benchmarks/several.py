"""Several passages before the model: all ways side by side, on the same questions and passages.

`--on two` are hand-written questions that need two passages, which are given. The others are
questions that one passage answers, found by words and ranked among `--paragraphs`: SQuAD dev to
report, NarrativeQA's odd stories to choose a committee's numbers by.

Right is an answer that the judge of hand-written cases accepts, or one that contains a gold answer
(letter case, articles and punctuation aside). Answers are generated in batches; seconds are of one
question after the other, `--timed` of them, their passages' readings at hand.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from common import arguments, show

from gem_rag.engine.committee import After, Committee
from gem_rag.engine.scheduler import Limits
from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.rag.relevance import explained
from gem_rag.rag.retrieve import Retriever
from gem_rag.rag.several import worths
from gem_rag.store import ReadingStore
from gem_rag.text.prompts import ASK, BETWEEN
from gem_rag_train.evaluation.answers import best, contains
from gem_rag_train.evaluation.cases import is_right, two_passages
from gem_rag_train.evaluation.choosing import narrative_odd
from gem_rag_train.evaluation.kept import KeptAnswers
from gem_rag_train.evaluation.sets import Retrieval, squad
from gem_rag_train.evaluation.statistics import Sample

ONE, TOGETHER, JOINED = "the best passage", "read together", "readings joined"


@dataclass(frozen=True)
class Case:
    """A question, its passages, best first, with what each is worth, and a judge of answers."""

    question: str
    passages: list[str]
    worths: list[float]
    is_right: Callable[[str], float]


def found(model: GemModel, data: Retrieval, options: argparse.Namespace) -> list[Case]:
    """Questions that one passage answers, with the best few of all passages."""
    data = data.sample(options.paragraphs, options.questions, seed=1)
    store = ReadingStore(model)
    index = GemIndex()
    index.add(data.paragraphs, None)
    retriever = Retriever(model, index, store)
    cases = []
    for question in data.questions:
        hits = retriever.find(
            question.text,
            k=options.passages,
            candidates=options.candidates,
            rank=True,
            mode="words",
        )
        judge = partial(best, contains, question=question)
        cases.append(Case(question.text, hits.texts, worths(hits.citations), judge))
    return cases


def given(model: GemModel, options: argparse.Namespace) -> list[Case]:
    """Questions that need two passages, with these two."""
    cases = []
    for each in two_passages()[: options.questions]:
        ranked = model.rank(each.question, model.read(each.passages, show_progress=False))
        passages = [each.passages[place.index] for place in ranked]
        worth = [math.exp(explained(place)) for place in ranked]
        cases.append(Case(each.question, passages, worth, partial(is_right, case=each)))
    return cases


def ways(model: GemModel, options: argparse.Namespace) -> dict[str, Callable[[Case], After]]:
    """What an answer goes on from, by name."""
    store = ReadingStore(model)

    def committee(case: Case, contrast: float, trust: float, most: int | None = None) -> After:
        readings = store.read(case.passages[:most])
        return Committee(readings, case.worths[:most], contrast=contrast, trust=trust)

    out: dict[str, Callable[[Case], After]] = {
        ONE: lambda case: store.read(case.passages[:1])[0],
        TOGETHER: lambda case: model.read([BETWEEN.join(case.passages)], show_progress=False)[0],
        JOINED: lambda case: model.join(store.read(case.passages)),
    }
    for contrast, trust in options.committees:
        name = f"committee, b {contrast:g}, g {trust:g}"
        out[name] = partial(committee, contrast=contrast, trust=trust)
    for contrast in sorted({contrast for contrast, _ in options.committees} - {0.0}):
        name = f"{ONE}, b {contrast:g}"
        out[name] = partial(committee, contrast=contrast, trust=0.0, most=1)
    return out


def answers(
    model: GemModel,
    cases: Sequence[Case],
    by: dict[str, Callable[[Case], After]],
    options: argparse.Namespace,
) -> dict[str, list[str]]:
    """Each way's answer to each question; what was answered before is not asked again."""
    name = f"{options.on}-{options.passages}-{options.skill or 'base'}"
    kept = {way: KeptAnswers(options.kept / name / f"{way}.jsonl") for way in by}
    (options.kept / name).mkdir(parents=True, exist_ok=True)
    model.engine.limits = Limits(rows=64)
    for start in range(0, len(cases), options.batch):
        batch = cases[start : start + options.batch]
        todo = [(way, c) for way in by for c in batch if c.question not in kept[way]]
        said = model.generate_batch(
            [asked(model, case, options) for _, case in todo],
            after=[by[way](case) for way, case in todo],
            max_new_tokens=options.tokens,
            skill=options.skill,
        )
        for (way, case), generation in zip(todo, said, strict=True):
            kept[way][case.question] = generation.text.strip()
    return {way: [kept[way][case.question] for case in cases] for way in by}


def asked(model: GemModel, case: Case, options: argparse.Namespace) -> str:
    prompt = ASK if options.skill is None else model.parts.skill(options.skill).config.prompt
    return prompt.format(question=case.question)


def seconds(
    model: GemModel,
    cases: Sequence[Case],
    by: dict[str, Callable[[Case], After]],
    options: argparse.Namespace,
) -> dict[str, tuple[float, float]]:
    """Each way's median seconds to the first token, and to the last."""
    out = {}
    for way, before in by.items():
        times = []
        for case in cases:
            if way != TOGETHER:
                before(case)  # readings are at hand, as they are after ranking
            start = time.perf_counter()
            stream = model.stream(
                asked(model, case, options),
                after=before(case),
                max_new_tokens=options.tokens,
                skill=options.skill,
            )
            next(stream, None)
            first = time.perf_counter() - start
            list(stream)
            times.append((first, time.perf_counter() - start))
        out[way] = tuple(np.median(times, axis=0)) if times else (math.nan, math.nan)
    return out


def interval(sample: Sample, other: Sample) -> str:
    score = sample.minus(other)
    return f"{score.value:+.3f} [{score.low:+.3f}, {score.high:+.3f}]"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--on", choices=("squad", "narrative", "two"), default="two")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--paragraphs", type=int, default=100)
    parser.add_argument("--passages", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--batch", type=int, default=2, help="questions that are asked together")
    parser.add_argument("--timed", type=int, default=10)
    parser.add_argument("--committees", type=pairs, default="0:0,0:2.5,0.5:0,0.5:2.5,1:2.5")
    parser.add_argument("--model")
    parser.add_argument("--skill")
    parser.add_argument("--kept", type=Path, default=Path("several"), help="folder of answers")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = GemModel.from_pretrained(options.model, dtype="float32")
    if options.on == "two":
        cases = given(model, options)
    else:
        data = narrative_odd(model) if options.on == "narrative" else Retrieval(*squad())
        cases = found(model, data, options)
    by = ways(model, options)
    said = answers(model, cases, by, options)
    took = seconds(model, cases[: options.timed], by, options)
    right = {
        way: Sample.mean([case.is_right(a) for case, a in zip(cases, texts, strict=True)])
        for way, texts in said.items()
    }
    report: dict[str, object] = {"questions": len(cases)}
    for way, sample in right.items():
        report[f"{way}: right"] = sample.value
        report[f"{way}: less {TOGETHER}"] = interval(sample, right[TOGETHER])
        report[f"{way}: less {ONE}"] = interval(sample, right[ONE])
        report[f"{way}: first token, s"], report[f"{way}: whole answer, s"] = map(float, took[way])
    show(report, options.json)


def pairs(text: str) -> list[tuple[float, float]]:
    """``b:g,b:g`` as numbers."""
    return [(float(b), float(g)) for b, _, g in (pair.partition(":") for pair in text.split(","))]


if __name__ == "__main__":
    main()
