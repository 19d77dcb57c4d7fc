"""The files of a table larger than memory (`--stream`): it is read once in blocks, and its distinct texts are kept.

A row goes to train, validation or test by a hash of its group and `splitseed`, so whole groups stay together, and what
is drawn depends on nothing but these. Validation and test hold at most `HELD` rows each: where their share is more, the
groups with the largest hashes go to train.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hr_search.base import arrays, files, locks, paths
from hr_search.base.errors import InputError, one_line
from hr_search.base.hub import files_of
from hr_search.base.mapped import GrowingArray, GrowingTexts, StoredTexts
from hr_search.data import reading
from hr_search.data.blocks import require_kind
from hr_search.data.counts import Counts
from hr_search.data.duplicates import near_any, normalised
from hr_search.data.hashes import Numbering, mixed, shares, text_hashes
from hr_search.settings import Settings

log = logging.getLogger(__name__)

HELD = 20_000
"""Rows that validation and test hold at most, each."""
FIRST = 20_000
"""Train rows that are looked at to see what they are like."""

_READ_BY = (  # settings that decide what the files of a table hold
    *("querycolumn", "positivecolumn", "negativecolumn", "groupcolumn", "template", "documenttemplate"),
    *("redact", "keephtml", "identity", "encoding", "splitseed"),
)
_LOGGED = 1_000_000  # rows between two lines of the log
_BLOCK = 20_000  # texts read at a time
_HELD_COLUMNS = ("query", "positive", "group", "query_key", "document_key", "group_key", "kind")


def require_table(settings: Settings) -> None:
    """Checks that `datapath` is one table that can be read in blocks; the files of a data set on the Hub come later.

    Raises:
        InputError: it is not.
    """
    if len(tables := settings.tables()) > 1:
        raise InputError("--stream reads one table as datapath, not several; name one, or leave --stream out.")
    if not str(place := reading.place_of(tables[0].datapath, tables[0])).startswith("hf:"):
        require_kind(place)


def stored(settings: Settings, parts: Mapping[str, float]) -> Stored:
    """The files of a table, written where they are missing: the same table read in the same way is read once.

    Args:
        settings: `datapath` (a .jsonl or .parquet file, `sample_ru`, or `hf:OWNER/NAME` with such files), columns,
            templates, `redact`, `keephtml`, `identity`, `encoding`, `splitseed`.
        parts: shares of "validation" and "test".

    Raises:
        InputError: as `require_table` and `reading.read_blocks`; too few groups for a part.
    """
    require_table(settings)
    settings = settings.tables()[0]
    path, place = settings.datapath, reading.place_of(settings.datapath, settings)
    sources = [file for _, file in files_of(str(place))] if str(place).startswith("hf:") else [Path(place)]
    for source in sources:
        require_kind(source)
    asked = [getattr(settings, name) for name in _READ_BY]
    # Any change to the modules that read and clean may change what they give.
    code = [module.read_text(encoding="utf-8") for module in sorted(Path(__file__).parent.glob("*.py"))]
    key = files.digest(*map(_digest, sources), *asked, *sorted(parts.items()), *code)
    folder = paths.cache() / "streams" / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({one_line(error)}); choose another HR_SEARCH_HOME.") from error
    with locks.exclusive(folder, wait=True):  # of several processes one reads the table
        found = _kept(folder / "files")
        if found is None:
            with files.whole_folder(folder / "files") as target:
                _write(target, path, settings, parts)
            found = Stored(folder / "files")
    return found


def _digest(path: Path) -> str:
    """Of the bytes of a file; "" where there is none, which its reader will say."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return ""


def _kept(folder: Path) -> Stored | None:
    """The files in a folder of the cache; None where there are none, or they are damaged."""
    if not folder.exists():
        return None
    try:
        return Stored(folder)
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the cached table %s is damaged (%s) and is made anew", folder, one_line(error))
        return None


def _write(folder: Path, path: str, settings: Settings, parts: Mapping[str, float]) -> None:
    """Reads a table block by block into the files of a folder."""
    counts, known, dealer, logged = Counts(), Numbering(), Dealer(parts, settings.splitseed), _LOGGED
    with contextlib.closing(Writer(folder)) as writer:
        for table, more in reading.read_blocks(path, settings):
            keys = [text_hashes(table[name].tolist()) for name in ("query_key", "document_key", "group")]
            new = np.zeros(len(table), bool)
            new[known.add(mixed(*keys))[1]] = True
            # What negatives a repeated row brings may be others than those of the first one.
            new |= table["negatives"].str.len().to_numpy() > 0
            counts += more + Counts(duplicates=int((~new).sum()))
            for train in dealer.deal(table[new]):
                writer.add(train)
            if counts.rows >= logged:
                log.info("%s: %d rows read", path, counts.rows)
                logged += _LOGGED
        known = None
        held = dealer.parts()
        counts += Counts(groups=writer.groups.count + sum(part["group"].nunique() for part in held.values()))
    if counts.empty:
        log.warning("%s: %d of %d rows are left out, their query or document is empty", path, counts.empty, counts.rows)
    _require_groups(path, writer.groups.count, held, parts)
    for name, part in held.items():
        table = part[list(_HELD_COLUMNS)].to_dict("list") | {"negatives": part["negatives"].tolist()}
        files.write_json(folder / f"{name}.json", table)
    near, exact = _near_documents(StoredTexts(folder, "documents"), held)
    arrays.save(folder / "near.npy", near)
    manifest = {"counts": counts.to_dict(), "digest": writer.digest, "rows": writer.count, "exact": exact}
    files.write_json(folder / "manifest.json", manifest)


