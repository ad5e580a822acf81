"""What an index's file holds: its tables, the older layout, and the way from that to this.

`documents` knows what was indexed, `chunks` the pieces, with columns for what is ours (place,
heading, page) apart from the user's metadata. A chunk's text is the exact slice of its document's;
what lies between and around the chunks is the document's `rest`, so that text stands once on disk.
All that is read of chunks is read from the view `passages`, which both layouts have.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator
from typing import Any

from gem_rag.errors import GemIndexError
from gem_rag.index import fulltext
from gem_rag.index.connection import Connection
from gem_rag.index.fulltext import FullText, Worded
from gem_rag.progress import progress

APPLICATION_ID = 0x47454D52  # "GEMR" in the file's header
VERSION = 2
OLDEST = 1
SOURCE = "source:"  # before a source's name among the meta values of layout 1
WORDS = "words"  # the property that says by which rules words were split; absent without words

# Vectors of usual sizes waste up to half of SQLite's default page of 4,096 bytes.
_PAGE_SIZE = 16384
_AT_ONCE = 1000  # chunks held while all are gone through
_TABLES = """
CREATE TABLE properties (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE commits (generation INTEGER PRIMARY KEY, token INTEGER NOT NULL);
CREATE TABLE chunks (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    metadata TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE tombstones (row INTEGER PRIMARY KEY, generation INTEGER NOT NULL);
CREATE INDEX tombstones_by_generation ON tombstones (generation);
"""
_SECOND = """
CREATE TABLE documents (
    document INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL UNIQUE,
    hash TEXT NOT NULL,
    state TEXT NOT NULL,
    rest TEXT
);
ALTER TABLE chunks ADD COLUMN document INTEGER;
ALTER TABLE chunks ADD COLUMN start INTEGER;
ALTER TABLE chunks ADD COLUMN stop INTEGER;
ALTER TABLE chunks ADD COLUMN heading TEXT;
ALTER TABLE chunks ADD COLUMN page INTEGER;
ALTER TABLE chunks ADD COLUMN lead TEXT;
ALTER TABLE chunks ADD COLUMN mended TEXT;
ALTER TABLE chunks ADD COLUMN digest INTEGER;
CREATE INDEX chunks_by_document ON chunks (document);
CREATE INDEX chunks_by_digest ON chunks (digest);
"""
_OURS = (
    "json_type(metadata, '$.start') = 'integer' AND json_type(metadata, '$.end') = 'integer' AND "
    f"EXISTS (SELECT 1 FROM meta WHERE key = '{SOURCE}' || json_extract(metadata, '$.source'))"
)
_DIGEST = "gem_digest"  # what the connection calls `digest_of`
_VIEWS = {
    1: "SELECT row, id, metadata, text, "
    f"CASE WHEN {_OURS} THEN json_extract(metadata, '$.source') END AS source, "
    f"CASE WHEN {_OURS} THEN json_extract(metadata, '$.start') END AS start, "
    f"CASE WHEN {_OURS} THEN json_extract(metadata, '$.end') END AS stop, "
    f"CASE WHEN {_OURS} THEN nullif(json_extract(metadata, '$.heading'), '') END AS heading, "
    f"NULL AS page, NULL AS lead, NULL AS mended, {_DIGEST}(text) AS digest FROM chunks",
    2: "SELECT row, id, metadata, text, source, start, stop, heading, page, lead, mended, digest "
    "FROM chunks LEFT JOIN documents USING (document)",
}


def digest_of(text: str) -> int:
    """What equal texts share, 64 bits with a sign."""
    hashed = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "big", signed=True)


def new_token() -> int:
    """Names a commit like no other."""
    return secrets.randbits(63)


class Schema:
    """The layout of one file, seen from one connection.

    Args:
        connection: To the file; an empty one is given its tables.

    Raises:
        GemIndexError: The file is damaged, another program's, or of a newer layout.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.full_text = FullText(connection)
        self._viewed = 0  # the layout that the view `passages` is of
        self._opened = 0  # and of which opening of the file
        connection.define(_DIGEST, digest_of)
        # A foreign file must not be changed, so nothing is set before this check.
        with connection.snapshot():
            exists = self._is_ours()
        if not exists:
            self._create()
        if not connection.read_only:
            connection.use_wal()
        self.refresh()

    def _create(self) -> None:
        self._connection.run(f"PRAGMA page_size = {_PAGE_SIZE}")
        with self._connection.transaction():
            if self._is_ours():  # another process was faster
                return
            self._statements(_TABLES)
            self._statements(_SECOND)
            self._connection.run("INSERT INTO commits (token) VALUES (?)", (new_token(),))
            self._connection.run(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.run(f"PRAGMA user_version = {VERSION}")
            self.refresh()
            self._create_words()

    def _statements(self, sql: str) -> None:
        for statement in filter(str.strip, sql.split(";")):
            self._connection.run(statement)

    def _is_ours(self) -> bool:
        """True: a GEM index of a known layout. False: an empty file."""
        name = self._connection.name
        [(application,)] = self._connection.run("PRAGMA application_id")
        [(tables,)] = self._connection.run("SELECT count(*) FROM sqlite_master")
        layout = self._layout()
        if application == 0 and layout == 0 and tables == 0:
            return False
        if application != APPLICATION_ID:
            raise GemIndexError(
                f"{name} is an SQLite file of another program (application id "
                f"{application:#x}, expected {APPLICATION_ID:#x}): choose another folder"
            )
        if not OLDEST <= layout <= VERSION:
            raise GemIndexError(
                f"{name} has schema version {layout}, this gem-rag reads {OLDEST} to {VERSION}: "
                "upgrade gem-rag, or ingest again into a new folder"
            )
        self._check_size()
        return True

    def _check_size(self) -> None:
        # SQLite notices when whole pages are missing, but takes the rest of a torn one as zeros.
        path = self._connection.path
        if path is None:
            return
        wal = path.with_name(path.name + "-wal")
        [(page_size,)] = self._connection.run("PRAGMA page_size")
        if path.stat().st_size % page_size and not (wal.exists() and wal.stat().st_size):
            raise GemIndexError(
                f"{self._connection.name} is damaged: it was cut off in the middle of a page; "
                "restore a backup, or ingest again into a new folder"
            )

    def _layout(self) -> int:
        [(layout,)] = self._connection.run("PRAGMA user_version")
        return int(layout)

    def refresh(self) -> None:
        """See the file as it is laid out now: another process may have upgraded it."""
        layout, opened = self._layout(), self._connection.opened
        if (layout, opened) == (self._viewed, self._opened):
            return
        self._connection.run("DROP VIEW IF EXISTS temp.passages")
        self._connection.run(f"CREATE TEMP VIEW passages AS {_VIEWS[layout]}")
        self._viewed, self._opened = layout, opened

    @property
    def is_seen(self) -> bool:
        """Whether the view `passages` is of the file's layout."""
        if self._opened != self._connection.opened:
            return False
        return not self.is_old or self._layout() == self._viewed

    @property
    def is_old(self) -> bool:
        """Whether the file has an older layout, which is read as it is until the first write."""
        return self._viewed != VERSION

    @property
    def has_words(self) -> bool:
        """Whether chunks can be searched by words."""
        if self.is_old or not self.full_text.is_available:
            return False
        rows = self._connection.run("SELECT value FROM properties WHERE key = ?", (WORDS,))
        return bool(rows) and int(rows[0][0]) == fulltext.RULES

    def before_writing(self) -> None:
        """Bring layout and words up to date, inside the transaction that writes."""
        self.refresh()
        if self.is_old:
            self._upgrade()
        if not self.full_text.is_available:
            # Words would miss what is written now: they are indexed anew where they can be.
            self._connection.run("DELETE FROM properties WHERE key = ?", (WORDS,))
        elif not self.has_words:
            self._create_words()

    def _upgrade(self) -> None:
        self._statements(_SECOND)
        known = self._connection.run(
            "SELECT substr(key, ?), json_extract(value, '$') FROM meta WHERE key GLOB ?",
            (len(SOURCE) + 1, f"{SOURCE}*"),
        )
        self._connection.run_many(
            "INSERT INTO documents (source, hash, state) VALUES (?, ?, 'ready')",
            ((source, str(value)) for source, value in known),
        )
        documents = dict(self._connection.run("SELECT source, document FROM documents"))
        update = (
            "UPDATE chunks SET metadata = ?, document = ?, start = ?, stop = ?, heading = ?, "
            "digest = ? WHERE row = ?"
        )
        for block in self._blocks("upgrading", f"row, metadata, text, {_OURS}", "chunks"):
            moved = (
                _moved(row, json.loads(m), text, ours, documents) for row, m, text, ours in block
            )
            self._connection.run_many(update, moved)
        self._connection.run("DELETE FROM meta WHERE key GLOB ?", (f"{SOURCE}*",))
        self._connection.run(f"PRAGMA user_version = {VERSION}")
        self.refresh()

    def _create_words(self) -> None:
        """Index all chunks' words, of which there are none or others'."""
        if not self.full_text.is_available:
            return
        self.full_text.create()
        for block in self._blocks("indexing words", fulltext.COLUMNS, "passages"):
            self.full_text.insert(Worded(*chunk) for chunk in block)
        sql = "INSERT OR REPLACE INTO properties (key, value) VALUES (?, ?)"
        self._connection.run(sql, (WORDS, str(fulltext.RULES)))

    def _blocks(self, task: str, columns: str, table: str) -> Iterator[list[Any]]:
        """Of all chunks some columns, the first of them the row, with a progress bar."""
        [(count,)] = self._connection.run("SELECT count(*) FROM chunks")
        sql = f"SELECT {columns} FROM {table} WHERE row > ? ORDER BY row LIMIT {_AT_ONCE}"
        after = 0
        with progress(task, count) as advance:
            while block := self._connection.run(sql, (after,)):
                yield block
                after = block[-1][0]
                advance(len(block))


def _moved(
    row: int, metadata: dict[str, Any], text: str, is_ours: bool, documents: dict[str, int]
) -> tuple[Any, ...]:
    """A chunk of layout 1: what is ours leaves its metadata for columns."""
    place: list[Any] = [None] * 4
    if is_ours:
        source, start, end = (metadata.pop(name) for name in ("source", "start", "end"))
        place = [documents[source], start, end, metadata.pop("heading", None) or None]
    encoded = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
    return (encoded, *place, digest_of(text), row)
