"""The rows of `speed.py`: what is measured of whom, and what it should be. Needs no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# Which sides there are. The number formats of this code, as `GemModel.from_pretrained` takes them:
FORMATS = ("float32", "bfloat16", "bfloat16+int4", "int8", "int4")
TODAY = "today"  # an older commit's code, as it comes
TWO_MODELS = "two models"  # all-MiniLM-L6-v2, FAISS and the same LLM, as LangChain's packages come
TWO_MODELS_BF16 = "two models, bfloat16"
MINILM = "all-MiniLM-L6-v2"
SAME_BASE = "sentence-transformers, same base"
LLAMA = "llama.cpp"
PEERS = (TWO_MODELS, TWO_MODELS_BF16, MINILM, SAME_BASE)

EMBEDDING = "embedding, 8 to 512 tokens mixed, tokens/s"
QUERY = "one short query embedded, ms"
INDEXING = "indexing 1,000 pages of Markdown, s"
STREAM = "decoding, one stream, tokens/s"
EIGHT = "decoding, 8 streams, tokens/s in all"
SOURCES = "answers from sources, speculating, tokens/s"
SOURCES_PLAIN = "answers from sources, tokens/s"
FIRST = "first token, a kept chunk of 256 tokens, ms"
KEPT = "ranking 10 passages of 256 tokens, kept, s"
AFRESH = "ranking 10 passages of 256 tokens, afresh, s"
PEAK = "memory, at its most, MB"
RESIDENT = "memory, at the end, MB"
START = "start to the first token, s"
TRAINING = "training from kept readings, steps/s"

# What measures what; a row is a process of each side that takes part, in each round.
ROWS: dict[str, tuple[str, ...]] = {
    "embedding": (*FORMATS, TODAY, MINILM, SAME_BASE, LLAMA),
    "query": (*FORMATS, TODAY, TWO_MODELS),
    "indexing": (*FORMATS, TODAY, TWO_MODELS),
    "stream": (*FORMATS, TODAY, TWO_MODELS, LLAMA),
    "eight": (*FORMATS, TODAY, LLAMA),
    "sources": (*FORMATS, TODAY, LLAMA),
    "first": (*FORMATS, TODAY, TWO_MODELS, TWO_MODELS_BF16),
    "ranking": (*FORMATS, TODAY),
    "memory": (*FORMATS, TWO_MODELS, TWO_MODELS_BF16),
    "start": (*FORMATS, TODAY, TWO_MODELS),
    "training": (FORMATS[0], TODAY),
}
# Rows of one round: many samples of a process each, or nothing that another round would change.
ONCE = ("query", "first", "memory", "start", "training")

Ours = Literal["default", "best", "float32", "int8"]


@dataclass(frozen=True)
class Aim:
    """What a ratio of this code's number to another side's should be.

    Attributes:
        what: The measurement.
        ours: Which of this code's formats is meant: "default" is what a user gets who says nothing,
            "best" whichever is best.
        other: The side beside it.
        floor: Least ratio (most, where less is better) that is acceptable; None where there is no
            floor.
        goal: The ratio that is wanted; None where there is none.
        other_what: The other side's measurement, where it is another one.
    """

    what: str
    ours: Ours
    other: str
    floor: float | None = None
    goal: float | None = None
    other_what: str | None = None


AIMS = (
    Aim(EMBEDDING, "default", TODAY, floor=4),
    Aim(EMBEDDING, "float32", TODAY, floor=1.8),
    Aim(EMBEDDING, "default", LLAMA, floor=5),
    Aim(EMBEDDING, "default", MINILM, goal=0.6),
    Aim(QUERY, "default", TODAY, floor=0.3),
    Aim(QUERY, "default", TWO_MODELS, goal=1),
    Aim(INDEXING, "default", TODAY, floor=1 / 3),
    Aim(INDEXING, "default", TWO_MODELS, goal=1.8),
    Aim(STREAM, "default", TODAY, floor=3.3),
    Aim(STREAM, "best", LLAMA, floor=0.75, goal=1),
    Aim(SOURCES, "best", LLAMA, goal=1.5, other_what=SOURCES_PLAIN),
    Aim(EIGHT, "best", LLAMA, floor=1.1, goal=1.5),
    Aim(FIRST, "default", TWO_MODELS, floor=1 / 10, goal=1 / 20),
    Aim(KEPT, "default", TODAY, floor=1 / 3, goal=1 / 6),
    Aim(AFRESH, "default", TODAY, floor=1 / 4, goal=1 / 8),
    Aim(PEAK, "int8", TWO_MODELS, floor=0.7, goal=0.5),
    Aim(START, "default", TODAY, floor=1 / 2, goal=1 / 3),
    Aim(TRAINING, "float32", TODAY, floor=1.5, goal=2),
)

Values = Mapping[str, Mapping[str, float]]  # by measurement and side


def more_is_better(what: str) -> bool:
    """Whether of two numbers of this name the larger is the better."""
    return "/s" in what


@dataclass(frozen=True)
class Verdict:
    """An aim beside what was found."""

    aim: Aim
    side: str  # which format it was
    value: float
    beside: float

    @property
    def ratio(self) -> float:
        return self.value / self.beside

    def reaches(self, bound: float) -> bool:
        """Whether the ratio is on the right side of a bound."""
        return self.ratio >= bound if more_is_better(self.aim.what) else self.ratio <= bound

    @property
    def reached(self) -> str:
        """In words."""
        if self.aim.goal is not None and self.reaches(self.aim.goal):
            return "goal"
        if self.aim.floor is not None and self.reaches(self.aim.floor):
            return "floor"
        return "no"


def verdict(aim: Aim, values: Values, default: str) -> Verdict | None:
    """None where one of both was not measured."""
    mine = {side: value for side, value in values.get(aim.what, {}).items() if side in FORMATS}
    beside = values.get(aim.other_what or aim.what, {}).get(aim.other)
    side = _meant(aim, mine, default)
    if side not in mine or beside is None:
        return None
    return Verdict(aim, side, mine[side], beside)


def _meant(aim: Aim, mine: Mapping[str, float], default: str) -> str:
    """Which format an aim speaks of."""
    if aim.ours == "default":
        return default
    if aim.ours == "best" and mine:
        best = max if more_is_better(aim.what) else min
        return best(mine, key=lambda side: mine[side])
    return aim.ours
