"""Tables of pairs and triplets: columns found by name, texts checked and cleaned."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from hr_search.base import hub
from hr_search.base.choices import SIDES
from hr_search.base.errors import InputError, shown
from hr_search.base.paths import extension
from hr_search.data import cleaning
from hr_search.data.blocks import read_blocks
from hr_search.data.columns import KNOWN, NEGATIVE, SEVERAL, known_column, known_names, reduced
from hr_search.data.counts import Counts
from hr_search.data.encodings import refuse_misread
from hr_search.data.formats import NEEDED, read_table, read_text
from hr_search.data.grades import soft_marks
from hr_search.data.resume_texts import with_resume_texts

logger = logging.getLogger(__name__)

_QUERY, _DOCUMENT = "(--template)", "(--documenttemplate)"  # columns that templates add


def read_pairs(
    path: Path | str,
    querycolumn: str = "",
    positivecolumn: str = "",
    negativecolumn: str = "",
    groupcolumn: str = "",
    template: str = "",
    documenttemplate: str = "",
    encoding: str = "",
    trustfile: bool = False,
    identity: bool = False,
    gradecolumn: str = "",
    softgroupcolumn: str = "",
) -> tuple[pd.DataFrame, Counts]:
    """The pairs of a file or Hub data set as clean texts, and how many rows were read and dropped.

    Args:
        path: a file that `formats.read_table` reads, or `hf:OWNER/NAME`.
        querycolumn: column with the query; empty = found by name (`KNOWN`).
        positivecolumn: column with the matching document; empty = found by name. A cell of a column named as in
            `SEVERAL` may be a list of documents, each of which makes a pair.
        negativecolumn: columns with negatives, separated by commas; empty = found by name (`NEGATIVE`), or
            none. A cell is one text, a list, or a list written as text.
        groupcolumn: column whose equal values are relevant to each other; empty = none.
        template: builds the query from several columns, such as "{title}. Skills: {skills}".
        documenttemplate: builds the matching document likewise.
        encoding: the encoding of a text file; empty = detected.
        trustfile: let a table take more memory than a table may.
        identity: keep what says who a person is in CVs that cells hold in fields (`resume_texts`).
        gradecolumn: column with a weight of each pair, above 0 and at most 1; empty = none.
        softgroupcolumn: column whose equal values match in part; empty = none.

    Returns:
        The table with columns `query` (str), `positive` (str), `negatives` (list of str) and, where their
        columns were given, `group` (str, "" where the cell is empty), `grade` (float) and `softgroup` (str,
        "" where the cell is empty); and the counts `rows` (read), `empty` (dropped because query or positive
        is empty) and, if there are any, `cvs` (in fields).

    Raises:
        InputError: the file, a column or a cell is not as described.
    """
    parts, resumes = [], 0
    columns = querycolumn, positivecolumn, negativecolumn, groupcolumn
    fields = [*cleaning.fields_of(template), *cleaning.fields_of(documenttemplate)]
    soft = gradecolumn, softgroupcolumn
    named = [name for name in (querycolumn, positivecolumn, groupcolumn, *soft, *fields) if name]
    for source, part in _tables(path, encoding, trustfile, named):
        roles, part = _roles(part, source, columns, template, documenttemplate)
        logger.info("%s: query %r, positive %r, negatives %r, group %r", source, *roles)
        pairs, found = _clean_pairs(part, source, roles, soft, identity, not encoding)
        resumes += found
        parts.append(pairs)
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        raise InputError(f"{path} has column names and no rows; {NEEDED}")
    filled = table[(table["query"] != "") & (table["positive"] != "")].reset_index(drop=True)
    if filled.empty:
        raise InputError(f"{path}: query or positive is empty in each of its {len(table)} rows; {NEEDED}")
    return filled, Counts(rows=len(table), empty=len(table) - len(filled), cvs=resumes or None)


def read_pair_blocks(
    path: Path | str,
    querycolumn: str = "",
    positivecolumn: str = "",
    negativecolumn: str = "",
    groupcolumn: str = "",
    template: str = "",
    documenttemplate: str = "",
    encoding: str = "",
    identity: bool = False,
) -> Iterator[tuple[pd.DataFrame, Counts]]:
    """The pairs of `read_pairs` block by block, for a table larger than memory.

    Args:
        path: a file that `blocks.read_blocks` reads, or `hf:OWNER/NAME` with such files.
        querycolumn, positivecolumn, negativecolumn, groupcolumn, template, documenttemplate, identity: as `read_pairs`.
        encoding: of a JSONL file; empty = UTF-8.

    Yields:
        For each block what `read_pairs` returns for a table.

    Raises:
        InputError: as `read_pairs`, or a later block has columns that change what is read.
    """
    columns = querycolumn, positivecolumn, negativecolumn, groupcolumn
    names: list[str] = []
    first: _Roles | None = None
    rows = filled_rows = 0
    for source, part in _blocks(path, encoding):
        names = list(dict.fromkeys([*names, *part.columns]))
        if len(names) > part.shape[1]:
            missing = pd.DataFrame(None, part.index, [name for name in names if name not in part], object)
            part = pd.concat([part, missing], axis="columns")[names]
        roles, part = _roles(part, source, columns, template, documenttemplate)
        if first is None:
            logger.info("%s: query %r, positive %r, negatives %r, group %r", source, *roles)
        elif roles != first:
            raise InputError(
                f"{source}: from row {part.index[0] + 1} on there are columns that change which ones are read "
                f"({_listed(names)}); name them with --querycolumn, --positivecolumn and --negativecolumn."
            )
        first = roles
        pairs, found = _clean_pairs(part, source, roles, ("", ""), identity, not encoding)
        filled = pairs[(pairs["query"] != "") & (pairs["positive"] != "")].reset_index(drop=True)
        rows, filled_rows = rows + len(pairs), filled_rows + len(filled)
        yield filled, Counts(rows=len(pairs), empty=len(pairs) - len(filled), cvs=found or None)
    if not filled_rows:
        what = f"query or positive is empty in each of its {rows} rows" if rows else "there are no rows"
        raise InputError(f"{path}: {what}; {NEEDED}")


def _blocks(path: Path | str, encoding: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and raw table of each block of a file, or of the files of a data set on the Hub."""
    files = hub.files_of(str(path)) if str(path).startswith("hf:") else [("", Path(path))]
    for name, file in files:
        source = f"{path} ({name})" if name else str(path)
        for part in read_blocks(file, encoding):
            yield source, part


