"""Flags that verbs share: those of the settings, and how their values become settings."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable
from typing import Any

from hr_search import settings as config
from hr_search.base import cluster, paths
from hr_search.base.errors import InputError
from hr_search.settings import FIELDS, GROUPS, TYPES, Settings

READ = (  # the settings by which a table is read and split
    "datapath",
    "querycolumn",
    "positivecolumn",
    "groupcolumn",
    "template",
    "documenttemplate",
    "redact",
    "keephtml",
    "identity",
    "encoding",
    "trustfile",
    "relevantfrom",
    "validationshare",
    "testshare",
    "splitseed",
    "stream",
    "maxlength",
)
PARTS = ("validationpath", "testpath", "maxrows", "allowleaks")  # of a training, which decide its train rows as well


def plain_flag(word: str) -> str:
    """`--learning_rate=3` and `--learning-rate=3` as `--learningrate=3`; other words as they are."""
    if not word.startswith("--") or len(word) == 2:
        return word
    name, mark, value = word[2:].partition("=")
    return "--" + name.replace("-", "").replace("_", "").lower() + mark + value


def add_settings(parser: argparse.ArgumentParser, names: Collection[str], **defaults: str) -> None:
    """Adds a flag for each setting, under its group's title; the help shows `defaults` instead of the setting's own."""
    groups = {name: title.rstrip(".") for title, members in GROUPS.items() for name in members}
    shown = {title: parser.add_argument_group(title) for title in dict.fromkeys(groups[name] for name in names)}
    for name in names:
        field, kind = FIELDS[name], TYPES[name]
        choices = f" [{', '.join(field.metadata['choices'])}]" if field.metadata["choices"] else ""
        default = defaults.get(name, repr(field.default))
        text = f"{field.metadata['help']}{choices} (default {default})".replace("%", "%%")
        options: dict[str, Any] = {"nargs": "?", "const": "true"} if kind is bool else {}
        options |= {"action": "append"} if name == "datapath" else {}  # several tables
        shown[groups[name]].add_argument(f"--{name}", help=text, metavar=kind.__name__.upper(), **options)


def add_scheduler(parser: argparse.ArgumentParser, shards: bool = False) -> None:
    """Adds the flag that names a Dask cluster, and where work is cut into `shards` the one for their folder."""
    parser.add_argument("--scheduler", default="", help=cluster.HELP)
    if shards:
        words = (
            "folder that keeps the embeddings of a --scheduler, which its workers share; a later command goes on from "
            "it (default: in data/cache, removed at the end)"
        )
        parser.add_argument("--shards", default="", help=words)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that says how many threads to compute with."""
    words = (
        "processor threads: a number, or auto = one for each core that other programs leave idle; the number decides "
        "the last digits of results (default: all cores)"
    )
    parser.add_argument("--threads", help=words)


def given(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The values of those flags that the command line gives."""
    values = {name: vars(arguments).get(name) for name in names}
    if isinstance(tables := values.get("datapath"), list) and len(tables) == 1:
        values["datapath"] = tables[0]
    return {name: value for name, value in values.items() if value is not None}


def settings_from(recipe: str | None, values: dict[str, Any]) -> Settings:
    """The settings of a recipe file, overridden by `values` from the command line.

    Raises:
        InputError: no such recipe, an unknown or repeated name, or a value that a setting cannot have.
    """
    base = config.read_recipe(paths.resolve(recipe)).to_dict() if recipe else {}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        key = config.canonical(name, "the command line")
        if key in checked:
            raise InputError(f"the command line gives {key} twice; keep one of the two.")
        checked[key] = config.checked(key, value, "the command line")
    return Settings.from_mapping({**base, **checked}, recipe or "the command line")
