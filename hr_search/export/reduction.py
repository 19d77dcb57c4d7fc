"""Shorter embeddings: leading dimensions of a model trained for them, or principal directions learnt from texts.

Either way it is a projection (N, D) that goes into the model as a Dense module without bias and is normalised again, so
every format and every version of sentence-transformers applies it.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hr_search.base.errors import InputError
from hr_search.encoder import Encoder

REDUCTIONS = ("leading", "pca")
_OWN = re.compile(r"^- dimensions: ([0-9, ]+)$", re.MULTILINE)  # in the cards of this package
_OTHER = re.compile(r'"?matryoshka_dims"?:\s*\[([0-9,\s]+)\]')  # in those of sentence-transformers


def trained_sizes(source: str) -> tuple[int, ...]:
    """The leading sizes that a model was trained for (Matryoshka), as its card names them; () = none.

    Args:
        source: the model's folder.
    """
    card = ""
    with contextlib.suppress(OSError, ValueError):
        card = (Path(source) / "README.md").read_text(encoding="utf-8")
    found = _OWN.search(card) or _OTHER.search(card)
    return tuple(sorted({int(size) for size in re.findall("[0-9]+", found[1])}, reverse=True)) if found else ()


def require_size(encoder: Encoder, size: int) -> None:
    """Checks that embeddings can be shortened to `size` numbers; 0 = they stay as they are.

    Raises:
        InputError: they have fewer.
    """
    if not 0 <= size <= encoder.dimension:
        raise InputError(
            f"--dimensions is {size}, and the embeddings of {encoder.name} have {encoder.dimension} numbers; give 1 "
            f"to {encoder.dimension}."
        )


def chosen(reduction: str, size: int, trained: tuple[int, ...], texts: bool) -> str:
    """How embeddings are shortened to `size`: "leading", "pca", or "" where they are not.

    Args:
        reduction: what was asked for; "" = leading where the model was trained for it, else pca.
        size: numbers to keep; 0 = all.
        trained: what `trained_sizes` returns.
        texts: whether there are texts to learn from.

    Raises:
        InputError: principal directions without texts.
    """
    if not size:
        return ""
    if reduction == "leading" or (not reduction and trained and size >= trained[-1]):
        return "leading"
    if not texts:
        raise InputError(
            "--dimensions needs texts to learn principal directions from, for the model's card names no leading sizes "
            "that it was trained for; give --datapath, or --reduction leading."
        )
    return "pca"


def principal_directions(embeddings: np.ndarray, size: int) -> np.ndarray:
    """The `size` orthonormal directions in which embeddings are longest, (size, D) float32, the first one first.

    They are taken about the origin, not about the mean: cosines then change as little as they can, and with size = D
    not at all.

    Args:
        embeddings: (N, D).
        size: at most D.

    Raises:
        InputError: fewer embeddings than directions.
    """
    if len(embeddings) < size:
        raise InputError(
            f"{size} principal directions need at least {size} distinct texts, and the train rows have "
            f"{len(embeddings)}; give more rows or fewer --dimensions."
        )
    moments = embeddings.astype(np.float64).T @ embeddings.astype(np.float64)
    directions = np.linalg.eigh(moments)[1].T[::-1][:size]
    # The sign of a direction is arbitrary; fixed, an export can be repeated.
    largest = directions[np.arange(size), np.abs(directions).argmax(1)]
    return (directions * np.sign(largest)[:, None]).astype(np.float32)


def project(encoder: Encoder, projection: np.ndarray) -> None:
    """Lets an encoder give its embeddings times `projection` (N, D), L2-normalised, in place of its own."""
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.sentence_transformer.modules import Normalize

    size, width = projection.shape
    weight = torch.from_numpy(np.ascontiguousarray(projection, dtype=np.float32))
    encoder.model.append(Dense(width, size, bias=False, activation_function=nn.Identity(), init_weight=weight))
    encoder.model.append(Normalize())
    encoder.model.to(encoder.device)
    encoder.model.truncate_dim = None


def settle_truncation(encoder: Encoder) -> None:
    """Turns the `truncate_dim` of a model, which a graph does not have, into a projection."""
    if encoder.model.truncate_dim:
        kept = encoder.dimension
        encoder.model.truncate_dim = None
        project(encoder, np.eye(kept, encoder.dimension, dtype=np.float32))
