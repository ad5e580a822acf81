"""The texts that all sides of `speed.py` get, cut once, so that no side has to know a tokenizer.

Reading them needs nothing of any library: every side can.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

PASSAGE_TOKENS = 256  # of a kept chunk, and of a ranked passage
SOURCE_TOKENS = 64  # of an answer from a source, at most
ASK = (
    "\n\nAnswer the question with the information above, in one or two sentences.\n"
    "Question: {question}"
)
SOURCE_QUESTIONS = (
    "What is this text about?",
    "Which facts does the text give?",
    "What does the text say first?",
    "Repeat what the text says about its subject.",
)


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        mixed: Texts that are embedded.
        pages: Pages that are indexed; what is printed is for 1,000.
        tokens: Of each stream.
        prompts: Streams that run alone, one after another.
        chunks: In the index of the memory row.
        lists: Lists of ten passages that are ranked from text.
        sources: Passages that are answered from.
        steps: Training steps.
        starts: Processes started for the time to the first token.
    """

    mixed: int = 20
    pages: int = 32
    tokens: int = 96
    prompts: int = 3
    chunks: int = 100_000
    lists: int = 2
    sources: int = 6
    steps: int = 3
    starts: int = 3


QUICK = Sizes(
    mixed=4,
    pages=2,
    tokens=16,
    prompts=1,
    chunks=2_000,
    lists=1,
    sources=2,
    steps=1,
    starts=1,
)


@dataclass(frozen=True)
class Texts:
    """What is read.

    Attributes:
        mixed: Texts of 8 to 512 tokens.
        mixed_tokens: How many tokens they have, by the default model's tokenizer.
        pages: Pages of Markdown.
        passages: Of `PASSAGE_TOKENS` tokens each; every row takes its own from the front.
        sources: Passages, and what is said after each for an answer that stands in it.
        sizes: How much of everything.
    """

    mixed: list[str]
    mixed_tokens: int
    pages: list[str]
    passages: list[str]
    sources: list[tuple[str, str]]
    sizes: Sizes

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Self:
        found = json.loads(file.read_text(encoding="utf-8"))
        sizes = Sizes(**found.pop("sizes"))
        return cls(**found, sizes=sizes)

    def write_pages(self, folder: Path) -> None:
        """Every page as a file."""
        folder.mkdir(parents=True)
        for number, page in enumerate(self.pages):
            (folder / f"page-{number}.md").write_text(page, encoding="utf-8")


def make(tokenizer_file: Path, sizes: Sizes, seed: int = 0) -> Texts:
    """Wikipedia passages, cut to lengths by the default model's tokenizer."""
    cut = _Cutter(tokenizer_file)
    rng = random.Random(seed)
    lengths = [rng.randint(8, 512) for _ in range(sizes.mixed)]
    passages = [cut.take(PASSAGE_TOKENS) for _ in range(max(10 * sizes.lists, 20))]
    sources = [
        (cut.take(200), ASK.format(question=SOURCE_QUESTIONS[i % len(SOURCE_QUESTIONS)]))
        for i in range(sizes.sources)
    ]
    mixed = [cut.take(length) for length in lengths]
    pages = [_page(cut, number) for number in range(sizes.pages)]
    return Texts(mixed, sum(lengths), pages, passages, sources, sizes)


def _page(cut: _Cutter, number: int) -> str:
    """A page of some 400 tokens: headings, paragraphs, a list."""
    points = "\n".join(f"- {cut.take(20)}" for _ in range(4))
    return (
        f"# Page {number}\n\n{cut.take(120)}\n\n## What it is\n\n{cut.take(100)}\n\n"
        f"## Details\n\n{points}\n\n{cut.take(60)}\n"
    )


class _Cutter:
    """One long text, taken piece by piece."""

    def __init__(self, tokenizer_file: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._pieces = self._passages()
        self._text, self._ends, self._at = "", [0], 0

    def _passages(self) -> Iterator[str]:
        from gem_rag_train.data.sources import boolq

        yield from (" ".join(passage.body.split()) for passage in boolq("dev"))

    def take(self, tokens: int) -> str:
        """The next so many tokens."""
        while len(self._ends) - 1 - self._at < tokens:
            self._text = self._text[self._ends[self._at] :] + " " + next(self._pieces)
            encoding = self._tokenizer.encode(self._text, add_special_tokens=False)
            self._ends, self._at = [0, *(end for _, end in encoding.offsets)], 0
        start, self._at = self._ends[self._at], self._at + tokens
        return self._text[start : self._ends[self._at]].strip()
