"""Pairs for training, validation and test: read, cleaned, split without leaks, and turned into search tasks.

Vacancies are posted again and again, with a city or a salary changed. A random split therefore puts
near copies of train documents into the test, and every metric flatters the model. Here rows that
share a group, a document or most of a document's wording always stay on the same side, and tables
that come already split are checked for the same thing.
"""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from hr_search import esco, files, paths, tables
from hr_search.config import Settings
from hr_search.errors import InputError

logger = logging.getLogger(__name__)

COLUMNS = ["query", "positive", "negatives", "group"]
SHINGLE = 8  # words; shorter runs are shared by unrelated vacancies ("official employment, paid leave and sick leave")
NEAR_SHARE = 0.5
_WORDS_LIMIT = 20_000_000
_WORK_LIMIT = 200_000_000
_CHUNK = 20_000
_SAMPLE_COLUMNS = {"querycolumn": "position", "positivecolumn": "description", "groupcolumn": "group"}

_MARKS = "".join(chr(code) for code in range(0x370, 0x10000) if unicodedata.category(chr(code)).startswith("M"))
_IGNORED = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff\u0300-\u036f]+")
_TOKEN = re.compile(rf"(?:[^\W_]|[{_MARKS}])+(?:(?:\+\+?|\#)(?![\w+#]))?")


@dataclass(frozen=True)
class Task:
    """One direction of search: which of the `documents` are right for which of the `queries`.

    Attributes:
        name: "q2d" (job title -> vacancy) or "d2q" (vacancy -> job title).
        queries: distinct texts to search with.
        documents: distinct texts to search in.
        relevant: for each query the sorted indices of its relevant documents.
        groups: for each query its group (the first one where it has several).
    """

    name: str
    queries: list[str]
    documents: list[str]
    relevant: list[np.ndarray]
    groups: list[str]


@dataclass(frozen=True)
class Data:
    """Three tables of pairs (columns `query`, `positive`, `negatives`, `group`), and how they came about.

    Attributes:
        name: short name of the data.
        train: rows to learn from.
        validation: rows that choose the best model.
        test: rows for the final numbers.
        counts: `rows` read, `empty` and `duplicates` dropped (over all files), `groups` of `datapath`, rows of
            `train`, `validation` and `test`; rows of validation and test whose document occurs in
            train (`exact_leaks`), mostly occurs in one train document (`near_leaks`), or whose query
            occurs in train (`seen_queries`); `near_exact` is 0 where the search for near copies had to
            estimate (see `near_copies`), else 1.
        fingerprint: equal for equal tables, in the same order.
    """

    name: str
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    counts: dict[str, int]
    fingerprint: str


