"""Tables of pairs and triplets: any common file in, one checked table of texts out."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hr_search.base import hub
from hr_search.base.errors import InputError, one_line, shown, suggestion
from hr_search.base.paths import extension
from hr_search.data import cleaning
from hr_search.data.pickles import read_pickle_frame
from hr_search.data.unpacking import FREE, RATIO, content

logger = logging.getLogger(__name__)

# The explicit roles come first, so that a title beside a query is not taken for the query.
KNOWN: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("anchor",), ("positive", "pos")),
    (("query", "запрос"), ("positive", "pos", "document", "doc", "passage", "документ")),
    (("question", "вопрос"), ("correctanswer", "answer", "positive", "правильныйответ", "ответ")),
    (("position", "jobtitle", "title", "vacancyname", "jobname", "name", "должность", "названиевакансии",
      "названиедолжности", "вакансия", "название", "наименование", "профессия"),
     ("description", "jobdescription", "vacancydescription", "text", "описание", "описаниевакансии", "текст",
      "текствакансии")),
)  # fmt: skip
"""Names of the query and of its document; letter case, punctuation and the dots of ё do not count."""

NEGATIVE = re.compile(
    r"(hard)?neg(ative)?s?\d*|(wrong|incorrect)answers?\d*|distractors?\d*|(неправильн|неверн)(ый|ые)ответы?\d*"
)
"""Names of columns with wrong documents, likewise reduced."""

# "NA", "None" and "null" are words that people write; NaN is what programs write for nothing.
_EMPTY = {"keep_default_na": False, "na_values": ["", "NaN", "nan"]}
_QUERY, _DOCUMENT = "(--template)", "(--documenttemplate)"  # columns that templates add
_ROWS = 256  # of a Parquet file that are unpacked at a time
_NEEDED = "it needs a query and a matching document in each row."


def read_pairs(
    path: Path | str,
    querycolumn: str = "",
    positivecolumn: str = "",
    negativecolumn: str = "",
    groupcolumn: str = "",
    template: str = "",
    documenttemplate: str = "",
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The pairs of a file or Hub data set as clean texts, and how many rows were read and dropped.

    Args:
        path: a .pkl, .csv, .tsv, .jsonl, .json (each also .gz) or .parquet file, or `hf:OWNER/NAME`.
        querycolumn: column with the query; empty = found by name (`KNOWN`).
        positivecolumn: column with the matching document; empty = found by name.
        negativecolumn: columns with wrong documents, separated by commas; empty = found by name
            (`NEGATIVE`), and none is fine. A cell is one text, a list, or a list written as text.
        groupcolumn: column whose equal values are relevant to each other; empty = none.
        template: makes the query of several columns, such as "{title}. Skills: {skills}".
        documenttemplate: makes the matching document likewise.

    Returns:
        The table with columns `query` (str), `positive` (str), `negatives` (list of str) and, if
        `groupcolumn` was given, `group` (str, "" where the cell is empty); and the counts `rows`
        (read) and `empty` (dropped because query or positive is empty).

    Raises:
        InputError: the file, a column or a cell is not as described.
    """
    parts = []
    for source, part in _tables(path):
        if template:
            part, querycolumn = part.assign(**{_QUERY: cleaning.joined(part, template, source, "template")}), _QUERY
        if documenttemplate:
            texts = cleaning.joined(part, documenttemplate, source, "documenttemplate")
            part, positivecolumn = part.assign(**{_DOCUMENT: texts}), _DOCUMENT
        parts.append(_pairs(part, source, querycolumn, positivecolumn, negativecolumn, groupcolumn))
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        raise InputError(f"{path} has column names and no rows; {_NEEDED}")
    filled = table[(table["query"] != "") & (table["positive"] != "")].reset_index(drop=True)
    if filled.empty:
        raise InputError(f"{path}: query or positive is empty in each of its {len(table)} rows; {_NEEDED}")
    return filled, {"rows": len(table), "empty": len(table) - len(filled)}


def read_texts(path: Path | str, column: str = "") -> list[str]:
    """The texts of one column, or the lines of a .txt file, as a corpus to search in.

    Args:
        path: as for `read_pairs`, or a .txt file with one document a line.
        column: the column; empty = the document column found by name, or the only column.

    Returns:
        One text a row; "" where the cell is empty, so that positions are those of the rows.

    Raises:
        InputError: the file, the column or a cell is not as described.
    """
    texts: list[str] = []
    if Path(path).suffix.lower() == ".txt":
        texts = [cleaning.clean(line) for line in _decoded(path).removesuffix("\n").split("\n")]
    else:
        for source, table in _tables(path):
            names = list(table.columns)
            only = names[0] if len(names) == 1 else ""
            wanted = _given(column, names, source, "column") or _known(names, _names(1)) or only
            if not wanted:
                raise InputError(f"{source} has no column known to hold documents ({_listed(names)}); give --column.")
            texts += cleaning.texts(table, wanted, source)
    if not any(texts):
        raise InputError(f"{path} has no texts; it needs one document in each row.")
    return texts


