"""The distributions under `integrations/`, built as wheels and installed beside the frameworks."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

FOLDERS = sorted(
    (Path(__file__).parent.parent / "integrations" / "distributions").glob("*/pyproject.toml")
)
NAMES = [file.parent.name for file in FOLDERS]


@dataclass(frozen=True)
class Wheel:
    """A distribution as it would be uploaded."""

    path: Path

    @property
    def files(self) -> set[str]:
        """What it installs, its metadata aside."""
        with zipfile.ZipFile(self.path) as wheel:
            return {name for name in wheel.namelist() if ".dist-info/" not in name}

    @property
    def requirements(self) -> list[str]:
        """What it depends on."""
        with zipfile.ZipFile(self.path) as wheel:
            name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
            return message_from_bytes(wheel.read(name)).get_all("Requires-Dist", [])


def build(folder: Path) -> dict[str, Wheel]:
    """The wheels by their distribution's name, in this environment: nothing is fetched."""
    for file in FOLDERS:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(command, cwd=file.parent, check=True, capture_output=True)
    built = {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}
    return {name: Wheel(path) for name, path in built.items()}


def install(wheels: dict[str, Wheel], folder: Path) -> None:
    """Install them as pip does, without what they depend on, where this process imports from."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    paths = [str(wheel.path) for wheel in wheels.values()]
    subprocess.run([*command, "--target", str(folder), *paths], check=True, capture_output=True)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
