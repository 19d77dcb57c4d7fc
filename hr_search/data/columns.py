"""Names of columns that are recognised: queries, documents and negatives, in English and Russian."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# The explicit roles come first, so that a title beside a query is not taken for the query.
_ROLES = (
    ("anchor", "positive positives pos"),
    ("query запрос", "positive positives pos document doc passage документ"),
    ("question вопрос", "correctanswer answer positive правильныйответ ответ"),
    (
        "position jobtitle title vacancyname jobname name должность названиевакансии названиедолжности вакансия "
        "название наименование профессия",
        "description jobdescription vacancydescription text описание описаниевакансии текст текствакансии",
    ),
    (
        "vacancy вакансия position jobtitle title vacancyname jobname должность названиевакансии названиедолжности "
        "профессия",
        "cv resume резюме",
    ),
)
KNOWN = [(tuple(queries.split()), tuple(positives.split())) for queries, positives in _ROLES]
"""Names of the query column and of its document column, as `reduced` writes them; earlier ones come first."""

NEGATIVE = re.compile(
    r"(hard)?neg(ative)?s?\d*|(wrong|incorrect)answers?\d*|distractors?\d*|(неправильн|неверн)(ый|ые)ответы?\d*"
)
"""Names of columns with negatives, as `reduced` writes them."""

SEVERAL = ("pos", "positives", "positive")
"""Names of document columns whose cells may be lists of documents, each of them a match."""


def reduced(name: str) -> str:
    """A column name in lower case, without punctuation and the dots of ё."""
    return re.sub(r"[\W_]+", "", name.lower().replace("ё", "е"))


def known_column(columns: Iterable[str], names: Sequence[str]) -> str:
    """The column with the first of the known names that occurs, "" for none."""
    places: dict[str, str] = {}
    for column in columns:
        places.setdefault(reduced(column), column)
    return next((places[name] for name in names if name in places), "")


def known_names(side: int) -> list[str]:
    """All known names of queries (0) or documents (1)."""
    return [name for names in KNOWN for name in names[side]]


def are_names(fields: Iterable[object], named: Sequence[str] = ()) -> bool:
    """Whether fields are the names of columns: all those in `named`, or a known pair of query and document."""
    found = [field.strip() for field in fields if isinstance(field, str)]
    if named:
        return set(named) <= set(found)
    known = {reduced(name) for name in found}
    return any(not known.isdisjoint(queries) and not known.isdisjoint(positives) for queries, positives in KNOWN)


def header_row(rows: Sequence[Sequence[object]], named: Sequence[str] = ()) -> int:
    """The row with the names of the columns: the first of the first twenty that holds such names, else row 0."""
    return next((place for place, fields in enumerate(rows[:20]) if are_names(fields, named)), 0)