def read_table(path: Path | str) -> pd.DataFrame:
    """The raw table of a file, with all its columns.

    Args:
        path: a .pkl, .csv, .tsv, .jsonl, .json (each also .gz) or .parquet file.

    Raises:
        InputError: the file is missing, empty, of another kind or damaged.
    """
    readers = {".pkl": read_pickle_frame, ".csv": _read_separated, ".tsv": _read_separated, ".jsonl": _read_lines,
               ".json": _read_lines, ".parquet": _read_parquet}  # fmt: skip
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; give the path of a file.")
    if extension(path) not in readers:
        raise InputError(f"{path} is of a kind that is not read; use one of {', '.join(readers)} (.gz too).")
    table = readers[extension(path)](path)
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise InputError(f'{path} has two columns named "{shown(twice)}"; rename one of them.')
    return table


def _columns(
    columns: Sequence[str], source: str, query: str, positive: str, negative: str, group: str
) -> tuple[str, str, list[str], str]:
    """The columns of query, positive, negatives and group ("" for none): those given, else those known by name."""
    query = _given(query, columns, source, "querycolumn")
    positive = _given(positive, columns, source, "positivecolumn")
    group = _given(group, columns, source, "groupcolumn")
    parts = [negative] if negative in columns else [part.strip() for part in negative.split(",")]
    negatives = [_given(part, columns, source, "negativecolumn") for part in parts if part]
    free = [name for name in columns if name not in (query, positive, *negatives)]
    if not query and not positive:
        pairs = ((_known(free, queries), _known(free, positives)) for queries, positives in KNOWN)
        query, positive = next(filter(all, pairs), ("", ""))
    elif not positive:
        own = [name for queries, positives in KNOWN if _reduced(query) in queries for name in positives]
        positive = _known(free, own + _names(1))
    elif not query:
        own = [name for queries, positives in KNOWN if _reduced(positive) in positives for name in queries]
        query = _known(free, own + _names(0))
    if not query or not positive:
        raise InputError(
            f"{source} has no known pair of query and document columns (found: {_listed(columns)}); "
            "name them with --querycolumn and --positivecolumn."
        )
    roles = [query, positive, *negatives]
    twice = next((name for place, name in enumerate(roles) if name in roles[:place]), None)
    if twice is not None:
        raise InputError(f'{source}: query, positive and negatives need different columns, not "{shown(twice)}" twice.')
    if not negatives:
        named = [name for name in free if NEGATIVE.fullmatch(_reduced(name)) and name not in (query, positive, group)]
        negatives = sorted(named, key=lambda name: (len(number := re.sub(r"\D", "", name).lstrip("0")), number))
    logger.info("%s: query %r, positive %r, negatives %r, group %r", source, query, positive, negatives, group)
    return query, positive, negatives, group


def _given(name: str, columns: Sequence[str], source: str, flag: str) -> str:
    """The column a user named; "" where none was named."""
    if name and name not in columns:
        hint = suggestion(name, [shown(column) for column in columns[:30]])
        raise InputError(f'{source} has no column "{shown(name)}" (--{flag}); {hint}')
    return name


def _known(columns: Iterable[str], names: Sequence[str]) -> str:
    """The column with the foremost of the known names, or ""."""
    reduced = {_reduced(column): column for column in columns}
    return next((reduced[name] for name in names if name in reduced), "")


def _names(side: int) -> list[str]:
    """All known names of queries (0) or documents (1)."""
    return [name for names in KNOWN for name in names[side]]


def _reduced(name: str) -> str:
    """A column name without letter case, punctuation and the dots of ё."""
    return re.sub(r"[\W_]+", "", name.lower().replace("ё", "е"))


def _listed(columns: Sequence[str]) -> str:
    """The first columns as they stand in a sentence."""
    names = ", ".join(f'"{shown(column)}"' for column in columns[:12])
    return "none" if not columns else f"only {names}" if len(columns) == 1 else names + ", …" * (len(columns) > 12)


def _tables(path: Path | str) -> Iterable[tuple[str, pd.DataFrame]]:
    """Name and raw table of a file, or of each file of a data set on the Hub."""
    if str(path).startswith("hf:"):
        return ((f"{path} ({name})", read_table(file)) for name, file in hub.files_of(str(path)))
    return [(str(path), read_table(path))]


def _decoded(path: Path | str) -> str:
    """The text of a file in UTF-8, UTF-16 (with its mark) or Windows-1251."""
    data = content(path)
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp1251"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            rough = data.decode(encoding, "replace")
            if encoding == "utf-8-sig" and 10 * rough.count("\ufffd") < len(rough) - len(
                rough.encode("ascii", "ignore")
            ):
                line = data.count(b"\n", 0, error.start) + 1
                raise InputError(f"{path}, line {line} breaks its UTF-8 encoding; save it in UTF-8.") from error
            continue
        if not text.strip():
            raise InputError(f"{path} is empty; {_NEEDED}")
        controls = sum(text.count(chr(code)) for code in (*range(9), *range(14, 32)))
        if controls * 100 <= len(text):  # a stray control character is dirt, many are a binary file
            return text.replace("\0", " ")
    raise InputError(f"{path} is not text in UTF-8, UTF-16 or Windows-1251; save it in UTF-8.")


