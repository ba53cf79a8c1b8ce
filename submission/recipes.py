"""Typed recipes: TOML files checked by pydantic models, with `section.key=value` overrides.

One mechanism serves the contest's settings, the packager and every training phase. The models are plain
pydantic classes that derive from `Recipe`; a key that does not exist is an error naming the valid ones.
"""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError


class Recipe(BaseModel):
    """Base of all settings: immutable, no unknown keys, defaults checked as strictly as given values."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @classmethod
    def load(cls, path: Path | None = None, overrides: Iterable[str] = ()) -> Self:
        """Read a TOML file (or start from the defaults) and apply `key=value` overrides in order.

        A key is `section.key`, or its last part alone where only one section has it: `lr=1e-6`.

        Raises:
            ValueError: the file is missing or not TOML, or a key or value is not valid; the message names
                the file, the key and the valid choices.
        """
        place = str(path) if path else "the defaults"
        data = _read_toml(path) if path else {}
        for override in overrides:
            _apply_override(cls, data, override)
        return cls.parse(data, place)

    @classmethod
    def parse(cls, data: Mapping[str, Any], place: str) -> Self:
        """Validate a mapping; `place` is where it came from, for the error message."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ValueError(f"{place}: {_explain(cls, error)}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"recipe {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {path} is not UTF-8 text: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe {path} is not valid TOML: {error}") from None


def _apply_override(model: type[BaseModel], data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or not all(parts):
        raise ValueError(f"override {override!r} is not of the form key=value or section.key=value")
    if len(parts) == 1 and parts[0] not in model.model_fields:
        parts = _section_of(model, parts[0], override)
    table = data
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ValueError(f"override {override!r}: {part!r} is a value, not a section")
    table[parts[-1]] = _parse_value(text.strip())


def _section_of(model: type[BaseModel], key: str, override: str) -> list[str]:
    """Where a key stands that is no key of the top level; where it is nowhere, validation will say so."""
    found = [path for path in _paths(model) if path.rpartition(".")[2] == key]
    if len(found) > 1:
        raise ValueError(f"override {override!r}: {key!r} is ambiguous; name one of {', '.join(found)}")
    return found[0].split(".") if found else [key]


def _paths(model: type[BaseModel], within: tuple[type[BaseModel], ...] = ()) -> Iterator[str]:
    """`section.key` of every key below the top level; sections in lists and tables of any name have none."""
    for name, field in model.model_fields.items():
        nested = _section_in(field.annotation)
        if nested is None or nested in within:
            continue
        for key in nested.model_fields:
            yield f"{name}.{key}"
        for path in _paths(nested, (*within, nested)):
            yield f"{name}.{path}"


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, or of one that may be left out."""
    if get_origin(annotation) in (Union, UnionType):
        return next((found for inner in get_args(annotation) if (found := _section_in(inner))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _parse_value(text: str) -> Any:
    """A TOML value where the text is one (numbers, booleans, lists, quoted strings), else the bare string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            lines.append(_unknown(model, item["loc"]))
        else:
            given = "" if item["type"] == "missing" else f" (got {str(item['input'])[:100]!r})"
            lines.append(f"{key}: {item['msg']}{given}")
    return "; ".join(lines)


def _unknown(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Name the valid keys of the section, close ones first; at the top level close ones of any section."""
    last = str(location[-1])
    valid = sorted(_fields_at(model, location[:-1]))
    names = {name: name for name in valid}
    if len(location) == 1:
        names = {path.rpartition(".")[2]: path for path in _paths(model)} | names
    close = [names[name] for name in difflib.get_close_matches(last, names, n=3)]
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    key = ".".join(str(part) for part in location)
    ordered = close + [name for name in valid if name not in close]
    return f"unknown key {key!r}{hint}; valid keys: {', '.join(ordered)}"


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterable[str]:
    """Names of the fields of the (nested) model that `location` points into."""
    for part in location:
        field = model.model_fields.get(str(part))
        nested = _model_in(field.annotation) if field else None
        if nested is not None:
            model = nested
    return model.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, list, tuple, dict):
        return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
    return None
