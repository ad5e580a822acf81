"""Metadata values: what JSON holds of them, and as what comparisons find them again."""

import datetime as dt
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np

from gem_rag.errors import GemIndexError

_DAYS = ("Y", "M", "W", "D")  # numpy's units of dates
_LARGEST = 2**63  # SQLite compares larger integers as floats
_DEEPEST = 50
_HELD = (
    "held are strings, numbers, booleans, None, lists and dicts of these, and what becomes one "
    "of them without loss: dates, times, UUIDs, paths, enum members, tuples, decimals, numpy's"
)


def plain(value: Any) -> Any:
    """A value as JSON holds it, where nothing is lost; any other comes back as it is.

    Dates and times become ISO text, which sorts as they do: a date stands for its first moment,
    and a moment with a time zone is told in UTC. Enum members become their values, tuples
    and arrays lists, numpy's and decimal numbers plain ones, paths and UUIDs text.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.generic | np.ndarray):
        return _of_numpy(value)
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return _of_time(value)
    if isinstance(value, Decimal):
        return _of_decimal(value)
    return str(value) if isinstance(value, PurePath | UUID) else value


def _of_numpy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [plain(member) for member in value] if value.ndim else plain(value[()])
    if isinstance(value, np.datetime64):
        unit = "D" if np.datetime_data(value.dtype)[0] in _DAYS else "us"
        moment = value.astype(f"datetime64[{unit}]")
        return plain(moment.item()) if moment == value else value
    if isinstance(value, np.timedelta64):
        return value
    if isinstance(value, np.longdouble):
        return float(value) if float(value) == value else value
    return plain(value.item())


def _of_time(value: Any) -> Any:
    if value != value:  # pandas' NaT
        return value
    if isinstance(value, dt.datetime) and value.utcoffset() is not None:
        try:
            value = value.astimezone(dt.UTC)
        except OverflowError:  # on the first or last day of all
            return value
    # "+00:00" sorts before "." and after the end: moments with and without fractions of a second,
    # and dates, are in order.
    return value.isoformat()


def _of_decimal(value: Decimal) -> Any:
    if not value.is_finite():
        return value
    if value == value.to_integral_value() and abs(value) < _LARGEST:
        return int(value)
    number = float(value)
    return number if Decimal(repr(number)) == value else value


def encode(value: Any, what: str) -> str:
    """A value as JSON that gives its `plain` form back.

    Args:
        value: What is to be stored.
        what: How messages call it.

    Raises:
        GemIndexError: JSON cannot hold it: the message names the key and the type.
    """
    try:
        held = plain(value)
        encoded = json.dumps(held, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        same = json.loads(encoded) == held
        encoded.encode()
    except (TypeError, ValueError, RecursionError) as error:
        why = _misfit(value) or str(error)
        raise GemIndexError(f"{what} cannot be stored as JSON: {why}") from error
    if not same:
        raise GemIndexError(f"{what} changes when stored as JSON: {_misfit(value) or repr(value)}")
    return encoded


def decode(encoded: str) -> Any:
    """The value that was encoded."""
    return json.loads(encoded)


def _misfit(value: Any, where: str = "", depth: int = 0) -> str | None:
    """The first thing within a value that JSON cannot hold, and where it stands."""
    held = value if isinstance(value, Mapping | list | tuple) else plain(value)
    named = f"key {where!r} is" if where else "it is"
    if depth > _DEEPEST:
        return f"key {where[:40]!r}... is nested too deeply"
    if isinstance(held, Mapping):
        odd = [key for key in held if not isinstance(plain(key), str)]
        if odd:
            return f"{named} a dict with the key {odd[0]!r} ({_kind(odd[0])}); use string keys"
        below = ((f"{where}.{key}" if where else str(key), held[key]) for key in held)
    elif isinstance(held, list | tuple):
        below = ((f"{where}[{i}]", member) for i, member in enumerate(held))
    else:
        why = _why_not(held)
        return None if why is None else f"{named} {str(value)[:40]!r} ({_kind(value)}); {why}"
    return next(filter(None, (_misfit(v, name, depth + 1) for name, v in below)), None)


def _why_not(held: Any) -> str | None:
    if isinstance(held, float) and not math.isfinite(held):
        return "numbers are finite"
    if isinstance(held, str):
        broken = any("\ud800" <= letter <= "\udfff" for letter in held)
        return "that is not valid Unicode: remove surrogates" if broken else None
    return None if isinstance(held, bool | int | float) or held is None else _HELD


def _kind(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__name__}".removeprefix("builtins.")
