"""Pairs of names of one job, within and across languages, linked by the addresses of ESCO occupations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.data import esco, tables
from hr_search.data.duplicates import normalised


def title_pairs(
    names: pd.DataFrame, occupations: pd.DataFrame, each: int = 8, across: int = 2, seed: int = 0
) -> pd.DataFrame:
    """Training pairs of names of one job: the given pairs, English pairs, and English titles with foreign names.

    Args:
        names: pairs of names of one job (`query`, `positive`, `group`: the occupation's address) in any language.
        occupations: English names (`query`: title, `positive`: other names, `group`: address).
        each: pairs kept per occupation, so that occupations with many names do not dominate.
        across: how many of them may pair the English title with a name from `names`.
        seed: of the random choice.

    Returns:
        `query`, `positive`, `group`; names equal after normalisation make no pair.
    """
    foreign = pd.concat(
        [names[["group", side]].set_axis(["group", "positive"], axis=1) for side in ("query", "positive")]
    )
    linked = occupations[["query", "group"]].merge(foreign.drop_duplicates(), on="group")
    linked = linked.sample(frac=1, random_state=seed).groupby("group").head(across)
    # Pairs across languages come first, so that the limit per occupation does not drop them.
    pairs = pd.concat([linked.assign(late=0), names.assign(late=1), occupations.assign(late=1)])
    pairs = pairs[normalised(pairs["query"]) != normalised(pairs["positive"])].sample(frac=1, random_state=seed)
    kept = pairs.sort_values(["group", "late"], kind="stable").groupby("group").head(each)
    return kept[["query", "positive", "group"]].reset_index(drop=True)


def write_titles(path: Path | str, sources: Sequence[Path | str], each: int = 8, across: int = 2) -> int:
    """Writes the pairs of several tables and of ESCO as one CSV table for training.

    Args:
        path: the table to write: `query`, `positive`, `group`.
        sources: tables with the columns `jobtitle_1`, `jobtitle_2` and `esco_uri`, as TalentCLEF 2025 has them.
        each: pairs kept per occupation.
        across: how many of them may pair the English title with a foreign name.

    Returns:
        The number of pairs written.

    Raises:
        InputError: a table is missing or lacks a column, ESCO is not installed, or a limit is too low.
    """
    if each < 1 or across < 0:
        raise InputError(f"each is {each} and across {across}; they must be at least 1 and 0.")
    columns = {"querycolumn": "jobtitle_1", "positivecolumn": "jobtitle_2", "groupcolumn": "esco_uri"}
    read = [tables.read_pairs(paths.resolve(source), **columns)[0] for source in sources]
    names = pd.concat(read) if read else pd.DataFrame(columns=["query", "positive", "group"])
    table = title_pairs(names, esco.load_names(), each, across)
    files.write_csv(path, table)
    return len(table)
