"""What there is to learn from a folder of documents: chunks, questions, and pairs of the two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from gem_rag.documents import Chunk, find, load_file, split
from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag.rag import RELEVANCE_THRESHOLD
from gem_rag_train.data.pairs import sentences
from gem_rag_train.material.questions import kept_questions, places

FEWEST_CHUNKS = 20
FEWEST_WORDS = 12  # in a chunk, for a question about it
MOST_CHUNKS = 1000  # that questions are written for; the others are only to be told from
HELD_OUT = 0.2  # of the chunks
FEWEST_HELD_OUT = 5
FEWEST_SENTENCES = 3  # of a chunk, for two crops that differ


@dataclass(frozen=True)
class Asked:
    """Questions, and the index of each one's chunk."""

    questions: list[str]
    chunks: list[int]

    def __len__(self) -> int:
        return len(self.questions)

    def only(self, rows: Sequence[int]) -> Asked:
        """These rows alone."""
        return Asked([self.questions[i] for i in rows], [self.chunks[i] for i in rows])


@dataclass(frozen=True)
class Material:
    """Texts, questions, and how the checkpoint that is there does on them.

    Attributes:
        texts: All chunks.
        learnt: Questions to train on: those whose chunk is found again.
        written: How many were written for these chunks.
        held_out: Questions about chunks that no text is trained on from. Whether they find their
            chunk now does not matter: those that do are the ones on which little can become better.
        before: At which place each held-out question finds its chunk now, ``[q]``.
        rows: What the trainer gets, as JSON objects.
    """

    texts: list[str]
    learnt: Asked
    written: int
    held_out: Asked
    before: Tensor
    rows: list[dict[str, str]]

    @property
    def digest(self) -> str:
        """sha256 of everything that decides a training run on it."""
        return hashlib.sha256(json.dumps([self.texts, self.rows]).encode()).hexdigest()


def read_chunks(
    paths: Sequence[str | Path], model: GemModel, chunk_tokens: int, without: Sequence[Path] = ()
) -> tuple[list[Chunk], list[tuple[str, str]]]:
    """Chunks of all files, each text once, and files that could not be read, with the reason.

    Args:
        paths: Files or folders.
        model: Whose tokens are counted.
        chunk_tokens: Longest chunk.
        without: Folders whose files are passed over: what is written may be among the documents.

    Raises:
        GemError: There is no text, or fewer than `FEWEST_CHUNKS` chunks of `FEWEST_WORDS` words.
    """
    chunks: dict[str, Chunk] = {}
    found = find(paths, without=without)
    skipped = found.skipped
    for file in found.files:
        try:
            document = load_file(file)
        except (GemError, OSError) as error:
            skipped.append((str(file), str(error)))
            continue
        for chunk in split(document, model.codec.backend, max_tokens=chunk_tokens):
            chunks.setdefault(chunk.text, chunk)
    where = ", ".join(map(str, paths))
    if not chunks:
        reasons = "".join(f"; {reason}" for _, reason in skipped[:3])
        raise GemError(f"no text in {where}; nothing to learn from{reasons}")
    usable = sum(_can_be_asked(chunk) for chunk in chunks.values())
    if usable < FEWEST_CHUNKS:
        raise GemError(
            f"{where}: found {usable} chunks of at least {FEWEST_WORDS} words, adapting needs "
            f"{FEWEST_CHUNKS} (a chunk has up to {chunk_tokens} tokens), because some are held out "
            "to measure on; add documents"
        )
    return list(chunks.values()), skipped


def _can_be_asked(chunk: Chunk) -> bool:
    return len(chunk.text.split()) >= FEWEST_WORDS


