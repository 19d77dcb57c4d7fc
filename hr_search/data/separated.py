"""Tables with one row per line: separator, quotes and header are found in the text, not by the file's name.

Quotes decide how many rows there are. A CSV writer puts them around texts and doubles those inside (or writes `\\"`),
while in many tab-separated files they are characters. Taken for the wrong kind, one stray quote swallows all lines up
to the next. So a text is read strictly in one of these ways, the lines of each row are compared with the header, and
what fits no way is refused with its line.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hr_search.base.errors import InputError, shown
from hr_search.data.columns import are_names, header_row
from hr_search.data.frames import raw_frame
from hr_search.data.unpacking import Room

logger = logging.getLogger(__name__)

_SEPARATORS = ",;\t|"
_SAMPLE = 65_536  # characters in which the separator is looked for
# "NA", "None" and "null" are words that people write; NaN is what programs write for an empty cell.
_EMPTY = ("", "NaN", "nan")
_ADVICE = "put quotes around texts that hold a separator, a quote or a new line."

csv.field_size_limit(2**31 - 1)  # a cell may be long: the file is in memory already


class Row(NamedTuple):
    """The fields of a row, and the lines of the file that it takes, counted from 1."""

    first: int
    last: int
    fields: list[str]


def read_separated(text: str, path: Path | str, named: Sequence[str] = (), trustfile: bool = False) -> pd.DataFrame:
    """The table of a text with a row per line, all cells as texts, None for empty ones.

    Args:
        text: the content of the file.
        path: the file, for errors.
        named: columns that the table must have; else the header is the first row with known names, or row 0.
        trustfile: let the table be of any size.

    Raises:
        InputError: quotes, fields or separators do not fit together; the sentence names the line.
    """
    text, skipped, separator = _announced(text)
    separator = separator or _separator(text, named)
    rows = separated_rows(text, separator, path, named)
    if skipped:
        rows = [Row(row.first + skipped, row.last + skipped, row.fields) for row in rows]
    start = header_row([row.fields for row in rows[:20]], named)
    if start:
        logger.warning("%s: the header is line %d; %d rows above it are left out", path, rows[start].first, start)
    header, rows = rows[start], rows[start + 1 :]
    names = _names(header.fields, rows)
    Room(path, trustfile).take_cells(len(rows), len(names))
    _check(header, rows, len(names), separator, path)
    width = len(names)
    cells = ([*row.fields[:width], *[""] * (width - len(row.fields))] for row in rows)
    columns = zip(*cells, strict=True) if rows else ([] for _ in names)
    return raw_frame(names, ([None if cell in _EMPTY else cell for cell in column] for column in columns))


def separated_rows(text: str, separator: str, path: Path | str, named: Sequence[str] = ()) -> list[Row]:
    """The rows of a text, without empty ones, under the rule for quotes that fits it.

    Raises:
        InputError: no rule fits, or rows of several lines look like several rows.
    """
    quoted, failed = _strict(text, separator) if '"' in text else ([], 0)
    if quoted and separator != "\t":
        width = len(quoted[header_row([row.fields for row in quoted[:20]], named)].fields)
        if not (line := _swallowed(quoted, text, separator, width, path)):
            return quoted
    plain = list(_parsed(text, separator, quoting=csv.QUOTE_NONE))
    if '"' not in text:
        return plain
    body = plain[header_row([row.fields for row in plain[:20]], named) :]
    even = len({len(row.fields) for row in body}) == 1
    if quoted and separator == "\t":
        if even and not _by_a_writer(body, quoted):
            return _told(plain, quoted, path)
        if not (line := _swallowed(quoted, text, separator, len(body[0].fields), path)):
            return quoted
    if failed and '\\"' in text:
        # Within a text, NUL has become a space: it is free to stand for what a backslash protects.
        hidden = re.sub(r'\\([\\"])', lambda found: "\0b" if found[1] == "\\" else "\0q", text)
        if rows := _strict(hidden, separator)[0]:
            return [row._replace(fields=[_shown_again(field) for field in row.fields]) for row in rows]
    wrapped = any(field[:1] == field[-1:] == '"' and len(field) > 1 for row in body for field in row.fields)
    if even and not (wrapped and (quoted or separator != "\t")):
        return _told(plain, quoted, path)
    if failed:
        what = "does not end before a separator or the end of the line"
        raise InputError(f"{path}, line {failed}: a quote opens a text that {what}; {_ADVICE}")
    raise InputError(
        f"{path}, line {line}: a quote opens a text that ends some lines below, and each line between looks like a "
        "row; double the quotes that are characters and put quotes around their text, or, if it is one text, save the "
        "table as JSONL or with quotes around the names in the header too."
    )


def _parsed(text: str, separator: str, **options: object) -> Iterator[Row]:
    """The rows that Python's own reader finds, without empty ones."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, **options)
    first = 1
    for fields in reader:
        if len(fields) > 1 or "".join(fields).strip():
            yield Row(first, reader.line_num, fields)
        first = reader.line_num + 1


def _strict(text: str, separator: str) -> tuple[list[Row], int]:
    """The rows where quotes stand as a CSV writer puts them, and 0; or none, and the line of the first that do not."""
    rows = []
    try:
        for row in _parsed(text, separator, strict=True):
            rows.append(row)
    except csv.Error:
        lines = io.StringIO(text, newline="").readlines()
        last = rows[-1].last if rows else 0
        return [], next(number for number, line in enumerate(lines, 1) if number > last and line.strip())
    return rows, 0


