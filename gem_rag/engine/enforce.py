"""What of a JSON schema decoding can be held to; the rest of it becomes a note."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gem_rag.errors import GemError
from gem_rag.text.schemas import each, referred

_CLOCK = r"([01]\d|2[0-3]):[0-5]\d"
_TIME = rf"{_CLOCK}:[0-5]\d(\.\d{{1,6}})?(Z|[+-]{_CLOCK})"
_DATE = (
    r"[1-9]\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)"
    r"|02-(0[1-9]|1\d|2[0-8]))"
)
_DAYS = r"(\d{1,3}Y(\d{1,3}M)?(\d{1,3}D)?|\d{1,3}M(\d{1,3}D)?|\d{1,4}D)"
_HOURS = r"T(\d{1,3}H(\d{1,3}M)?(\d{1,3}S)?|\d{1,3}M(\d{1,3}S)?|\d{1,4}S)"
_BASE64 = r"([A-Za-z0-9{more}]{{4}})*([A-Za-z0-9{more}]{{2}}==|[A-Za-z0-9{more}]{{3}}=)?"
_WORD = r"[A-Za-z0-9][A-Za-z0-9_+-]{0,31}"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_HOST = rf"({_LABEL}\.){{1,4}}[A-Za-z]{{2,12}}"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_ADDRESS = rf"({_BYTE}\.){{3}}{_BYTE}"
_NETWORK = rf"({_BYTE}\.){{3}}(0/24|{_BYTE}/32)|({_BYTE}\.){{2}}0\.0/16|{_BYTE}\.0\.0\.0/8"
_HEX = r"[0-9a-f]"
# Formats as the parsers of Python's world take them: the grammar's own ones let the 61st second
# and domains without a dot through, or do not know the format.
_FORMATS = {
    "time": _TIME,
    "date": _DATE,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P({_DAYS}({_HOURS})?|{_HOURS})",
    "email": rf"{_WORD}(\.{_WORD})?@{_HOST}",
    "base64": _BASE64.format(more="+/"),
    "base64url": _BASE64.format(more="_-"),
    **dict.fromkeys(("ipvanyaddress", "ipv4interface", "ipvanyinterface"), _ADDRESS),
    **dict.fromkeys(("ipv4network", "ipvanynetwork"), _NETWORK),
    "uuid": rf"{_HEX}{{8}}-({_HEX}{{4}}-){{3}}{_HEX}{{12}}",
    **{
        f"uuid{n}": rf"{_HEX}{{8}}-{_HEX}{{4}}-{n}{_HEX}{{3}}-[89ab]{_HEX}{{3}}-{_HEX}{{12}}"
        for n in range(1, 9)
    },
}
_WEB_ADDRESS = rf"https?://{_HOST}(/[A-Za-z0-9._~%/?#=&+-]*)?"
_WEB_ADDRESS_LENGTH = 2083  # by which pydantic's HttpUrl, whose format is "uri", is known

_JSON = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": True,  # keywords it does not know are notes
}


def enforceable(schema: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A schema as llguidance takes it, and what of it is not enforced.

    Formats become patterns, patterns lose what looks around, other documents are not looked up.
    """
    notes: list[str] = []

    def change(part: dict[str, Any]) -> dict[str, Any]:
        part = _with_names(_with_format(part), schema)
        if isinstance(pattern := part.get("pattern"), str):
            part = _with_pattern(part, pattern, notes)
        named = part.get("patternProperties")
        if isinstance(named, Mapping):
            kept = {name: inner for name, inner in named.items() if _compiles(name)}
            notes.extend(f"patternProperties {name!r}" for name in named if name not in kept)
            part["patternProperties"] = kept
        ref = part.get("$ref")
        if isinstance(ref, str) and "://" in ref:
            notes.append(f"$ref {ref!r}")
            del part["$ref"]
        return part

    return each(schema, change), notes