def normalise(text: str) -> str:
    """The form in which texts are compared: two spellings of one job title become equal.

    Unicode NFKC, lower case, ё as е, no stress marks or invisible characters, punctuation and symbols
    to spaces, spaces folded. A final + or # stays with its word, so that C, C++ and C# remain three jobs.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("ё", "е")
    return " ".join(_TOKEN.findall(_IGNORED.sub("", text)))


def load(settings: Settings) -> Data:
    """The train, validation and test rows that `settings` ask for, the same ones for the same seed.

    `datapath` (and `validationpath`, `testpath`) is `esco`, `sample_ru`, `hf:OWNER/NAME` or a file.
    Without files of their own, validation and test are parts of `datapath`: groups that share a
    document or near copies of one form a unit, and each unit goes to one part as a whole. A unit too
    large for its part stays in train. Of ESCO, keyword queries are used in train only.

    Args:
        settings: paths, columns, shares, `maxrows`, `allowleaks` and the seed.

    Returns:
        The three tables with counts and a fingerprint.

    Raises:
        InputError: nothing to read, too few groups to split, shares that leave nothing for train, or
            a document of a separate validation or test file that occurs in train (`allowleaks` = go on).
    """
    shares = {
        "validation": 0.0 if settings.validationpath else settings.validationshare,
        "test": 0.0 if settings.testpath else settings.testshare,
    }
    if sum(shares.values()) >= 1:
        raise InputError(
            f"validationshare and testshare add up to {sum(shares.values()):g} and leave nothing for train; "
            "together they must stay below 1."
        )
    table, counts = _read(settings.datapath, settings)
    _check_groups(table, settings.datapath)
    counts["groups"] = table["group"].nunique()
    parts, exact = _split(table, shares, settings)
    for name, path in {"validation": settings.validationpath, "test": settings.testpath}.items():
        if path:
            parts[name], more = _read(path, settings)
            counts = {key: value + more.get(key, 0) for key, value in counts.items()}
            _check_groups(parts[name], path)
            _check_shape(parts["train"], parts[name], settings.datapath, path)
    for name in ("validation", "test"):
        parts[name] = parts[name][parts[name]["kind"] != "keywords"]
    if 0 < settings.maxrows < len(parts["train"]):
        kept = np.random.default_rng([settings.seed, 1]).permutation(len(parts["train"]))[: settings.maxrows]
        parts["train"] = parts["train"].iloc[np.sort(kept)]
    counts |= {name: len(part) for name, part in parts.items()} | _leaks(parts, settings, exact)
    logger.info("%s: %s", settings.datapath, ", ".join(f"{key} {value}" for key, value in counts.items()))
    final = {name: part[COLUMNS].reset_index(drop=True) for name, part in parts.items()}
    return Data(_name(settings.datapath), **final, counts=counts, fingerprint=fingerprint(final.values()))


def fingerprint(parts: Iterable[pd.DataFrame]) -> str:
    """16 hex digits that change with any text, group or row order of the tables."""
    pieces: list[object] = []
    for part in parts:
        negatives = ["\x1f".join(texts) for texts in part["negatives"]]
        pieces += [len(part), part["query"].tolist(), part["positive"].tolist(), part["group"].tolist(), negatives]
    return files.digest(*pieces)


def tasks(pairs: pd.DataFrame) -> dict[str, Task]:
    """Both search directions over the distinct texts of a pairs table.

    Texts are distinct where their normalised forms differ; the first spelling stands for them. A
    query and a document are relevant to each other when they occur in the same group, and a text
    that occurs in several groups belongs to each of them, so relevance is symmetric.

    Args:
        pairs: columns `query`, `positive`, `group`.

    Returns:
        The tasks "q2d" and "d2q".
    """
    groups, names = pd.factorize(pairs["group"])
    queries, query_groups, query_first = _texts(pairs["query"], groups)
    documents, document_groups, document_first = _texts(pairs["positive"], groups)
    relevance = (query_groups @ document_groups.T).tocsr()
    return {
        "q2d": Task("q2d", queries, documents, _rows(relevance), [str(names[index]) for index in query_first]),
        "d2q": Task(
            "d2q", documents, queries, _rows(relevance.T.tocsr()), [str(names[index]) for index in document_first]
        ),
    }


def near_copies(texts: Sequence[str], corpus: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray, bool]:
    """Which documents of `corpus` hold more than half of the 8-word runs (shingles) of which texts.

    Counted with an inverted index of hashed shingles (resemblance and containment: Broder, 1997), so
    the work grows with shared wording and not with the square of the table. Exact up to 20 million
    words and 200 million shared places. Beyond the first bound a fixed fraction of the shingles,
    chosen by hash, stands for all of them, and texts that keep fewer than 4 are left out; beyond the
    second, only the first documents with a very common shingle count as its holders. Texts of fewer
    than 8 words, and those of languages written without spaces, have no near copies.

    Args:
        texts: N normalised texts.
        corpus: normalised texts to look them up in; None = the same texts, each of which matches itself.

    Returns:
        Index arrays (M,) into `texts` and into `corpus`, one entry for each match, and whether the
        search was exact.
    """
    everything = [*texts, *(corpus or [])]
    step = max(1, math.ceil(sum(text.count(" ") + 1 for text in everything) / _WORDS_LIMIT))
    rows, hashes = _shingles(everything, step)
    vocabulary, codes = np.unique(hashes, return_inverse=True)
    matrix = _incidence(rows, codes, (len(everything), len(vocabulary)))
    wanted, index = matrix[: len(texts)], (matrix if corpus is None else matrix[len(texts) :]).T.tocsr()
    most, held = index.shape[1], np.diff(index.indptr)
    while np.minimum(held, most)[wanted.indices].sum() > _WORK_LIMIT:
        most //= 2
    if most < held.max(initial=0):
        index.data = (np.arange(index.nnz) - np.repeat(index.indptr[:-1], held) < most).astype(np.int32)
        index.eliminate_zeros()
    needed = np.diff(wanted.indptr) * NEAR_SHARE
    work = np.concatenate([[0], np.cumsum(np.minimum(held, most)[wanted.indices])])[wanted.indptr[1:]]
    bounds = np.unique(np.searchsorted(work, np.arange(0, work.max(initial=0) + 1, _WORK_LIMIT // 20)))
    found_texts, found_corpus = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start, stop in zip(bounds, [*bounds[1:], len(texts)], strict=True):
        shared = (wanted[start:stop] @ index).tocoo()
        near = (shared.data > needed[start + shared.row]) & (shared.data >= (1 if step == 1 else 4))
        found_texts.append(start + shared.row[near])
        found_corpus.append(shared.col[near])
    return np.concatenate(found_texts), np.concatenate(found_corpus), step == 1 and most == index.shape[1]


def describe(pairs: pd.DataFrame) -> pd.DataFrame:
    """How many texts of which lengths a pairs table holds: one row for its queries, one for its documents.

    Args:
        pairs: columns `query`, `positive`, `group`.

    Returns:
        Columns `text` ("query" or "document"), `rows`, `distinct` (after normalisation), `groups`, and
        the 5, 50, 95 and 100 % quantiles of the lengths, `characters_5` to `words_100`.
    """
    rows = []
    for name, column in (("query", "query"), ("document", "positive")):
        texts = pairs[column].tolist()
        row = {"text": name, "rows": len(texts), "distinct": _normalised(pairs[column]).nunique()}
        row["groups"] = pairs["group"].nunique()
        lengths = {"characters": [len(text) for text in texts], "words": [len(text.split()) for text in texts]}
        for unit, values in lengths.items():
            for share in (5, 50, 95, 100):
                row[f"{unit}_{share}"] = int(np.percentile(values, share, method="nearest")) if values else 0
        rows.append(row)
    return pd.DataFrame(rows)


def cyrillic_share(texts: Iterable[str]) -> np.ndarray:
    """The share of Cyrillic among the letters of each text, (N,), 0 to 1; 0 for texts without letters."""
    shares = []
    for text in texts:
        letters = [letter for letter in text if letter.isalpha()]
        shares.append(sum("\u0400" <= letter <= "\u052f" for letter in letters) / max(1, len(letters)))
    return np.array(shares, dtype=np.float64)


def _read(path: str, settings: Settings) -> tuple[pd.DataFrame, dict[str, int]]:
    """A pairs table with the working columns `query_key`, `document_key` and `kind`, clean, and its counts."""
    if path == "esco":
        table = esco.load_esco()
        counts = {"rows": len(table), "empty": 0, "unsplit": table.attrs["unsplit"]}
    else:
        columns = {name: getattr(settings, name) for name in _SAMPLE_COLUMNS | {"negativecolumn": ""}}
        if path == "sample_ru":
            columns |= {name: columns[name] or default for name, default in _SAMPLE_COLUMNS.items()}
            place: str | Path = paths.checkout() / "data" / "sample_ru.jsonl"
        else:
            place = path if path.startswith("hf:") else paths.resolve(path)
        table, counts = tables.read_pairs(place, **columns)
    table, dropped = _clean(table)
    counts = counts | {"empty": counts["empty"] + dropped["empty"], "duplicates": dropped["duplicates"]}
    return table, counts


def _clean(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The table with keys and groups, without rows that normalise to nothing or repeat another one."""
    table = table.assign(query_key=_normalised(table["query"]), document_key=_normalised(table["positive"]))
    if "kind" not in table:
        table["kind"] = "title"
    filled = table[(table["query_key"] != "") & (table["document_key"] != "")]
    given = filled["group"].fillna("").astype(str).str.strip() if "group" in filled else pd.Series("", filled.index)
    filled = filled.assign(group=np.where(given == "", filled["query_key"], given))
    keys = filled[["query_key", "document_key", "group"]]
    repeated = keys.duplicated()
    if repeated.any() and filled["negatives"].map(bool).any():
        # Tables of triplets repeat a pair for each of its wrong documents: keep them all, in one row.
        merged: dict[int, dict[str, None]] = {}
        codes = keys.groupby(list(keys), sort=False).ngroup()
        for code, negatives in zip(codes, filled["negatives"], strict=True):
            merged.setdefault(code, {}).update(dict.fromkeys(negatives))
        filled = filled.assign(negatives=[list(merged[code]) for code in codes])
    counts = {"empty": len(table) - len(filled), "duplicates": int(repeated.sum())}
    return filled[~repeated].reset_index(drop=True), counts


