"""What an index says about itself."""

from pathlib import Path

from gem_rag.files import bytes_in
from gem_rag.index.database import Database
from gem_rag.index.documents import Documents
from gem_rag.index.follower import Follower
from gem_rag.index.records import IndexInfo

READINGS_FOLDER = "readings"  # of what a model has read of the chunks; they can be made again


def facts_of(
    database: Database, documents: Documents, follower: Follower, path: Path | None
) -> IndexInfo:
    """See `GemIndex.info`."""
    with database.snapshot():
        properties, vectors = database.properties(), database.count_vectors()
        return IndexInfo(
            path=path,
            count=database.count(None),
            documents=len(documents),
            dim=properties.get("dim"),
            vectors=vectors,
            words=database.full_text is not None,
            fingerprint=properties.get("fingerprint"),
            kind=follower.kind(vectors),
            bytes=bytes_in(path) if path else 0,
            readings_bytes=bytes_in(path / READINGS_FOLDER) if path else 0,
            generation=database.version().generation,
        )
