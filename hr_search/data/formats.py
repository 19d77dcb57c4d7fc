"""File formats of tables: any common file in, one raw table out, with no cell converted."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hr_search.base.errors import InputError, one_line, shown
from hr_search.base.paths import extension
from hr_search.data import cleaning
from hr_search.data.pickles import read_pickle_frame
from hr_search.data.unpacking import FREE, RATIO, content

NEEDED = "it needs a query and a matching document in each row."

_SEPARATORS = ",;\t|"
# "NA", "None" and "null" are words that people write; NaN is what programs write for an empty cell.
_EMPTY = {"keep_default_na": False, "na_values": ["", "NaN", "nan"]}
_ROWS = 256  # of a Parquet file unpacked at a time


def read_table(path: Path | str) -> pd.DataFrame:
    """The raw table of a file, with all its columns.

    Args:
        path: a .pkl, .csv, .tsv, .jsonl, .json (each also .gz) or .parquet file.

    Raises:
        InputError: the file is missing, empty, of another kind or damaged.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; give the path of a file.")
    if extension(path) not in _READERS:
        raise InputError(f"{path} is of a kind that is not read; use one of {', '.join(_READERS)} (.gz too).")
    table = _READERS[extension(path)](path)
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise InputError(f'{path} has two columns named "{shown(twice)}"; rename one of them.')
    return table


def decoded(path: Path | str) -> str:
    """The text of a file in UTF-8, UTF-16 (with a byte order mark) or Windows-1251; NUL characters become spaces.

    Raises:
        InputError: the file is empty, binary or in another encoding, or one damaged line breaks its UTF-8.
    """
    data = content(path)
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp1251"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            if encoding == "utf-8-sig" and _nearly_utf8(data):
                line = data.count(b"\n", 0, error.start) + 1
                raise InputError(f"{path}, line {line} breaks its UTF-8 encoding; save it in UTF-8.") from error
            continue
        if not text.strip():
            raise InputError(f"{path} is empty; {NEEDED}")
        controls = sum(text.count(chr(code)) for code in (*range(9), *range(14, 32)))
        if controls * 100 <= len(text):  # a stray control character is dirt; many mean a binary file
            return text.replace("\0", " ")
    raise InputError(f"{path} is not text in UTF-8, UTF-16 or Windows-1251; save it in UTF-8.")


def _nearly_utf8(data: bytes) -> bool:
    """Whether UTF-8 decodes most of what is not ASCII, so that the file is damaged and not in another encoding."""
    rough = data.decode("utf-8-sig", "replace")
    return 10 * rough.count("\ufffd") < len(rough) - len(rough.encode("ascii", "ignore"))


def _separator(text: str) -> str:
    """The separator that splits the header into several fields and most rows into as many."""
    sample = text[:65536]
    best = (0.0, 0, ",")
    for separator in _SEPARATORS:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator) if row]
        except csv.Error:
            continue
        width = len(rows[0]) if rows else 0
        score = (sum(len(row) == width for row in rows) / len(rows), width) if width > 1 else (0.0, 0)
        best = max(best, (*score, separator), key=lambda item: item[:2])
    return best[2]


def _read_separated(path: Path | str) -> pd.DataFrame:
    """The table of a .csv or .tsv file, all cells as texts; the separator is found in the text, not by the name."""
    text = decoded(path)
    advice = "put quotes around texts that hold a separator, a quote or a new line."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = pd.read_csv(io.StringIO(text, newline=""), sep=_separator(text), dtype=str, **_EMPTY)
    except (ValueError, OverflowError) as error:
        what = one_line(error).split("C error: ")[-1]
        if wrong := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error)):
            what = f"line {wrong[2]} has {wrong[3]} fields instead of {wrong[1]}"
        raise InputError(f"{path}: {what}; {advice}") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(f"{path}: the rows have more fields than the header; {advice}")
    if line := _other_separator(table, text):
        raise InputError(f"{path}, line {line} uses another separator than the header; use one throughout.")
    return table.set_axis([cleaning.clean(str(name)) for name in table.columns], axis="columns")


def _other_separator(table: pd.DataFrame, text: str) -> int:
    """The first line that has the header's fields only under another separator than the table's; 0 for none."""
    single = table.iloc[:, 1:].isna().all(axis=1) if table.shape[1] > 1 else []
    if not table.iloc[:, 0][single].str.contains(f"[{_SEPARATORS}]", na=False).any():
        return 0
    # A quoted text may hold such a character beside empty fields; only the raw lines distinguish the two cases.
    with contextlib.suppress(csv.Error):
        own = _separator(text)
        rows, others = csv.reader(io.StringIO(text, newline=""), delimiter=own), _SEPARATORS.replace(own, "")
        alone = (row[0] for row in rows if len(row) == 1)
        return next((rows.line_num for text in alone for sign in others if text.count(sign) == table.shape[1] - 1), 0)
    return 0


def _read_lines(path: Path | str) -> pd.DataFrame:
    """The table of a file with one JSON object per line, or with one JSON list of objects."""
    text = decoded(path)
    if text.lstrip().startswith("["):
        records = [(f"item {number}", record) for number, record in enumerate(_json(text, str(path)), 1)]
    else:
        lines = [(f"line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        records = [(place, _json(line, f"{path}, {place}")) for place, line in lines]
    for place, record in records:
        if not isinstance(record, dict):
            raise InputError(f"{path}, {place} is not a JSON object; write one object of names and texts per line.")
    names = list(dict.fromkeys(name for _, record in records for name in record))
    return _frame(names, ([record.get(name) for _, record in records] for name in names))


def _json(text: str, where: str) -> Any:
    """The value of a JSON text; `where` names it in an error."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON ({one_line(error)}); write one object per line.") from error


def _read_parquet(path: Path | str) -> pd.DataFrame:
    """The table of a Parquet file; cells become plain Python values, including lists."""
    import pyarrow.parquet

    try:
        data = content(path)
        file, parts, size = pyarrow.parquet.ParquetFile(io.BytesIO(data)), [], 0
        for part in file.iter_batches(_ROWS):
            parts.append(part)
            size += max(part.nbytes, 64 * part.num_rows)  # an empty cell is free in Parquet, but not in memory
            if size > max(FREE, RATIO * len(data)):
                raise InputError(f"{path} unpacks to more than {RATIO} times its size, as no table of texts does.")
        table = pyarrow.Table.from_batches(parts, file.schema_arrow)
        return _frame(table.column_names, (column.to_pylist() for column in table.columns))
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({one_line(error)}); write it again.") from error


def _frame(names: Sequence[str], columns: Iterable[list[Any]]) -> pd.DataFrame:
    """A table of objects from its columns; pandas converts no cell."""
    filled = {place: pd.Series(column, dtype=object) for place, column in enumerate(columns)}
    return pd.DataFrame(filled).set_axis([cleaning.clean(name) for name in names], axis="columns")


_READERS = {
    ".pkl": read_pickle_frame,
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".jsonl": _read_lines,
    ".json": _read_lines,
    ".parquet": _read_parquet,
}