def _split(table: pd.DataFrame, shares: dict[str, float], settings: Settings) -> tuple[dict[str, pd.DataFrame], bool]:
    """Train, validation and test rows by unit, and whether the search for near copies was exact."""
    if not any(shares.values()):
        return {"train": table, "validation": table[:0], "test": table[:0]}, True
    groups, names = pd.factorize(table["group"])
    documents, texts = pd.factorize(table["document_key"])
    left, right, exact = near_copies(texts.tolist())
    ends = np.concatenate([groups, len(names) + left]), np.concatenate([len(names) + documents, len(names) + right])
    size = len(names) + len(texts)
    graph = sparse.coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(size, size))
    unit_of_group = sparse.csgraph.connected_components(graph, directed=False)[1][: len(names)]
    part_of_unit = _assign(np.bincount(unit_of_group), shares, settings)
    part = part_of_unit[unit_of_group][groups]
    return {name: table[part == number] for number, name in enumerate(("train", *shares))}, exact


def _assign(sizes: np.ndarray, shares: dict[str, float], settings: Settings) -> np.ndarray:
    """For each unit (U,) of so many groups 0 (train), 1 (validation) or 2 (test), in a seeded random order."""
    total = int(sizes.sum())
    room = {number: max(2, round(share * total)) for number, share in enumerate(shares.values(), 1) if share > 0}
    part, held = np.zeros(len(sizes), np.int8), dict.fromkeys(room, 0)
    order = np.random.default_rng(settings.seed).permutation(len(sizes))
    for unit in order.tolist():
        number = next((number for number in room if held[number] + sizes[unit] <= room[number]), 0)
        if number:
            part[unit] = number
            held[number] += int(sizes[unit])
        elif all(held[number] == room[number] for number in room):
            break
    # Where every unit is larger than a part, the part takes the smallest ones: a ranking needs two groups.
    for unit in order[np.argsort(sizes[order], kind="stable")].tolist():
        number = next((number for number in room if held[number] < 2), 0)
        if number and part[unit] == 0:
            part[unit] = number
            held[number] += int(sizes[unit])
    if sizes[part == 0].sum() < 2:
        raise InputError(
            f"{settings.datapath} has {total} groups in {len(sizes)} independent units (groups that share documents "
            f"or near copies stay together), too few for {len(room) + 1} parts of at least 2 groups each; give more "
            "rows, or separate files as validationpath and testpath."
        )
    return part


