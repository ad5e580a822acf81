"""The user's own training data: JSONL, whose columns decide what a row is, Markdown and text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

from gem_rag.documents import load_file, sections
from gem_rag.errors import GemError
from gem_rag_train.data.pairs import Draw, Pair, crop, drop_words, masked

Kind = Literal["labelled", "headings", "summary", "soft_prompt", "texts"]

COLUMNS: dict[Kind, tuple[str, ...]] = {
    "labelled": ("query", "positive"),
    "headings": ("heading", "body"),
    "summary": ("context", "summary"),
    "soft_prompt": ("prompt", "answer"),
    "texts": ("text",),
}
TABLES = (".json", ".csv", ".tsv", ".parquet", ".xlsx")  # rows, but not as they are read here
NEGATIVES = "negatives"  # of "labelled", optional: texts that look right and are not
Row = tuple[Kind, dict[str, Any]]
_EXPECTED = (
    "a document with text, or JSONL with the columns query+positive(+negatives), heading+body, "
    "context+summary, prompt+answer or text"
)


@dataclass(frozen=True)
class UserData:
    """Rows of each kind, in the files' order.

    Attributes:
        pairs: Two texts that belong together; of "summary" the summary comes first.
        texts: Texts alone, to crop or to mask.
    """

    pairs: Mapping[str, Sequence[Pair]] = field(default_factory=dict)
    texts: Sequence[str] = ()

    @property
    def kinds(self) -> list[str]:
        """What there is, as `shares` names it."""
        return [*self.pairs, *(["texts"] if self.texts else [])]

    def tasks(self) -> dict[str, Draw]:
        """How a pair of each kind is drawn."""
        draws: dict[str, Draw] = {k: partial(_choose, pairs) for k, pairs in self.pairs.items()}
        if self.texts:
            draws["texts"] = partial(_two_crops, self.texts)
            draws["masked_texts"] = partial(_masked_text, self.texts)
        return draws


def _choose(pairs: Sequence[Pair], rng: Random) -> Pair:
    return rng.choice(pairs)


def _two_crops(texts: Sequence[str], rng: Random) -> Pair:
    text = rng.choice(texts)
    first, second = crop(text, rng), crop(text, rng)
    if first == second:  # too few sentences: nothing would be learnt from it
        first, second = text, drop_words(text, rng, 0.3)
    return Pair(first, second, "document_document", text)


def _masked_text(texts: Sequence[str], rng: Random) -> Pair:
    text = rng.choice(texts)
    return masked(text, rng, text)


def hold_out(data: UserData, count: int, seed: int) -> tuple[UserData, list[Pair]]:
    """Set aside a tenth of the data, at most `count` pairs, that is then not trained on.

    Pairs of one passage stay together. Texts alone are set aside as two crops each.

    Returns:
        What is left, and the pairs set aside: none where a tenth is less than two pairs.
    """
    rng = Random(f"{seed}:held out")
    single = [_two_crops([text], rng) for text in dict.fromkeys(data.texts)]
    everything = [pair for pairs in data.pairs.values() for pair in pairs] + single
    groups = list(dict.fromkeys(pair.group for pair in everything))
    chosen = set(rng.sample(groups, min(count, len(groups) // 10)))
    aside = list({p.group: p for p in everything if p.group in chosen}.values())
    if len(aside) < 2:
        return data, []
    left = {k: [p for p in pairs if p.group not in chosen] for k, pairs in data.pairs.items()}
    texts = [text for text in data.texts if text not in chosen]
    return UserData({kind: pairs for kind, pairs in left.items() if pairs}, texts), aside


def load_files(paths: Sequence[str | Path]) -> UserData:
    """Read training files.

    ``.jsonl``: a row a line, of one of the kinds in `COLUMNS`. Anything else is a document as
    `gem_rag.documents` reads it: with headings, each heading and what stands under it; without,
    its paragraphs.

    Raises:
        GemError: A file is missing or empty, or a line is broken; with its number.
    """
    pairs: dict[str, list[Pair]] = {}
    texts: list[str] = []
    for path in map(Path, paths):
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "does not exist"
            raise GemError(f"data file {path} {found}; expected .jsonl or a document")
        if path.suffix.lower() in TABLES:
            raise GemError(
                f"{path} is {path.suffix}; expected .jsonl, one object a line, or a document"
            )
        is_rows = path.suffix.lower() in (".jsonl", ".ndjson")
        rows = list(_lines(path) if is_rows else _parts(path))
        if not rows:
            raise GemError(f"{path} holds nothing to train on; expected {_EXPECTED}")
        for kind, row in rows:
            if kind == "texts":
                texts.append(row["text"])
            else:
                pairs.setdefault(kind, []).append(_pair(kind, row))
    return UserData(pairs, texts)


def _lines(path: Path) -> Iterator[Row]:
    for place, line in numbered_lines(path):
        yield _row(line, place)


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines of a JSONL file that are not empty, each with its place (``file:number``).

    Raises:
        GemError: It is not UTF-8.
    """
    # Not splitlines: a text may hold U+2028 and the like as they are.
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise GemError(f"{path}: not UTF-8 ({error}); expected JSONL in UTF-8") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}:{number}", line


def _parts(path: Path) -> Iterator[Row]:
    document = load_file(path)
    parts = [(h, b) for h, b in sections(document) if h and b] if document.markdown else []
    if parts:
        yield from (("headings", {"heading": heading, "body": body}) for heading, body in parts)
    else:
        paragraphs = (p.strip() for p in re.split(r"\n\s*\n", document.text))
        yield from (("texts", {"text": p}) for p in paragraphs if p)


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise GemError(f"{where}: no JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise GemError(f"{where}: found {type(row).__name__}; expected one JSON object a line")
    for kind, columns in COLUMNS.items():
        optional = {NEGATIVES} if kind == "labelled" else set()
        if set(columns) == row.keys() - optional:
            _check(row, columns, where)
            return kind, row
    raise GemError(f"{where}: found the columns {sorted(row)}; expected {_EXPECTED}")


def _check(row: dict[str, Any], columns: Sequence[str], where: str) -> None:
    for column in columns:
        if not _is_text(row[column]):
            raise GemError(f"{where}: {column!r} is {row[column]!r}; expected a text")
    negatives = row.get(NEGATIVES, [])
    if not isinstance(negatives, list) or not all(map(_is_text, negatives)):
        raise GemError(f"{where}: {NEGATIVES!r} is {negatives!r}; expected a list of texts")


def _is_text(value: object) -> bool:
    r"""Words in valid Unicode: JSON can hold half a character (``"\ud83d"``)."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pair(kind: Kind, row: dict[str, Any]) -> Pair:
    if kind == "summary":
        return Pair(row["summary"], row["context"], "document_document", row["context"])
    first, second = (row[column] for column in COLUMNS[kind])
    return Pair(first, second, "query_document", second, negatives=tuple(row.get(NEGATIVES, ())))
