"""What a loaded model can be loaded by again, here or in another process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gem_rag.checkpoints.base import chosen_device, chosen_dtype
from gem_rag.checkpoints.names import BUNDLED, EMBEDDED_BASE
from gem_rag.compute.parts import Forward, Parts
from gem_rag.errors import CheckpointError


@dataclass(frozen=True)
class Origin:
    """Where a model is from, and how it was loaded.

    Attributes:
        name: Bundled name, absolute folder or hub id.
        revision: Hub revision.
        device: As it was asked for: ``auto`` is each machine's own.
        dtype: As it was chosen, so that another process does not choose another.
        forward: As it was asked for.
    """

    name: str
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    forward: Forward = "auto"

    @classmethod
    def of(
        cls,
        name_or_path: str | Path | None,
        folder: Path,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        forward: Forward = "auto",
    ) -> Origin:
        """Of a checkpoint that was found in a folder; arguments as for `from_pretrained`."""
        chosen = chosen_dtype(dtype, chosen_device(device))
        return cls(_name(name_or_path, folder), revision, device, chosen, forward)

    @classmethod
    def of_saved(cls, parts: Parts, folder: Path) -> Origin:
        """Of a model that was made here and has been saved."""
        base = parts.base
        return cls.of(folder, folder, device=str(base.device), dtype=base.number_format)

    @property
    def options(self) -> dict[str, Any]:
        """What `from_pretrained` takes beside the name."""
        return {name: value for name, value in asdict(self).items() if name != "name"}

    def require_same(self, parts: Parts, fingerprint: str) -> None:
        """Raise `CheckpointError` unless what was loaded is what was meant."""
        if parts.fingerprint != fingerprint:
            raise CheckpointError(
                f"{self.name} is another model ({parts.fingerprint[:12]}) than the one that was "
                f"pickled ({fingerprint[:12]}), whose weights were changed or replaced since they "
                "were loaded; save_pretrained(folder), load that and pickle again"
            )


def known(origin: Origin | None, parts: Parts) -> Origin:
    """A model's origin.

    Raises:
        CheckpointError: It has none.
    """
    if origin is None:
        raise CheckpointError(
            f"the model made from {parts.config.base.name} is in no folder, from which another "
            "process could load it; call save_pretrained(folder) first"
        )
    return origin


def _name(name_or_path: str | Path | None, folder: Path) -> str:
    if folder.parent == BUNDLED:
        return folder.name
    made_here = name_or_path is None or str(name_or_path) == EMBEDDED_BASE
    is_local = made_here or Path(name_or_path or folder).expanduser().is_dir()
    return str(folder.resolve()) if is_local else str(name_or_path)
