"""The table of speeds: ours beside the installed sentence-transformers, one row per case and machine.

A row holds medians, the spread and the compute limit: the rate at which this machine multiplies matrices in that
precision, divided by the floating-point operations that one unit cannot do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import files
from hr_search.base.errors import InputError
from hr_search.runs import provenance

COLUMNS = [
    *("case", "unit", "ours", "peer", "ratio", "ours_min", "ours_max", "peer_min", "peer_max", "runs", "limit"),
    *("hardware", "versions", "commit"),
]
_PACKAGES = ("torch", "transformers", "sentence-transformers")


def table_row(
    name: str, unit: str, ours: Sequence[float], peer: Sequence[float], limit: float, machine: str
) -> dict[str, Any]:
    """One row of the table: medians, their ratio, the spread, and what they were measured on."""
    median = {"ours": float(np.median(ours)), "peer": float(np.median(peer))}
    return {
        "case": name,
        "unit": unit,
        **median,
        "ratio": median["ours"] / median["peer"] if median["peer"] else np.nan,
        "ours_min": min(ours),
        "ours_max": max(ours),
        "peer_min": min(peer),
        "peer_max": max(peer),
        "runs": len(ours),
        "limit": limit,
        "hardware": machine,
        "versions": versions(),
        "commit": provenance.commit(),
    }


def versions() -> str:
    """The versions of the packages that decide speeds, in words."""
    found = provenance.versions()
    return ", ".join(f"{package} {found[package]}" for package in _PACKAGES if package in found)


def read_table(path: Path | str) -> pd.DataFrame:
    """The table of speeds at `path`, without rows if there is none yet.

    Raises:
        InputError: the file is not a table of speeds.
    """
    path = Path(path)
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values={"limit": [""], "ratio": [""]})
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable table of speeds; move it away or give another --out.") from error
    if list(table.columns) != COLUMNS:
        raise InputError(f"{path} has other columns than a table of speeds; move it away or give another --out.")
    return table


def replace_rows(path: Path | str, rows: pd.DataFrame) -> None:
    """Writes `rows` to the table at `path`; they replace rows of the same case and hardware."""
    table = read_table(path)
    keys = set(zip(rows["case"], rows["hardware"], strict=True))
    stays = [key not in keys for key in zip(table["case"], table["hardware"], strict=True)]
    parts = [part for part in (table[stays], rows) if len(part)]
    files.write_csv(path, pd.concat(parts, ignore_index=True) if parts else table)
