"""Training pairs, in an order that a seed and a step decide."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from gem_rag.errors import GemError
from gem_rag_train.data.sources import (
    BBC,
    BOOLQ,
    DJANGO,
    FACTBOOK,
    KJV,
    OPENWEBTEXT,
    WEB,
    WIKIPEDIA,
    WIKIPEDIA_STARTS,
    Passage,
    Source,
    bbc,
    boolq,
    factbook,
    manual,
    verses,
    web,
    wikipedia,
    wikipedia_starts,
)

PairKind = Literal["query_document", "document_document"]
SHORT = range(4, 15)  # words of a phrase
WHO = ("Who", "What", "Which", "Where")
CLOZE = range(7, 16)  # words of a question made of a sentence
ANSWER = re.compile(  # a name or a number, with the preposition before it
    r"(?:\b(?:in|on|at|by|of|from|since|to|with)\s+)?"
    r"(?:(?P<year>\b1\d{3}\b|\b20\d\d\b)|(?P<number>\b\d[\d,.]*\b)|(?P<name>\b[A-Z]\w+(?:\s[A-Z]\w+)*))"
)
MOSTLY = 0.9  # of a batch's pairs have to be of different passages
WORD = re.compile(r"\b[a-z]{4,}\b")  # that says something and is no name


@dataclass(frozen=True)
class Pair:
    """Two texts that belong together.

    Attributes:
        first: A query or a document, as `kind` says.
        second: A document.
        kind: How `first` is embedded.
        group: The source passage; pairs of one group are no negatives of each other.
        negatives: Documents that look like `second` and are not (hard negatives).
    """

    first: str
    second: str
    kind: PairKind
    group: str
    negatives: tuple[str, ...] = ()


def sentences(text: str) -> list[str]:
    """Sentences, well enough for crops."""
    return [s for s in re.split(r"(?<=[.!?])\s+(?=[\"'(A-Z0-9])", text) if s.strip()]


def crop(text: str, rng: Random, longest: int = 5) -> str:
    """One to `longest` neighbouring sentences."""
    parts = sentences(text)
    size = rng.randint(1, min(longest, len(parts)))
    start = rng.randint(0, len(parts) - size)
    return " ".join(parts[start : start + size])


def drop_words(text: str, rng: Random, share: float) -> str:
    """The text without a random share of its words (the paper's masked positive)."""
    words = text.split()
    kept = [w for w in words if rng.random() >= share]
    return " ".join(kept) if kept else text


Prose = Callable[[Random], Passage]

# What `prose_of` can draw from, by the name a recipe gives it.
PROSE: dict[str, tuple[Source, Callable[[], tuple[Passage, ...]]]] = {
    "boolq": (BOOLQ, partial(boolq, "train")),
    "bbc": (BBC, bbc),
    "django": (DJANGO, manual),
    "wikipedia": (WIKIPEDIA, wikipedia),
    "wikipedia_starts": (WIKIPEDIA_STARTS, wikipedia_starts),
    "factbook": (FACTBOOK, factbook),
    "openwebtext": (OPENWEBTEXT, partial(web, "train")),
}


def prose_of(shares: Mapping[str, float]) -> Prose:
    """Draws passages of several sources, each by its share.

    Raises:
        GemError: An unknown source, or no share above zero.
    """
    _require_shares("prose", shares, PROSE)
    sources = [PROSE[name][1] for name in shares]

    def draw(rng: Random) -> Passage:
        return rng.choice(rng.choices(sources, list(shares.values()))[0]())

    return draw


def _require_shares(setting: str, shares: Mapping[str, float], known: Iterable[str]) -> None:
    values = shares.values()
    if shares.keys() - set(known) or not shares or min(values) < 0 or sum(values) <= 0:
        raise GemError(
            f"{setting} are {dict(shares)}; expected shares above zero of {sorted(known)}"
        )


def _crops(prose: Prose, rng: Random) -> Pair:
    """Two random crops of one paragraph; each is read alone."""
    passage = prose(rng)
    first, second = (crop(passage.body, rng) for _ in range(2))
    return Pair(first, second, "document_document", passage.group)


def _questions(rng: Random) -> Pair:
    """A real search question and the passage that answers it."""
    passage = rng.choice(boolq("train"))
    question = passage.question
    if rng.random() < 0.5:
        question = question[0].upper() + question[1:] + "?"
    return Pair(question, passage.body, "query_document", passage.group)


def _titles(prose: Prose, rng: Random) -> Pair:
    """A title as a short query, and a crop of what stands under it."""
    passage = prose(rng)
    return Pair(passage.title, crop(passage.body, rng, 8), "query_document", passage.group)


def _sentences(prose: Prose, rng: Random) -> Pair:
    """One sentence twice, each time with other words missing, or two neighbours."""
    passage = prose(rng)
    parts = sentences(passage.body)
    at = rng.randrange(len(parts))
    if len(parts) > 1 and rng.random() < 0.3:
        other = parts[at - 1] if at else parts[1]
        return Pair(parts[at], other, "document_document", passage.group)
    shares = rng.choice(((0.0, 0.4), (0.25, 0.25), (0.1, 0.5)))
    first, second = (drop_words(parts[at], rng, share) for share in shares)
    return Pair(first, second, "document_document", passage.group)


def phrase(sentence: str, rng: Random) -> str:
    """A part of a sentence that has few words: a clause, or words in a row."""
    clauses = [c.strip() for c in re.split(r"[,;:()]|\s[-\u2013\u2014]+\s", sentence)]
    short = [c for c in (sentence, *clauses) if len(c.split()) in SHORT]
    if short:
        return rng.choice(short)
    words = sentence.split()
    size = rng.choice(SHORT)
    start = rng.randint(0, max(0, len(words) - size))
    return " ".join(words[start : start + size])


def exchange_word(text: str, other: str, rng: Random) -> str:
    """The text with one word of some length replaced by one of another text."""
    places, theirs = (list(WORD.finditer(t)) for t in (text, other))
    if not places or not theirs:
        return text
    start, end = rng.choice(places).span()
    return text[:start] + rng.choice(theirs)[0] + text[end:]


def _phrases(prose: Prose, rng: Random) -> Pair:
    """A few words, the same with some missing, and, as a hard negative, with one exchanged."""
    passage, other = (rng.choice((prose(rng), rng.choice(web("train")))) for _ in range(2))
    text = phrase(rng.choice(sentences(passage.body)), rng)
    near = drop_words(text, rng, rng.choice((0.15, 0.3)))
    exchanged = exchange_word(text, other.body, rng)
    negatives = (exchanged,) if exchanged != text else ()
    return Pair(text, near, "document_document", passage.group, negatives)


def cloze(sentence: str, rng: Random) -> str:
    """A question made of a sentence: a name or number gives way to a question word, put first.

    Only some words around it stay. No grammar is asked of it (the noisy clozes of Lewis et al.
    2019, unsupervised question answering). Without a name or number another word gives way; without
    any word there is no question: "".
    """
    found = [m for m in ANSWER.finditer(sentence) if m.start()]  # the first word is capitalised
    words = found or list(re.finditer(r"\w+", sentence))
    if not words:
        return ""
    answer = rng.choice(words)
    kind = answer.lastgroup if found else "other"
    asked = {"year": ("When",), "number": ("How many",)}.get(kind or "", WHO)
    before, after = sentence[: answer.start()].split(), sentence[answer.end() :].split()
    size = rng.choice(CLOZE)
    first = rng.randint(0, min(size, len(before)))
    around = before[len(before) - first :] + after[: size - first]
    return f"{rng.choice(asked)} {' '.join(around).rstrip('.,;:!?')}?"


def _clozes(prose: Prose, rng: Random) -> Pair:
    """A question about a detail, made of one sentence, and the passage the sentence is from."""
    passage = prose(rng)
    question = cloze(rng.choice(sentences(passage.body)), rng)
    return Pair(question, passage.body, "query_document", passage.group)


def _verse_pairs(rng: Random) -> Pair:
    """One verse in two translations."""
    one, two = rng.choice(verses())
    return Pair(one, two, "document_document", one)


def masked(text: str, rng: Random, group: str) -> Pair:
    """A text, and the same with words missing at random (arXiv 2506.04344, section 3.2)."""
    return Pair(text, drop_words(text, rng, rng.uniform(0.1, 0.5)), "document_document", group)


def _masked(rng: Random) -> Pair:
    """One sentence, whole and with words missing."""
    passage = rng.choice(boolq("train"))
    return masked(rng.choice(sentences(passage.body)), rng, passage.group)


Draw = Callable[[Random], Pair]

ON_PROSE: dict[str, tuple[Callable[[Prose, Random], Pair], tuple[Source, ...]]] = {
    "crops": (_crops, ()),
    "clozes": (_clozes, ()),
    "titles": (_titles, ()),
    "sentences": (_sentences, ()),
    "phrases": (_phrases, (OPENWEBTEXT,)),
}
TASKS: dict[str, tuple[Draw, tuple[Source, ...]]] = {  # of sources of their own
    "questions": (_questions, (BOOLQ,)),
    "verses": (_verse_pairs, (KJV, WEB)),
    "masked": (_masked, (BOOLQ,)),
}


def sources_of(shares: Mapping[str, float], prose: Mapping[str, float]) -> list[Source]:
    """The packages that tasks with a share draw from."""
    own = {name: sources for name, (_, sources) in (*ON_PROSE.items(), *TASKS.items())}
    tasks = [task for task, share in shares.items() if share]
    found = [source for task in tasks for source in own.get(task, ())]
    if ON_PROSE.keys() & set(tasks):
        found += [PROSE[name][0] for name, share in prose.items() if share]
    return list(dict.fromkeys(found))


class TrainingMix:
    """Batches that depend on seed and step alone, so that a resumed run sees the same ones.

    Args:
        shares: Share of each task in `ON_PROSE` and `TASKS`; normalised.
        prose: Share of each source in `PROSE` that the tasks on prose draw from; normalised.
        seed: Decides everything.
        batch_size: Pairs in a batch.
        own: More tasks by name: the user's files.

    Raises:
        GemError: An unknown task or source, or no share above zero.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        prose: Mapping[str, float],
        *,
        seed: int,
        batch_size: int,
        own: Mapping[str, Draw] = MappingProxyType({}),
    ) -> None:
        source = prose_of(prose)
        self._draw: dict[str, Draw] = {
            **{name: partial(task, source) for name, (task, _) in ON_PROSE.items()},
            **{name: task for name, (task, _) in TASKS.items()},
            **own,
        }
        _require_shares("shares", shares, self._draw)
        self._tasks = list(shares)
        self._shares = [shares[t] for t in self._tasks]
        self._seed = seed
        self._size = batch_size

    def batch(self, step: int) -> list[Pair]:
        """The pairs of one step, no two of one source passage; few, where there are hardly enough.

        Raises:
            GemError: The data has clearly fewer different passages than a batch has pairs.
        """
        rng = Random(f"{self._seed}:{step}")
        pairs: list[Pair] = []
        groups: set[str] = set()
        for tried in range(100 * self._size):
            if len(pairs) == self._size:
                return pairs
            (task,) = rng.choices(self._tasks, self._shares)
            pair = self._draw[task](rng)
            # Repeated ones, which are no negatives of each other, are better than a run that ends.
            last = tried >= 50 * self._size and len(groups) > MOSTLY * self._size
            is_new = last or pair.group not in groups
            if is_new and pair.first.strip() and pair.second.strip():
                groups.add(pair.group)
                pairs.append(pair)
        raise GemError(f"batch_size {self._size} is more than the data has different passages for")

    def draw(self, count: int) -> list[Pair]:
        """A fixed number of pairs, those of the first steps."""
        drawn: list[Pair] = []
        while len(drawn) < count:
            drawn += self.batch(len(drawn) // self._size)
        return drawn[:count]


class Pool:
    """A fixed number of pairs, gone through in epochs, each in another order.

    Batches depend on seed and step alone, as the mix's do.

    Args:
        pairs: All of them.
        seed: Decides the order.
        batch_size: Pairs in a batch.
        vectors: Unit vectors ``[n, d]`` of the pairs' second texts. With them a batch is made of
            `neighbours` nearest ones at a time, which are harder negatives than chance gives.
        neighbours: How many; 1 is by chance.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        seed: int,
        batch_size: int,
        vectors: Tensor | None = None,
        neighbours: int = 1,
    ) -> None:
        self.pairs = list(pairs)
        self._seed = seed
        self._size = batch_size
        self._vectors = vectors
        self._neighbours = neighbours

    def batch(self, step: int) -> list[Pair]:
        """The pairs of one step."""
        epoch, place = divmod(step, len(self.pairs) // self._size)
        order = self._order(epoch)
        return [self.pairs[i] for i in order[place * self._size : (place + 1) * self._size]]

    @lru_cache(maxsize=1)  # noqa: B019  # an epoch's order takes seconds, and pools are few
    def _order(self, epoch: int) -> list[int]:
        rng = Random(f"{self._seed}:epoch {epoch}")
        order = list(range(len(self.pairs)))
        rng.shuffle(order)
        if self._vectors is None or self._neighbours == 1:
            return order
        runs = list(nearest_runs(self._vectors, order, self._neighbours))
        rng.shuffle(runs)
        return [i for run in runs for i in run]


def nearest_runs(vectors: Tensor, order: Sequence[int], size: int) -> Iterator[list[int]]:
    """Cut `order` into runs: the first that is left, and its `size` - 1 nearest that are left."""
    left = torch.ones(len(vectors), dtype=torch.bool)
    for i in order:
        if not left[i]:
            continue
        left[i] = False
        near = (vectors @ vectors[i]).masked_fill(~left, -torch.inf)
        run = near.topk(min(size - 1, int(left.sum()))).indices
        left[run] = False
        yield [i, *run.tolist()]
