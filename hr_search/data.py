"""Pairs for training, validation and test: read, cleaned, split without leaks, and turned into search tasks.

Vacancies are posted again and again, with a city or a salary changed. A random split therefore puts
near copies of train documents into the test, and every metric flatters the model. Here rows that
share a group, a document or most of a document's wording always stay on the same side, and tables
that come already split are checked for the same thing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from hr_search import esco, files, paths, tables
from hr_search.config import Settings
from hr_search.copies import incidence, near_copies, normalise, normalised
from hr_search.errors import InputError

logger = logging.getLogger(__name__)

COLUMNS = ["query", "positive", "negatives", "group"]
_TEMPLATES = ("template", "documenttemplate")
_SAMPLE_COLUMNS = {"querycolumn": "position", "positivecolumn": "description", "groupcolumn": "group"}


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
        if settings.datapath == "esco":
            # Some 36 titles share one text ("import export manager in ..."); one each is a fair test.
            parts[name] = parts[name].drop_duplicates("document_key")
    counts["negative_leaks"] = _drop_negatives(parts)
    if 0 < settings.maxrows < len(parts["train"]):
        kept = np.random.default_rng([settings.seed, 1]).permutation(len(parts["train"]))[: settings.maxrows]
        parts["train"] = parts["train"].iloc[np.sort(kept)]
    counts |= {name: len(part) for name, part in parts.items()} | _leaks(parts, settings, exact)
    logger.info("%s: %s", settings.datapath, ", ".join(f"{key} {value}" for key, value in counts.items()))
    final = {name: part[COLUMNS].reset_index(drop=True) for name, part in parts.items()}
    return Data(_name(settings.datapath), **final, counts=counts, fingerprint=fingerprint(final.values()))


def load_all(settings: Settings) -> pd.DataFrame:
    """All rows of `datapath` as one pairs table, unsplit, to evaluate a model on; of ESCO without keyword queries."""
    table, _ = _read(settings.datapath, settings)
    return table[table["kind"] != "keywords"][COLUMNS].reset_index(drop=True)


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


def _read(path: str, settings: Settings) -> tuple[pd.DataFrame, dict[str, int]]:
    """A pairs table with the working columns `query_key`, `document_key` and `kind`, clean, and its counts."""
    if path == "esco":
        if settings.template or settings.documenttemplate:
            raise InputError("esco has its queries and documents ready; --template is for tables of your own.")
        table = esco.load_esco()
        counts = {"rows": len(table), "empty": 0, "unsplit": table.attrs["unsplit"]}
    else:
        columns = {name: getattr(settings, name) for name in (*_SAMPLE_COLUMNS, "negativecolumn", *_TEMPLATES)}
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
    table = table.assign(query_key=normalised(table["query"]), document_key=normalised(table["positive"]))
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


def _drop_negatives(parts: dict[str, pd.DataFrame]) -> int:
    """Takes held-out documents out of the given negatives of train, in place; returns how many there were."""
    train = parts["train"]
    if not train["negatives"].str.len().any():
        return 0
    held = set(parts["validation"]["document_key"]) | set(parts["test"]["document_key"])
    kept = [[text for text in texts if normalise(text) not in held] for texts in train["negatives"]]
    parts["train"] = train.assign(negatives=kept)
    return int(train["negatives"].str.len().sum() - sum(map(len, kept)))


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


def _texts(texts: pd.Series, groups: np.ndarray) -> tuple[list[str], sparse.csr_array, np.ndarray]:
    """Distinct texts (T), a (T, G) matrix of the groups they occur in, and the first group of each (T,)."""
    codes, distinct = pd.factorize(normalised(texts))
    first = np.unique(codes, return_index=True)[1]
    shape = (len(distinct), int(groups.max(initial=-1)) + 1)
    return texts.iloc[first].tolist(), incidence(codes, groups, shape), groups[first]


def _rows(matrix: sparse.csr_array) -> list[np.ndarray]:
    matrix.sort_indices()
    indices = matrix.indices.astype(np.int64)
    return [indices[start:stop] for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)]


def _name(path: str) -> str:
    return path if path in ("esco", "sample_ru") or path.startswith("hf:") else Path(path).name
