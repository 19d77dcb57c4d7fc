"""How much of a text is shown or stored outside the data."""

from __future__ import annotations

import pandas as pd

SHORT = 200  # characters of a text in a table on a page
STORED = 300  # characters of a text in a run's result tables


def shortened(texts: pd.Series) -> pd.Series:
    """The first `SHORT` characters of each text."""
    return texts.str.slice(0, SHORT)
