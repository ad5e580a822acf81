"""How a server is run: where, for whom, and how much of it."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gem_rag.documents.find import absolute
from gem_rag.index.address import shown

LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class Limits:
    """Bounds of what is asked.

    Attributes:
        requests: That want the model, at once, waiting ones too; more are refused.
        body_bytes: Of a request that is no upload.
        upload_bytes: Of an upload.
        file_bytes: Of one file of it.
        files: Of an upload.
        texts: Of one call for embeddings, or documents of one for ranks.
        answers: Of one call for a completion.
        answer_tokens: That may be asked for one answer.
        stall_seconds: That a client may take to send or take the next piece.
    """

    requests: int = 64
    body_bytes: int = 8 << 20
    upload_bytes: int = 1 << 30
    file_bytes: int = 100 << 20
    files: int = 1000
    texts: int = 2048
    answers: int = 8
    answer_tokens: int = 32_768
    stall_seconds: float = 60.0


@dataclass(frozen=True)
class Settings:
    """How a server is run.

    Attributes:
        home: The folder of index, uploads and conversations.
        index: The address of the index, where that is not in the folder.
        paths: Files and folders that are indexed and watched.
        host: Where it listens.
        key: Who asks must know it; None asks for none.
        roots: Folders below which others than loopback may have folders watched.
        model: Name of the model; None is the default.
        dtype: Its number format.
        limits: Bounds.
        settle: Seconds for which a file must stay as it is before it is indexed.
    """

    home: Path
    paths: Sequence[Path] = ()
    host: str = "127.0.0.1"
    key: str | None = None
    roots: Sequence[Path] = ()
    model: str | None = None
    dtype: str = "auto"
    limits: Limits = Limits()
    settle: float = 1.0
    index: str | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)

    @property
    def uploads(self) -> Path:
        """Where uploads lie."""
        return absolute(self.home) / "uploads"

    @property
    def database(self) -> Path:
        """Where conversations and watched folders are kept."""
        return absolute(self.home) / "server.sqlite"


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, and no other's way in."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in LOOPBACK
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def home_of(paths: Sequence[Path], index: str | None = None) -> Path:
    """The data folder for a set of paths, in whatever order: always the same one.

    Args:
        paths: What is served.
        index: The address of the index, where that is elsewhere.
    """
    import platformdirs

    given = {str(absolute(path)) for path in paths} | ({shown(index)} if index else set())
    names = "\0".join(sorted(given))
    name = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return platformdirs.user_data_path("gem-rag") / "served" / (name if given else "uploads")


def new_key() -> str:
    """A key that nobody guesses."""
    return secrets.token_urlsafe(24)