def _check_groups(table: pd.DataFrame, path: str) -> None:
    """Refuses a table in which nothing can be ranked."""
    if table["group"].nunique() < 2:
        found = "one single group" if len(table) else "no rows with words"
        raise InputError(
            f"{path} has {found}, so no document in it is wrong for any query; give rows of at least two groups, "
            "or set groupcolumn to a column that tells them apart."
        )


def _check_shape(train: pd.DataFrame, part: pd.DataFrame, train_path: str, path: str) -> None:
    """Refuses a separate file whose columns seem to be swapped."""
    lengths = [table[["query_key", "document_key"]].map(len).median() for table in (train, part)]
    ratios = [length["document_key"] / length["query_key"] for length in lengths]
    if min(ratios) <= 1 / 3 and max(ratios) >= 3:
        raise InputError(
            f"{path} looks as if its columns were swapped: its documents have {ratios[1]:.2g} times the length of its "
            f"queries, in {train_path} it is {ratios[0]:.2g} times; set querycolumn and positivecolumn."
        )


def _leaks(parts: dict[str, pd.DataFrame], settings: Settings, exact: bool) -> dict[str, int]:
    """Counts of what validation and test share with train.

    Raises:
        InputError: exact copies in a separate file, unless `allowleaks`.
    """
    train, held = parts["train"], pd.concat([parts["validation"], parts["test"]])
    corpus = train["document_key"].unique()
    for name, path in {"validation": settings.validationpath, "test": settings.testpath}.items():
        same = parts[name]["document_key"].isin(corpus)
        if path and same.any() and not settings.allowleaks:
            example = parts[name][same].iloc[0]
            raise InputError(
                f"{path}: {int(same.sum())} of {len(same)} {name} rows have a document that also "
                f'occurs in train (such as "{example["query"][:60]}": "{example["positive"][:60]}"), which flatters '
                "every metric; take them out of one file, or go on with --allowleaks."
            )
    same = held["document_key"].isin(corpus)
    others = held.loc[~same, "document_key"].unique()
    left, right, searched = near_copies(others.tolist(), corpus.tolist())
    near = held["document_key"].isin(others[left])
    if len(left):
        pair = f'"{others[left[0]][:80]}" of "{corpus[right[0]][:80]}"'
        logger.warning("%d validation and test rows are near copies of train documents, such as %s", near.sum(), pair)
    return {
        "exact_leaks": int(same.sum()),
        "near_leaks": int(near.sum()),
        "seen_queries": int(held["query_key"].isin(train["query_key"]).sum()),
        "near_exact": int(exact and searched),
    }


