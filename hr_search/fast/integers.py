"""The layers of a BERT-like transformer in int8, on packed texts: integer products of torch, one scale for each output.

Almost all of what int8 costs comes from the inputs of the products: a few tokens and a few dimensions are ten times as
large as the rest, and one scale for a whole chunk leaves the rest a handful of steps. Here no scale depends on what
else is in the chunk:

- The outputs of the norms get one fixed scale, after their dimensions are balanced against the columns of the matrix
  (SmoothQuant: Xiao et al. 2023, arXiv:2211.10438). Norm, scale and zero point are one operation, and what follows
  adds the residual back in its own size.
- What attention and GELU give gets one scale for each token; of GELU's range the part below its minimum is left out.
- The values of attention, a twelfth of the products, stay exact: their inputs alone made a third of the error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hr_search.base.devices import multiplies_integers, use_bf16
from hr_search.fast import packing
from hr_search.fast.packing import Packing

_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of the outliers that may go to the weights
_TRIED = 256  # rows on which they are compared
_ZERO = 128  # the integer of a centred 0
_CENTRE = _ZERO + 0.5  # conversion to integers cuts off, and so rounds what is half too large
_LOW = 0.17  # GELU is nowhere below -.16998
_LEAST = 1e-6  # below it a peak counts as this
_ENDS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # shares of the largest value where a fixed scale may end


def obstacle(transformer: nn.Module) -> str:
    """Why the layers of a transformer cannot run in int8 here, as the end of a sentence; empty if they can."""
    if not multiplies_integers():
        return "needs a processor with integer products (VNNI), and this one has none"
    if not packing.packs(transformer):
        return f"is for models of the types {', '.join(packing.FAMILIES)}, and this is {transformer.config.model_type}"
    if transformer.config.hidden_act != "gelu":
        return f"is for models with the activation gelu, and this has {transformer.config.hidden_act}"
    if any(type(part) is not nn.Linear for layer in transformer.encoder.layer for part in _matrices(layer)):
        return "is for plain layers, and this model's have additions"
    return ""


class IntegerLayers(nn.Module):
    """The layers of a transformer as one: hidden states (1, T, D) of packed texts in, those of the last layer out."""

    def __init__(self, layers: Sequence[nn.Module], inputs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Makes integers of the weights.

        Args:
            layers: those of the model, float32.
            inputs: of each layer the rows (R, D) that its attention takes, and those its wide matrix takes, as
                `norms_outputs` collects them; they settle how dimensions are balanced and where scales end.
        """
        super().__init__()
        self._layers = [_Layer(layer, *rows) for layer, rows in zip(layers, inputs, strict=True)]
        takers = [layer.takes for layer in self._layers[1:]]
        self._norms = [
            _norm(layer.output.LayerNorm, steps) for layer, steps in zip(layers, [*takers, None], strict=True)
        ]

    def forward(self, hidden: Tensor, *_: Any, packing: Packing, **__: Any) -> Tensor:
        """Hidden states of the last layer, from those of the embeddings, (1, T, D)."""
        hidden = hidden[0] / self._layers[0].takes + _CENTRE
        for layer, norm in zip(self._layers, self._norms, strict=True):
            hidden = norm(layer(hidden, packing))
        return hidden[None]


def norm_outputs(transformer: nn.Module, run: Callable[[], object]) -> list[tuple[Tensor, Tensor]]:
    """What the layers' products after a norm take while `run` runs: for each layer two tensors (R, D)."""
    found: dict[nn.Module, list[Tensor]] = {}
    hooks = []
    for layer in transformer.encoder.layer:
        for part in (layer.attention.self.query, layer.intermediate.dense):
            kept = found[part] = []
            hooks.append(
                part.register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[0].float().flatten(0, -2)))
            )
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    rows = [torch.cat(kept) for kept in found.values()]
    return list(zip(rows[::2], rows[1::2], strict=True))


