"""The language of a text: as its table names it, else by its script."""

from __future__ import annotations

import numpy as np
import pandas as pd

_CYRILLIC, _LATIN = "[\u0400-\u052f]", "[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f]"


def languages(texts: pd.DataFrame) -> list[str]:
    """The language of each text: its `language` where the table has that column, else the script it is written in.

    The script is "Cyrillic" where at least half of the Cyrillic and Latin letters are Cyrillic (Russian
    vacancies name tools in Latin: "Java-разработчик"), else "Latin", and "other" without such letters. It does
    not tell languages of one script apart.
    """
    cyrillic, latin = (texts["text"].str.count(letters) for letters in (_CYRILLIC, _LATIN))
    script = np.select([cyrillic + latin == 0, cyrillic >= latin], ["other", "Cyrillic"], "Latin")
    known = texts["language"].fillna("").astype(str).str.strip() if "language" in texts else pd.Series("", texts.index)
    return known.where(known != "", script).tolist()