def read_texts(
    path: Path | str, column: str = "", encoding: str = "", trustfile: bool = False, side: str = "document"
) -> list[str]:
    """The texts of one column, or the lines of a .txt file, as a corpus to search in.

    Args:
        path: as for `read_pairs`, or a .txt file with one document per line. A .txt file whose lines are fields
            separated by tabs under a header with the column is a table.
        column: the column; empty = the column of that side found by name, or the only column.
        encoding: the encoding of a text file; empty = detected.
        trustfile: let a table take more memory than a table may.
        side: "document", or "query" for job titles.

    Returns:
        One text per row; "" where the cell is empty, so that positions are row numbers. A CV in fields becomes a text
        without who the person is.

    Raises:
        InputError: the file, the column or a cell is not as described.
    """
    texts: list[str] = []
    known = known_names(SIDES.index(side))
    plain = read_text(path, encoding, trustfile) if extension(path) == ".txt" else ""
    if plain and not _is_table(plain, column, known):
        texts = [cleaning.clean(line) for line in plain.removesuffix("\n").split("\n")]
    else:
        for source, table in _tables(path, encoding, trustfile, [column] if column else []):
            names = list(table.columns)
            only = names[0] if len(names) == 1 else ""
            wanted = _given(column, names, source, "column") or known_column(names, known) or only
            if not wanted:
                kind = "documents" if side == "document" else "queries"
                raise InputError(f"{source} has no column known to hold {kind} ({_listed(names)}); give --column.")
            texts += cleaning.texts(with_resume_texts(table, [wanted], source)[0], wanted, source)
    if not any(texts):
        raise InputError(f"{path} has no texts; it needs one document in each row.")
    if not encoding:
        refuse_misread(((text,) for text in texts), str(path))
    return texts


def _is_table(text: str, column: str, known: Sequence[str]) -> bool:
    """Whether the lines of a .txt file are rows of fields separated by tabs."""
    header = text.lstrip("\n").split("\n", 1)[0].split("\t")
    return bool(column) or (len(header) > 1 and bool(known_column(header, known)))


def _tables(
    path: Path | str, encoding: str, trustfile: bool, named: Sequence[str]
) -> Iterable[tuple[str, pd.DataFrame]]:
    """Name and raw table of a file, or of each file of a data set on the Hub."""
    if str(path).startswith("hf:"):
        files = hub.files_of(str(path))
        return ((f"{path} ({name})", read_table(file, encoding, trustfile, named)) for name, file in files)
    return [(str(path), read_table(path, encoding, trustfile, named))]