def balanced_steps(rows: Tensor, weight: Tensor) -> Tensor:
    """The size of an integer step in each dimension, (D,), for products of rows (R, D) with a matrix (O, D).

    Of several shares of the outliers that go to the matrix, the one is taken whose products are nearest to the exact.
    """
    peaks, columns = rows.abs().amax(0), weight.abs().amax(0)
    # An input that these few texts leave small may be large in others: only those above the median are taken at size.
    peaks, columns = (each.maximum(each.median()).clamp(min=_LEAST) for each in (peaks, columns))
    few = rows[:: -(-len(rows) // _TRIED)]
    exact, found = few @ weight.T, []
    for share in _SHARES:
        factors = peaks**share / columns ** (1 - share)
        steps = factors * _step(rows / factors)
        product = _rounded(few, steps) @ (_rounded(weight, _row_steps(weight * steps) / steps)).T
        found.append((float((product - exact).square().sum()), share, steps))
    return min(found, key=lambda each: each[:2])[2]


def _step(rows: Tensor) -> float:
    """The size of a step that all rows share: the largest value settles it, or less where that serves the rest."""
    largest = float(rows.abs().max().clamp(min=_LEAST))
    steps = [largest * end / (_ZERO - 1) for end in _ENDS]
    losses = [float((_rounded(rows, step) - rows).square().sum()) for step in steps]
    return steps[losses.index(min(losses))]


def _row_steps(weight: Tensor) -> Tensor:
    """The size of a step in each row of a matrix (O, I), (O, 1)."""
    return weight.abs().amax(1, keepdim=True).clamp(min=_LEAST) / (_ZERO - 1)


def _rounded(numbers: Tensor, steps: Tensor | float) -> Tensor:
    """Numbers as they come back from int8."""
    return (numbers / steps).round().clamp(-_ZERO, _ZERO - 1) * steps


class _Layer:
    """A layer without its last norm.

    Hidden states come in as steps from the zero point, clipped nowhere: as integers the products take them, and as
    they are the residuals.

    Attributes:
        takes: the size of such a step, (D,).
    """

    def __init__(self, layer: nn.Module, attended: Tensor, fed: Tensor) -> None:
        query, key, value, mix, widen, narrow = _matrices(layer)
        self._heads, self._scaling = layer.attention.self.num_attention_heads, layer.attention.self.scaling
        weight = torch.cat([part.weight.detach() for part in (query, key)])
        bias = torch.cat([part.bias.detach() for part in (query, key)])
        self.takes, self._fed = balanced_steps(attended, weight), balanced_steps(fed, widen.weight.detach())
        self._compare = _Product(weight * self.takes, bias)
        self._kind = torch.bfloat16 if use_bf16("auto", value.weight.device) else torch.float32
        self._value = [each.detach().to(self._kind) for each in (value.weight * self.takes, value.bias)]
        self._widen = _Product(widen.weight.detach() * self._fed, widen.bias.detach())
        # The residual that is added counts from the zero point, which the bias takes out again.
        self._mix = _Product(mix.weight.detach(), mix.bias.detach() - _CENTRE * self.takes)
        self._narrow = _Product(narrow.weight.detach(), narrow.bias.detach() - _CENTRE * self._fed, low=_LOW)
        self._norm = _norm(layer.attention.output.LayerNorm, self._fed)

    def __call__(self, hidden: Tensor, packed: Packing) -> Tensor:
        tokens, size = hidden.shape
        query, key = (
            self._compare.fixed(_integers(hidden)).view(tokens, 2, self._heads, -1).permute(1, 2, 0, 3)[:, None]
        )
        value = nn.functional.linear((hidden - _CENTRE).to(self._kind), *self._value).float()
        value = value.view(1, tokens, self._heads, -1).transpose(1, 2)
        mixed, _ = packing.attend(None, query, key, value, None, self._scaling, packed)
        out = self._mix.rows(*_centred(mixed.reshape(tokens, size)))
        hidden = self._norm(torch.addcmul(out, hidden, self.takes, out=out))
        out = self._narrow.rows(*_positive(self._widen.fixed(_integers(hidden), "gelu")), zero=0)
        return torch.addcmul(out, hidden, self._fed, out=out)


class _Product:
    """A matrix (O, I) in int8 with its bias (O,): products with uint8 rows (T, I), float32."""

    def __init__(self, weight: Tensor, bias: Tensor, low: float = 0.0) -> None:
        """Takes `low` off all that is multiplied."""
        self._scales = _row_steps(weight)[:, 0]
        numbers = (weight / self._scales[:, None]).round().to(torch.int8)
        self._bias = bias - low * self._scales * numbers.sum(1)
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._numbers = torch.ops.onednn.qlinear_prepack(numbers, None)

    def fixed(self, rows: Tensor, after: str = "none") -> Tensor:
        """The products of rows whose steps are in the weights, with the bias, and "gelu" after it."""
        return self._run(rows, _ZERO, self._bias, after)

    def rows(self, rows: Tensor, steps: Tensor, zero: int = _ZERO) -> Tensor:
        """The products of rows with a step each, (T, 1), with the bias."""
        out = self._run(rows, zero, None, "none")
        return torch.addcmul(self._bias, out, steps, out=out)

    def _run(self, rows: Tensor, zero: int, bias: Tensor | None, after: str) -> Tensor:
        return torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, zero, self._numbers, self._scales, self._zeros, bias, 1.0, 0, torch.float32, after, [], "none"
        )


@dataclasses.dataclass(frozen=True)
class _Norm:
    """A norm of the last dimension."""

    weight: Tensor
    bias: Tensor
    least: float

    def __call__(self, hidden: Tensor) -> Tensor:
        return nn.functional.layer_norm(hidden, hidden.shape[-1:], self.weight, self.bias, self.least)


def _norm(norm: nn.LayerNorm, steps: Tensor | None) -> _Norm:
    """A norm whose outputs are steps of this size from the zero point; None = as they are."""
    weight, bias = norm.weight.detach().clone(), norm.bias.detach().clone()
    if steps is not None:
        weight, bias = weight / steps, bias / steps + _CENTRE
    return _Norm(weight, bias, norm.eps)


def _matrices(layer: nn.Module) -> tuple[nn.Module, ...]:
    """Query, key, value, the matrix after attention, the wide one and the one back."""
    attention = layer.attention.self
    after = layer.attention.output.dense, layer.intermediate.dense, layer.output.dense
    return attention.query, attention.key, attention.value, *after


def _integers(hidden: Tensor) -> Tensor:
    return hidden.clamp(0, 2 * _ZERO - 1).to(torch.uint8)


def _centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (T, I) as integers about the zero point, and the size of a step in each, (T, 1)."""
    steps = rows.abs().amax(1, keepdim=True).clamp_(min=_LEAST).div_(_ZERO - 1)
    return torch.mul(rows, steps.reciprocal()).add_(_CENTRE).to(torch.uint8), steps


def _positive(rows: Tensor) -> tuple[Tensor, Tensor]:
    """What GELU gave, (T, I), as integers from its minimum on, and the size of a step in each row; `rows` is lost."""
    steps = rows.amax(1, keepdim=True).clamp_(min=0).add_(_LOW).div_(2 * _ZERO - 1)
    inverse = steps.reciprocal()
    # Half a step less than the largest integer plus one, so that rounding errors do not carry it over.
    return torch.addcmul(inverse * _LOW + 0.49, rows, inverse, out=rows).to(torch.uint8), steps
