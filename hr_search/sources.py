"""The tables of a `datapath`: one path, or several with shares and columns of their own, written as one text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hr_search.base.choices import is_table_file
from hr_search.base.conversions import converted
from hr_search.base.errors import InputError, quoted, shown, suggestion

COLUMNS = (  # settings that a table may have of its own
    "querycolumn",
    "positivecolumn",
    "negativecolumn",
    "groupcolumn",
    "gradecolumn",
    "softgroupcolumn",
    "template",
    "documenttemplate",
    "encoding",
    "validationshare",
    "testshare",
)
_KEYS = ("path", "share", *COLUMNS)
_NUMBERS = ("share", "validationshare", "testshare")


@dataclass(frozen=True)
class Source:
    """One table of a `datapath`.

    Attributes:
        path: a file, `hf:OWNER/NAME` or the name of bundled data.
        share: its part of the rows that an epoch draws, as a weight beside the other tables'; None = by its rows.
        columns: the settings of COLUMNS that it has of its own.
    """

    path: str
    share: float | None = None
    columns: Mapping[str, str | float] = field(default_factory=dict)


def sources(datapath: str) -> list[Source]:
    """The tables of a `datapath` that `one_text` has checked."""
    if not _is_list(datapath):
        return [Source(datapath)]
    return [_source(entry, "the settings", "datapath") for entry in json.loads(datapath)]


def one_text(value: Any, where: str) -> Any:
    """A list of tables, or a JSON text of one, in the one way in which it is written; anything else as it is.

    Args:
        value: a path, a list of paths and of mappings (`path`, `share` and the settings of COLUMNS), or such a list
            as JSON.
        where: the file or command line that it comes from, for errors.

    Returns:
        The path where there is one table without columns of its own, else a JSON list.

    Raises:
        InputError: an entry of another kind, without a path or with an unknown key; a share that is negative, missing
            beside others or 0 in all entries; the same table twice.

    Example:
        >>> one_text(["a.jsonl", {"path": "b.jsonl", "GroupColumn": "job"}], "recipe.yaml")
        '["a.jsonl", {"path": "b.jsonl", "groupcolumn": "job"}]'
    """
    if isinstance(value, str) and _is_list(value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f'{where}: datapath is {quoted(value)}, which is not a list in JSON; write ["a.jsonl", "b.jsonl"], or '
                "the path of one table."
            ) from error
    if not isinstance(value, list):
        return value
    found = [_source(entry, where, f"datapath, table {number}") for number, entry in enumerate(value, 1)]
    if not found:
        raise InputError(f"{where}: datapath lists no table; give at least one path.")
    _check_shares([source.share for source in found], where)
    kinds = [(os.path.normpath(source.path), *sorted(source.columns.items())) for source in found]
    if twice := next((source for at, source in enumerate(found) if kinds[at] in kinds[:at]), None):
        raise InputError(
            f"{where}: datapath lists {shown(twice.path)} twice with the same columns; keep one of the two, with a "
            "larger share if its rows are to come more often."
        )
    return _written(found)


def paths_of(datapath: str) -> list[str]:
    """The path of each table."""
    return [source.path for source in sources(datapath)]


def with_paths(datapath: str, change: Callable[[str], str]) -> str:
    """The same tables with every path changed."""
    return _written([Source(change(source.path), source.share, source.columns) for source in sources(datapath)])


def labels(datapath: str) -> list[str]:
    """A short name for each table, all different: the file's, with a number where several have the same."""
    names = [Path(path).name if is_table_file(path) else path for path in paths_of(datapath)]
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]


def _is_list(text: str) -> bool:
    return text.lstrip().startswith("[") and text.rstrip().endswith("]")


def _source(entry: Any, where: str, what: str) -> Source:
    """An entry of the list as a table."""
    values = {"path": entry} if isinstance(entry, str | Path) else entry
    if not isinstance(values, dict):
        raise InputError(f"{where}: {what} is {quoted(entry)}; it must be a path, or a mapping with a path.")
    known: dict[str, Any] = {}
    for name, value in values.items():
        key = str(name).strip().replace("-", "").replace("_", "").lower()
        if key not in _KEYS:
            raise InputError(f'{where}: {what} has no setting "{shown(name)}"; {suggestion(key, _KEYS)}')
        if key in known:
            raise InputError(f"{where}: {what} gives {key} twice; keep one of the two.")
        known[key] = converted(f"{what}: {key}", value, float if key in _NUMBERS else str, where)
    path, share = known.pop("path", ""), known.pop("share", None)
    if not path or _is_list(path):
        raise InputError(f"{where}: {what} has no path of a table; write `path: FILE`.")
    if share is not None and share < 0:
        raise InputError(f"{where}: {what} has the share {share:g}; it must be 0 or more.")
    return Source(path, share, known)


def _check_shares(shares: list[float | None], where: str) -> None:
    """Refuses shares that some tables have and others lack, and those that are all 0."""
    if None in shares and any(share is not None for share in shares):
        raise InputError(f"{where}: only some tables of datapath have a share; give one to each table, or to none.")
    if None not in shares and not sum(shares):
        raise InputError(f"{where}: the shares of datapath are all 0, so no row would be trained on; raise one.")


def _written(found: list[Source]) -> str:
    """The text that `sources` reads."""
    if len(found) == 1 and not found[0].columns:
        return found[0].path
    entries = []
    for source in found:
        share = {} if source.share is None else {"share": source.share}
        own = share | dict(source.columns)
        entries.append({"path": source.path, **own} if own else source.path)
    return json.dumps(entries, ensure_ascii=False)
