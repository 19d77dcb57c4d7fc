"""Packing: texts of any length in one row of tokens, so that nothing is computed for padding.

Linear layers and norms see the tokens of all texts as one long text, (1, T); only attention has to
know where each text begins, and it comes from here. Texts of 20 to 120 tokens, padded to the
longest, would cost half as much again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from hr_search.base.devices import to_device
from hr_search.fast.dropout import drop, noise

try:  # FlashAttention for texts of different lengths, part of torch since 2.10; GPUs only
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # pragma: no cover
    varlen_attn = None

# Absolute positions and plain attention; others (relative positions, sliding windows) are padded.
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
ROUND = 64  # a matrix library keeps code for every size it meets, half a megabyte each: sizes come in steps
_NAME = "hr_search_packed"
# Attention scores per head that are held at a time: with a dozen heads they then stay in a core's cache.
_SCORES = 2 * 128**2


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where N texts lie in a row of T tokens, with a filling after them that is not text.

    Attributes:
        order: (N,) the texts, longest first.
        lengths: (N,) their tokens, in that order.
        runs: (first token, texts, tokens of each) for runs of texts of one length, none too large for the cache;
            the filling is the last of them.
        filling: tokens behind the texts, up to the next multiple of `ROUND`.
    """

    order: np.ndarray
    lengths: np.ndarray
    runs: list[tuple[int, int, int]]
    filling: int

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """Each token's place within its text, (T - filling,), from 0."""
        starts = np.cumsum(self.lengths) - self.lengths
        return np.arange(self.lengths.sum()) - np.repeat(starts, self.lengths)

    @functools.cached_property
    def places(self) -> np.ndarray:
        """Each token's place in the padded (N, longest) matrix laid out flat, its texts in their first order."""
        return np.repeat(self.order * self.lengths[0], self.lengths) + self.positions