def gather(
    model: GemModel,
    chunks: Sequence[Chunk],
    file: Path,
    *,
    per_chunk: int,
    max_length: int,
    seed: int,
    least_score: float | None = RELEVANCE_THRESHOLD,
    show_progress: bool | None = None,
) -> Material:
    """Write questions, hold some chunks out, and drop questions that do not lead back.

    Args:
        model: Writes the questions and embeds.
        chunks: All chunks.
        file: Where questions are kept.
        per_chunk: Questions written for each chunk.
        max_length: Tokens of a chunk.
        seed: Of the chunks held out and of the questions.
        least_score: See `write_questions`; by default as relevant as `GemRAG` wants an answer's
            passage to be. It is the base's view, the same for any checkpoint.
        show_progress: As for `GemModel.read`.

    Raises:
        GemError: The model wrote too few questions that are of use.
    """
    texts = [chunk.text for chunk in chunks]
    order, held = _drawn(chunks, seed)
    written = kept_questions(
        model,
        [texts[i] for i in order],
        file,
        per_passage=per_chunk,
        max_length=max_length,
        seed=seed,
        least_score=least_score,
        show_progress=show_progress,
    )
    everything = Asked(
        [question for own in written for question in own],
        [i for i, own in zip(order, written, strict=True) for _ in own],
    )
    own = everything.only([row for row, i in enumerate(everything.chunks) if i not in held])
    held_out = everything.only([row for row, i in enumerate(everything.chunks) if i in held])
    _require_enough("to measure on", held_out)
    _require_enough("to learn from", own)
    documents = model.embed_documents(texts, show_progress=show_progress)
    learnt = _found_again(model, documents, own)
    rows = question_rows(learnt, texts) + text_rows([chunks[i] for i in order if i not in held])
    return Material(
        texts=texts,
        learnt=learnt,
        written=len(own),
        held_out=held_out,
        before=found_at(model, documents, held_out),
        rows=rows,
    )


def _drawn(chunks: Sequence[Chunk], seed: int) -> tuple[list[int], set[int]]:
    """Indices of the chunks that questions are written for, and of those held out among them."""
    order = [i for i, chunk in enumerate(chunks) if _can_be_asked(chunk)]
    Random(f"{seed}:chunks").shuffle(order)
    order = order[:MOST_CHUNKS]
    return order, set(order[: max(FEWEST_HELD_OUT, round(HELD_OUT * len(order)))])


def _found_again(model: GemModel, documents: np.ndarray, asked: Asked) -> Asked:
    """The questions that lead to near their chunk by the model's own vectors ``[n, d]``."""
    top = max(1, min(10, len(documents) // 10))
    good = found_at(model, documents, asked) < top
    learnt = asked.only(good.nonzero().flatten().tolist())
    _require_enough("whose chunk it finds again, to learn from", learnt)
    return learnt


def _require_enough(what: str, asked: Asked) -> None:
    if len(set(asked.chunks)) < 2:
        raise GemError(
            f"the model wrote {len(asked)} questions {what}; expected questions about two chunks "
            "at least: give it text in whole sentences, or raise questions_per_chunk"
        )


def found_at(model: GemModel, documents: np.ndarray, asked: Asked) -> Tensor:
    """At which place each question finds its chunk among all, ``[q]``; 0 is the first.

    Args:
        model: Embeds the questions.
        documents: float32 ``[n, d]``, the chunks' vectors by the same model.
        asked: Questions and their chunks.
    """
    queries = model.embed_queries(asked.questions, show_progress=False)
    return places(torch.from_numpy(queries), torch.from_numpy(documents), asked.chunks)


def question_rows(asked: Asked, texts: Sequence[str]) -> list[dict[str, str]]:
    """Each question with its chunk."""
    return [
        {"query": question, "positive": texts[chunk]}
        for question, chunk in zip(asked.questions, asked.chunks, strict=True)
    ]


def text_rows(chunks: Sequence[Chunk]) -> list[dict[str, str]]:
    """What the text itself gives: chunks to crop, and headings that their chunk does not show."""
    crops = [{"text": c.text} for c in chunks if len(sentences(c.text)) >= FEWEST_SENTENCES]
    headings = [
        {"query": c.heading.replace(" > ", ": "), "positive": c.text}
        for c in chunks
        if c.heading and c.heading.split(" > ")[-1] not in c.text
    ]
    return crops + headings
