"""The language of a text: as its table gives it, otherwise the script it is written in."""

from __future__ import annotations

import numpy as np
import pandas as pd

SCRIPTS = ("Cyrillic", "Latin", "other")
_CYRILLIC, _LATIN = "[\u0400-\u052f]", "[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f]"


def scripts(texts: pd.Series) -> pd.Series:
    """The script of each text, one of `SCRIPTS`, as a column of objects (N,).

    "Cyrillic" where at least half of the Cyrillic and Latin letters are Cyrillic (Russian vacancies name tools
    in Latin letters: "Java-разработчик"), otherwise "Latin"; "other" where the text has neither.
    """
    cyrillic, latin = (texts.str.count(letters) for letters in (_CYRILLIC, _LATIN))
    found = np.select([cyrillic + latin == 0, cyrillic >= latin], ["other", "Cyrillic"], "Latin")
    return pd.Series(found, texts.index, dtype=object)


def languages(table: pd.DataFrame) -> list[str]:
    """The language of each row's `text`: its `language` where the table has that column, otherwise its script.

    The script does not distinguish languages that share it.
    """
    found = scripts(table["text"])
    if "language" in table:
        known = table["language"].fillna("").astype(str).str.strip()
        found = known.where(known != "", found)
    return found.tolist()