def _normalised(texts: pd.Series) -> pd.Series:
    """`normalise` of a column; repeated texts are worked on once."""
    codes, distinct = pd.factorize(texts)
    return pd.Series(np.array([normalise(text) for text in distinct], dtype=object)[codes], texts.index, dtype=object)


def _texts(texts: pd.Series, groups: np.ndarray) -> tuple[list[str], sparse.csr_array, np.ndarray]:
    """Distinct texts (T), a (T, G) matrix of the groups they occur in, and the first group of each (T,)."""
    codes, distinct = pd.factorize(_normalised(texts))
    first = np.unique(codes, return_index=True)[1]
    shape = (len(distinct), int(groups.max(initial=-1)) + 1)
    return texts.iloc[first].tolist(), _incidence(codes, groups, shape), groups[first]


def _incidence(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """A sparse matrix of ones at the given places, however often each is given."""
    matrix = sparse.coo_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape).tocsr()
    matrix.data[:] = 1
    return matrix


def _rows(matrix: sparse.csr_array) -> list[np.ndarray]:
    matrix.sort_indices()
    indices = matrix.indices.astype(np.int64)
    return [indices[start:stop] for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)]


def _shingles(texts: Sequence[str], step: int) -> tuple[np.ndarray, np.ndarray]:
    """For each run of 8 words whose hash falls into one of `step` classes: its text's index, its hash (S,)."""
    owners, hashes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        words = pd.util.hash_array(np.array(" ".join(chunk).split(" "), dtype=object))
        owner = np.repeat(np.arange(start, start + len(chunk)), [text.count(" ") + 1 for text in chunk])
        count = max(0, len(words) - SHINGLE + 1)
        mixed = np.zeros(count, np.uint64)
        for place in range(SHINGLE):
            mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + words[place : place + count]  # wraps, as hashes do
        kept = (owner[:count] == owner[SHINGLE - 1 :][:count]) & ((mixed >> np.uint64(20)) % np.uint64(step) == 0)
        owners.append(owner[:count][kept])
        hashes.append(mixed[kept])
    return np.concatenate(owners), np.concatenate(hashes)


def _name(path: str) -> str:
    return path if path in ("esco", "sample_ru") or path.startswith("hf:") else Path(path).name
