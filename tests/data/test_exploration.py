"""The small tables that the exploration notebook shows."""

from __future__ import annotations

import pandas as pd
from sentences import toy

from hr_search.data import exploration


def test_describe() -> None:
    described = exploration.describe(toy()).set_index("text")
    assert described.loc["query", ["rows", "distinct", "groups"]].tolist() == [6, 4, 3]
    assert described.loc["query", ["characters_5", "characters_50", "characters_100"]].tolist() == [4, 4, 6]
    assert described.loc["document", ["distinct", "words_5", "words_95"]].tolist() == [4, 2, 2]
    assert exploration.describe(toy()[:0])["characters_50"].tolist() == [0, 0]


def test_what_notebooks_show_of_texts_is_short() -> None:
    long = pd.DataFrame(
        {"query": ["q" * 500] * 3, "positive": ["d" * 500] * 3, "negatives": [[]] * 3, "group": ["g" * 500] * 3}
    )
    shown = exploration.examples(long, 2, seed=0)
    assert list(shown) == ["group", "query", "positive"] and len(shown) == 2
    assert shown.map(len).to_numpy().max() == 200
    assert exploration.frequent_titles(long)["query"].tolist() == ["q" * 200]
    assert len(exploration.examples(long, 9, seed=0)) == 3
