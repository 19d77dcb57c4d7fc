"""Token tables: texts tokenised once, kept as one flat memory-mapped array.

A training run meets each text many times; its tokens never change. Peers tokenise every batch of
every epoch again, which costs a third and more of a fast training step.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hr_search.base import paths
from hr_search.base.errors import InputError, one_line, quoted
from hr_search.base.files import digest, whole_folder
from hr_search.base.mapped import GrowingArray, release

log = logging.getLogger(__name__)

_SLICE = 2_000  # texts tokenised at a time: what the tokenizers library makes of one takes a hundred times its tokens
_DIGESTED = 10_000  # texts that go into one digest of those that name a table in the cache
_PATIENCE = 60.0  # seconds that a slice may take, and
_SLOWEST = 20_000  # characters a second besides; ordinary tokenizers take in a million
_SWEPT = 10_000_000  # tokens looked at together
_CACHED_FROM = 1_000  # fewer texts are tokenised faster than a cache is looked up

APART = 1 << 30  # added to the id of a token that the transformer reads and the pooling leaves out


class TokenTable(Sequence):
    """The token ids of N texts: `table[i]` is an int32 array (L_i,), special tokens included.

    Attributes:
        ids: all tokens in one row (T,), int32, memory-mapped where it comes from the cache.
        offsets: where each text starts, (N + 1,), int64.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray) -> None:
        self.ids, self.offsets = ids, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self))[index]  # counts negative ones from the end, refuses those outside
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per text, (N,), int64."""
        return np.diff(self.offsets)

    def used(self) -> np.ndarray:
        """The distinct token ids that occur, sorted."""
        return np.unique(np.concatenate([np.empty(0, np.int32), *map(np.unique, self._sweep())]))

    def highest(self) -> int:
        """The largest token id that occurs; 0 where there is none."""
        return max((int(part.max()) for part in self._sweep()), default=0)

    def _sweep(self) -> Iterator[np.ndarray]:
        """All tokens, some at a time: a sweep over a large mapped file would bring all of it into memory."""
        for at in range(0, len(self.ids), _SWEPT):
            yield self.ids[at : at + _SWEPT]
            release(self.ids)


def set_apart(table: TokenTable, count: int) -> TokenTable:
    """A copy of `table` in which the first `count` tokens of each text are marked as `APART`."""
    places = np.arange(len(table.ids)) - np.repeat(table.offsets[:-1], table.lengths)
    return TokenTable(np.where(places < count, table.ids | APART, table.ids).astype(np.int32), table.offsets)


def without_apart(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """The mask (N, width) of the places behind the tokens that are marked as `APART`, which come first in each row."""
    counts = np.array([np.count_nonzero(row & APART) for row in rows], np.int64)
    return np.arange(width) >= counts[:, None]


def tokenise(
    tokenizer: Any, texts: Sequence[str], prompt: str = "", maxlength: int = 128, cached: bool = True
) -> TokenTable:
    """The token table of `texts`, from the cache where the same texts were tokenised before.

    Args:
        tokenizer: a transformers fast tokenizer.
        texts: N texts.
        prompt: put before each text, as sentence-transformers does.
        maxlength: tokens a text is cut to, special tokens included.
        cached: look in, and add to, the cache on disk (only for a thousand texts and more).

    Returns:
        A table of N rows.
    """
    if not cached or len(texts) < _CACHED_FROM:
        return _table(_slices(tokenizer, texts, prompt, maxlength))
    folder = (
        paths.cache() / "tokens" / digest(fingerprint(tokenizer), prompt, maxlength, len(texts), _texts_digest(texts))
    )
    if (table := _kept(folder, len(texts))) is None:
        try:
            with whole_folder(folder) as target:
                _write(target, _slices(tokenizer, texts, prompt, maxlength))
        except InputError:
            if _kept(folder, len(texts)) is None:  # else another process was faster
                raise
        table = _kept(folder, len(texts))
    return table


def _kept(folder: Path, count: int) -> TokenTable | None:
    """The table of `count` texts that lies in the cache, None where there is none or it is damaged."""
    try:
        table = TokenTable(np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "offsets.npy"))
        if table.offsets.shape != (count + 1,) or table.offsets[-1] != len(table.ids):
            raise ValueError("it does not fit its texts")
        return table
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        log.warning("the token cache %s is damaged (%s) and is made anew", folder, one_line(error))
        return None


def fingerprint(tokenizer: Any) -> str:
    """A digest of everything that decides how `tokenizer` cuts texts."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return digest(repr(tokenizer), sorted(tokenizer.get_vocab().items()))
    # Truncation and padding are set by every call; they do not belong to the tokenizer itself.
    core.no_truncation()
    core.no_padding()
    return digest(core.to_str(), tokenizer.truncation_side)


