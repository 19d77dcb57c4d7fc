"""Folders of judged queries, as search competitions publish them: queries, a corpus, and relevance judgements.

Three layouts are read; each file may also be a `.gz`:

- BEIR: `queries.jsonl`, `corpus.jsonl` (`_id`, `title`, `text`) and `qrels/test.tsv` (query, document, score).
- TREC: `queries.tsv`, `corpus.tsv` (id, text) and `qrels.tsv` or `qrels.txt` (query, 0, document, grade).
- TalentCLEF: like TREC with a header; the files may be called `queries`, `corpus_elements` and `qrels.tsv`.

Documents are distinguished by their ids, as the scripts of these competitions do, even where two have the same text.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from hr_search.base import paths
from hr_search.base.arrays import incidence
from hr_search.base.choices import is_table_file
from hr_search.base.errors import InputError, one_line, shown
from hr_search.data import cleaning, redaction
from hr_search.data.columns import known_column, reduced
from hr_search.data.counts import Counts
from hr_search.data.duplicates import normalise
from hr_search.data.encodings import refuse_misread
from hr_search.data.formats import read_table, read_text
from hr_search.data.html import without_html
from hr_search.data.separated import separated_rows
from hr_search.data.tasks import Task, both_directions

log = logging.getLogger(__name__)

_NAMES = {"queries": ("queries",), "corpus": ("corpus", "corpus_elements"), "qrels": ("qrels",)}
_ENDINGS = [ending + packed for ending in (".tsv", ".txt", ".jsonl", "") for packed in ("", ".gz")]
_PARTS = {"validation": ("dev", "validation", "val"), "test": ("test",)}
_NAMED = 3  # unknown ids that a warning names
_IDS = ("id", "qid", "cid", "queryid", "corpusid", "docid", "documentid", "pid", "docno")
_TEXTS = ("text", "jobtitle", "query", "document", "title", "contents")


def is_folder(path: str) -> bool:
    """Whether a path names a folder, and so judged queries instead of a table of pairs."""
    return is_table_file(path) and paths.resolve(path).is_dir()


def read_folder(
    path: str,
    part: str = "test",
    redact: bool = False,
    keephtml: bool = False,
    encoding: str = "",
    trustfile: bool = False,
    relevantfrom: float = 0.0,
) -> tuple[dict[str, Task], Counts]:
    """The search tasks of a folder of judged queries.

    A document is relevant to a query where its grade is above 0, and right where the grade also reaches `relevantfrom`.
    Queries without words, queries without a right document and judgements of unknown ids (collections of BEIR have
    them) are dropped and counted. Documents that are right for no query are searched like all others and come last.

    Args:
        path: the folder.
        part: "validation" or "test", where `qrels/` holds several files.
        redact: replace contact details, as in `redaction`.
        keephtml: leave HTML in texts.
        encoding: the encoding of the files; empty = detected.
        trustfile: let a file take more memory than a table may.
        relevantfrom: the grade from which a document counts as right for all metrics but nDCG; 0 = any above 0.

    Returns:
        The tasks "q2d" and "d2q" (the latter searches with the documents that are right for some query), and the
        counts `rows`, `empty`, `unknown`, `unanswered`, `distractors`, `html` unless it is kept and, with `redact`,
        those of `redaction`.

    Raises:
        InputError: a file is missing or not as described, an id occurs twice, or no query has a right document.
    """
    folder = paths.resolve(path)
    sources = {what: _find(folder, what, part) for what in _NAMES}
    queries, corpus = (_texts(sources[what], encoding, trustfile) for what in ("queries", "corpus"))
    replaced: Counter[str] = Counter()
    marked = None
    if not keephtml:
        queries, first = without_html(queries)
        corpus, second = without_html(corpus)
        marked = first + second
    if redact:
        queries, first = redaction.redacted(queries)
        corpus, second = redaction.redacted(corpus)
        replaced = first + second
    text = read_text(sources["qrels"], encoding, trustfile)
    *judgements, unknown = _judgements(sources, queries, corpus, text)
    tasks, counts = judged_tasks(queries.tolist(), corpus.tolist(), *judgements, relevantfrom, str(folder))
    counts += Counts(html=marked, unknown=unknown)
    return tasks, counts + redaction.as_counts(replaced) if redact else counts


def judged_tasks(
    queries: Sequence[str],
    documents: Sequence[str],
    rows: np.ndarray,
    columns: np.ndarray,
    grades: np.ndarray,
    relevantfrom: float = 0.0,
    source: str = "the collection",
) -> tuple[dict[str, Task], Counts]:
    """The search tasks of judged texts, as `read_folder` makes them.

    Args:
        queries: Q texts.
        documents: N texts.
        rows: the queries of P distinct pairs, (P,) from 0 to Q - 1.
        columns: their documents, (P,) from 0 to N - 1.
        grades: their grades, (P,) above 0.
        relevantfrom: the grade from which a document counts as right for all metrics but nDCG; 0 = any above 0.
        source: what is judged, for the error.

    Returns:
        The tasks "q2d" and "d2q", and the counts `rows`, `empty`, `unanswered` and `distractors`.

    Raises:
        InputError: no query with words has a right document.
    """
    keys = pd.Series([normalise(text) for text in queries], dtype=object)
    worded = (keys != "").to_numpy()
    answered = np.bincount(rows[grades >= relevantfrom], minlength=len(queries)) > 0
    kept = worded & answered
    inside = kept[rows]
    rows, columns, grades = rows[inside], columns[inside], grades[inside]
    if not len(rows):
        least = f"grade {relevantfrom:g} or more" if relevantfrom else "grade above 0"
        raise InputError(f"{source} marks no document as relevant to a query ({least}).")
    right = grades >= relevantfrom
    answers = np.bincount(columns[right], minlength=len(documents)) > 0
    order = np.argsort(~answers, kind="stable")  # documents right for no query last
    shape = len(queries), len(documents)
    relevance = sparse.coo_array((grades, (rows, columns)), shape=shape).tocsr()[kept][:, order]
    groups = keys[kept].tolist()
    first = _first_queries(incidence(rows[right], columns[right], shape)[kept][:, order[: answers.sum()]])
    tasks = both_directions(
        [queries[at] for at in np.flatnonzero(kept)],
        [documents[at] for at in order],
        relevance,
        groups,
        [groups[query] for query in first],
        relevantfrom,
    )
    counts = Counts(
        rows=len(rows),
        empty=int((~worded).sum()),
        unanswered=int((worded & ~answered).sum()),
        distractors=int((~answers).sum()),
    )
    return tasks, counts


def judged_pairs(task: Task) -> pd.DataFrame:
    """Each query beside each of its relevant documents, as a pairs table to look at and to compare with train."""
    pairs = [(query, document) for query, found in enumerate(task.relevant) for document in found]
    table = {
        "query": [task.queries[query] for query, _ in pairs],
        "positive": [task.documents[document] for _, document in pairs],
        "negatives": [[] for _ in pairs],
        "group": [task.groups[query] for query, _ in pairs],
    }
    return pd.DataFrame(table)


def _first_queries(relevance: sparse.csr_array) -> np.ndarray:
    """The first query of each document, (N,)."""
    by_document = relevance.tocsc()
    by_document.sort_indices()
    return by_document.indices[by_document.indptr[:-1]]


def _find(folder: Path, what: str, part: str) -> Path:
    """The file of the folder that holds queries, corpus or judgements."""
    places = [folder / (name + ending) for name in _NAMES[what] for ending in _ENDINGS]
    found = [place for place in places if place.is_file()]
    if what == "qrels" and not found:
        inner = sorted(place for place in (folder / "qrels").glob("*") if place.is_file())
        found = [place for name in _PARTS[part] for place in inner if place.name.split(".")[0] == name] or inner
        if len(found) > 1:
            names = ", ".join(place.name for place in found)
            raise InputError(f"{folder / 'qrels'} has {names}; keep the one that judges the {part} queries.")
    if not found:
        raise InputError(
            f"{folder} is a folder without a file of {what} ({what}.tsv or {what}.jsonl); a folder of judged queries "
            "holds queries, corpus and qrels, anything else is given as a file."
        )
    return found[0]


def _texts(path: Path, encoding: str, trustfile: bool) -> pd.Series:
    """Texts by id, in the order of the file; for documents with a title, title and text joined."""
    read = _texts_of_json if paths.extension(path) == ".jsonl" else _texts_of_lines
    pairs = read(path, encoding, trustfile)
    if not encoding:
        refuse_misread(((text,) for _, text in pairs), str(path))
    names = pd.Index([name for name, _ in pairs])
    if names.has_duplicates:
        raise InputError(f'{path} has the id "{shown(names[names.duplicated()][0])}" twice; ids must be unique.')
    if not pairs:
        raise InputError(f"{path} has no rows; it needs an id and a text in each.")
    return pd.Series([text for _, text in pairs], index=names, dtype=object)


def _texts_of_json(path: Path, encoding: str, trustfile: bool) -> list[tuple[str, str]]:
    table = read_table(path, encoding, trustfile)
    name, column = _column(table, _IDS, path), _column(table, _TEXTS, path)
    ids = cleaning.texts(table, name, str(path), numbers=True)
    texts = cleaning.texts(table, column, str(path))
    if "title" in table.columns and column != "title":
        titles = cleaning.texts(table, "title", str(path))
        texts = [f"{title} {text}".strip() for title, text in zip(titles, texts, strict=True)]
    return list(zip(ids, texts, strict=True))


def _texts_of_lines(path: Path, encoding: str, trustfile: bool) -> list[tuple[str, str]]:
    pairs = []
    for row in separated_rows(read_text(path, encoding, trustfile), "\t", path):
        fields = [cleaning.clean(field) for field in (row.fields[0], "\t".join(row.fields[1:]))]
        if len(row.fields) < 2:
            raise InputError(f"{path}, line {row.first} has no tab; it needs an id, a tab and a text.")
        if row.first > 1 or reduced(fields[0]) not in _IDS:
            pairs.append((fields[0], fields[1]))
    return pairs


def _judgements(
    sources: dict[str, Path], queries: pd.Series, corpus: pd.Series, text: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Query, document (positions) and grade of each relevant pair, (P,) each, and how many ids are unknown.

    Of several judgements of a pair the highest counts.
    """
    path, known = sources["qrels"], {"queries": queries.index, "corpus": corpus.index}
    positions = {what: dict(zip(index, range(len(index)), strict=True)) for what, index in known.items()}
    found: dict[tuple[int, int], float] = {}
    strange: list[str] = []
    judged = 0
    for number, line in _lines(text):
        fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
        try:
            if len(fields) not in (3, 4):
                raise ValueError("it has neither three nor four fields")
            grade = float(fields[-1])
        except ValueError as error:
            if number == 1 and len(fields) in (3, 4):  # a header
                continue
            raise InputError(
                f"{path}, line {number} is not a judgement ({one_line(error)}); write query, 0, document and grade, "
                "or query, document and score."
            ) from error
        if not np.isfinite(grade):
            raise InputError(f"{path}, line {number} has the grade {shown(fields[-1])}; write a finite number.")
        names = {"queries": fields[0], "corpus": fields[-2]}
        judged += 1
        if unknown := [what for what, name in names.items() if name not in positions[what]]:
            strange.append(f'"{shown(names[unknown[0]])}" of line {number} is not in {sources[unknown[0]].name}')
        elif grade > 0:
            pair = positions["queries"][names["queries"]], positions["corpus"][names["corpus"]]
            found[pair] = max(grade, found.get(pair, 0.0))
    if strange and len(strange) == judged:
        raise InputError(f"{path}: none of its {judged} judgements is of a known query and document; {strange[0]}.")
    if strange:
        some = "; ".join(strange[:_NAMED])
        log.warning("%s: %d of %d judgements are left out, their ids are unknown: %s", path, len(strange), judged, some)
    pairs = np.array(list(found), np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], np.array(list(found.values()), np.float64), len(strange)


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, numbered from 1."""
    lines = text.replace("\r\n", "\n").split("\n")
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _column(table: pd.DataFrame, names: Sequence[str], path: Path) -> str:
    """The first of the known names among the columns."""
    if found := known_column(table.columns, names):
        return found
    raise InputError(f"{path} has no column {' or '.join(names[:3])}; it needs an id and a text in each row.")
