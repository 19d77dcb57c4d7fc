"""Rows of the table of speeds, made up for tests."""

from __future__ import annotations

import pandas as pd

from hr_search.bench import table


def row(case="train-x", hardware="abacus", ours=(4.0, 2.0, 3.0), peer=(1.0, 1.0, 2.0), unit="rows/s", limit=30.0):
    return table.table_row(case, unit, ours, peer, limit, hardware)


def table_of(*rows):
    return pd.DataFrame(rows, columns=table.COLUMNS)
