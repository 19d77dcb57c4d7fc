"""Whether an encoder gives what the saved model gives: a few texts, encoded by it and by sentence-transformers.

Encoders take shortcuts (tokens from a cache, no padding), and a model may have a feature that a shortcut skips.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from hr_search.base.choices import SIDES
from hr_search.base.errors import InputError, one_line
from hr_search.fast.tokens import bounded

log = logging.getLogger(__name__)

TEXTS = ("a", "Welder, TIG & MIG", "Сварщик 5 разряда (НАКС), вахта 60/30", " two  spaces and a line\n– 1С:ERP 8.3 ")
_NEAR = 1e-4  # between numbers of unit vectors; a skipped feature makes hundredths
_LONG = 1000  # words of the text that shows where texts are cut


def settle(encoder: Any, proven: tuple[bool, bool] | None = None) -> None:
    """Takes from an encoder the shortcuts with which it does not give what its model gives.

    Without padding first, then with padding, and last through sentence-transformers itself.

    Args:
        encoder: an `hr_search.encoder.Encoder`.
        proven: its `packs` and `foreign` as an earlier call has settled them for the same files and libraries;
            None = check it.
    """
    if proven:
        encoder.packs, encoder.foreign = encoder.packs and proven[0], encoder.foreign or proven[1]
        encoder.train()
        return
    trouble = f"its first module is a {type(encoder.model[0]).__name__}" if encoder.foreign else _trouble(encoder)
    if trouble and encoder.packs:
        encoder.packs = False
        if not (left := _trouble(encoder)):
            log.info("%s is encoded with padding, which is slower: without, %s", encoder.name, trouble)
        trouble = left
    if trouble:
        encoder.foreign = True
        log.info("%s is encoded by sentence-transformers itself, which is slower: %s", encoder.name, trouble)
        if left := deviation(encoder):
            log.warning("%s gives no text one fixed embedding: %s from one batch to another", encoder.name, left)
    encoder.train()


def _trouble(encoder: Any) -> str:
    """What `deviation` says, or what fails."""
    try:
        return deviation(encoder)
    except InputError:
        raise
    except Exception as error:  # whatever a forward pass does with what it does not expect
        return one_line(error, 120)


def deviation(encoder: Any) -> str:
    """In what an encoder deviates from `encode_query` and `encode_document` of its model; "" if in nothing.

    Args:
        encoder: an `hr_search.encoder.Encoder`; neither its state nor that of a random generator changes.

    Returns:
        A clause.

    Raises:
        InputError: the model's weights turn texts into NaN or infinity.
    """
    with _still(encoder):
        for side in SIDES:
            texts = [*TEXTS, "welder 12 " * min(_LONG, encoder.maxlength)]
            features = bounded(lambda texts, side=side: _features(encoder, texts, side), texts)
            if not encoder.foreign and not _same_tokens(encoder, texts, side, features):
                return f"it tokenises a {side} in its own way"
            ours = encoder.embed(encoder.tokens(TEXTS, side, cached=False))
            encode = encoder.model.encode_query if side == "query" else encoder.model.encode_document
            theirs = encode(list(TEXTS), show_progress_bar=False)
            if not np.isfinite(theirs).all():
                raise InputError(
                    f"the weights of the model {encoder.name} are damaged: they turn a text into NaN; copy it again."
                )
            theirs = theirs / np.maximum(np.linalg.norm(theirs, axis=1, keepdims=True), 1e-12)
            if ours.shape != theirs.shape or not np.abs(ours - theirs).max() <= _NEAR:
                apart = np.abs(ours - theirs).max() if ours.shape == theirs.shape else np.nan
                return f"the embeddings of a {side} differ by up to {apart:.2g}"
    return ""


def _features(encoder: Any, texts: list[str], side: str) -> dict[str, Any]:
    """What sentence-transformers makes of texts before the first module."""
    return encoder.model.preprocess(texts, prompt=encoder.prompt(side) or None, task=side)


def _same_tokens(encoder: Any, texts: list[str], side: str, features: dict[str, Any]) -> bool:
    ours = encoder.token_ids(encoder.tokens(texts, side, cached=False))
    if not {"input_ids", "attention_mask"} <= set(features):
        return False
    mask = features["attention_mask"].bool()
    theirs = [row[kept].tolist() for row, kept in zip(features["input_ids"], mask, strict=True)]
    return theirs == [row.tolist() for row in ours]


@contextlib.contextmanager
def _still(encoder: Any) -> Iterator[None]:
    """A block in float32 that leaves every module in the mode it had."""
    modes: list[tuple[nn.Module, bool]] = [(module, module.training) for module in encoder.modules()]
    bf16, encoder.bf16 = encoder.bf16, False
    try:
        yield
    finally:
        encoder.bf16 = bf16
        for module, training in modes:
            module.training = training
