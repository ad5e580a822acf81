"""What a conversation is shown on: a terminal, a pipe that is read, or one that is parsed."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gem_rag.cli.console import (
    err,
    found_by,
    out,
    print_citations,
    print_json,
    print_nearest,
    print_report,
    print_stream,
    shortened,
    tame,
)
from gem_rag.progress import status

if TYPE_CHECKING:
    from gem_rag.index.documents import DocumentInfo
    from gem_rag.rag.answer import Answer, AnswerStream
    from gem_rag.rag.citation import Citation
    from gem_rag.rag.ingest.report import IngestReport

STRESSED = "black on yellow"  # as a marker does, on dark and on light terminals


def screen_for(*, as_json: bool) -> Screen:
    """What fits stdin and stdout."""
    if as_json:
        return Json()
    is_seen = sys.stdin.isatty() and out.is_terminal and not out.is_dumb_terminal
    return Terminal() if is_seen else Screen()


def prompt(console: Console) -> str | None:
    """The next line of stdin; None at its end. On a terminal Ctrl-C starts the line again.

    Args:
        console: Where to prompt, if stdin is a terminal.
    """
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip() if line else None
    with suppress(ImportError):  # where there is one, it edits lines and recalls them
        import readline  # noqa: F401
    try:
        return console.input("[bold]> [/bold]").strip()
    except EOFError:
        console.print()
        return None
    except KeyboardInterrupt:
        console.print()
        return ""


class Screen:
    """Text without layout: what is piped, or printed on a terminal that cannot do more.

    Args:
        notes: Where to say what is no part of the conversation.
    """

    def __init__(self, notes: Console = err) -> None:
        self._notes = notes

    def lines(self, _commands: Mapping[str, str], /) -> Iterator[str]:
        """What the user says, to its end."""
        return iter(partial(prompt, out), None)

    def waiting(self) -> AbstractContextManager[None]:
        """Shows, where it can be seen, that something is being done."""
        return nullcontext()

    def stream(self, pieces: AnswerStream) -> None:
        """An answer as it comes."""
        print_stream(pieces)

    def answered(self, answer: Answer) -> None:
        """What belongs below an answer that has come to its end, or was stopped."""
        if answer.nearest:
            print_nearest(answer.nearest)

    def sources(self, citations: Sequence[Citation]) -> None:
        """Passages that an answer rests on."""
        if citations:
            print_citations(citations)
        else:
            out.print("no sources yet")

    def passage(self, number: int, citation: Citation, /) -> None:
        """One of them."""
        print_citations([citation], first=number)

    def documents(self, documents: Sequence[DocumentInfo]) -> None:
        """What the index holds."""
        for one in documents:
            out.print(f"{one.chunks:>5}  {escape(tame(one.source))}", highlight=False)

    def added(self, report: IngestReport) -> None:
        """What an ingest did."""
        print_report(report)

    def saved(self, path: Path) -> None:
        """Where the conversation is now."""
        self.note(f"saved in {path}")

    def help(self, commands: Mapping[str, str]) -> None:
        """The commands, with what they do."""
        width = max(map(len, commands))
        for name, what in commands.items():
            self._notes.print(f"{name:<{width}}  {what}", highlight=False, markup=False)

    def note(self, text: str) -> None:
        """Something beside the conversation."""
        self._notes.print(f"[dim]{escape(text)}[/dim]", highlight=False)

    def error(self, text: str) -> None:
        """Something that could not be done."""
        self._notes.print(f"[red]error:[/red] {escape(text)}", highlight=False)


class Json(Screen):
    """One line of JSON for each answer, error, or thing that was asked for."""

    def lines(self, _commands: Mapping[str, str], /) -> Iterator[str]:
        """What the user says; stdout is left to the answers."""
        return iter(partial(prompt, err), None)

    def stream(self, pieces: AnswerStream) -> None:
        """Wait for the answer."""
        for _ in pieces:
            pass

    def answered(self, answer: Answer) -> None:
        """All of it."""
        print_json(answer.as_dict(), indent=None)

    def sources(self, citations: Sequence[Citation]) -> None:
        """All that is known of them."""
        print_json([c.as_dict() for c in citations], indent=None)

    def passage(self, _number: int, citation: Citation, /) -> None:
        """All that is known of it."""
        print_json(citation.as_dict(), indent=None)

    def documents(self, documents: Sequence[DocumentInfo]) -> None:
        """Their sources, and how many passages each has."""
        print_json([{"source": d.source, "chunks": d.chunks} for d in documents], indent=None)

    def added(self, report: IngestReport) -> None:
        """All of the report."""
        print_json(dataclasses.asdict(report), indent=None)

    def saved(self, path: Path) -> None:
        """Where it is."""
        print_json({"saved": str(path)}, indent=None)

    def help(self, commands: Mapping[str, str]) -> None:
        """The commands, with what they do."""
        print_json(dict(commands), indent=None)

    def note(self, text: str) -> None:
        """Nothing: it is for people."""

    def error(self, text: str) -> None:
        """A line, too: a script waits for it."""
        print_json({"error": text}, indent=None)


class Terminal(Screen):
    """A terminal: Markdown as it comes, numbered sources below it, long lists in a pager."""

    def __init__(self) -> None:
        super().__init__(Console(stderr=True, emoji=False))  # this one wraps between words
        self._console = Console(emoji=False, highlight=False)

    def lines(self, commands: Mapping[str, str], /) -> Iterator[str]:
        """What the user says, edited and recalled."""
        from gem_rag.cli import editing

        return editing.lines(commands)

    def waiting(self) -> AbstractContextManager[None]:
        """A spinner."""
        return status("looking")

    def stream(self, pieces: AnswerStream) -> None:
        """An answer as Markdown; behind it the numbers of what it stands on."""
        from gem_rag.cli.markdown import Growing
        from gem_rag.rag.citation import marks

        self._console.print()
        words = iter(pieces)
        with self.waiting():
            first = next(words, "")
        with Growing(self._console) as text:
            text.write(tame(first))
            for piece in words:
                text.write(tame(piece))
            answer = pieces.answer
            if not any(f"[{n}]" in answer.answer for n in range(1, len(answer.citations) + 1)):
                text.end(marks(answer.citations))

    def answered(self, answer: Answer) -> None:
        """The numbered sources, each with its sentence; or what came nearest."""
        if answer.finish_reason == "length":
            self.note("cut here: --max-tokens leaves more room")
        shown = answer.citations or answer.nearest
        if answer.nearest:
            self._console.print("\nNearest passages:")
        if shown:
            self._console.print("", _listed(_short(one) for one in shown))
        self._console.print()

    def sources(self, citations: Sequence[Citation]) -> None:
        """All of them whole."""
        if citations:
            self._paged(_listed((_whole(one, scores=True) for one in citations), apart=1))
        else:
            self.note("no sources yet")

    def passage(self, number: int, citation: Citation, /) -> None:
        """One of them whole."""
        self._paged(_listed([_whole(citation)], first=number))

    def documents(self, documents: Sequence[DocumentInfo]) -> None:
        """Each on a line, after how many passages it has."""
        table = Table.grid(padding=(0, 1))
        table.add_column(justify="right", style="dim")
        for one in documents:
            table.add_row(f"{one.chunks:,}", Text(tame(_near(one.source)), overflow="fold"))
        passages = sum(one.chunks for one in documents)
        counts = f"{len(documents):,} documents, {passages:,} passages"
        self._paged(Group(table, "", Text(counts, style="dim")))

    def _paged(self, shown: RenderableType) -> None:
        """Through a pager, if it is longer than the terminal."""
        if len(self._console.render_lines(shown)) < self._console.height:
            self._console.print("", shown, "")
            return
        os.environ.setdefault("LESS", "FRX")  # colours, and no other screen: as git has it
        with self._console.pager(styles=True):
            self._console.print(shown)


def _listed(shown: Iterable[RenderableType], *, first: int = 1, apart: int = 0) -> Table:
    """Numbered from `first`, so many lines apart."""
    table = Table.grid(padding=(0, 1, apart, 0))
    table.add_column(style="bold cyan", no_wrap=True)
    for number, each in enumerate(shown, first):
        table.add_row(f"\\[{number}]", each)
    return table


def _short(citation: Citation) -> Group:
    """Its place, and below it on a line what carries the answer, or how it begins."""
    words = citation.text if citation.quote is None else citation.quote
    said = f"“{shortened(words)}”" if citation.quote is not None else shortened(words, 120)
    return Group(_place(citation, Path(citation.source).name), Text(tame(said), style="dim"))


def _whole(citation: Citation, *, scores: bool = False) -> Group:
    """Its place and all of its text, what carries the answer stressed."""
    text = Text(tame(citation.text))
    if citation.quote_start is not None and citation.quote_end is not None:
        first = citation.quote_start - citation.start
        text.stylize(STRESSED, first, citation.quote_end - citation.start)
    above = [_place(citation, _near(citation.source))]
    above += [Text(f"also in {tame(_near(one))}", style="dim") for one in citation.sources[1:]]
    above += [Text(found_by(citation), style="dim")] if scores else []
    return Group(*above, "", text)


def _place(citation: Citation, name: str) -> Text:
    """Name, page and heading."""
    page = None if citation.page is None else f"page {citation.page}"
    rest = " · ".join(filter(None, (page, citation.heading)))
    return Text.assemble((tame(name), "bold"), "  " if rest else "", (tame(rest), "dim"))


def _near(source: str) -> str:
    """A path as seen from here, if it lies below."""
    path = Path(source)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else source
