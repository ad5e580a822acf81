"""Questions the model writes itself for passages: pairs without labels, on any text."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gem_rag.compute.reading import Reading
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag_train.data.pairs import Pair
from gem_rag_train.evaluation.embedding import place_of
from gem_rag_train.kept.lines import append_line, read_lines
from gem_rag_train.kept.readings import KeptReadings

ASK = "\n\nWrite one short question that is answered by the text above."
MAX_NEW_TOKENS = 28
AT_ONCE = 32  # passages read together; each is asked `per_passage` times
FEWEST_WORDS = 4
FEWEST_PASSAGE_WORDS = 20
PER_PASSAGE = 2
WRITTEN = "written.jsonl"
# What a model puts before a question: a number, "Question:".
LABEL = re.compile(r"^\W*((\d+[.)]|question\s*\d*:)\s*)+", re.IGNORECASE)


def write_questions(
    model: GemModel,
    passages: Sequence[str],
    *,
    read: Callable[[Sequence[str]], list[Reading]] | None = None,
    per_passage: int = 1,
    max_length: int = 128,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    least_score: float | None = None,
    show_progress: bool | None = None,
) -> Iterator[tuple[int, str]]:
    """Sample questions after each passage's reading (the idea of doc2query and InPars).

    Args:
        model: Writes; with scopes ``tokens`` and ``embedding`` this is the base alone.
        passages: Texts to ask about.
        read: Where readings come from; None reads.
        per_passage: Samples of each; what is no question or was written already is dropped.
        max_length: Tokens of a passage that are read.
        temperature: Of sampling.
        top_p: Of sampling.
        seed: Decides the samples, whatever was written before: each passage has its own.
        least_score: Drop questions whose passage does not make them likelier by so much
            (`Ranked.score`): those that fit any text.
        show_progress: A bar; None shows one on a terminal.

    Yields:
        ``(index of the passage, question)``, passages in order.
    """
    if read is None:
        read = partial(model.read, max_length=max_length, show_progress=False)
    with progress("writing questions", len(passages), show_progress) as advance:
        for start in range(0, len(passages), AT_ONCE):
            batch = passages[start : start + AT_ONCE]
            readings = read(batch) if model.shares_readings else None
            asks = [ASK] * len(batch) if readings else [text + ASK for text in batch]
            sources: Sequence[str | Reading] = readings or batch
            generate = partial(
                model.generate_batch,
                asks,
                after=readings,
                max_new_tokens=MAX_NEW_TOKENS,
                temperature=temperature,
                top_p=top_p,
                stop=["\n", "?"],
            )
            first = seed + 1000 * (start + 1)
            samples = (
                [as_question(a.text, a.finish_reason) for a in generate(seed=first + sample)]
                for sample in range(per_passage)
            )
            for i, question in _different(samples):
                if least_score is None or _score(model, question, sources[i]) >= least_score:
                    yield start + i, question
            advance(len(batch))


def _different(samples: Iterable[Sequence[str]]) -> Iterator[tuple[int, str]]:
    """The passages' questions of each sample with their index, none twice about the same one."""
    written: set[tuple[int, str]] = set()
    for questions in samples:
        for i, question in enumerate(questions):
            if question and (i, question.casefold()) not in written:
                written.add((i, question.casefold()))
                yield i, question


def _score(model: GemModel, question: str, passage: str | Reading) -> float:
    return model.rank(question, [passage])[0].score


def as_question(text: str, finish_reason: str) -> str:
    """One tidy question, or nothing where the model wrote something else."""
    words = LABEL.sub("", text).strip("\"'* \n").split()
    if finish_reason != "stop" or len(words) < FEWEST_WORDS:
        return ""
    return " ".join(words).rstrip(".") + "?"


def found_again(questions: Tensor, passages: Tensor, own: Sequence[int], top: int) -> list[bool]:
    """Whether each question's own passage is among the `top` nearest (round-trip consistency).

    Args:
        questions: Unit vectors ``[q, d]``.
        passages: Unit vectors ``[n, d]``.
        own: Index of each question's passage.
        top: How far down it may be.
    """
    found: list[bool] = (places(questions, passages, own) < top).tolist()
    return found


def places(questions: Tensor, passages: Tensor, own: Sequence[int]) -> Tensor:
    """How many passages are as near to each question as its own, ``[q]``: 0 is found first."""
    return torch.from_numpy(place_of((questions @ passages.T).numpy(), own))


def kept_questions(
    model: GemModel,
    passages: Sequence[str],
    file: Path,
    *,
    per_passage: int,
    max_length: int,
    seed: int,
    read: Callable[[Sequence[str]], list[Reading]] | None = None,
    least_score: float | None = None,
    show_progress: bool | None = None,
) -> list[list[str]]:
    """`write_questions`, each passage's once: they are kept in a file, a group of passages a line.

    An interrupted call goes on with the next group and ends at the same questions.

    Returns:
        For each passage its questions; may be none.
    """
    facts = (model.parts.reading_fingerprint, per_passage, max_length, seed, least_score)
    keys = [hashlib.sha256(repr((facts, text)).encode()).hexdigest()[:32] for text in passages]
    known: dict[str, list[str]] = {}
    for group in read_lines(file):
        known |= group
    missing = [(key, text) for key, text in zip(keys, passages, strict=True) if key not in known]
    with progress("writing questions", len(missing), show_progress) as advance:
        for start in range(0, len(missing), AT_ONCE):
            few = missing[start : start + AT_ONCE]
            written: dict[str, list[str]] = {key: [] for key, _ in few}
            for i, question in write_questions(
                model,
                [text for _, text in few],
                read=read,
                per_passage=per_passage,
                max_length=max_length,
                seed=seed,
                least_score=least_score,
                show_progress=False,
            ):
                written[few[i][0]].append(question)
            append_line(file, written)
            known |= written
            advance(len(few))
    return [known[key] for key in keys]


def written_pairs(
    model: GemModel,
    pairs: Sequence[Pair],
    count: int,
    kept: KeptReadings,
    folder: Path,
    *,
    max_length: int,
    seed: int,
    show_progress: bool | None = None,
) -> list[Pair]:
    """Pairs of a question the model wrote and its passage, for passages among `pairs`.

    Args:
        model: Writes.
        pairs: Their second texts are the passages, where they are long enough.
        count: About how many questions.
        kept: Has the passages' readings.
        folder: The questions are written once and kept here, as they come.
        max_length: Tokens of a passage that were read.
        seed: Of the samples.
        show_progress: As for `write_questions`.
    """
    groups = {p.second: p.group for p in pairs if len(p.second.split()) >= FEWEST_PASSAGE_WORDS}
    passages = list(groups)[: math.ceil(count / PER_PASSAGE)]
    written = kept_questions(
        model,
        passages,
        folder / WRITTEN,
        per_passage=PER_PASSAGE,
        max_length=max_length,
        seed=seed,
        read=partial(kept.readings, max_length=max_length),
        show_progress=show_progress,
    )
    return [
        Pair(question, passage, "query_document", groups[passage])
        for passage, questions in zip(passages, written, strict=True)
        for question in questions
    ]