_Roles = tuple[str, str, list[str], str]  # the columns of query, positive, negatives and group, "" for none


def _roles(
    part: pd.DataFrame, source: str, columns: tuple[str, str, str, str], template: str, documenttemplate: str
) -> tuple[_Roles, pd.DataFrame]:
    """The columns that are read, those given or known by name, and the raw table with those that templates add."""
    query, positive, negative, group = columns
    if template:
        part, query = part.assign(**{_QUERY: cleaning.joined(part, template, source, "template")}), _QUERY
    if documenttemplate:
        texts = cleaning.joined(part, documenttemplate, source, "documenttemplate")
        part, positive = part.assign(**{_DOCUMENT: texts}), _DOCUMENT
    return _columns(list(part.columns), source, query, positive, negative, group), part


def _clean_pairs(
    part: pd.DataFrame, source: str, roles: _Roles, soft: tuple[str, str], identity: bool, guessed: bool
) -> tuple[pd.DataFrame, int]:
    """The pairs of a raw table, and how many CVs in fields became texts; `guessed`: nobody has named its encoding."""
    part, found = with_resume_texts(part, [*roles[:2], *roles[2]], source, identity)
    pairs = _pairs(part, source, *roles, marks=soft_marks(part, source, *soft))
    if guessed:
        refuse_misread(zip(pairs["query"], pairs["positive"], strict=True), source)
    return pairs, found


def _pairs(
    table: pd.DataFrame,
    source: str,
    query: str,
    positive: str,
    negative: Sequence[str],
    group: str,
    marks: dict[str, list],
) -> pd.DataFrame:
    """The pairs of a raw table, rows with an empty side included, with further columns of its rows, `marks`."""
    lists = [cleaning.lists(table, column, source) for column in negative]
    negatives = [[text for texts in row for text in texts] for row in zip(*lists, strict=True)]
    documents = _documents(table, positive, source)
    pairs = {"query": cleaning.texts(table, query, source), "positive": documents}
    pairs |= {"negatives": negatives or [[] for _ in range(len(table))]}
    pairs |= {"group": cleaning.texts(table, group, source, numbers=True)} if group else {}
    frame = pd.DataFrame(pairs | marks)
    return frame.explode("positive", ignore_index=True) if any(type(cell) is list for cell in documents) else frame


def _documents(table: pd.DataFrame, column: str, source: str) -> list[str] | list[list[str]]:
    """The document of each row, or its documents, at least one, where the cells of a column hold several."""
    if reduced(column) in SEVERAL and any(cleaning.is_list(cell) for cell in table[column].tolist()):
        return [texts or [""] for texts in cleaning.lists(table, column, source)]
    return cleaning.texts(table, column, source)


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
    given = (query, positive)
    query, positive = _known_pair(free, query, positive)
    for name, flag in ((query, "querycolumn"), (positive, "positivecolumn")):
        alike = [other for other in free if name and other != name and reduced(other) == reduced(name)]
        if alike and name not in given:
            raise InputError(
                f'{source} has the columns "{shown(name)}" and "{shown(alike[0])}", which may both be meant; name one '
                f"with --{flag}."
            )
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
        named = [name for name in free if NEGATIVE.fullmatch(reduced(name)) and name not in (query, positive, group)]
        negatives = sorted(named, key=lambda name: (len(number := re.sub(r"\D", "", name).lstrip("0")), number))
    return query, positive, negatives, group


def _known_pair(free: Sequence[str], query: str, positive: str) -> tuple[str, str]:
    """The query and document columns, each found by name among the `free` ones where it is ""; "" where none is."""
    if query and positive:
        return query, positive
    if query:
        own = [name for queries, positives in KNOWN if reduced(query) in queries for name in positives]
        return query, known_column(free, own + known_names(1))
    if positive:
        own = [name for queries, positives in KNOWN if reduced(positive) in positives for name in queries]
        return known_column(free, own + known_names(0)), positive
    pairs = ((known_column(free, queries), known_column(free, positives)) for queries, positives in KNOWN)
    return next(filter(all, pairs), ("", ""))


def _given(name: str, columns: Sequence[str], source: str, flag: str) -> str:
    """The column a user named; "" where none was named."""
    if name:
        cleaning.require_column(name, columns, source, flag)
    return name


def _listed(columns: Sequence[str]) -> str:
    """The first columns as they are listed in a sentence."""
    names = ", ".join(f'"{shown(column)}"' for column in columns[:12])
    return "none" if not columns else f"only {names}" if len(columns) == 1 else names + ", …" * (len(columns) > 12)
