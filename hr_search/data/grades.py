"""Soft positives as a table gives them: a weight for each pair, and groups whose members match in part."""

from __future__ import annotations

import pandas as pd

from hr_search.base.errors import InputError, shown
from hr_search.data.cleaning import require_column, texts


def soft_marks(table: pd.DataFrame, source: str, gradecolumn: str, softgroupcolumn: str) -> dict[str, list]:
    """The columns `grade` (float) and `softgroup` (text, "" for none) of a raw table's pairs, those that are named.

    Raises:
        InputError: a column that does not exist, or a grade that is not above 0 and at most 1.
    """
    marks: dict[str, list] = {}
    for column, flag in ((gradecolumn, "gradecolumn"), (softgroupcolumn, "softgroupcolumn")):
        if column:
            require_column(column, list(table.columns), source, flag)
            marks[flag.removesuffix("column")] = texts(table, column, source, numbers=True)
    if "grade" in marks:
        marks["grade"] = [_grade(text, f"{source}, row {row}") for row, text in enumerate(marks["grade"], 1)]
    return marks


def _grade(text: str, place: str) -> float:
    """The weight of a pair that a cell holds."""
    try:
        grade = float(text.replace(",", "."))
    except ValueError:
        grade = 0.0
    if not 0 < grade <= 1:
        raise InputError(
            f'{place}: the grade of the pair is "{shown(text)}"; a grade is a number above 0 and at most 1, so leave '
            "out pairs of grade 0 and divide larger grades by the largest."
        )
    return grade
