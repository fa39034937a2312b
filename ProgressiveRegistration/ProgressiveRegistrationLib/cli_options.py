"""The command line's arguments and options of ``PairFiles`` and ``Options``, made from their fields."""

# Typer reads annotations at run time, also on Python 3.9.
# ruff: noqa: UP006, UP035
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, List, Optional, cast, get_type_hints

import typer

from .options import ENDINGS, FLAG, LABELS, PATH, WHOLE, flag_of, needed, parse

KINDS = {PATH: Path, LABELS: List[str], ENDINGS: List[str], FLAG: bool, WHOLE: int}


def takes(
    tables: dict[str, type],
    *,
    options: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    texts: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of whole tables.

    Parameters
    ----------
    tables : the command's parameter -> the dataclass it gets, made from the fields' options.
    options : needed fields that are options here, not arguments; ``optional`` ones need not be given (then
        None).
    without : fields that this command has no use for; ``only`` : those that it has, where they are few.
    texts : help of fields that mean something of their own here.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.name not in tables]
        hints = get_type_hints(command)
        own = [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in own]
        made = [
            _parameter(about, about.name in options, about.name in optional, texts.get(about.name))
            for table in tables.values()
            for about in fields(table)
            if about.name not in without and (not only or about.name in only)
        ]
        first = [p for p in made if isinstance(p.default, typer.models.ArgumentInfo)]
        rest = [p for p in made if p not in first]
        output = [p for p in own if p.name == "output"]
        parameters = [*first, *output, *rest, *(p for p in own if p not in output)]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            for name, table in tables.items():
                values = {
                    about.name: given.pop(about.name)
                    if about.name in optional
                    else parse(about, given.pop(about.name))
                    for about in fields(table)
                    if about.name in given
                }
                given[name] = table(**values)
            command(**given)

        cast(Any, run).__signature__ = inspect.Signature(parameters)
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def option(table: type, name: str) -> Any:
    """The option of one field, for a command that takes few of them."""
    return _parameter(next(f for f in fields(table) if f.name == name), False, False).default


def _parameter(about: Field, as_option: bool, optional: bool, text: str | None = None) -> inspect.Parameter:
    kind, text = about.metadata["kind"], text or about.metadata["help"]
    hint: Any = KINDS.get(kind, str)
    if needed(about) and not as_option:
        default = typer.Argument(..., metavar=about.name.upper(), help=text, show_default=False)
    elif needed(about) and not optional:
        default = typer.Option(..., help=text, show_default=False)
    elif kind == FLAG:
        flag = flag_of(about)
        names = f"--{flag}/--no-{flag}" if about.default else f"--{flag}"
        default = typer.Option(about.default, names, help=text)
    else:
        value = None if needed(about) or kind in (LABELS, ENDINGS) else about.default
        shown = (
            " " + " ".join(f"[{v}]" for v in cast("tuple[str, ...]", about.default))
            if kind == ENDINGS
            else ""
        )
        default = typer.Option(value, f"--{flag_of(about)}", help=text + shown)
        hint = Optional[hint] if value is None else hint
    return inspect.Parameter(about.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
