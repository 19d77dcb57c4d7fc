"""Paths in settings: made absolute before work starts elsewhere, and checked before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

from hr_search.base import paths
from hr_search.base.choices import is_table_file
from hr_search.base.errors import InputError
from hr_search.settings import Settings
from hr_search.sources import paths_of, with_paths

TABLES = ("datapath", "validationpath", "testpath")
MODELS = ("modelname", "teacher", "retriever", "rerank")
READ = (*TABLES, *MODELS)
WRITTEN = ("outputpath", "checkpointpath")


def absolute(settings: Settings) -> Settings:
    """The settings with paths that hold in any working directory.

    Names such as `esco` or a model on the Hub stay, and so does a path to read where nothing lies.
    """
    given = {name: getattr(settings, name) for name in (*READ, *WRITTEN) if getattr(settings, name)}
    read = {name: _found(given[name]) for name in READ if name in given and name != "datapath"}
    if settings.datapath:
        read["datapath"] = with_paths(settings.datapath, _found)
    written = {name: str(Path(os.path.expanduser(given[name])).absolute()) for name in WRITTEN if name in given}
    return settings.replace(**read, **written)


def require_tables(settings: Settings, owner: str = "") -> None:
    """Checks that the tables of `settings` exist, which a run would otherwise notice half a minute later.

    Args:
        settings: of a run.
        owner: whose settings they are, for the error; empty where that is clear.

    Raises:
        InputError: a table is missing, with the setting and its path.
    """
    tables = [("datapath", path) for path in paths_of(settings.datapath)]
    for name, path in tables + [(name, getattr(settings, name)) for name in TABLES[1:]]:
        if is_table_file(path):
            _require(name, path, owner, "check the path")


def require_models(settings: Settings, owner: str = "") -> None:
    """Checks that models exist whose names can only be those of folders; names on the Hub are not looked up.

    Args:
        settings: of a run.
        owner: whose settings they are, for the error; empty where that is clear.

    Raises:
        InputError: a folder is missing, with the setting and its path.
    """
    for name in MODELS:
        path = getattr(settings, name)
        if path.startswith((".", "/", "~")) or path.count("/") > 1:
            _require(name, path, owner, "check the path, or train that model first")


def _found(path: str) -> str:
    """A path to read, absolute where something lies there."""
    found = paths.resolve(path)
    return str(found) if found.exists() else path


def _require(name: str, path: str, owner: str, advice: str) -> None:
    """Refuses a setting whose file or folder is missing."""
    if not paths.resolve(path).exists():
        raise InputError(f"{name} {path}{f' of {owner}' if owner else ''} does not exist; {advice}.")