def _separator(text: str) -> str:
    """The separator under which the header has several fields and most rows as many."""
    sample = text[:65536]
    best = (0.0, 0, ",")
    for separator in ",;\t|":
        try:
            rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator) if row]
        except csv.Error:
            continue
        width = len(rows[0]) if rows else 0
        score = (sum(len(row) == width for row in rows) / len(rows), width) if width > 1 else (0.0, 0)
        best = max(best, (*score, separator), key=lambda item: item[:2])
    return best[2]


def _read_separated(path: Path | str) -> pd.DataFrame:
    """The table of a .csv or .tsv file, all cells as texts; the separator is found, not taken from the name."""
    text = _decoded(path)
    advice = "put quotes around texts that hold a separator, a quote or a new line."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = pd.read_csv(io.StringIO(text, newline=""), sep=_separator(text), dtype=str, **_EMPTY)
    except (ValueError, OverflowError) as error:
        wrong = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        what = (
            "line {1} has {2} fields instead of {0}".format(*wrong.groups())
            if wrong
            else one_line(error).split("C error: ")[-1]
        )
        raise InputError(f"{path}: {what}; {advice}") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(f"{path}: the rows have more fields than the header; {advice}")
    if line := _other_separator(table, text):
        raise InputError(f"{path}, line {line} is separated by another sign than the header; use one sign throughout.")
    return table.set_axis([cleaning.clean(str(name)) for name in table.columns], axis="columns")


def _other_separator(table: pd.DataFrame, text: str) -> int:
    """The first line that has the header's fields only under another separator than the table's; 0 for none."""
    single = table.iloc[:, 1:].isna().all(axis=1) if table.shape[1] > 1 else []
    if not table.iloc[:, 0][single].str.contains("[,;\t|]", na=False).any():
        return 0
    # A quoted text that holds such a sign, beside empty fields, is fine: only the file itself tells the two apart.
    with contextlib.suppress(csv.Error):
        own = _separator(text)
        rows, others = csv.reader(io.StringIO(text, newline=""), delimiter=own), ",;\t|".replace(own, "")
        alone = (row[0] for row in rows if len(row) == 1)
        return next((rows.line_num for text in alone for sign in others if text.count(sign) == table.shape[1] - 1), 0)
    return 0


def _read_lines(path: Path | str) -> pd.DataFrame:
    """The table of a file with one JSON object a line, or one JSON list of objects."""
    text = _decoded(path)
    if text.lstrip().startswith("["):
        records = [(f"item {number}", record) for number, record in enumerate(_json(text, str(path)), 1)]
    else:
        lines = [(f"line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        records = [(place, _json(line, f"{path}, {place}")) for place, line in lines]
    for place, record in records:
        if not isinstance(record, dict):
            raise InputError(f"{path}, {place} is not a JSON object; write one object of names and texts a line.")
    names = list(dict.fromkeys(name for _, record in records for name in record))
    return _frame(names, ([record.get(name) for _, record in records] for name in names))


def _json(text: str, where: str) -> Any:
    """The value of a JSON text; `where` names it in an error."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON ({one_line(error)}); write one object a line.") from error


def _read_parquet(path: Path | str) -> pd.DataFrame:
    """The table of a Parquet file; cells become plain Python, lists among them."""
    import pyarrow.parquet

    try:
        file, parts, size = pyarrow.parquet.ParquetFile(io.BytesIO(data := content(path))), [], 0
        for part in file.iter_batches(_ROWS):
            parts.append(part)
            size += max(part.nbytes, 64 * part.num_rows)  # an empty cell costs nothing in Parquet, and memory here
            if size > max(FREE, RATIO * len(data)):
                raise InputError(f"{path} unpacks to more than {RATIO} times its size, as no table of texts does.")
        table = pyarrow.Table.from_batches(parts, file.schema_arrow)
        return _frame(table.column_names, (column.to_pylist() for column in table.columns))
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a readable Parquet file ({one_line(error)}); write it again.") from error


def _frame(names: Sequence[str], columns: Iterable[list[Any]]) -> pd.DataFrame:
    """A table of objects from its columns, whose cells nothing may convert."""
    filled = {place: pd.Series(column, dtype=object) for place, column in enumerate(columns)}
    return pd.DataFrame(filled).set_axis([cleaning.clean(name) for name in names], axis="columns")


def _pairs(table: pd.DataFrame, source: str, *columns: str) -> pd.DataFrame:
    """The pairs of a raw table, rows with an empty side included."""
    query, positive, negatives, group = _columns(list(table.columns), source, *columns)
    lists = [cleaning.lists(table, column, source) for column in negatives]
    negatives = [[text for texts in row for text in texts] for row in zip(*lists, strict=True)]
    pairs = {"query": cleaning.texts(table, query, source), "positive": cleaning.texts(table, positive, source)}
    pairs |= {"negatives": negatives or [[] for _ in range(len(table))]}
    return pd.DataFrame(pairs | ({"group": cleaning.texts(table, group, source, numbers=True)} if group else {}))
