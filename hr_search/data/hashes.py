"""Hashes of texts, 64 bits each, for tables whose texts do not fit into memory.

Two texts count as equal where their hashes are. Among ten million different texts the chance that any two share a hash
is 3 in a million (n² / 2⁶⁵). Hashes are equal in every process and on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    """The SipHash of each of N texts, (N,) uint64."""
    cells = np.empty(len(texts), object)
    cells[:] = texts
    return pd.util.hash_array(cells, categorize=False)


def mixed(*parts: np.ndarray | int) -> np.ndarray:
    """One hash of several, (N,) uint64 each or one number, in their order (SplitMix64: Steele et al. 2014)."""
    whole = np.zeros(1, np.uint64)
    for part in parts:
        whole = whole * np.uint64(0x9E3779B97F4A7C15) + np.asarray(part, np.uint64)  # overflow wraps
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            whole = (whole ^ (whole >> np.uint64(shift))) * np.uint64(factor)
        whole = whole ^ (whole >> np.uint64(31))
    return whole


def shares(hashes: np.ndarray) -> np.ndarray:
    """Hashes as numbers from 0 to 1, 1 excluded, float64."""
    return (hashes >> np.uint64(11)) * 2.0**-53


class Numbering:
    """Numbers for distinct hashes in the order in which they first occur: 12 bytes each.

    The known hashes lie in sorted runs, of which each is more than twice as long as the next, so that adding to them
    costs a few merges.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []  # sorted hashes and their numbers
        self.count = 0

    def add(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of each hash, (N,) int32, and the places in `hashes` where those occur that are new, in order."""
        distinct, first, back = np.unique(hashes, return_index=True, return_inverse=True)
        numbers = self._known(distinct)
        new = np.flatnonzero(numbers < 0)
        new = new[np.argsort(first[new], kind="stable")]
        numbers[new] = np.arange(self.count, self.count + len(new), dtype=np.int32)
        self.count += len(new)
        if len(new):
            new_sorted = np.sort(new)
            self._runs.append((distinct[new_sorted], numbers[new_sorted]))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            self._runs.append(_merged(self._runs.pop(), self._runs.pop()))
        return numbers[back], first[new]

    def _known(self, hashes: np.ndarray) -> np.ndarray:
        """The number of each hash, -1 where it is new."""
        numbers = np.full(len(hashes), -1, np.int32)
        for keys, values in self._runs:
            place = np.searchsorted(keys, hashes).clip(max=len(keys) - 1)
            there = keys[place] == hashes
            numbers[there] = values[place[there]]
        return numbers


def _merged(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Two sorted runs as one."""
    places = np.searchsorted(one[0], other[0]) + np.arange(len(other[0]))
    total = len(one[0]) + len(other[0])
    own = np.ones(total, bool)
    own[places] = False
    parts = []
    for left, right in zip(one, other, strict=True):
        whole = np.empty(total, left.dtype)
        whole[own], whole[places] = left, right
        parts.append(whole)
    return parts[0], parts[1]
