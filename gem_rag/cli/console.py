"""What commands share: the consoles, printing, loading a model."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from gem_rag.documents.find import existing
from gem_rag.errors import GemError

if TYPE_CHECKING:
    from gem_rag.model import GemModel
    from gem_rag.rag.citation import Citation
    from gem_rag.rag.ingest.report import IngestReport, Removal
    from gem_rag.rag.pipeline import GemRAG


class Output(Console):
    """Stdout, which may be closed early: whoever reads (``| head``) has seen enough."""

    def on_broken_pipe(self) -> None:
        """End without a word."""
        leave_quietly()


def leave_quietly() -> NoReturn:
    """Exit with 0 although stdout is gone, which Python would complain about when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


# Lines are not wrapped: where the output is no terminal, rich would break paths at 80 columns.
# Nor is ":key:" an emoji: passages are shown as they are.
out = Output(soft_wrap=True, emoji=False)
err = Console(stderr=True, soft_wrap=True, emoji=False)

Model = Annotated[
    str | None, typer.Option("--model", help="GEM checkpoint: bundled name, folder or hub id.")
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="Number format: float32, bfloat16, float16, int8, int4, bfloat16+int4 or auto.",
    ),
]
Docs = Annotated[
    list[Path] | None, typer.Option("--docs", help="Files or folders to answer from; repeatable.")
]
IndexDir = Annotated[
    str | None, typer.Option("--index", help="An index: a folder, or a server's address.")
]
Mode = Annotated[
    Literal["hybrid", "vector", "words"],
    typer.Option("--mode", help="What finds: words beside vectors, or one alone."),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="JSON",
        help="A filter of metadata; $source, $heading and $page are the document's.",
    ),
]
Rank = Annotated[bool, typer.Option("--rank/--no-rank", help="Rank what the index found.")]
Skill = Annotated[
    str,
    typer.Option("--skill", help="What answers: auto, none (the plain base), or a skill's name."),
]
Context = Annotated[int, typer.Option("--context", min=1, help="Passages put before the model.")]
SeveralWay = Annotated[
    str,
    typer.Option("--several", help="Several passages: together, committee or join."),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")]
# Characters that command a terminal, as their pictures (where there are any), one for one: what is
# stressed in a text keeps its place. A line that ends in CR LF looks as it would without the CR.
_CONTROLS = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)}
_CONTROLS |= {0x0D: " ", 0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
FIRST_WORDS = 120  # characters of a passage that is offered
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def load_model(name: str | None, dtype: str = "auto") -> GemModel:
    """The model of a name, with a spinner while it loads."""
    from gem_rag.progress import status

    if name is None:
        from gem_rag.checkpoints.embedded import embedded_base

        embedded_base()  # the first time it has spinners of its own
    with status("loading the model"):
        from gem_rag.model import GemModel

        return GemModel.from_pretrained(name, dtype=dtype)


@contextmanager
def open_rag(
    docs: list[Path] | None,
    index: str | Path | None,
    model: str | None,
    dtype: str,
    *,
    create: bool = False,
    **options: Any,
) -> Iterator[GemRAG]:
    """A `GemRAG` over an index, over documents indexed for the occasion, or both."""
    if not docs and index is None:
        raise typer.BadParameter("give --docs PATH or --index DIR")
    from gem_rag.index.address import open_index
    from gem_rag.rag.pipeline import GemRAG

    existing(docs or [])
    gem = load_model(model, dtype)
    made_by: dict[str, Any] = {"fingerprint": gem.fingerprint, "dim": gem.dim} if gem.embeds else {}
    with open_index(index, create=create or docs is not None, **made_by) as opened:
        rag = GemRAG(gem, opened, **named_skill(options))
        if docs:
            print_problems(rag.add(docs))
            if not opened.count():
                raise GemError(f"no text in {', '.join(map(str, docs))}; nothing to answer from")
        yield rag


def named_skill(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a `GemRAG`, in which no skill is None."""
    return options | {"skill": None} if options.get("skill") == "none" else options


def worded(text: str) -> str:
    """An argument that must say something: found out before a model is loaded."""
    if not text.strip():
        raise typer.BadParameter("it is empty; expected words")
    return text


def parsed(where: str | None) -> dict[str, Any] | None:
    """A filter written as JSON: what is wrong with it is found before a model is loaded."""
    if where is None:
        return None
    from gem_rag.index.filters import parse

    try:
        condition = json.loads(where)
    except ValueError as error:
        raise typer.BadParameter(f"--where is no JSON: {error}") from error
    if not isinstance(condition, dict):
        raise typer.BadParameter('--where takes an object, such as \'{"$source": "/a/b.txt"}\'')
    parse(condition)
    return condition


def tame(text: str) -> str:
    """Text of a document or a model: what would command a terminal is shown there instead."""
    return text.translate(_CONTROLS) if out.is_terminal else text


def print_stream(pieces: Any) -> None:
    """Pieces of an answer as they come."""
    for piece in pieces:
        out.print(tame(piece), end="", markup=False, highlight=False)
    out.print()


def print_citations(
    citations: Sequence[Citation], *, about: str | None = None, first: int = 1
) -> None:
    """Numbered passages with their place and scores.

    Args:
        citations: The passages.
        about: Show the sentence of each that carries the answer, or else the part that says most
            about these words; None shows all of it, with that sentence in bold.
        first: The first one's number.
    """
    for number, c in enumerate(citations, first):
        if number > first:
            out.print()
        heading = f"  {c.heading}" if c.heading else ""
        out.print(f"[dim]\\[{number}] {escape(tame(place(c) + heading))}  {found_by(c)}[/dim]")
        for other in c.sources[1:]:
            out.print(f"[dim]    also in {escape(tame(other))}[/dim]")
        out.print(whole(c) if about is None else part(c, about), highlight=False)


def place(citation: Citation) -> str:
    """Where a passage stands: its source, characters and page."""
    page = "" if citation.page is None else f" page {citation.page}"
    return f"{citation.source}:{citation.start}-{citation.end}{page}"


def whole(citation: Citation) -> Text:
    """A passage, in bold what carries the answer."""
    text = Text(tame(citation.text))
    if citation.quote_start is not None and citation.quote_end is not None:
        first = citation.quote_start - citation.start
        text.stylize("bold", first, citation.quote_end - citation.start)
    return text


def part(citation: Citation, about: str) -> Text:
    """On one line what of a passage carries the answer, in quotation marks, or is about it."""
    if citation.quote is None:
        return Text(tame(excerpt(citation.text, about)))
    return Text(tame(f"“{shortened(citation.quote)}”"))


def print_nearest(nearest: list[Citation]) -> None:
    """What is offered where nothing was found that answers: where it stands, how it begins."""
    out.print("\nNearest passages:")
    for number, c in enumerate(nearest, 1):
        out.print(f"[dim]\\[{number}] {escape(tame(place(c)))}[/dim]")
        out.print(escape(tame(shortened(c.text, FIRST_WORDS))), highlight=False)


def found_by(citation: Citation) -> str:
    """The scores that brought a passage here."""
    scores = {
        "cosine": citation.score,
        "words": citation.word_score,
        "both": citation.fused_score,
        "rank": citation.rank_score,
        "confidence": citation.confidence,
    }
    return "  ".join(f"{name} {score:.2f}" for name, score in scores.items() if score is not None)


def excerpt(text: str, about: str, length: int = 240) -> str:
    """One line of a passage, from the sentence on that shares most words with `about`."""
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", text) if s.strip()]
    wanted = words_of(about)
    best = max(range(len(sentences)), key=lambda i: len(wanted & words_of(sentences[i])))
    return ("... " if best else "") + shortened(" ".join(sentences[best:]), length)


def words_of(text: str) -> set[str]:
    """Its different words, small words aside."""
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) > 3}


def shortened(text: str, length: int = 240) -> str:
    """One line of at most `length` characters, cut between words."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[:length].rsplit(" ", 1)[0] + " ..."


def print_report(report: IngestReport) -> None:
    """What an ingest did, in counts."""
    counts = ", ".join(
        f"{len(getattr(report, what))} {what}"
        for what in ("added", "replaced", "unchanged", "moved", "removed")
        if getattr(report, what)
    )
    out.print(counts or "nothing to index")
    print_problems(report)


def print_removal(removal: Removal) -> None:
    """What was taken out of an index."""
    for source in removal.removed:
        out.print(f"removed {escape(source)}")
    for source in removal.changed:
        out.print(f"removed parts of {escape(source)}")
    for source in removal.missing:
        err.print(f"[yellow]not in the index[/yellow] {escape(source)}")
    out.print(f"{removal.chunks} chunks removed")


def print_problems(report: IngestReport) -> None:
    """Sources that were skipped, with the reason, and what else a user should know."""
    print_skipped(report.skipped)
    for source, note in report.notes:
        err.print(f"[yellow]note[/yellow] {escape(source)}: {escape(note)}")
    if report.passed_over:
        kinds = sorted(report.passed_over.items(), key=lambda kind: -kind[1])
        counts = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in kinds)
        files = sum(report.passed_over.values())
        what = "1 file of an unknown kind" if files == 1 else f"{files} files of unknown kinds"
        err.print(f"[yellow]passed over[/yellow] {what}: {escape(counts)}")


def print_skipped(skipped: Iterable[tuple[str, str]]) -> None:
    """Files or sources and the reason why they are left out."""
    for source, reason in skipped:
        err.print(f"[yellow]skipped[/yellow] {escape(source)}: {escape(reason)}")


def print_json(value: Any, indent: int | None = 2) -> None:
    """One JSON document on stdout; without an indent on one line."""
    try:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=indent, default=str) + "\n")
        sys.stdout.flush()  # a script may be waiting for this line before it writes the next
    except BrokenPipeError:
        leave_quietly()


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e6:.1f} MB"
