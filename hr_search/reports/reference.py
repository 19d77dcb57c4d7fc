"""The page of all parameters: settings by group, and what each notebook declares; the same as text for a terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.fields import MANY
from hr_search.reports.pages import ASSETS, asset, policy, printable
from hr_search.reports.parameters import BOUNDS, RESERVED, declared_in
from hr_search.settings import FIELDS, TYPES, Settings

PAGE = "parameters.html"
_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text", dict: "mapping", list: "list"}


@dataclass(frozen=True)
class Row:
    """One parameter.

    Attributes:
        name, type, default, allowed, help: in words; `allowed` is empty where any value of the type is.
        choices: the values that it may have; empty where it is bounded or free.
    """

    name: str
    type: str
    default: str
    allowed: str
    help: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A group of settings, or a notebook.

    Attributes:
        name: of the group or the notebook.
        words: what it is about.
        rows: its parameters; of a notebook, those that are no settings.
        settings: of a notebook, the settings that it declares with the defaults of its smoke run.
    """

    name: str
    words: str
    rows: list[Row]
    settings: list[tuple[str, str]]


def setting_sections() -> list[Section]:
    """The settings in their groups, in the order of `fields.py`."""
    found = []
    for group in reversed(Settings.__bases__):
        rows = [_setting(field.name) for field in fields(group)]
        found.append(Section(group.__name__.removesuffix("Fields"), (group.__doc__ or "").strip(), rows, []))
    return found


def notebook_sections(folder: Path) -> list[Section]:
    """What each notebook of a folder declares in its cell tagged `parameters`.

    Raises:
        InputError: a notebook is damaged.
    """
    found = []
    for path in sorted(folder.glob("*.ipynb")):
        notebook = files.read_json(path)
        declared = declared_in(notebook, path.name)
        rows = [_own(name, each.default, each.help) for name, each in declared.items() if name not in FIELDS]
        settings = [(name, _written(each.default)) for name, each in declared.items() if name in FIELDS]
        found.append(Section(path.stem, _heading(notebook), rows, settings))
    return found


def sections() -> tuple[list[Section], list[Section]]:
    """All settings by group, and the notebooks; none of these where the package was installed without them."""
    try:
        folder = paths.notebooks()
    except InputError:
        return setting_sections(), []
    return setting_sections(), notebook_sections(folder)


def write_reference() -> Path:
    """The page `reports/parameters.html`: every parameter with type, default, bounds or choices, and meaning.

    Raises:
        InputError: a notebook is damaged, or the page cannot be written.
    """
    groups, notebooks = sections()
    loader = jinja2.FileSystemLoader(ASSETS)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template("parameters.html.j2").render(
        groups=groups,
        notebooks=notebooks,
        count=len(FIELDS),
        reserved=RESERVED,
        style=Markup(asset("page.css") + asset("parameters.css")),
        policy=policy(),
    )
    page = paths.reports() / PAGE
    files.write_text(page, printable(text))
    return page


def as_text() -> str:
    """The same for a terminal of 100 columns."""
    groups, notebooks = sections()
    lines: list[str] = []
    for section in [*groups, *notebooks]:
        lines += [f"{section.name}: {section.words}", ""]
        for row in section.rows:
            allowed = f", {row.allowed}" if row.allowed else ""
            lines.append(f"  {row.name} = {row.default}  ({row.type}{allowed})")
            lines += textwrap.wrap(row.help, 100, initial_indent="      ", subsequent_indent="      ")
        if section.settings:
            told = "settings: " + ", ".join(f"{name} = {default}" for name, default in section.settings)
            lines += textwrap.wrap(told, 100, initial_indent="  ", subsequent_indent="      ")
        lines.append("")
    return "\n".join(lines).rstrip()


def _setting(name: str) -> Row:
    metadata, kind = FIELDS[name].metadata, TYPES[name]
    choices = metadata["choices"]
    allowed = ", ".join(choices) if choices else _bounds(metadata["low"], metadata["high"])
    return Row(name, _TYPES[kind], _written(FIELDS[name].default), allowed, metadata["help"], choices)


def _own(name: str, default: Any, words: str) -> Row:
    return Row(
        name, _TYPES.get(type(default), "anything"), _written(default), _bounds(*BOUNDS.get(name, (None,) * 2)), words
    )


def _bounds(low: float | None, high: float | None) -> str:
    """The bounds of a number in words; one that nobody can reach is none."""
    if low is None and high is None:
        return ""
    if high is None or high >= MANY:
        return f"{low:g} or more"
    return " to ".join(f"{int(bound):,}" if bound == int(bound) else f"{bound:g}" for bound in (low, high))


def _written(default: Any) -> str:
    """A default as a recipe or a command line has it."""
    return "empty" if default in ("", {}, []) and not isinstance(default, bool) else json.dumps(default).strip('"')


def _heading(notebook: Mapping[str, Any]) -> str:
    """The first heading of a notebook, without its number."""
    first = "".join(notebook["cells"][0]["source"]).split("\n")[0]
    return first.lstrip("# 0123456789.").strip()
