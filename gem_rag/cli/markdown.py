"""Markdown on a terminal while it is being written.

What is finished (all blocks but the last: a paragraph, a list, a table) is printed once, for good.
The last block is drawn again with each word, as many of its lines as the terminal has room for. So
nothing stands twice in what was scrolled past, however long an answer is.
"""

from __future__ import annotations

from typing import Self

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

# As on the page: HTML is shown as the characters it is, a picture is a link, "[1]" is a citation.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
_PARSER.disable(["html_block", "html_inline", "image", "reference"])


class Block(Markdown):
    """A text as Markdown: addresses are shown, not hidden behind words; a line break is one."""

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = _PARSER.parse(text)
        for token in self.parsed:
            for child in token.children or ():
                child.type = "hardbreak" if child.type == "softbreak" else child.type


class Growing:
    """Markdown that is written piece by piece.

    Args:
        console: Where; a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console,
            auto_refresh=False,
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
        text = self._text + piece
        at = _last_block(text)
        self._text = text[at:]
        self._live.update(_End(Block(self._text)), refresh=at == 0)
        if at:  # goes above what is live, and has that drawn again
            self._console.print(Block(text[:at]), "")

    def end(self, mark: str) -> None:
        """Put a mark behind the last words; below them where they are a table or code."""
        text = self._text.rstrip()
        self._text = text + (f"\n\n{mark.strip()}" if text.endswith(("```", "|")) else mark)


class _End:
    """As many of the last lines as a terminal has room for."""

    def __init__(self, block: Block) -> None:
        self._block = block

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._block, options, pad=False)
        for line in lines[-max(1, options.size.height - 1) :]:
            yield from line
            yield Segment.line()


def _last_block(text: str) -> int:
    """Where the last block of a text begins."""
    first = max((t.map[0] for t in _PARSER.parse(text) if t.map and t.level == 0), default=0)
    return sum(len(line) for line in text.splitlines(keepends=True)[:first])
