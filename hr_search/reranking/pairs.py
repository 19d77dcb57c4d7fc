"""Pairs of texts as the tokens a cross-encoder reads: title first, then the vacancy, cut where the model ends.

A text of many pairs is split into tokens once. Each pair gets its special tokens, its token types and its cut from
the tokenizer itself, so it is what `CrossEncoder` would make of the same pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hr_search.base.errors import InputError
from hr_search.fast.tokens import bounded

SECOND = 1 << 30  # added to the id of a token of type 1, which models of the BERT family give to the second text


def pair_rows(tokenizer: Any, titles: Sequence[str], vacancies: Sequence[str], maxlength: int) -> list[np.ndarray]:
    """The token ids of P pairs, int32 arrays (L_p,), special tokens included, those of type 1 marked by `SECOND`.

    A pair that is too long loses tokens of the longer text first: the vacancy, unless a title fills half the room.

    Args:
        tokenizer: of transformers.
        titles: the first text of each pair, (P,).
        vacancies: the second one, (P,).
        maxlength: tokens of a pair.

    Raises:
        InputError: the tokenizer fails, or has more than two types of tokens.
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return _slow_rows(tokenizer, titles, vacancies, maxlength)
    core.no_padding()
    core.no_truncation()
    distinct = list(dict.fromkeys([*titles, *vacancies]))
    split = dict(zip(distinct, bounded(lambda texts: _split(core, texts, maxlength), distinct), strict=True))
    core.enable_truncation(maxlength, strategy="longest_first", direction=tokenizer.truncation_side)
    joined = (core.post_process(split[a], split[b]) for a, b in zip(titles, vacancies, strict=True))
    rows = [_marked(pair.ids, pair.type_ids) for pair in joined]
    core.no_truncation()
    return rows


def joins(tokenizer: Any) -> bool:
    """Whether a tokenizer puts special tokens around two texts, without which a model cannot see where one ends."""
    return tokenizer.num_special_tokens_to_add(pair=True) > 0


def _split(core: Any, texts: Sequence[str], maxlength: int) -> list[Any]:
    """The tokens of texts without special ones, no more of each than a pair can hold."""
    found = core.encode_batch(list(texts), add_special_tokens=False)
    for encoding in found:
        encoding.truncate(maxlength)  # what is left is copied for every pair
    return found


def _slow_rows(tokenizer: Any, titles: Sequence[str], vacancies: Sequence[str], maxlength: int) -> list[np.ndarray]:
    """`pair_rows` for a tokenizer written in Python."""

    def cut(pairs: Sequence[tuple[str, str]]) -> Any:
        firsts, seconds = zip(*pairs, strict=True)
        return tokenizer(list(firsts), list(seconds), truncation=True, max_length=maxlength, return_token_type_ids=True)

    pairs = list(zip(titles, vacancies, strict=True))
    if not pairs:
        return []
    found = bounded(lambda texts: cut(pairs), [f"{a} {b}" for a, b in pairs])
    return [_marked(*row) for row in zip(found["input_ids"], found["token_type_ids"], strict=True)]


def _marked(ids: list[int], types: list[int]) -> np.ndarray:
    if max(types, default=0) > 1:
        raise InputError("the tokenizer gives tokens more than two types; take a model of the BERT or RoBERTa family.")
    return np.asarray(ids, np.int32) | (np.asarray(types, np.int32) * SECOND)
