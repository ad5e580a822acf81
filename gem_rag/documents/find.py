"""Which files there are to read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from gem_rag.documents.kinds import is_known, kind_of
from gem_rag.errors import DocumentError

NEVER = {"node_modules", "__pycache__", "site-packages"}  # other people's, and made by machines
IGNORE = ".gitignore"
NAMED = 5  # how many of the entries that were left out are named


@dataclass(frozen=True)
class Found:
    """What a search for files came to.

    Attributes:
        files: To read; absolute, sorted, each once.
        skipped: Files and folders that could not be looked at, with the reason.
        notes: Paths and what a user should know about them.
        passed_over: How many files of unknown kinds there are, by suffix.
    """

    files: list[Path] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files of `find`."""
    return find(paths).files


def find(
    paths: Sequence[str | Path], *, exclude: Sequence[str] = (), without: Iterable[Path] = ()
) -> Found:
    """Files named, and files of known kinds under folders named.

    Below a named folder hidden files and folders, Office's lock files, installed packages and what
    ``.gitignore`` files say are left out. A linked folder is followed once.

    Args:
        paths: Files or folders.
        exclude: Patterns as in ``.gitignore``, relative to each path.
        without: Folders that are passed over, such as the one an index is written to.

    Raises:
        DocumentError: A path does not exist, or a pattern is none.
    """
    walk = _Walk(_excluding(exclude), {Path(folder).resolve() for folder in without})
    for path in existing(paths):
        walk.start(path)
    return walk.end()


def existing(paths: Sequence[str | Path]) -> list[Path]:
    """Files and folders as absolute paths; one that may not be looked at counts as one.

    Raises:
        DocumentError: A path does not exist.
    """
    whole = [absolute(p) for p in paths]
    for path in whole:
        try:
            mode = path.stat().st_mode
        except PermissionError:
            continue
        except OSError:
            mode = 0
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DocumentError(f"no file or folder {str(path)!r}; check the path")
    return whole


def absolute(path: str | Path) -> Path:
    """A path as files are named in an index: whole, links followed, whether it is there or not."""
    return Path(os.path.realpath(Path(path).expanduser()))


def path_name(path: Path | str) -> str:
    """A path as text that can be stored and shown, whatever bytes it has."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def is_gone(path: Path) -> bool:
    """Whether a file is no longer there; one that cannot be looked at may well be."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def content_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Rules:
    """Patterns of a ``.gitignore``, which hold below the folder it stands in."""

    folder: Path
    patterns: GitIgnoreSpec

    def verdict(self, path: Path, is_folder: bool) -> bool | None:
        """True where it is ignored, False where it is not after all, None where nothing is said."""
        name = path.relative_to(self.folder).as_posix()
        return self.patterns.check_file(name + "/" if is_folder else name).include


@dataclass(frozen=True)
class _Folder:
    """A folder that is to be looked through.

    Attributes:
        path: Its path as the user would name it.
        root: The named path that it lies under.
        rules: Ignore rules that hold in it, outermost first.
    """

    path: Path
    root: Path
    rules: tuple[_Rules, ...] = ()


