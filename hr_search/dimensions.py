"""Leading dimensions: embeddings cut to their first numbers, and the sizes that are trained beside the whole.

Matryoshka training (Kusupati et al. 2022, arXiv:2205.13147) takes the loss at several leading sizes at once, so that
one model gives embeddings of all these sizes.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from torch import Tensor
from torch.nn import functional

from hr_search.base.errors import InputError, quoted

_SIZE = re.compile(r"[1-9][0-9]{0,8}")


def leading_sizes(text: str, dimension: int = 0) -> tuple[int, ...]:
    """The sizes below the whole embedding that a setting names, the largest first.

    Args:
        text: whole numbers with commas between them, in any order, the whole size among them or not; "" = none.
        dimension: numbers of a whole embedding; 0 = not known yet.

    Raises:
        InputError: not whole numbers, one of them twice, or one larger than the embedding.

    Example:
        >>> leading_sizes("64, 128, 384", dimension=384)
        (128, 64)
    """
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(_SIZE.fullmatch(word) for word in words):
        raise InputError(
            f"dimensions is {quoted(text)}; give whole numbers above 0 with commas between them, such as 256,128,64."
        )
    sizes = sorted(map(int, words), reverse=True)
    if repeated := [size for size, after in itertools.pairwise(sizes) if size == after]:
        raise InputError(f"dimensions names {repeated[0]} twice; keep one of the two.")
    if dimension and sizes and sizes[0] > dimension:
        raise InputError(
            f"dimensions names {sizes[0]}, and the model's embeddings have {dimension} numbers; give at most "
            f"{dimension}."
        )
    return tuple(size for size in sizes if size != dimension)


def cut(embeddings: Tensor, size: int) -> Tensor:
    """The first `size` numbers of embeddings (..., D), L2-normalised again; at full size the embeddings themselves.

    An embedding of zeros stays one.
    """
    if size == embeddings.shape[-1]:
        return embeddings
    return functional.normalize(embeddings[..., :size], dim=-1)


def shorten(encoder: Any, size: int) -> None:
    """Lets an encoder give only the first `size` numbers of its embeddings, L2-normalised again.

    Args:
        encoder: what `encoder.load_encoder` returns.
        size: 0 = all; it stays as it is.

    Raises:
        InputError: the size is negative or larger than an embedding of the model.
    """
    if not size:
        return
    whole = encoder.dimension
    if not 0 < size <= whole:
        there = f"embeddings of {encoder.name} have {whole} numbers"
        raise InputError(f"dimensions is {size}, and {there}; give 1 to {whole}.")
    if size < whole:
        encoder.model.truncate_dim = size
