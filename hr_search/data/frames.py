"""Raw tables: columns of cells as they were read, which pandas does not convert."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from hr_search.data import cleaning
from hr_search.data.cleaning import Unread


def raw_frame(names: Sequence[str], columns: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """A table of objects from its columns; pandas converts no cell."""
    filled = {place: pd.Series(list(column), dtype=object) for place, column in enumerate(columns)}
    return pd.DataFrame(filled).set_axis([cleaning.clean(name) for name in names], axis="columns")


def arrow_frame(table: Any) -> pd.DataFrame:
    """The raw table of an Arrow one; cells become plain Python values, including lists, and dates are not read."""
    return raw_frame(table.column_names, (_plain(column) for column in table.columns))


def _plain(column: Any) -> list[Any]:
    """The cells of an Arrow column; Python has no date for some that it holds, such as those far in the future."""
    import pyarrow

    if pyarrow.types.is_temporal(column.type):
        return [None if missing else Unread("date") for missing in column.is_null().to_pylist()]
    return column.to_pylist()