def json_rule(schema: Mapping[str, Any]) -> str:
    """A rule of llguidance's grammars for JSON that fits a schema; warns of what is not enforced.

    Raises:
        GemError: The schema is malformed, or nothing fits it.
    """
    kept, notes = enforceable(schema)
    rule = f"%json {json.dumps({**kept, 'x-guidance': _JSON})}"
    is_error, messages = _compiled(f"start: {rule}")
    if is_error:
        raise GemError(f"this JSON schema cannot be enforced: {messages[0].partition(chr(10))[0]}")
    tell((*notes, *messages), rule)
    return rule


@lru_cache(256)
def _compiled(rules: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a grammar is wrong, and what is to be said about it."""
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_lark(rules)
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return is_error, tuple(messages)


@lru_cache(256)
def tell(notes: tuple[str, ...], of: str) -> None:  # noqa: ARG001
    """Warn of what is not enforced, once a schema.

    Args:
        notes: What the schema asks for.
        of: The schema.
    """
    for note in dict.fromkeys(notes):
        warnings.warn(
            f"a JSON schema asks for what decoding cannot be held to ({note}): it is taken as a "
            "note, and what comes out may not fit it",
            stacklevel=3,
        )


def _with_format(part: dict[str, Any]) -> dict[str, Any]:
    pattern = _FORMATS.get(str(part.get("format")))
    if part.get("format") == "uri" and part.get("maxLength") == _WEB_ADDRESS_LENGTH:
        pattern = _WEB_ADDRESS
    if pattern is None:
        return part
    rest = {keyword: value for keyword, value in part.items() if keyword != "format"}
    if "pattern" not in rest:
        return {**rest, "pattern": f"^({pattern})$"}
    return {**rest, "allOf": [*rest.get("allOf", []), {"pattern": f"^({pattern})$"}]}


def _with_names(part: dict[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """Names that are listed or have a pattern, as properties: those decoding can be held to."""
    names, value = part.get("propertyNames"), part.get("additionalProperties", True)
    if isinstance(names, Mapping) and isinstance(ref := names.get("$ref"), str):
        names = referred(root, ref)
    if not isinstance(names, Mapping) or {"properties", "patternProperties"} & part.keys():
        return part
    rest = {keyword: inner for keyword, inner in part.items() if keyword != "propertyNames"}
    rest["additionalProperties"] = False
    listed = names.get("enum", [names["const"]] if "const" in names else None)
    if listed is not None:
        return {**rest, "properties": dict.fromkeys(map(str, listed), value)}
    if isinstance(names.get("pattern"), str) and _compiles(names["pattern"]):
        return {**rest, "patternProperties": {names["pattern"]: value}}
    return part


def _with_pattern(part: dict[str, Any], pattern: str, notes: list[str]) -> dict[str, Any]:
    if _compiles(pattern):
        return part
    notes.append(f"pattern {pattern!r}")
    wider = without_looking(pattern)
    if _compiles(wider):
        return {**part, "pattern": wider}
    return {keyword: value for keyword, value in part.items() if keyword != "pattern"}


def without_looking(pattern: str) -> str:
    """A pattern without what looks around (``(?!...)``, ``\\b``): it matches no less."""
    out, at = "", 0
    while at < len(pattern):
        if look := re.compile(r"\(\?<?[=!]").match(pattern, at):
            at = _group_end(pattern, look.end())
        elif pattern.startswith(("\\b", "\\B"), at):
            at += 2
        else:
            token = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL).match(pattern, at)
            out += token[0] if token else pattern[at]
            at = token.end() if token else at + 1
    return out


def _group_end(pattern: str, at: int) -> int:
    """The place after the group that is open there."""
    depth = 1
    for token in re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL).finditer(pattern, at):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if not depth:
            return token.end()
    return len(pattern)


def _compiles(pattern: str) -> bool:
    return not _compiled(f"start: %json {json.dumps({'type': 'string', 'pattern': pattern})}")[0]
