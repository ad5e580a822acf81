"""Markdown on a terminal while it is being written.

What is finished (all blocks but the last: a paragraph, a list, a table) is printed once, for good.
The last block is drawn again and again, as many of its lines as the terminal has room for. So
nothing stands twice in what was scrolled past, however long an answer is.
"""

from __future__ import annotations

import itertools
import re
from typing import Self

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

DRAWN_PER_SECOND = 20
# As on the page: HTML is shown as the characters it is, a picture is a link, "[1]" is a citation.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
_PARSER.disable(["html_block", "html_inline", "image", "reference"])


class Block:
    """One of a text's blocks: addresses are shown, not hidden behind words; a line break is one."""

    def __init__(self, text: str) -> None:
        self._text = text

    def lines(self, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
        """Its lines; those that rich puts before a list or a quotation are left out."""
        markdown = Markdown("", code_theme="ansi_dark", hyperlinks=False)
        markdown.parsed = _PARSER.parse(self._text)
        for token in markdown.parsed:
            for child in token.children or ():
                child.type = "hardbreak" if child.type == "softbreak" else child.type
        found = console.render_lines(markdown, options, pad=False)
        return list(itertools.dropwhile(lambda line: not line, found))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines(console, options):
            yield from line
            yield Segment.line()


class Growing:
    """Markdown that is written piece by piece.

    Args:
        console: Where; a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console,
            refresh_per_second=DRAWN_PER_SECOND,
            transient=True,
            vertical_overflow="visible",
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._text = ""  # of the last block

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._console.print(Block(self._text))

    def write(self, piece: str) -> None:
        """Go on."""
        *whole, self._text = _blocks(self._text + piece)
        self._live.update(_End(Block(self._text)))
        for text in whole:  # goes above what is live, and has that drawn again
            self._console.print(Block(text), "")

    def end(self, mark: str) -> None:
        """Put a mark behind the last words; below them where they are a table or code."""
        text = self._text.rstrip()
        self._text = ""
        self.write(text + (f"\n\n{mark.strip()}" if text.endswith(("```", "|")) else mark))


class _End:
    """As many of a block's last lines as a terminal has room for."""

    def __init__(self, block: Block) -> None:
        self._block = block

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = self._block.lines(console, options)
        for line in lines[-max(1, options.size.height - 1) :]:
            yield from line
            yield Segment.line()


def _blocks(text: str) -> list[str]:
    """A text cut where its blocks begin."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    tops = [token.map[0] for token in _PARSER.parse(text) if token.map and token.level == 0]
    return ["".join(lines[a:b]) for a, b in itertools.pairwise([0, *tops[1:], len(lines)])]
