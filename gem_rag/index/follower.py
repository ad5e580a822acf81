"""Keeps a copy of the database's vectors in FAISS, in step with its commits."""

from pathlib import Path

from gem_rag.index.ann import Kind, VectorIndex, resolve_kind, training_share
from gem_rag.index.database import Database
from gem_rag.index.snapshot import load_snapshot, save_snapshot

FAISS_FILE = "vectors.faiss"
# With fewer new vectors than this share, catching up is cheaper than writing the file anew.
_STALE_SHARE = 0.1
_SAVED_ROW = "faiss_last_row"


class Follower:
    """The vectors in memory, and the file they are opened from faster.

    Flat indexes have no file: reading their vectors from SQLite is hardly slower, and it would
    double the space on disk.

    Args:
        database: What to follow.
        kind: "auto" changes from flat to IVF when the index grows large.
        folder: Where the FAISS file is; None for an index in memory.
    """

    def __init__(self, database: Database, kind: Kind, folder: Path | None) -> None:
        self._database = database
        self._wanted: Kind = kind
        self._file = folder / FAISS_FILE if folder is not None else None
        self._index: VectorIndex | None = None

    def fresh(self, dim: int) -> VectorIndex:
        """The vectors, float32 [n, dim], as of the snapshot or transaction it is called in."""
        # Given up meanwhile: an interrupted change must not leave a half-changed copy behind.
        index, self._index = self._index or self._load(dim), None
        if index is None or not self._catch_up(index):
            index = None  # or there would be two in memory
            index = self._build(dim)
        self._index = index
        return index

    def kind(self, count: int) -> Kind:
        """How so many vectors are, or would be, searched."""
        return self._index.kind if self._index is not None else resolve_kind(self._wanted, count)

    def _load(self, dim: int) -> VectorIndex | None:
        index = load_snapshot(self._file) if self._file is not None else None
        fits = index is not None and index.dim == dim and self._wanted in ("auto", index.kind)
        return index if fits else None

    def _catch_up(self, index: VectorIndex) -> bool:
        """Apply what was committed since; False if it has to be built afresh."""
        version = self._database.version()
        if index.version == version:
            return True
        if not self._database.remembers(index.version):
            return False
        for rows, vectors in self._database.vector_blocks(index.dim, after=index.last_row):
            index.add(rows, vectors)
        index.remove(self._database.tombstones(after=index.version.generation))
        index.version = version
        outgrown = index.kind == "flat" != resolve_kind(self._wanted, len(index))
        return not (outgrown or index.worn)

    def _build(self, dim: int) -> VectorIndex:
        count = self._database.count_vectors()
        kind = resolve_kind(self._wanted, count)
        training = None
        if kind == "ivf":
            training = self._database.sample_vectors(dim, training_share(count))
        blocks = self._database.vector_blocks(dim)
        return VectorIndex.build(kind, dim, self._database.version(), blocks, training=training)

    def checkpoint(self, dim: int) -> None:
        """Write the FAISS file, unless the index is flat or in memory."""
        if self._file is None:
            return
        with self._database.snapshot():
            self.fresh(dim)  # may take minutes, in which others may write
        # Holding the write lock, so that two processes never write the file at once.
        with self._database.transaction():
            index = self.fresh(dim)
            if index.kind != "flat":
                save_snapshot(index, self._file)
                self._database.set_property(_SAVED_ROW, index.last_row)

    def is_stale(self) -> bool:
        """Whether a large share of a large index is not in the FAISS file yet."""
        count = self._database.count_vectors()
        if self._file is None or self.kind(count) == "flat":
            return False
        saved = self._database.properties().get(_SAVED_ROW, 0) if self._file.exists() else 0
        return bool(self._database.last_vector() - saved > _STALE_SHARE * count)

    def close(self) -> None:
        """Free the memory."""
        self._index = None