def _told(plain: list[Row], quoted: Sequence[Row], path: Path | str) -> list[Row]:
    """The rows with quotes as characters; a warning names the first line that quotes may join with the next ones."""
    if several := [row.first for row in quoted if row.last > row.first]:
        logger.warning(
            "%s: its quotes are read as characters and each line as a row, although they may hold texts of several "
            "lines (%d, the first from line %d on), because those lines look like rows; if they are texts, save the "
            "table as JSONL",
            path,
            len(several),
            several[0],
        )
    return plain


def _shown_again(field: str) -> str:
    return field.replace("\0q", '"').replace("\0b", "\\") if "\0" in field else field


def _by_a_writer(plain: Sequence[Row], quoted: Sequence[Row]) -> bool:
    """Whether the quotes of a tab-separated text, with a row on each line, are those of a program that writes CSV.

    Such a program leaves no quote in a bare text, and puts quotes around a text for a reason, or around all.
    """
    if len(quoted) < len(plain) or any(row.last > row.first for row in quoted):
        return False
    fields = [field for row in plain for field in row.fields if field]
    wrapped = [field for field in fields if field[0] == '"']
    if any('"' in field for field in fields if field[0] != '"'):
        return False
    reasons = all(re.search(r'[,;]|""|^\s|\s$', field[1:-1]) for field in wrapped)
    return reasons or len(wrapped) == len(fields)


def _swallowed(rows: Sequence[Row], text: str, separator: str, width: int, path: Path | str) -> int:
    """The first line of a row of several lines each of which looks like a row, where most such rows do; else 0."""
    several = [row for row in rows if row.last > row.first]
    if not several or width < 2:
        return 0
    lines = io.StringIO(text, newline="").readlines()
    if lines[0].startswith('"'):  # the writer puts quotes around all texts, which a row within one would have as well
        return 0
    # No empty lines separate rows.
    sign = _between_fields(separator, lines[0])
    odd = [
        row.first
        for row in several
        if all(len(sign.findall(line)) == width - 1 for line in lines[row.first - 1 : row.last])
    ]
    if odd and 2 * len(odd) <= len(several):
        logger.warning(
            "%s: %d rows of several lines look like several rows, the first at line %d", path, len(odd), odd[0]
        )
        return 0
    return odd[0] if odd else 0


def _between_fields(separator: str, header: str) -> re.Pattern[str]:
    """What finds the separators in a line that rather stand between fields than in prose.

    In prose a space or the end of the line follows a comma or semicolon, between fields rarely, and a comma between
    digits is a decimal point or groups thousands. Lists of duties end each line with a semicolon.
    """
    sign = re.escape(separator)
    if separator in ",;":
        sign += r'(?!"?\s*$)' + ("" if f"{separator} " in header else "(?! )")
    return re.compile(rf"(?<!\d){sign}|{sign}(?!\d)" if separator == "," else sign)


def _announced(text: str) -> tuple[str, int, str]:
    """A text without the line by which Excel names the separator, how many lines that took, and the separator."""
    found = re.match(r'"?sep=([,;\t|])"?[ \t]*\r?\n', text, re.IGNORECASE)
    return (text[found.end() :], 1, found[1]) if found else (text, 0, "")


def _separator(text: str, named: Sequence[str] = ()) -> str:
    """The separator that splits the header into known names or several fields, and most rows into as many."""
    best = (False, 0.0, 0, ",")
    for separator in _SEPARATORS:
        try:
            rows = [row.fields for row in _parsed(text[:_SAMPLE], separator)]
        except csv.Error:
            continue
        start = header_row(rows, named)
        width = len(rows[start]) if rows else 0
        if width > 1:
            share = sum(len(row) == width for row in rows[start:]) / len(rows[start:])
            best = max(best, (are_names(rows[start], named), share, width, separator), key=lambda item: item[:3])
    return best[3]


def _names(fields: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """The names of the columns; nameless ones at the end, without cells, are left out, others get a number."""
    names = [name.strip() for name in fields]
    while (
        len(names) > 1 and not names[-1] and not any(row.fields[len(names) - 1 :][:1] not in ([], [""]) for row in rows)
    ):
        names.pop()
    return [name or f"column {place}" for place, name in enumerate(names, 1)]


def _check(header: Row, rows: Sequence[Row], width: int, separator: str, path: Path | str) -> None:
    """Checks the number of fields in each row against the header.

    Raises:
        InputError: a row has too many, most have too few, or a row uses another separator.
    """
    for row in rows:
        if len(row.fields) > width and any(row.fields[width:]):
            raise InputError(f"{path}: line {row.first} has {len(row.fields)} fields instead of {width}; {_ADVICE}")
        if len(row.fields) == 1 < width and any(
            row.fields[0].count(sign) == width - 1 for sign in _SEPARATORS.replace(separator, "")
        ):
            raise InputError(f"{path}, line {row.first} uses another separator than the header; use one throughout.")
    usual = Counter(len(row.fields) for row in rows).most_common(1)
    if usual and usual[0][0] < width:
        raise InputError(
            f"{path}, line {header.first}: the header has {width} fields "
            f'("{shown(", ".join(header.fields))}") and most rows have {usual[0][0]}; put quotes around a name that '
            "holds a separator."
        )
