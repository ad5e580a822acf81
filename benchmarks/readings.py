"""What kept readings cost and give in each format: disk, time, ranking, answers; in one run."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import arguments, text_of
from torch import Tensor

from gem_rag.compute.packed import Packed, pack_as, stored_dtype
from gem_rag.compute.reading import Reading
from gem_rag.files import atomic_write
from gem_rag.model import GemModel
from gem_rag.rag import ASK
from gem_rag.store import ReadingStore
from gem_rag.tensors import pieces_of
from gem_rag_train.data.sources import boolq
from gem_rag_train.evaluation.answers import best, contains
from gem_rag_train.evaluation.choosing import narrative_odd
from gem_rag_train.evaluation.sets import Question, Retrieval

FORMATS = ("float32", "bfloat16", "float16", "int8")
SKILL, LONGEST_ANSWER, AT_ONCE = "answer", 16, 16
TOKENS = 256  # of the passage that is timed
WHAT = ASK.replace("{question}", "What is it?")


def boolq_asked() -> Retrieval:
    """BoolQ's dev part: search questions that are answered by Yes or No."""
    rows = list({p.body: p for p in boolq("dev") if p.question}.values())
    return Retrieval(
        [p.body for p in rows], [Question(p.question, i, (p.answer,)) for i, p in enumerate(rows)]
    )


SETS: dict[str, Callable[[GemModel], Retrieval]] = {
    "boolq": lambda _: boolq_asked(),
    "narrative": narrative_odd,
}


def nearest(
    model: GemModel, data: Retrieval, readings: Sequence[Reading], count: int
) -> list[list[int]]:
    """For each question the passages it is ranked among: the right one, and the nearest others."""
    passages = model.embed_readings(readings)
    cosines = model.embed_queries([q.text for q in data.questions], show_progress=False)
    cosines = cosines @ passages.T
    cosines[np.arange(len(cosines)), data.gold] = 2.0
    return [[int(i) for i in row[:count]] for row in np.argsort(-cosines, axis=1)]


def in_format(model: GemModel, readings: Sequence[Reading], name: str) -> list[Reading]:
    """Readings as a store of this format gives them."""
    dtype, first = stored_dtype(name, model.base.dtype), len(model.config.preamble_ids)
    head = [(keys[:, :first], values[:, :first]) for keys, values in readings[0].key_values]
    return [replace(r, key_values=pack_as(r.key_values, dtype, head)) for r in readings]


@dataclass
class Found:
    """What one format gave: by question, each passage's log-likelihood, and the answer."""

    likelihoods: list[list[float]]
    answers: list[str]


def likelihoods(
    model: GemModel, data: Retrieval, among: list[list[int]], readings: Sequence[Reading]
) -> list[list[float]]:
    """By question, each passage's log-likelihood of it."""
    out = []
    for question, rows in zip(data.questions, among, strict=True):
        ranked = model.rank(question.text, [readings[i] for i in rows])
        out.append([r.log_likelihood for r in sorted(ranked, key=lambda r: r.index)])
    return out


def answers(model: GemModel, data: Retrieval, readings: Sequence[Reading]) -> list[str]:
    """Each question's answer after its passage's reading, greedy."""
    skill = SKILL if SKILL in model.skills else None
    prompt = ASK if skill is None else model.parts.skill(skill).config.prompt
    said = []
    for start in range(0, len(data.questions), AT_ONCE):
        batch = data.questions[start : start + AT_ONCE]
        said += model.generate_batch(
            [prompt.replace("{question}", q.text) for q in batch],
            after=[readings[q.paragraph] for q in batch],
            max_new_tokens=LONGEST_ANSWER,
            skill=skill,
        )
    return [generation.text.strip() for generation in said]


def quality(data: Retrieval, found: Found, exact: Found) -> dict[str, float]:
    """How good the ranking and the answers are, and how far from those of exact readings."""
    right = [best(contains, a, q) for a, q in zip(found.answers, data.questions, strict=True)]
    moved = np.abs(np.array(found.likelihoods) - np.array(exact.likelihoods))
    firsts = np.argmax(found.likelihoods, axis=1)  # the right passage stands at 0
    return {
        "mean change of a log-likelihood, nats": float(moved.mean()),
        "recall@1 after ranking": float((firsts == 0).mean()),
        "first passage is exact readings'": float(
            (firsts == np.argmax(exact.likelihoods, axis=1)).mean()
        ),
        "answers contain the gold one": statistics.mean(right),
        "answers word for word exact readings'": statistics.mean(
            float(a == b) for a, b in zip(found.answers, exact.answers, strict=True)
        ),
    }


