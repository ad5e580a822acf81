"""Answers from the best passage, token by token and searched for, beside those of the best three.

The three are each answered from alone, and the likeliest answer counts.

``--on narrative`` and ``--on quac`` are held-out questions, of NarrativeQA's odd stories and QuAC's
odd dialogues: what an answer's likelihood counts for (`gem_rag.rag.likeliest.SURETY`) is chosen on
them, by the table of its values (of QuAC's answers, which are longer than ours, only the beginning
is known: there the passage counts). ``--on squad`` reports. Questions are asked at `GemRAG`'s
defaults, but always answered; what was asked is kept in ``--kept``, so that an interrupted run goes
on.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, show

from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag.rag.likeliest import BEAMS, NEAR, SURETY, TRIED, answers_from, surety
from gem_rag.rag.retrieve import CANDIDATES, Retriever
from gem_rag.store import ReadingStore
from gem_rag_train.evaluation.answers import best, contains, exact, f1
from gem_rag_train.evaluation.choosing import narrative_odd, quac_odd
from gem_rag_train.evaluation.report import shown
from gem_rag_train.evaluation.sets import Question, Retrieval, squad
from gem_rag_train.evaluation.statistics import Sample
from gem_rag_train.kept.lines import append_line, read_lines

BEHIND = (0.1, 0.2, 0.3)
VALUES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 2.0)
SKILL, TOKENS = "answer", 48


def tried(model: GemModel, data: Retrieval, file: Path) -> dict[str, list[dict[str, Any]]]:
    """Of each question its best passages: rank score, answer, mean likelihood, and which it is."""
    known = {row["question"]: row["tried"] for row in read_lines(file)}
    if all(question.text in known for question in data.questions):
        return known
    store = ReadingStore(model, memory_bytes=8 << 30)
    index = GemIndex(fingerprint=model.fingerprint)
    index.add(data.paragraphs, store.embed(data.paragraphs))
    retriever = Retriever(model, index, store)
    with progress("asking", len(data.questions)) as advance:
        for question in sorted(data.questions, key=lambda q: q.paragraph):
            if question.text not in known:
                known[question.text] = asked(model, retriever, store, data, question)
                append_line(file, {"question": question.text, "tried": known[question.text]})
            advance(1)
    return known


def asked(
    model: GemModel, retriever: Retriever, store: ReadingStore, data: Retrieval, question: Question
) -> list[dict[str, Any]]:
    """One question's passages."""
    found = retriever.find(question.text, k=TRIED, candidates=CANDIDATES, rank=True)
    prompt = model.parts.skill(SKILL).config.asked(question.text)
    readings = found.readings or store.read(found.texts)
    asked = {"max_new_tokens": TOKENS, "skill": SKILL}
    greedy = answers_from(model, readings, prompt, **asked)
    answers = answers_from(model, readings, prompt, **asked, beams=BEAMS)
    return [
        {
            "rank": cited.rank_score,
            "greedy": first.text.strip(),
            "said": answer.text.strip(),
            "surety": surety(answer),
            "gold": cited.text == data.paragraphs[question.paragraph],
        }
        for cited, first, answer in zip(found.citations, greedy, answers, strict=True)
    ]


def seconds(model: GemModel, data: Retrieval, questions: list[Question]) -> dict[str, float]:
    """Median seconds of an answer from kept readings: greedy; searched for, of one and three."""
    ways = {"token by token": (1, 1), "searched for": (1, BEAMS), f"of {TRIED}": (TRIED, BEAMS)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for question in questions:
        prompt = model.parts.skill(SKILL).config.asked(question.text)
        others = [
            data.paragraphs[(question.paragraph + i) % len(data.paragraphs)] for i in range(TRIED)
        ]
        readings = model.read(others, show_progress=False)
        for name, (count, beams) in ways.items():
            started = time.perf_counter()
            answers_from(
                model, readings[:count], prompt, max_new_tokens=TOKENS, skill=SKILL, beams=beams
            )
            times[name].append(time.perf_counter() - started)
    return {f"seconds an answer, {name}": statistics.median(own) for name, own in times.items()}


def chosen(passages: list[dict[str, Any]], surety: float, near: float = math.inf) -> dict[str, Any]:
    """The passage that is answered from."""
    tried = [each for each in passages if each["rank"] >= passages[0]["rank"] - near]
    return max(tried, key=lambda each: each["rank"] + surety * each["surety"])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--on", choices=("narrative", "quac", "squad"), default="squad")
    parser.add_argument("--questions", type=int, default=225)
    parser.add_argument("--paragraphs", type=int, default=0, help="to find among; 0: all")
    parser.add_argument("--timed", type=int, default=0, help="questions whose answers are timed")
    parser.add_argument("--model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--kept", type=Path, default=Path("likeliest"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = GemModel.from_pretrained(options.model, dtype=options.dtype)
    sets = {"narrative": narrative_odd, "quac": quac_odd, "squad": lambda _: Retrieval(*squad())}
    data = sets[options.on](model).sample(options.paragraphs or None, options.questions, seed=1)
    options.kept.mkdir(parents=True, exist_ok=True)
    skill = model.parts.skill(SKILL).fingerprint[:12]
    sizes = f"{options.questions}-{options.paragraphs}-{BEAMS}"
    name = f"{options.on}-{skill}-{options.dtype}-{sizes}.jsonl"
    known = tried(model, data, options.kept / name)
    rows = [known[question.text] for question in data.questions]
    asked_of = list(zip(rows, data.questions, strict=True))
    report: dict[str, Any] = {
        "questions": len(rows),
        "tried by default, of three": np.mean(
            [np.mean([one["rank"] >= each[0]["rank"] - NEAR for one in each]) for each in rows]
        ),
        "among the tried": sum(any(one["gold"] for one in each) for each in rows) / len(rows),
    }
    for value in VALUES:
        report[f"right passage, surety {value:g}"] = sum(
            chosen(each, value)["gold"] for each in rows
        ) / len(rows)
    for metric in (contains, f1, exact):
        samples = {
            value: Sample.mean(
                [best(metric, chosen(r, value)["said"], q) for r, q in asked_of],
                data.gold,
            )
            for value in VALUES
        }
        for value, sample in samples.items():
            report[f"{metric.__name__}, surety {value:g}"] = sample.value
        before = Sample.mean([best(metric, r[0]["greedy"], q) for r, q in asked_of], data.gold)
        report[f"{metric.__name__}, the first passage, token by token"] = before.value
        in_use = Sample.mean(
            [best(metric, chosen(r, SURETY, NEAR)["said"], q) for r, q in asked_of], data.gold
        )
        for name, gain in (
            ("searched for", samples[0.0].minus(before)),
            (f"surety {SURETY:g}, of any", samples[SURETY].minus(samples[0.0])),
            ("in use, over token by token", in_use.minus(before)),
        ):
            report[f"{metric.__name__}, gained: {name}"] = shown(gain, "+")
        for near in BEHIND:
            scores = [best(metric, chosen(r, SURETY, near)["said"], q) for r, q in asked_of]
            report[f"{metric.__name__}, {SURETY:g}, at most {near:g} behind"] = np.mean(scores)
        right = [max(best(metric, one["said"], q) for one in r) for r, q in asked_of]
        report[f"{metric.__name__}, the best of the tried"] = sum(right) / len(right)
    if options.timed:
        report |= seconds(model, data, data.questions[: options.timed])
    show(report, options.json)


if __name__ == "__main__":
    main()
