"""Folders of judged queries, as search competitions publish them: queries, a corpus, and who is right for whom.

Three layouts are read, each file also as `.gz`:

- BEIR: `queries.jsonl`, `corpus.jsonl` (`_id`, `title`, `text`) and `qrels/test.tsv` (query, document, score).
- TREC: `queries.tsv`, `corpus.tsv` (id, text) and `qrels.tsv` or `qrels.txt` (query, 0, document, grade).
- TalentCLEF: the same with a header, also with the names `queries`, `corpus_elements` and `qrels.tsv`.

Documents are kept apart by their ids, as the scripts of these competitions do, even where two have one text.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from hr_search.base import paths
from hr_search.base.arrays import incidence
from hr_search.base.errors import InputError, one_line, shown
from hr_search.data import cleaning, redaction, tables
from hr_search.data.duplicates import normalise
from hr_search.data.tasks import Task, both
from hr_search.data.unpacking import content

_NAMES = {"queries": ("queries",), "corpus": ("corpus", "corpus_elements"), "qrels": ("qrels",)}
_ENDINGS = (".tsv", ".txt", ".jsonl", "")
_PARTS = {"validation": ("dev", "validation", "val"), "test": ("test",)}
_IDS = ("id", "qid", "cid", "queryid", "corpusid", "docid", "documentid", "pid", "docno")
_TEXTS = ("text", "jobtitle", "query", "document", "title", "contents")


def is_folder(path: str) -> bool:
    """Whether a path names a folder, and so judged queries instead of a table of pairs."""
    return not path.startswith("hf:") and bool(path) and paths.resolve(path).is_dir()


def read_folder(path: str, part: str = "test", redact: bool = False) -> tuple[dict[str, Task], dict[str, int]]:
    """The search tasks of a folder of judged queries.

    A document is right for a query where its grade is above 0. Queries without a right document, and without words,
    are dropped and counted. Documents that are right for no query are searched like all others; they stand last.

    Args:
        path: the folder.
        part: "validation" or "test", where `qrels/` holds several files.
        redact: whether contact details are replaced, as in `redaction`.

    Returns:
        The tasks "q2d" and "d2q" (the latter asks with the documents that are right for some query), and the counts
        `rows` (pairs of a query and a right document), `empty` (queries without words), `unanswered` (queries without
        a right document), `distractors` (documents right for no query) and, with `redact`, those of `redaction`.

    Raises:
        InputError: a file is missing or not as described, an id occurs twice or only in the judgements, or no query
            has a right document.
    """
    folder = paths.resolve(path)
    sources = {what: _find(folder, what, part) for what in _NAMES}
    queries, corpus = (_texts(sources[what]) for what in ("queries", "corpus"))
    replaced: Counter[str] = Counter()
    if redact:
        queries, first = redaction.redacted(queries)
        corpus, second = redaction.redacted(corpus)
        replaced = first + second
    rows, columns = _judgements(sources, queries, corpus)
    keys = queries.map(normalise)
    worded = (keys != "").to_numpy()
    right = np.zeros(len(queries), bool)
    right[rows] = True
    kept = worded & right
    inside = kept[rows]
    rows, columns = rows[inside], columns[inside]
    if not len(rows):
        raise InputError(f"{sources['qrels']} marks no document of {sources['corpus']} as right (grade above 0).")
    answers = np.bincount(columns, minlength=len(corpus)) > 0
    order = np.argsort(~answers, kind="stable")  # documents that are nobody's answer last
    relevance = incidence(rows, columns, (len(queries), len(corpus))).tocsr()[kept][:, order]
    groups = keys[kept].tolist()
    first_query = relevance.tocsc()[:, : answers.sum()]
    first_query.sort_indices()
    of_document = [groups[query] for query in first_query.indices[first_query.indptr[:-1]]]
    tasks = both(queries[kept].tolist(), corpus.iloc[order].tolist(), relevance, groups, of_document)
    counts = {
        "rows": len(rows), "empty": int((~worded).sum()), "unanswered": int((worded & ~right).sum()),
        "distractors": int((~answers).sum()),
    }  # fmt: skip
    return tasks, counts | ({kind: replaced[kind] for kind in redaction.WORDS} if redact else {})


def judged_pairs(task: Task) -> pd.DataFrame:
    """Each query beside each of its right documents, as a pairs table, to look at and to compare with train."""
    sizes = [len(right) for right in task.relevant]
    at = np.repeat(np.arange(len(sizes)), sizes)
    documents = [task.documents[index] for right in task.relevant for index in right]
    return pd.DataFrame({
        "query": [task.queries[index] for index in at], "positive": documents, "negatives": [[] for _ in at],
        "group": [task.groups[index] for index in at],
    })  # fmt: skip


def _find(folder: Path, what: str, part: str) -> Path:
    """The file of the folder that holds queries, corpus or judgements."""
    found = [place for name in _NAMES[what] for ending in _ENDINGS for packed in ("", ".gz")
             if (place := folder / f"{name}{ending}{packed}").is_file()]  # fmt: skip
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


def _texts(path: Path) -> pd.Series:
    """Texts by id, in the order of the file; of documents with a title, title and text."""
    if paths.extension(path) == ".jsonl":
        table = tables.read_table(path)
        ids, texts = _column(table, _IDS, path), _column(table, _TEXTS, path)
        pairs = list(
            zip(
                cleaning.texts(table, ids, str(path), numbers=True),
                cleaning.texts(table, texts, str(path)),
                strict=True,
            )
        )
        if "title" in table.columns and texts != "title":
            titles = cleaning.texts(table, "title", str(path))
            pairs = [(name, f"{title} {text}".strip()) for (name, text), title in zip(pairs, titles, strict=True)]
    else:
        pairs = []
        for number, line in _lines(path):
            fields = [cleaning.clean(field) for field in line.split("\t", 1)]
            if len(fields) < 2:
                raise InputError(f"{path}, line {number} has no tab; it needs an id, a tab and a text.")
            if number > 1 or _reduced(fields[0]) not in _IDS:
                pairs.append((fields[0], fields[1]))
    names = pd.Index([name for name, _ in pairs])
    if names.has_duplicates:
        raise InputError(f'{path} has the id "{shown(names[names.duplicated()][0])}" twice; ids must be different.')
    if not pairs:
        raise InputError(f"{path} has no rows; it needs an id and a text in each.")
    return pd.Series([text for _, text in pairs], index=names, dtype=object)


def _judgements(sources: dict[str, Path], queries: pd.Series, corpus: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Positions of each query and right document of the judgements, (P,) each."""
    path, known = sources["qrels"], {"queries": queries.index, "corpus": corpus.index}
    positions = {what: dict(zip(index, range(len(index)), strict=True)) for what, index in known.items()}
    found: dict[tuple[int, int], None] = {}
    for number, line in _lines(path):
        fields = line.split("\t") if "\t" in line else line.split()
        fields = [field.strip() for field in fields]
        try:
            if len(fields) not in (3, 4):
                raise ValueError("it has neither three nor four fields")
            grade = float(fields[-1])
        except ValueError as error:
            if number == 1 and len(fields) in (3, 4):  # a header
                continue
            raise InputError(
                f"{path}, line {number} is no judgement ({one_line(error)}); write query, 0, document and grade, or "
                "query, document and score."
            ) from error
        names = {"queries": fields[0], "corpus": fields[-2]}
        for what, name in names.items():
            if name not in positions[what]:
                raise InputError(f'{path}, line {number}: the id "{shown(name)}" is not in {sources[what]}.')
        if grade > 0:
            found[positions["queries"][names["queries"]], positions["corpus"][names["corpus"]]] = None
    pairs = np.array(list(found), np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1."""
    try:
        text = content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 ({one_line(error)}); save it in UTF-8.") from error
    lines = text.replace("\r\n", "\n").split("\n")
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _column(table: pd.DataFrame, names: tuple[str, ...], path: Path) -> str:
    """The foremost of the known names among the columns."""
    reduced = {_reduced(column): column for column in table.columns}
    for name in names:
        if name in reduced:
            return reduced[name]
    raise InputError(f"{path} has no column {' or '.join(names[:3])}; it needs an id and a text in each row.")


def _reduced(name: str) -> str:
    """A column name in small letters, without `_` and `-`."""
    return name.lower().replace("_", "").replace("-", "")