def in_turn(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Each side's median seconds, a repeat of all in turn, so that a busy moment meets all."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def costs(model: GemModel, folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Bytes and times of each format, for a passage of `TOKENS`."""
    text = text_of(model, TOKENS)
    (exact,) = model.read([text], max_length=TOKENS + 8)
    stores = {name: ReadingStore(model, folder / name, format=name) for name in FORMATS}
    kept = {name: store.read([text])[0] for name, store in stores.items()}

    def save(name: str) -> None:
        packed = in_format(model, [exact], name)[0].key_values
        assert isinstance(packed, Packed)
        atomic_write(folder / "saved", pieces_of(packed.tensors(), {}))

    def load(name: str) -> None:
        (reading,) = ReadingStore(model, folder / name, format=name).read([text])
        assert sum(len(layer) for layer in reading.key_values)  # each is widened

    def first_token(name: str) -> None:
        (reading,) = ReadingStore(model, folder / name, format=name).read([text])
        stream = model.stream(WHAT, after=reading, max_new_tokens=2)
        next(stream)
        stream.close()

    out = {name: {"bytes a token": kept[name].nbytes / len(exact)} for name in FORMATS}
    for what, work in {"save": save, "load": load, "first token": first_token}.items():
        sides = {name: partial(work, name) for name in FORMATS}
        for name, taken in in_turn(sides, repeats).items():
            out[name][f"{what}, ms"] = 1000 * taken
    return out


def rounded(part: Tensor, axis: int, first: int) -> Tensor:
    """Keys or values ``[H, n, D]`` through int8, one scale for all along an axis; not the first."""
    own = part[:, first:]
    scale = own.abs().amax(axis, keepdim=True) / 127
    return torch.cat([part[:, :first], (own / scale).round() * scale], 1)


def layouts(
    model: GemModel, data: Retrieval, among: list[list[int]], readings: Sequence[Reading]
) -> dict[str, dict[str, float]]:
    """How far int8 moves log-likelihoods, by what shares a scale."""
    exact = np.array(likelihoods(model, data, among, readings))
    channel, token = 1, 2  # the axis along which one scale is for all
    report = {}
    for apart in (0, len(model.config.preamble_ids)):
        for name, axes in {
            "a scale a channel of keys, a token of values": (channel, token),
            "a token of both": (token, token),
            "a channel of both": (channel, channel),
        }.items():
            moved = [
                replace(
                    reading,
                    key_values=[
                        (rounded(k, axes[0], apart), rounded(v, axes[1], apart))
                        for k, v in reading.key_values
                    ],
                )
                for reading in readings
            ]
            change = np.abs(np.array(likelihoods(model, data, among, moved)) - exact).mean()
            column = report.setdefault("preamble exact" if apart else "preamble in int8", {})
            column[f"mean change, nats: {name}"] = float(change)
    return report


def table(report: dict[str, dict[str, float]]) -> str:
    """A column for each format."""
    lines = ["| | " + " | ".join(report) + " |", "|---" * (1 + len(report)) + "|"]
    for what in next(iter(report.values())):
        cells = [f"{column[what]:.4g}" if what in column else "" for column in report.values()]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--dtype", default="float32", help="what the model computes in")
    parser.add_argument("--set", choices=SETS, default="boolq", help="of the questions")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--among", type=int, default=6, help="passages that each is ranked among")
    parser.add_argument("--repeats", type=int, default=15, help="timed")
    parser.add_argument(
        "--beside", help="for scale: a dtype to compute all of it in, kept as it is"
    )
    parser.add_argument("--layouts", action="store_true", help="what int8's scales are best for")
    options = parser.parse_args()
    model = GemModel.from_pretrained(dtype=options.dtype)
    data = SETS[options.set](model).sample(options.questions, options.questions, 0)
    readings = model.read(data.paragraphs, show_progress=False)
    among = nearest(model, data, readings, options.among)
    if options.layouts:
        print(table(layouts(model, data, among, readings)))
        return
    with tempfile.TemporaryDirectory() as folder:
        report = costs(model, Path(folder), options.repeats)
        exact: Found | None = None
        for name in FORMATS:
            kept = in_format(model, readings, name)
            found = Found(likelihoods(model, data, among, kept), answers(model, data, kept))
            exact = exact or found
            report[name] |= quality(data, found, exact)
        if options.beside is not None and exact is not None:
            other = GemModel.from_pretrained(dtype=options.beside)
            kept = other.read(data.paragraphs, show_progress=False)
            found = Found(likelihoods(other, data, among, kept), answers(other, data, kept))
            report[f"computed in {options.beside}"] = quality(data, found, exact)
    print(json.dumps(report, indent=2) if options.json else table(report))


if __name__ == "__main__":
    main()
