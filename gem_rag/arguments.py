"""Options by name: other names that users know, and the likely one where a name is unknown."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from gem_rag.errors import OptionError

Aliases = Mapping[str, str]


def renamed(given: Mapping[str, Any], aliases: Aliases) -> dict[str, Any]:
    """Options under their own names; an alias that is None is not given.

    Args:
        given: By any name.
        aliases: Other names, and what they stand for.

    Raises:
        OptionError: One option is given twice, differently.
    """
    out = {name: value for name, value in given.items() if name not in aliases}
    for name, value in given.items():
        if name in aliases and value is not None:
            _put(out, aliases[name], value, name)
    return out


def merged(given: Mapping[str, Any], more: Mapping[str, Any], aliases: Aliases) -> dict[str, Any]:
    """Options from two places, as `renamed`."""
    out = renamed(given, aliases)
    for name, value in renamed(more, aliases).items():
        _put(out, name, value, name)
    return out


def _put(options: dict[str, Any], name: str, value: Any, said: str) -> None:
    known = options.get(name)
    if known is not None and known != value:
        raise OptionError(
            f"{name} is {known!r}, and {value!r} as {said!r}: they are one option, give it once"
        )
    options[name] = value


def require_known(
    given: Collection[str], known: Collection[str], owner: str, aliases: Aliases | None = None
) -> None:
    """Raise `OptionError` for an option that would be dropped.

    Args:
        given: Names that were given.
        known: Names that are honoured.
        owner: Who was asked, for the message.
        aliases: Other names that are understood, and what they stand for.
    """
    unknown = [name for name in given if name not in known]
    if unknown:
        told = "; ".join(_told(name, known, aliases or {}) for name in unknown)
        raise OptionError(f"{owner}: {told}")


def _told(name: str, known: Collection[str], aliases: Aliases) -> str:
    likely = get_close_matches(name.lower(), [*known, *aliases], n=1)
    if likely:
        return f"no option {name!r}; did you mean {aliases.get(likely[0], likely[0])!r}?"
    return f"no option {name!r}; there are {', '.join(sorted(known)) or 'none'}"
