"""Names to folders: bundled checkpoints, the embedded base, local folders, hub ids."""

from __future__ import annotations

from pathlib import Path

from gem_rag.checkpoints.embedded import embedded_base
from gem_rag.config import CONFIG_FILE
from gem_rag.errors import CheckpointError

DEFAULT = "smollm2-135m-instruct"
EMBEDDED_BASE = "embedded:smollm2-135m-instruct"
BUNDLED = Path(__file__).parent / "bundled"
OWN_BASE = "./base"  # name of a base whose trained weights are in the checkpoint's own folder
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "README.md"]


def bundled_names() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG_FILE}"))


def resolve(name_or_path: str | Path | None, revision: str | None = None) -> Path:
    """A bundled name, local folder or hub id as a local folder.

    Raises:
        CheckpointError: Nothing by that name; the message says where was looked.
    """
    if name_or_path is None:
        name_or_path = DEFAULT
    bundled = BUNDLED / str(name_or_path)
    if str(name_or_path) in bundled_names():
        return bundled
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    return _from_hub(str(name_or_path), revision)


def resolve_base(name_or_path: str | Path, revision: str | None = None) -> Path:
    """A base model's name as a local folder: the embedded one, a folder, or a hub id."""
    if str(name_or_path) in (EMBEDDED_BASE, DEFAULT):
        return embedded_base()
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    return _from_hub(str(name_or_path), revision)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"no model {name!r}: it is no folder, none of the bundled {bundled_names()}, and the "
            f"hub did not give it ({type(error).__name__}); check the name, folder or network"
        ) from error
    return Path(found)


def public_name(name: str) -> str:
    """A base's or checkpoint's name for a card: of a folder of the maker's, its last part."""
    folder = Path(name).expanduser() if name else None
    return folder.name if folder and folder.is_dir() else name
