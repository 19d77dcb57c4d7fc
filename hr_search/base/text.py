"""How much of a text a table on a page shows."""

from __future__ import annotations

import pandas as pd

SHORT = 200  # characters


def shortened(texts: pd.Series) -> pd.Series:
    """The first `SHORT` characters of each text."""
    return texts.str.slice(0, SHORT)