def _near_documents(documents: StoredTexts, held: Mapping[str, pd.DataFrame]) -> tuple[np.ndarray, bool]:
    """The numbers of train documents most of whose wording a held-out row repeats, and whether the search was exact."""
    keys = sorted({key for part in held.values() for key in part["document_key"]})
    if not keys:
        return np.zeros(0, np.int64), True
    _, near, exact = near_any(keys, normal_blocks(documents))
    return np.flatnonzero(near), exact


def normal_blocks(texts: StoredTexts) -> Iterator[list[str]]:
    """The normalised texts, block by block."""
    for start in range(0, len(texts), _BLOCK):
        yield normalised(pd.Series(texts[start : start + _BLOCK], dtype=object)).tolist()


def _require_groups(path: str, train: int, held: Mapping[str, pd.DataFrame], parts: Mapping[str, float]) -> None:
    """Checks that something can be ranked in each part.

    Raises:
        InputError: a part has fewer than two groups.
    """
    found = {name: held[name]["group"].nunique() for name, share in parts.items() if share} | {"train": train}
    if few := next((name for name, groups in found.items() if groups < 2), ""):
        raise InputError(
            f"{path}: {found[few]} of its groups came to {few}, which needs at least 2 (--stream draws parts by a "
            "hash of the group); change --splitseed or the shares, give more groups, or leave --stream out."
        )


class Dealer:
    """Sends each row to its part by a hash of its group and the seed."""

    def __init__(self, parts: Mapping[str, float], seed: int) -> None:
        """`parts`: shares of "validation" and "test"; train gets the rest."""
        starts = np.cumsum([0.0, *parts.values()])
        self._ranges = {
            name: [start, start + share] for (name, share), start in zip(parts.items(), starts, strict=False)
        }
        self._seed, self._shares, self._rows = seed, dict(parts), 0
        self._kept: dict[str, list[pd.DataFrame]] = {name: [] for name in parts}

    def deal(self, table: pd.DataFrame) -> list[pd.DataFrame]:
        """Keeps the rows of validation and test; returns tables of those of train, given-back ones last."""
        place = shares(mixed(text_hashes(table["group"].tolist()), self._seed))
        train, back = np.ones(len(table), bool), []
        self._rows += len(table)
        for name, (low, high) in self._ranges.items():
            own = (place >= low) & (place < high)
            train &= ~own
            if own.any() or not self._kept[name]:
                self._kept[name].append(table[own].assign(place=place[own]))
                back += self._overflow(name)
        return [table[train], *back]

    def _overflow(self, name: str) -> list[pd.DataFrame]:
        """What a part cannot hold: its groups with the largest hashes, which from now on belong to train."""
        if sum(map(len, self._kept[name])) <= HELD:
            return []
        whole = pd.concat(self._kept[name], ignore_index=True)
        limit = np.sort(whole["place"].to_numpy())[HELD]  # the hash of the first row too many, so of a group
        stays = whole["place"] < limit
        self._ranges[name][1], self._kept[name] = limit, [whole[stays]]
        return [whole[~stays]]

    def parts(self) -> dict[str, pd.DataFrame]:
        """The rows of validation and test; the log says how far they are from their shares."""
        held = {name: pd.concat(kept, ignore_index=True) for name, kept in self._kept.items() if kept}
        for name, share in self._shares.items():
            if share:
                count, full = len(held[name]), self._ranges[name][1] - self._ranges[name][0] < share - 1e-9
                capped = f"; with --stream a part holds at most {HELD:,}" if full else ""
                words = f"{name} has {count:,} of {self._rows:,} rows, {count / self._rows:.1%} for {share:.1%}{capped}"
                (log.warning if full else log.info)(words)
        return held


