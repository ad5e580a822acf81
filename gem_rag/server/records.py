"""What the server keeps beside the index: conversations, watched folders, what is left out."""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gem_rag.errors import GemError

VERSION = 1
TITLE_CHARACTERS = 80
_TABLES = """
CREATE TABLE conversations (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL
);
CREATE TABLE messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    role TEXT NOT NULL, content TEXT NOT NULL, created TEXT NOT NULL, said TEXT NOT NULL
);
CREATE INDEX messages_by_conversation ON messages (conversation);
CREATE TABLE folders (path TEXT PRIMARY KEY);
CREATE TABLE left_out (source TEXT PRIMARY KEY);
"""
_CONVERSATIONS = (
    "SELECT id, title, created, updated, "
    "(SELECT count(*) FROM messages WHERE conversation = conversations.id) AS count "
    "FROM conversations"
)
_MATCHES = (
    " WHERE title LIKE :like ESCAPE '\\' OR EXISTS (SELECT 1 FROM messages "
    "WHERE conversation = conversations.id AND content LIKE :like ESCAPE '\\')"
)
Row = dict[str, Any]


class Records:
    """One SQLite file, used by many threads one at a time; each change is on disk when it returns.

    Args:
        file: Where; None keeps it in memory.
    """

    def __init__(self, file: Path | None) -> None:
        self._lock = threading.RLock()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        name = ":memory:" if file is None else str(file)
        self._connection = sqlite3.connect(name, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        [(version,)] = self._connection.execute("PRAGMA user_version")
        if version > VERSION:
            raise GemError(f"{name} is of a newer gem-rag (version {version}); upgrade gem-rag")
        self._connection.executescript("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;")
        self._connection.execute("PRAGMA synchronous = FULL")
        if version < VERSION:
            with self._transaction():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _rows(self, sql: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> list[Row]:
        with self._lock:
            return [dict(row) for row in self._connection.execute(sql, values)]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # Conversations

    def conversations(self, words: str, offset: int, limit: int) -> tuple[list[Row], int]:
        """Those that hold some words, newest first, and how many there are in all."""
        like = "".join(f"\\{c}" if c in "\\%_" else c for c in words)
        values = {"like": f"%{like}%", "offset": offset, "limit": limit}
        matches = _MATCHES if words else ""
        page = " ORDER BY updated DESC, rowid DESC LIMIT :limit OFFSET :offset"
        [total] = self._rows(f"SELECT count(*) AS total FROM conversations{matches}", values)
        return self._rows(_CONVERSATIONS + matches + page, values), int(total["total"])

    def conversation(self, name: str) -> Row | None:
        """One of them with its messages; None if it is not there."""
        with self._lock:
            found = self._rows(f"{_CONVERSATIONS} WHERE id = ?", (name,))
            return {**found[0], "messages": self.messages(name)} if found else None

    def new_conversation(self, title: str) -> Row:
        """Begin one."""
        row = {"id": f"c_{uuid.uuid4().hex[:16]}", "title": title, "created": now()}
        sql = "INSERT INTO conversations VALUES (:id, :title, :created, :created)"
        with self._transaction():
            self._connection.execute(sql, row)
        return {**row, "updated": row["created"], "count": 0, "messages": []}

    def rename_conversation(self, name: str, title: str) -> bool:
        """Give one a title; whether it is there."""
        sql = "UPDATE conversations SET title = ? WHERE id = ?"
        with self._transaction():
            return self._connection.execute(sql, (title, name)).rowcount > 0

    def delete_conversation(self, name: str) -> bool:
        """Forget one; whether it was there."""
        with self._transaction():
            sql = "DELETE FROM conversations WHERE id = ?"
            return self._connection.execute(sql, (name,)).rowcount > 0

    def messages(self, conversation: str) -> list[Row]:
        """What was said in one, in order."""
        sql = "SELECT * FROM messages WHERE conversation = ? ORDER BY number"
        return [
            {
                "id": f"m_{row['number']}",
                **{name: row[name] for name in ("role", "content", "created")},
                **json.loads(row["said"]),
            }
            for row in self._rows(sql, (conversation,))
        ]

    def add_message(
        self, conversation: str, role: str, content: str, said: Mapping[str, Any]
    ) -> str:
        """Add one; its id. The first question becomes the title of a conversation without one."""
        values = (conversation, role, content, now(), json.dumps(said))
        sql = (
            "INSERT INTO messages (conversation, role, content, created, said) "
            "VALUES (?, ?, ?, ?, ?)"
        )
        with self._transaction():
            number = self._connection.execute(sql, values).lastrowid
            self._connection.execute(
                "UPDATE conversations SET updated = ?, "
                "title = CASE title WHEN '' THEN ? ELSE title END WHERE id = ?",
                (values[3], _title(content), conversation),
            )
        return f"m_{number}"

    def set_message(self, message: str, content: str, said: Mapping[str, Any]) -> None:
        """What one has come to."""
        sql = "UPDATE messages SET content = ?, said = ? WHERE number = ?"
        with self._transaction():
            self._connection.execute(sql, (content, json.dumps(said), _number(message)))

    def take_back(self, conversation: str, message: str) -> bool:
        """Delete a message and all that follow; whether it was there."""
        number = _number(message)
        with self._transaction():
            sql = "SELECT 1 FROM messages WHERE conversation = ? AND number = ?"
            is_there = self._connection.execute(sql, (conversation, number)).fetchone() is not None
            if is_there:
                sql = "DELETE FROM messages WHERE conversation = ? AND number >= ?"
                self._connection.execute(sql, (conversation, number))
            return is_there

    # Folders, and what is left out of them

    def folders(self) -> list[Path]:
        """Those that are watched because somebody asked for it while the server ran."""
        return [Path(row["path"]) for row in self._rows("SELECT path FROM folders ORDER BY rowid")]

    def add_folder(self, path: Path) -> None:
        """Remember one."""
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO folders VALUES (?)", (str(path),))

    def remove_folder(self, path: Path) -> None:
        """Forget one."""
        with self._transaction():
            self._connection.execute("DELETE FROM folders WHERE path = ?", (str(path),))

    def left_out(self) -> set[str]:
        """Sources of watched folders that were deleted here and are to stay out."""
        return {row["source"] for row in self._rows("SELECT source FROM left_out")}

    def leave_out(self, source: str) -> None:
        """Keep a source out."""
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO left_out VALUES (?)", (source,))

    def take_in(self, source: str) -> None:
        """Let a source in again."""
        with self._transaction():
            self._connection.execute("DELETE FROM left_out WHERE source = ?", (source,))


def now() -> str:
    """This moment, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(message: str) -> int:
    number = message.removeprefix("m_")
    return int(number) if number.isascii() and number.isdigit() and len(number) < 18 else -1


def _title(content: str) -> str:
    words = " ".join(content.split())
    if len(words) <= TITLE_CHARACTERS:
        return words
    return words[:TITLE_CHARACTERS].rsplit(" ", 1)[0] + " ..."