class _Walk:
    """Looks through folders; links last, so that what they lead to keeps its own name."""

    def __init__(self, exclude: GitIgnoreSpec, without: set[Path]) -> None:
        self._exclude = exclude
        self._folders: list[_Folder] = []
        self._links: list[_Folder] = []
        self._linked_files: list[Path] = []
        self._seen = set(without)
        self._files: set[Path] = set()
        self._ignored: dict[Path, list[str]] = {}
        self._passed_over: Counter[str] = Counter()
        self._found = Found()

    def start(self, path: Path) -> None:
        """Take a path that was named."""
        try:
            is_folder = path.is_dir()
        except OSError as error:
            self._skip(path, error)
            return
        if is_folder:
            self._folders.append(_Folder(path, path, _rules_above(path)))
        elif not self._exclude.match_file(path.name):
            self._files.add(path)

    def end(self) -> Found:
        """Look through all folders."""
        while self._folders or self._links:
            if self._folders:
                self._enter(self._folders.pop())
            else:
                self._follow(self._links.pop())
        real = {file.resolve() for file in self._files}
        for link in sorted(self._linked_files):
            if (target := link.resolve()) not in real:
                real.add(target)
                self._files.add(link)
        notes = self._found.notes + [
            (path_name(root), f"left out by {IGNORE}: {_listed(names)}")
            for root, names in self._ignored.items()
        ]
        return Found(
            sorted(self._files),
            sorted(self._found.skipped),
            sorted(notes),
            dict(sorted(self._passed_over.items())),
        )

    def _enter(self, folder: _Folder) -> None:
        if (real := folder.path.resolve()) in self._seen:
            return
        self._seen.add(real)
        try:
            entries = sorted(os.scandir(folder.path), key=lambda entry: entry.name)
        except OSError as error:
            self._skip(folder.path, error)
            return
        rules = folder.rules + _rules_in(folder.path)
        for entry in entries:
            try:
                self._look_at(entry, _Folder(folder.path / entry.name, folder.root, rules))
            except OSError as error:
                self._skip(folder.path / entry.name, error)

    def _look_at(self, entry: os.DirEntry[str], inner: _Folder) -> None:
        path, is_folder = inner.path, entry.is_dir()
        if _is_never_read(path, is_folder) or self._is_excluded(inner, is_folder):
            return
        if is_folder:
            (self._links if entry.is_symlink() else self._folders).append(inner)
        elif entry.is_file():
            if not is_known(entry.name):
                self._passed_over[kind_of(entry.name)] += 1
            elif entry.is_symlink():
                self._linked_files.append(path)
            else:
                self._files.add(path)
        elif entry.is_symlink() and is_known(entry.name):
            self._found.skipped.append((path_name(path), "it links to nothing that can be read"))

    def _is_excluded(self, inner: _Folder, is_folder: bool) -> bool:
        name = inner.path.relative_to(inner.root).as_posix()
        if self._exclude.match_file(name + "/" if is_folder else name):
            return True
        verdicts = (rules.verdict(inner.path, is_folder) for rules in reversed(inner.rules))
        ignored = next((verdict for verdict in verdicts if verdict is not None), False)
        if ignored:
            shown = path_name(name + "/" if is_folder else name)
            self._ignored.setdefault(inner.root, []).append(shown)
        return ignored

    def _follow(self, link: _Folder) -> None:
        target = link.path.resolve()
        if link.root.is_relative_to(target):
            self._note(link.path, f"a link back to {target}; not followed")
        elif target in self._seen:
            self._note(link.path, f"a link to {target}, which is read there")
        else:
            self._note(link.path, f"a linked folder, read from {target}")
            self._enter(link)

    def _note(self, path: Path, what: str) -> None:
        self._found.notes.append((path_name(path), what))

    def _skip(self, path: Path, error: OSError) -> None:
        self._found.skipped.append((path_name(path), f"cannot be read: {error.strerror or error}"))


def _is_never_read(path: Path, is_folder: bool) -> bool:
    hidden = path.name.startswith((".", "~$"))  # ~$: the lock file of an open Office document
    return hidden or (
        is_folder and (path.name in NEVER or (path / "pyvenv.cfg").exists())  # an environment
    )


def _rules_in(folder: Path) -> tuple[_Rules, ...]:
    file = folder / IGNORE
    try:
        lines = file.read_text("utf-8", "replace").splitlines()
        return (_Rules(folder, GitIgnoreSpec.from_lines(lines)),)
    except (OSError, ValueError):
        return ()


def _rules_above(root: Path) -> tuple[_Rules, ...]:
    """What the repository that a folder lies in ignores, unless that is the folder itself."""
    above: list[Path] = []
    for folder in (root, *root.parents):
        if (folder / ".git").exists():
            break
        above.append(folder.parent)
    else:
        return ()
    found = [rules for folder in reversed(above) for rules in _rules_in(folder)]
    return tuple(rules for rules in found if not _covers(rules, root))


def _covers(rules: _Rules, root: Path) -> bool:
    inside = root.relative_to(rules.folder)
    folders = [rules.folder / part for part in (inside, *inside.parents) if part != Path()]
    return any(rules.verdict(folder, is_folder=True) for folder in folders)


def _excluding(patterns: Sequence[str]) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise DocumentError(f"exclude: {error}; expected patterns as in {IGNORE}") from error


def _listed(names: list[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