class Writer:
    """Writes train rows and their distinct texts into the files of a folder, in the order in which they come.

    Attributes:
        count: rows.
        digest: of all texts and groups of all rows; known once the writer is closed.
    """

    def __init__(self, folder: Path) -> None:
        self._texts = {name: GrowingTexts(folder, name) for name in ("queries", "documents", "groups")}
        self._keys = {name: GrowingArray(folder / f"{name}_keys.npy", np.uint64) for name in ("queries", "documents")}
        self._rows = {name: GrowingArray(folder / f"{name}.npy", np.int32) for name in ("query", "positive", "group")}
        self._wrong = GrowingArray(folder / "wrong.npy", np.int32)
        self._ends = GrowingArray(folder / "wrong_ends.npy", np.int64)
        self._numbers = {name: Numbering() for name in self._texts}
        self._state, self.digest, self.count = hashlib.blake2b(digest_size=16), "", 0

    @property
    def groups(self) -> Numbering:
        """The groups that have occurred."""
        return self._numbers["groups"]

    def add(self, table: pd.DataFrame) -> None:
        """Adds rows of a cleaned table."""
        if not len(table):
            return
        self._rows["query"].append(self._number("queries", table["query"].tolist(), table["query_key"]))
        self._rows["positive"].append(self._number("documents", table["positive"].tolist(), table["document_key"]))
        self._rows["group"].append(self._number("groups", table["group"].tolist()))
        wrong = table["negatives"].tolist()
        flat = [text for texts in wrong for text in texts]
        if flat:
            self._wrong.append(self._number("documents", flat))
        self._ends.append(self._wrong.count - len(flat) + np.cumsum([len(texts) for texts in wrong], dtype=np.int64))
        self.count += len(table)

    def _number(self, name: str, texts: list[str], keys: pd.Series | None = None) -> np.ndarray:
        """The number of each text among those of a kind, (N,) int32; new ones are written."""
        hashes = text_hashes(texts)
        self._state.update(hashes.tobytes())
        numbers, new = self._numbers[name].add(hashes)
        fresh = [texts[at] for at in new]
        self._texts[name].append(fresh)
        if name in self._keys:
            normal = normalised(pd.Series(fresh, dtype=object)) if keys is None else keys.iloc[new]
            self._keys[name].append(text_hashes(normal.tolist()))
        return numbers

    def close(self) -> None:
        """Finishes all files."""
        for file in (*self._texts.values(), *self._keys.values(), *self._rows.values(), self._wrong, self._ends):
            file.close()
        self.digest = self._state.hexdigest()


class Stored:
    """The files of a table.

    Attributes:
        held: the rows of "validation" and "test".
        counts: of the reading.
        exact: whether all near copies of held-out documents were found.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a folder that `stored` has written.

        Raises:
            Exception: of any kind, where a file is missing or damaged.
        """
        manifest = files.read_json(folder / "manifest.json")
        self.folder, self.digest, self.exact = folder, str(manifest["digest"]), bool(manifest["exact"])
        self.counts, count = Counts(**manifest["counts"]), int(manifest["rows"])
        self.queries, self.documents = (StoredTexts(folder, name) for name in ("queries", "documents"))
        self.groups = StoredTexts(folder, "groups")
        self.query, self.positive, self.group = (_array(folder, name) for name in ("query", "positive", "group"))
        self.query_keys, self.document_keys = (
            _array(folder, f"{name}_keys", True) for name in ("queries", "documents")
        )
        self.wrong, self.ends = _array(folder, "wrong"), _array(folder, "wrong_ends", mapped=True)
        self.near = _array(folder, "near")
        lengths = {len(array) for array in (self.query, self.positive, self.group, self.ends)}
        if lengths != {count} or len(self.query_keys) != len(self.queries):
            raise ValueError("its files do not fit one another")
        self.held = {}
        for name in ("validation", "test"):
            if (folder / f"{name}.json").exists():
                self.held[name] = pd.DataFrame(files.read_json(folder / f"{name}.json"), dtype=object)

    @property
    def wrong_lengths(self) -> np.ndarray:
        """How many given negatives each row has, (N,)."""
        return np.diff(self.ends, prepend=0)

    def parts(self) -> dict[str, pd.DataFrame]:
        """The first of the train rows, and the rows of validation and test, each without documents of the latter."""
        first = self._first()
        validation, test = (self.held.get(name, first[:0]) for name in ("validation", "test"))
        clean = ~validation["document_key"].isin(test["document_key"])
        return {"train": first, "validation": validation[clean], "test": test}

    def _first(self) -> pd.DataFrame:
        """The first train rows without their negatives, with the working columns of `reading.cleaned`."""
        chosen = slice(0, FIRST)
        table = pd.DataFrame(
            {
                "query": [self.queries[at] for at in self.query[chosen]],
                "positive": [self.documents[at] for at in self.positive[chosen]],
                "group": [self.groups[at] for at in self.group[chosen]],
            }
        )
        keys = {"query_key": normalised(table["query"]), "document_key": normalised(table["positive"])}
        return table.assign(**keys, negatives=[[] for _ in range(len(table))], group_key=table["group"], kind="title")


def _array(folder: Path, name: str, mapped: bool = False) -> np.ndarray:
    return np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None, allow_pickle=False)
