"""The command chat: questions and answers, one after another, and what is said between them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gem_rag.cli.console import (
    Context,
    Docs,
    Dtype,
    IndexDir,
    MaxTokens,
    Mode,
    Model,
    Rank,
    SeveralWay,
    Skill,
    Where,
    open_rag,
    parsed,
)
from gem_rag.cli.screens import Screen, screen_for
from gem_rag.errors import GemError
from gem_rag.files import atomic_write

if TYPE_CHECKING:
    from gem_rag.rag.answer import Answer
    from gem_rag.rag.pipeline import GemRAG

OTHER_WORDS = 0.7  # temperature of what is asked again: at 0 the answer would be the very same
GREETING = "{documents} documents, {passages} passages. /help names the commands."


def chat(
    docs: Docs = None,
    index: IndexDir = None,
    model: Model = None,
    dtype: Dtype = "auto",
    mode: Mode = "hybrid",
    where: Where = None,
    rank: Rank = True,
    context: Context = 1,
    several: SeveralWay = "together",
    skill: Skill = "auto",
    max_tokens: MaxTokens = 256,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each answer, or error, as one line of JSON.")
    ] = False,
) -> None:
    """Ask again and again; follow-ups are understood in the light of what was asked before.

    /help names the commands: /sources, /open N, /docs, /add PATH, /retry, /save FILE and others.
    Ctrl-C stops an answer, Ctrl-D ends the conversation.
    """
    condition = parsed(where)
    answering: dict[str, Any] = {"mode": mode, "rank": rank, "skill": skill}
    answering |= {"context": context, "several": several}
    screen = screen_for(as_json=as_json)
    with open_rag(docs, index, model, dtype, **answering) as rag:
        facts = {"documents": len(rag.index.documents), "passages": rag.index.count()}
        screen.note(GREETING.format(**facts))
        helps = {name: command.help for name, command in COMMANDS.items()}
        talk = Chat(rag, screen, where=condition, max_new_tokens=max_tokens)
        talk.run(screen.lines(helps))


@dataclass(frozen=True)
class Exchange:
    """A question, and its answer as far as it came; None where none did."""

    question: str
    answer: Answer | None


class Chat:
    """A conversation over documents.

    Args:
        rag: Answers.
        screen: Shows it.
        **asking: What every question is asked with: see `GemRAG.stream`.
    """

    def __init__(self, rag: GemRAG, screen: Screen, **asking: Any) -> None:
        self._rag = rag
        self._screen = screen
        self._asking = asking
        self._exchanges: list[Exchange] = []
        self._saved: set[Path] = set()
        self._is_over = False

    def run(self, lines: Iterable[str]) -> None:
        """Take lines until they end, or one of them ends the conversation."""
        for line in filter(None, lines):
            self.take(line)
            if self._is_over:
                return

    def take(self, line: str) -> None:
        """A question or a command; Ctrl-C or an error ends no more than this."""
        name, _, argument = line.partition(" ")
        try:
            if not line.startswith("/"):
                self._ask(line, self._exchanges)
            elif name in COMMANDS:
                COMMANDS[name].run(self, argument.strip())
            else:
                self._screen.error(f"there is no {name}; {OTHERWISE}")
        except (GemError, OSError) as error:
            self._screen.error(str(error))
        except KeyboardInterrupt:
            self._screen.note("stopped")

    def _ask(self, question: str, earlier: list[Exchange], **how: Any) -> None:
        """Answer a question after earlier ones; what it replaces is gone once it is asked."""
        self._exchanges = [*earlier, Exchange(question, None)]
        stream = None
        try:
            with self._screen.waiting():
                history = [message for one in earlier for message in _messages(one)]
                stream = self._rag.stream(question, history=history, **self._asking, **how)
            self._screen.stream(stream)
        except KeyboardInterrupt:
            self._screen.note("stopped")
        if stream is not None:
            stream.close()
            self._exchanges[-1] = Exchange(question, stream.answer)
            self._screen.answered(stream.answer)

    @property
    def _answered(self) -> list[tuple[str, Answer]]:
        return [(one.question, one.answer) for one in self._exchanges if one.answer is not None]

    def sources(self, _: str) -> None:
        """Show what the last answer rests on."""
        self._screen.sources(self._answered[-1][1].citations if self._answered else [])

    def open(self, number: str) -> None:
        """Show one passage of the last answer, or of the nearest where nothing answered."""
        answer = self._answered[-1][1] if self._answered else None
        shown = [] if answer is None else answer.citations or answer.nearest
        if not shown:
            raise GemError("there are no passages yet; ask something first")
        at = int(number) if number.isdecimal() else 0 if number else 1
        if not 1 <= at <= len(shown):
            raise GemError(f"/open {number}: expected a number from 1 to {len(shown)}")
        self._screen.passage(at, shown[at - 1])

    def docs(self, _: str) -> None:
        """List the documents."""
        self._screen.documents(self._rag.index.documents.all())

    def add(self, path: str) -> None:
        """Index a file or folder, or several, quoted as in a shell."""
        if not path:
            raise GemError("/add: expected a file or folder")
        is_one = Path(path).expanduser().exists()
        self._screen.added(self._rag.add([path] if is_one else _split(path)))

    def retry(self, _: str) -> None:
        """Ask the last question again: for other words, where it was answered to the end."""
        if not self._exchanges:
            raise GemError("nothing was asked yet")
        *earlier, last = self._exchanges
        is_whole = last.answer is not None and last.answer.finish_reason != "cancelled"
        self._screen.note(last.question)
        self._ask(last.question, earlier, temperature=OTHER_WORDS if is_whole else 0.0)

    def save(self, file: str) -> None:
        """Write the conversation to a new file, or to one that it was saved to before."""
        from gem_rag.rag.transcript import WRITERS, conversation_of

        path = Path(" ".join(_split(file))).expanduser()
        if path.suffix.lower() not in WRITERS:
            raise GemError(f"/save {file}: expected a FILE that ends in {' or '.join(WRITERS)}")
        if not self._answered:
            raise GemError("nothing was answered yet")
        if path.exists() and path not in self._saved:
            raise GemError(f"{path} is there already; name another file")
        atomic_write(path, WRITERS[path.suffix.lower()](conversation_of(self._answered)))
        self._saved.add(path)
        self._screen.saved(path)

    def clear(self, _: str) -> None:
        """Forget the conversation."""
        self._exchanges = []

    def help(self, _: str) -> None:
        """Name the commands."""
        self._screen.help({f"{n} {c.takes}".strip(): c.help for n, c in COMMANDS.items()})

    def quit(self, _: str) -> None:
        """End the conversation."""
        self._is_over = True


def _messages(one: Exchange) -> list[dict[str, str]]:
    """What was said, as the model is told it."""
    if one.answer is None:
        return []
    asked = {"role": "user", "content": one.question}
    return [asked, {"role": "assistant", "content": one.answer.answer}]


def _split(words: str) -> list[str]:
    """Words as a shell takes them, which is how terminals write a dropped file.

    Raises:
        GemError: A quotation mark is left open.
    """
    try:
        return shlex.split(words, posix=os.name != "nt")
    except ValueError as error:
        raise GemError(f"{words}: {error}") from error


@dataclass(frozen=True)
class Command:
    """What may be said beside questions.

    Attributes:
        run: Does it, with what stands after its name.
        help: What it does, in a few words.
        takes: What stands after its name.
    """

    run: Callable[[Chat, str], None]
    help: str
    takes: str = ""


COMMANDS = {
    "/sources": Command(Chat.sources, "what the last answer rests on"),
    "/open": Command(Chat.open, "one passage of it, its sentence stressed", "N"),
    "/docs": Command(Chat.docs, "the documents"),
    "/add": Command(Chat.add, "index a file or folder", "PATH"),
    "/retry": Command(Chat.retry, "ask again, for other words"),
    "/save": Command(Chat.save, "keep the conversation: Markdown (.md) or .json", "FILE"),
    "/clear": Command(Chat.clear, "forget the conversation"),
    "/help": Command(Chat.help, "this list"),
    "/quit": Command(Chat.quit, "end (or Ctrl-D)"),
}
OTHERWISE = f"the commands are {' '.join(COMMANDS)}; anything else is a question"
