"""Kinds of value in a configuration, and what is said where one does not fit: pydantic checks, one sentence
tells.

Annotate a dataclass's fields with these kinds; ``read`` makes it from a file's values.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, Union

from ProgressiveRegistrationLib.errors import InputError
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    Strict,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

T = TypeVar("T")


def wrong(sentence: str) -> PydanticCustomError:
    """What a validator raises: the sentence follows the key and is followed by what was given."""
    return PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise wrong("must be a number")
    return value


def _listed(value: Any) -> Any:
    """A single value as a list of one."""
    return [value] if isinstance(value, (str, int, float)) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _numbers(count: int) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        value = _listed(value)
        if isinstance(value, (list, tuple)) and len(value) != count:
            raise wrong(f"must be {count} numbers")
        return value

    return check


def _not_negative(value: int) -> int:
    if value < 0:
        raise wrong("must not be negative")
    return value


def one_of(*allowed: str) -> AfterValidator:
    """For texts that are a choice."""

    def check(value: str) -> str:
        if value not in allowed:
            raise wrong(f"must be one of {', '.join(allowed)}")
        return value

    return AfterValidator(check)


def within(low: float, high: float, *, end: bool = True) -> AfterValidator:
    """For numbers in [low, high], or [low, high) without the ``end``."""

    def check(value: float) -> float:
        if not low <= value <= high or (value == high and not end):
            raise wrong(f"must be in [{low}, {high}{']' if end else ')'}")
        return value

    return AfterValidator(check)


# A number may come as text: YAML 1.1 reads 1e-3 so.
Number = Annotated[float, BeforeValidator(_no_flag), Field(allow_inf_nan=False)]
Whole = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
NotNegative = Annotated[int, Strict(), AfterValidator(_not_negative)]
Flag = Annotated[bool, Strict()]
Numbers = Annotated[tuple[Number, ...], BeforeValidator(_listed)]
Wholes = Annotated[tuple[Whole, ...], BeforeValidator(_listed)]
Texts = Annotated[tuple[Annotated[str, Field(coerce_numbers_to_str=True)], ...], BeforeValidator(_listed)]
TwoNumbers = Annotated[tuple[Number, Number], BeforeValidator(_numbers(2))]
ThreeNumbers = Annotated[tuple[Number, Number, Number], BeforeValidator(_numbers(3))]
Anything = Annotated[Any, BeforeValidator(_tuple)]

_NUMBER: TypeAdapter[float] = TypeAdapter(Number)
_NUMBERS: TypeAdapter[tuple[float, ...]] = TypeAdapter(Numbers)


def _per_level(value: Any) -> float | tuple[float, ...]:
    many = isinstance(value, (list, tuple))
    return _NUMBERS.validate_python(value) if many else _NUMBER.validate_python(value)


# One number, or one per level. (A plain Union would tell two errors, one for each.)
PerLevel = Annotated[Union[float, tuple[float, ...]], PlainValidator(_per_level)]

# A section or a list that is there but empty.
DEFAULTS = BeforeValidator(lambda value: {} if value is None else value)
LIST = BeforeValidator(lambda value: value or ())

# ``folder``, which no file may give, is a Path and nothing else.
UNKNOWN = ("unexpected_keyword_argument", "invalid_key", "path_type", "is_instance_of")

_SENTENCES = {
    "bool_type": "must be true or false",
    "dataclass_type": "must hold keys and values",
    "dict_type": "must hold keys and values",
    "finite_number": "must be a number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than_equal": "must be at least {ge}",
    "int_type": "must be int",
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


def _section(kind: type[Any], path: tuple[Any, ...]) -> type[Any]:
    """The dataclass at a place: ``path`` of keys, positions in lists and names in tables, from ``kind``."""
    for key in path:
        hint = typing.get_type_hints(kind).get(key, kind)
        kind = next(
            (part for part in typing.get_args(hint) if isinstance(part, type) and is_dataclass(part)), hint
        )
    return kind


def _sentence(kind: type[Any], where: str, error: ErrorDetails) -> str:
    path = error["loc"]
    name = ".".join(str(part) for part in path if not isinstance(part, int))
    if error["type"] in UNKNOWN:
        section, key = path[:-1], str(path[-1])
        known = [f.name for f in fields(_section(kind, section)) if f.name != "folder"]
        close = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"it may hold {', '.join(known)}."
        return f"{': '.join([where, *map(str, section)])} has an unknown key {key!r}: {hint}"
    if error["type"] == "missing":
        return f"{where}: {name} is missing."
    ask = _SENTENCES.get(error["type"], "{sentence}")
    ask = ask.format(**{"sentence": error["msg"], **error.get("ctx", {})})
    if error["type"] == "int_type" and isinstance(path[-1], int):
        ask = "must be whole numbers"
    given = error["input"]
    given = list(given) if isinstance(given, tuple) else given
    return f"{where}: {name} {ask}; got {given!r}."


def read(kind: type[T], values: Any, where: str) -> T:
    """``kind``, a dataclass of the kinds above, from nested mappings.

    Raises InputError with one sentence, beginning with ``where``, for the first key that is unknown, absent
    or of the wrong kind.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must hold keys and values; got {values!r}.")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        # A misspelt key explains one that is missing.
        found = sorted(error.errors(), key=lambda e: e["type"] not in UNKNOWN)
        raise InputError(_sentence(kind, where, found[0])) from None