def _texts_digest(texts: Sequence[str]) -> str:
    return digest(*(digest(list(texts[at : at + _DIGESTED])) for at in range(0, len(texts), _DIGESTED)))


def _slices(tokenizer: Any, texts: Sequence[str], prompt: str, maxlength: int) -> Iterator[list[list[int]]]:
    for at in range(0, len(texts), _SLICE):
        part = [prompt + text for text in texts[at : at + _SLICE]]
        cut = functools.partial(
            tokenizer, truncation=True, max_length=maxlength, padding=False, return_attention_mask=False, verbose=False
        )
        yield bounded(cut, part)["input_ids"]


def bounded(work: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> Any:
    """The result of `work` on `texts`; a tokenizer is foreign data that may loop or panic, and cannot be interrupted.

    Raises:
        InputError: it has failed, or takes a hundred times as long as any that works.
    """
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((work(texts), None))
        except BaseException as error:  # a panic of the tokenizers library is no Exception
            outcome.append((None, error))

    limit = _PATIENCE + sum(map(len, texts)) / _SLOWEST
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit)
    result, error = outcome[0] if outcome else (None, TimeoutError(f"no end after {limit:.0f} s"))
    if error is None:
        return result
    raise InputError(
        f"the model's tokenizer fails on texts such as {quoted(texts[0])} ({one_line(error, 120)}); copy its "
        "files again, or take another model."
    ) from error


def _table(slices: Iterator[list[list[int]]]) -> TokenTable:
    lengths: list[int] = []
    parts = [np.empty(0, np.int32)]
    for part in slices:
        lengths += map(len, part)
        parts.append(_flat(part))
    return TokenTable(np.concatenate(parts), _offsets(lengths))


def _flat(rows: list[list[int]]) -> np.ndarray:
    """All tokens of some rows one after the other, int32."""
    return np.fromiter(itertools.chain.from_iterable(rows), np.int32, sum(map(len, rows)))


def _offsets(lengths: list[int]) -> np.ndarray:
    """Where each of N rows starts, (N + 1,) int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _write(folder: Path, slices: Iterator[list[list[int]]]) -> None:
    places = GrowingArray(folder / "ids.npy", np.int32), GrowingArray(folder / "offsets.npy", np.int64)
    with contextlib.closing(places[0]) as ids, contextlib.closing(places[1]) as offsets:
        offsets.append(np.zeros(1, np.int64))
        for part in slices:
            offsets.append(ids.count + np.cumsum([len(row) for row in part], dtype=np.int64))
            ids.append(_flat(part))


def batches_by_length(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Groups of texts of similar length whose padded size stays within a budget.

    Args:
        lengths: tokens per text, (N,).
        tokens: the largest number of padded tokens a group may have; a longer text stands alone.

    Returns:
        Index arrays that together hold 0..N-1 once, longest texts first, so that running out of
        memory shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    groups, start = [], 0
    while start < len(order):
        size = max(1, tokens // max(1, int(lengths[order[start]])))
        groups.append(order[start : start + size])
        start += size
    return groups
