"""Lines from a terminal, which are edited, completed and recalled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

import platformdirs
from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

TAKE_A_PATH = {"/add", "/save"}


def lines(commands: Mapping[str, str]) -> Iterator[str]:
    """Lines until Ctrl-D; Ctrl-C starts one again.

    Args:
        commands: Their names, and what they do.
    """
    session: PromptSession[str] = PromptSession(
        [("bold", "> ")],
        history=_history(),
        auto_suggest=AutoSuggestFromHistory(),
        completer=Commands(commands),
        complete_while_typing=Condition(lambda: session.default_buffer.text.startswith("/")),
    )
    while True:
        try:
            line = session.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        yield line.strip()


class Commands(Completer):
    """Names of commands, and paths after those that take one.

    Args:
        commands: Their names, and what they do.
    """

    def __init__(self, commands: Mapping[str, str]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """What a line may go on with; nothing for questions."""
        line = document.text_before_cursor
        name, space, path = line.partition(" ")
        if space and name in TAKE_A_PATH:
            yield from self._paths.get_completions(Document(path), complete_event)
        elif not space and line.startswith("/"):
            for command, what in self._commands.items():
                if command.startswith(line):
                    yield Completion(command, -len(line), display_meta=what)


def _history() -> History:
    """What was said before, in a file for the user alone; in memory where none can be written."""
    file = platformdirs.user_state_path("gem-rag") / "questions"
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        return FileHistory(str(file))
    return InMemoryHistory()
