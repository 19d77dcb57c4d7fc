"""Texts that tests of the data room make up, and a toy table."""

from __future__ import annotations

import random

import pandas as pd


def sentence(number: int, words: int = 20) -> str:
    """A text of its own for each number; two of them share no run of 8 words."""
    return " ".join(f"w{value}" for value in random.Random(number).choices(range(5000), k=words))


def toy() -> pd.DataFrame:
    rows = [
        ("Cook", "makes soup", "kitchen"),
        ("chef", "makes soup", "kitchen"),
        ("cook!", "bakes fish", "kitchen"),
        ("smith", "bends iron", "forge"),
        ("cook", "makes soup", "canteen"),
        ("server", "brings plates", "canteen"),
    ]
    return pd.DataFrame(rows, columns=["query", "positive", "group"], index=[5, 3, 8, 1, 0, 2])