def pack(lengths: Sequence[int] | np.ndarray) -> Packing:
    """The packing of texts with these many tokens each, (N,)."""
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))  # where a new length begins
    counts = np.diff(first, append=len(ordered))
    starts = (np.cumsum(ordered) - ordered)[first]
    runs = []
    for start, count, length in zip(starts.tolist(), counts.tolist(), ordered[first].tolist(), strict=True):
        most = max(1, _SCORES // length**2)
        runs += [(start + at * length, min(most, count - at), length) for at in range(0, count, most)]
    filling = int(-ordered.sum() % ROUND)
    return Packing(order, ordered, runs + [(int(ordered.sum()), 1, filling)] * bool(filling), filling)


def chunks(lengths: Sequence[int] | np.ndarray, tokens: int) -> list[np.ndarray]:
    """Groups of texts with about `tokens` tokens each, longest texts first; together 0..N-1 once.

    Args:
        lengths: tokens per text, (N,).
        tokens: a group begins anew behind every so many; a longer text stands alone.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    number = (np.cumsum(np.asarray(lengths)[order]) - 1) // tokens
    return np.split(order, np.flatnonzero(np.diff(number)) + 1)


def in_a_row(rows: Sequence[np.ndarray], packing: Packing) -> np.ndarray:
    """The token ids of N texts in the packing's order, and of its filling, (T,)."""
    # The first text's opening token fills up: it is in the vocabulary, compacted or not.
    return np.concatenate([*(rows[i] for i in packing.order), np.full(packing.filling, rows[0][0])])


def padded(rows: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """The token ids of N texts padded to the longest with `pad`, and their mask, both (N, longest) int64."""
    width = max(len(row) for row in rows)
    ids, mask = np.full((len(rows), width), pad, np.int64), np.zeros((len(rows), width), np.int64)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row
        mask[at, : len(row)] = 1
    return ids, mask


def packs(transformer: nn.Module) -> bool:
    """Whether a transformers model can be fed packed texts."""
    return transformer.config.model_type in FAMILIES and not getattr(transformer.config, "is_decoder", False)


def works(transformer: nn.Module, bf16: bool, dropout: bool) -> bool:
    """Whether packing works where `transformer` is now: on a CPU always, on a GPU where its attention kernel does."""
    if transformer.device.type == "cpu":
        return True
    # The kernel has no dropout and takes half precision only.
    return transformer.device.type == "cuda" and bf16 and not dropout and varlen_attn is not None


def run_packed(transformer: nn.Module, ids: Tensor, packing: Packing, types: Tensor | None = None) -> Tensor:
    """The last hidden states of packed texts, (T - filling, D).

    Args:
        transformer: a model for which `packs` holds.
        ids: (T,) token ids of the texts in the packing's order, and of the filling.
        packing: where the texts lie.
        types: (T,) token types of the same tokens; None = the model's default, all 0.
    """
    positions = to_device(np.concatenate([packing.positions, np.arange(packing.filling)]), ids.device)
    if hasattr(transformer.embeddings, "create_position_ids_from_input_ids"):  # RoBERTa counts from behind the padding
        positions = positions + transformer.embeddings.padding_idx + 1
    config, extra = transformer.config, {}
    if ids.is_cuda:
        ends = np.cumsum([0, *packing.lengths, packing.filling], dtype=np.int32)  # an empty last text does no harm
        extra = {"ends": to_device(ends, ids.device)}
    if types is not None:
        extra["token_type_ids"] = types[None]
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        out = transformer(input_ids=ids[None], position_ids=positions[None], packing=packing, **extra)
    finally:
        config._attn_implementation = before
    return out.last_hidden_state[0, : len(ids) - packing.filling]


def cast_once(transformer: nn.Module) -> None:
    """Lets the three projections of each attention share one half-precision copy of their input.

    Autocast keeps a copy of weights only and would convert the same hidden states three times.
    """
    for module in transformer.modules():
        if all(isinstance(getattr(module, name, None), nn.Linear) for name in ("query", "key", "value")):
            module.register_forward_pre_hook(_in_half)


def _in_half(_: nn.Module, arguments: tuple) -> tuple:
    hidden = arguments[0]
    kind = hidden.device.type
    if not torch.is_autocast_enabled(kind):
        return arguments
    return hidden.to(torch.get_autocast_dtype(kind)), *arguments[1:]


def unpack(hidden: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Packed hidden states as a padded (N, longest, D) array in the texts' first order, and its (N, longest) mask."""
    shape = (len(packing.order), int(packing.lengths[0]))
    places = to_device(packing.places, hidden.device)
    padded = hidden.new_zeros(shape[0] * shape[1], hidden.shape[1]).index_copy(0, places, hidden)
    mask = torch.zeros(shape[0] * shape[1], dtype=torch.int64, device=hidden.device).index_fill(0, places, 1)
    return padded.view(*shape, -1), mask.view(shape)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    packing: Packing,
    dropout: float = 0.0,
    ends: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each packed text, in the form transformers calls it: (1, heads, T, d) to (1, T, heads, d)."""
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, heads, d)
    if query.is_cuda:
        longest = max(int(packing.lengths[0]), packing.filling)
        out = varlen_attn(query, key, value, ends, ends, longest, longest, scale=scaling)
    else:
        out = _Attention.apply(query, key, value, packing.runs, scaling, dropout)
    return out[None], None


class _Attention(torch.autograd.Function):
    """Softmax attention run by run, with its own backward, so that no run is cut out, padded or joined again."""

    # Products of such small matrices are slower in bfloat16 than in float32, and the softmax wants float32 anyway.

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, runs: list, scale: float, dropout: float
    ) -> Tensor:
        out = torch.empty_like(value, memory_format=torch.contiguous_format)
        kept = []
        for run in runs:
            q, k, v = (_cut(x, run) for x in (query, key, value))
            weights = torch.matmul(q.mul_(scale), k.transpose(2, 3)).softmax(-1)
            mask = noise(weights.shape, weights.dtype, dropout) if dropout else None
            _paste(out, run, torch.matmul(drop(weights, mask), v))
            kept.append((weights, mask))
        ctx.save_for_backward(query, key, value)
        ctx.runs, ctx.scale, ctx.kept = runs, scale, kept
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        out = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
        for run, (weights, mask) in zip(ctx.runs, ctx.kept, strict=True):
            q, k, v, g = (_cut(x, run) for x in (query, key, value, gradient))
            _paste(out[2], run, torch.matmul(drop(weights, mask).transpose(2, 3), g))
            slope = torch.matmul(g, v.transpose(2, 3))
            if mask is not None:
                slope.mul_(mask)
            slope = torch._softmax_backward_data(slope, weights, -1, weights.dtype)
            # Scaling these is cheaper than scaling the slope, which is tokens by tokens.
            _paste(out[0], run, torch.matmul(slope, k).mul_(ctx.scale))
            _paste(out[1], run, torch.matmul(slope.transpose(2, 3), q.mul_(ctx.scale)))
        return (*out, None, None, None)


def _cut(x: Tensor, run: tuple[int, int, int]) -> Tensor:
    """One run of (T, heads, d) as a float32 copy (texts, heads, tokens, d)."""
    start, texts, tokens = run
    part = x[start : start + texts * tokens].view(texts, tokens, *x.shape[1:]).transpose(1, 2)
    return part.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def _paste(x: Tensor, run: tuple[int, int, int], part: Tensor) -> None:
    start, texts, tokens = run
    x[start : start + texts * tokens].view(texts, tokens, *x.shape[1:]).copy_(part.transpose(1, 2))


AttentionInterface.register(_NAME, attend)
