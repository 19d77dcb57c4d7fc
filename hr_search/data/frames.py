"""Raw tables: columns of cells as they were read, which pandas does not convert."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from hr_search.data import cleaning


def raw_frame(names: Sequence[str], columns: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """A table of objects from its columns; pandas converts no cell."""
    filled = {place: pd.Series(list(column), dtype=object) for place, column in enumerate(columns)}
    return pd.DataFrame(filled).set_axis([cleaning.clean(name) for name in names], axis="columns")
