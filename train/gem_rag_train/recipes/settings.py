"""What all settings have in common: their kinds, and how they are read and written."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from gem_rag.errors import GemError

EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a text or a list of texts",
    dict: "a table of numbers",
}


class Settings:
    """A frozen dataclass of plain values, each with a default, that TOML can hold.

    Attributes:
        recipes: Folder of the bundled ones.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    recipes: ClassVar[Path]

    def take_their_kinds(self) -> None:
        """Make each value what its default is: TOML gives lists for tuples, whole numbers for
        others, and one name is a list of one.

        Raises:
            GemError: One cannot be.
        """
        for one in dataclasses.fields(self):
            object.__setattr__(self, one.name, self._of_its_kind(one))

    def _of_its_kind(self, setting: dataclasses.Field[Any]) -> Any:
        made = setting.default_factory
        kind = type(setting.default if made is dataclasses.MISSING else made())
        value = vars(self)[setting.name]
        if kind is tuple:
            value = (value,) if isinstance(value, str) else value
            fits = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
            value = tuple(value) if fits else value
        elif kind is dict:
            fits = isinstance(value, dict) and all(_is_number(v) for v in value.values())
        elif kind is float:
            fits = _is_number(value)
        else:
            fits = type(value) is kind
        self.require(fits, setting.name, EXPECTED[kind])
        return value

    def require(self, holds: bool, name: str, expected: str) -> None:
        """Raise `GemError` that says what was expected of a setting, unless it holds."""
        if not holds:
            raise GemError(f"recipe: {name} is {vars(self)[name]!r}; expected {expected}")

    @classmethod
    def from_recipe(
        cls, name_or_path: str | Path, overrides: Mapping[str, str] | None = None
    ) -> Self:
        """Read a bundled recipe by name, or a TOML file; `overrides` are ``key=value`` strings.

        Raises:
            GemError: No such recipe, an unknown key, or a value of the wrong type.
        """
        path = Path(at_home(str(name_or_path)))
        if not path.suffix:
            path = cls.recipes / f"{name_or_path}.toml"
        if not path.is_file():
            bundled = sorted(p.stem for p in cls.recipes.glob("*.toml"))
            raise GemError(f"no recipe {str(name_or_path)!r}; expected a .toml file or {bundled}")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise GemError(f"recipe {path} is no TOML: {error}") from None
        return cls.from_values(values, overrides)

    @classmethod
    def from_values(
        cls, values: Mapping[str, Any], overrides: Mapping[str, str] | None = None
    ) -> Self:
        """Settings of plain values, with ``key=value`` strings over them.

        Raises:
            GemError: An unknown key, or a value of the wrong type.
        """
        known = {f.name: f.type for f in dataclasses.fields(cls)}
        values = dict(values)
        for key, text in (overrides or {}).items():
            value = _parse(text)
            is_text = known.get(key) == "str" and not isinstance(value, str)  # a folder named 2024
            values[key] = text if is_text else value
        if unknown := values.keys() - known.keys():
            raise GemError(f"recipe has unknown keys {sorted(unknown)}; expected {sorted(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def to_toml(self) -> str:
        """The recipe as a file that `from_recipe` reads."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())


def at_home(path: str) -> str:
    """A path with its ``~`` written out; anything else as it is."""
    return str(Path(path).expanduser()) if path == "~" or path.startswith("~/") else path


def more_is_better(metric: str) -> bool:
    """Which way a measurement is better: losses are lower, all others higher."""
    return not metric.endswith("_loss")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parse(text: str) -> Any:
    plain = text.lower() if text in {"True", "False"} else text  # as Python has it
    try:
        return tomllib.loads(f"value = {plain}")["value"]
    except tomllib.TOMLDecodeError:
        return text
