"""Ledgers: result tables that many processes append to without losing or doubling a row."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from hr_search.base import locks
from hr_search.base.errors import InputError, one_line
from hr_search.base.files import whole_file
from hr_search.runs.folders import Run


def append_rows(path: Path | str, rows: pd.DataFrame) -> None:
    """Appends `rows` to the CSV table at `path`, even while other processes append to it.

    Existing rows stay byte for byte, and the file is replaced as a whole, so a reader never sees half a
    table. A missing file is made; columns in another order are put into the table's order.

    Args:
        path: the table; its folder is made if it is missing.
        rows: the rows to add, with the table's columns.

    Raises:
        InputError: the columns differ from the table's, the table is damaged, or it cannot be written.
    """
    path, columns = Path(path), [str(column) for column in rows.columns]
    if not columns or len(set(columns)) < len(columns):
        raise InputError(f"{path}: the rows to append need columns with distinct names, not {columns}.")
    with _locked(path):
        text, header = _existing(path)
        if header:
            strange, missing = sorted(set(columns) - set(header)), sorted(set(header) - set(columns))
            if strange or missing:
                raise InputError(
                    f"{path} has other columns than the rows to append (only there: {', '.join(missing) or 'none'}; "
                    f"only in the rows: {', '.join(strange) or 'none'}); write to a new file or add the columns."
                )
            rows = rows.set_axis(columns, axis=1)[header]
        with whole_file(path) as file:
            file.write(text)
            rows.to_csv(file, index=False, header=not header, float_format="%.9g", lineterminator="\n")


def _existing(path: Path) -> tuple[str, list[str]]:
    """The text of a CSV table, ending in a newline, and its columns; both empty if there is none."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
        records = list(csv.reader(io.StringIO(text, newline="")))
    except FileNotFoundError:
        return "", []
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not a readable CSV table ({one_line(error)}).") from error
    if not records:
        return "", []
    for number, record in enumerate(records[1:], 1):
        if len(record) != len(records[0]):
            raise InputError(
                f"{path}: row {number} has {len(record)} fields and the header {len(records[0])}; "
                "repair or move the file before appending to it."
            )
    return text if text.endswith("\n") else text + "\n", records[0]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from appending to tables in this folder until the block ends."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not stack.enter_context(locks.exclusive(path.parent, wait=True)):
                stack.enter_context(locks.lock_file(path))
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({one_line(error)}); choose a place with room and permission."
            ) from error
        yield


def ledger_rows(run: Run, summary: dict[str, Any]) -> pd.DataFrame:
    """A run's metrics for `metrics/results.csv`, the table of all runs that outlives their folders."""
    known = {
        "run": run.id,
        "started": summary["started"],
        "data": summary["data"]["name"],
        "fingerprint": summary["data"]["fingerprint"],
        "model": summary["model"],
        "steps": summary["steps"],
        "seed": run.config["seed"],
    }
    return run.table("metrics").assign(**known, command=summary["command"])
