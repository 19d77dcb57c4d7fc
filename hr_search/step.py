"""One training step: texts to embeddings, embeddings to a loss, the loss back to gradients."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from hr_search import losses, mixing
from hr_search.bank import Bank
from hr_search.base.devices import to_device
from hr_search.base.errors import InputError
from hr_search.base.processes import Processes
from hr_search.batches import Batch, Rows, negative_mask
from hr_search.dimensions import cut
from hr_search.fast.packing import chunks
from hr_search.lessons import Lesson
from hr_search.mixing import MixedBatch, MixingPolicy

if TYPE_CHECKING:
    from hr_search.fast.tokens import TokenTable

log = logging.getLogger(__name__)

_WHOLE = 2**62  # a budget no part exceeds
_MASKS = ("query", "positive", "relevant", "same", "further", "wrong", "partial", "nearly", "grade")  # of a batch


@dataclasses.dataclass(frozen=True)
class LossPolicy:
    """Which loss, and which documents it takes as negatives.

    Attributes:
        name: "triplet", "margin-ce" or "infonce".
        margin: of triplet and margin-ce, a cosine.
        temperature: of margin-ce and infonce, and of the cosines that are compared with a teacher's logits.
        symmetric: whether margin-ce and infonce also rank the queries for each document.
        hardness: of triplet, as `losses.triplet` explains it.
        negatives: as `batches.negative_mask` explains it.
        teacher_weight: of the teacher's KL term beside the loss, where there is a teacher.
        teacher_temperature: divides the teacher's logits.
        dimensions: leading sizes of the embedding whose losses are averaged with that of the whole one.
        soft_weight: of a partial match in the target of infonce; 0 = it is left out.
    """

    name: str = "triplet"
    margin: float = 0.3
    temperature: float = 0.05
    symmetric: bool = True
    hardness: str = "hardest"
    negatives: str = "batch"
    teacher_weight: float = 1.0
    teacher_temperature: float = 1.0
    dimensions: tuple[int, ...] = ()
    soft_weight: float = 0.3


@dataclasses.dataclass
class Context:
    """What the steps of a run share.

    Attributes:
        rows: the train rows.
        tokens: token tables of their queries ("query") and documents ("document").
        loss: loss and negatives.
        mixing: how queries are mixed, or synthetic negatives made.
        seed: with the step's number it decides every draw, whether a run was interrupted or not.
        total: steps of the run.
        bank: recent documents, where mixing wants them.
        budget: tokens encoded at a time, 0 = what suits the device; lowered when memory runs out.
        cached: whether texts are encoded twice; set when memory runs out.
    """

    rows: Rows
    tokens: dict[str, TokenTable]
    loss: LossPolicy
    mixing: MixingPolicy
    seed: int
    total: int
    bank: Bank | None = None
    budget: int = 0
    cached: bool = False


def run_step(
    model: Any, accelerator: Accelerator, batch: Batch, context: Context, step: int, lesson: Lesson | None = None
) -> tuple[Tensor, int]:
    """Adds the gradients of a batch to the model's parameters.

    Each distinct text is encoded once, queries, documents and those of the lesson together. Where a GPU has too little
    memory for that, `context` is changed for this step and all later ones: gradient caching (Gao et
    al. 2021, arXiv:2101.06983) encodes the same batch in ever smaller parts, so that the loss stays
    that of the whole batch.

    Returns:
        The figures of `batch_loss`, and the batch's tokens.

    Raises:
        InputError: a GPU has no memory even for the smallest part.
    """
    queries, documents = context.tokens["query"], context.tokens["document"]
    texts = [queries[i] for i in batch.queries] + [documents[i] for i in batch.documents]
    texts += [context.tokens[lesson.side][i] for i in lesson.further] if lesson else []
    tokens, count = sum(len(row) for row in texts), len(texts)
    # A process without a text would leave the others waiting; what it encodes instead counts for nothing.
    texts += [min(texts, key=len)] * (accelerator.num_processes - count)

    recent: list[Tensor] = []

    def objective(embeddings: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = embeddings[:count]
        recent[:] = [sides_of(embeddings, batch)[1].detach()]
        return batch_loss(embeddings, batch, context, step, lesson)

    while True:
        try:
            backward = cached_backward if context.cached else plain_backward
            figures = backward(model, accelerator, texts, context.budget, objective)
            break
        except torch.OutOfMemoryError as error:
            # Processes that split differently would wait for one another forever.
            smaller = max(context.budget or tokens, 2) // 2
            if accelerator.num_processes > 1 or smaller < max(len(row) for row in texts):
                raise InputError(
                    f"the GPU's memory is too small for a batch of {tokens} tokens at step {step + 1}; lower "
                    "--maxlength or --batchsize, or take --gradcache true with a smaller --chunktokens."
                ) from error
        # Outside the handler: the exception holds the step's activations as long as it lives.
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        context.budget, context.cached = smaller, True
        log.warning("out of GPU memory: batches are now encoded %d tokens at a time, and twice (--gradcache)", smaller)
    if context.bank is not None:
        context.bank.add(recent[0], batch.documents)
    return figures, tokens


def sides_of(embeddings: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The embeddings of the batch's queries (Q, D), of its documents (M, D) and of a lesson's further texts (E, D)."""
    middle, end = len(batch.queries), len(batch.queries) + len(batch.documents)
    return embeddings[:middle], embeddings[middle:end], embeddings[end:]


def batch_loss(
    embeddings: Tensor, batch: Batch, context: Context, step: int, lesson: Lesson | None = None
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, with (loss, active share, spread) as a (3,) float64 tensor without gradient.

    With a lesson there is a fourth figure, the teacher's KL term, and the loss is what is minimised: that of the pairs
    plus the weighted term. With leading sizes, loss and term are means over these and the whole embedding (Matryoshka,
    Kusupati et al. 2022, arXiv:2205.13147). Mixing comes before the cut: neighbours are those of whole embeddings, and
    mixed queries and synthetic negatives are cut like the others. Active share and spread are those of the whole.

    Args:
        embeddings: (Q + M + E, D) of the batch's queries, then of its documents, then of the lesson's further texts.
        batch: which queries and documents belong together.
        context: loss, negatives and mixing of the run.
        step: from 0.
        lesson: the teacher's scores; None = no teacher.
    """
    policy, (distinct, documents, extra) = context.loss, sides_of(embeddings, batch)
    kept = {name: each for name in _MASKS if (each := getattr(batch, name)) is not None}
    place = {name: to_device(each, embeddings.device) for name, each in kept.items()}
    draw = np.random.default_rng([context.seed, 1, step])
    wrong = to_device(negative_mask(batch, policy.negatives, draw), embeddings.device)
    positive, queries, further = place["positive"], distinct[place["query"]], distinct[place["further"]]
    seen = mix_batch(queries, documents, positive, place["relevant"], batch, context, step, draw)
    parts, terms = [], []
    for size in (embeddings.shape[1], *policy.dimensions):
        parts.append(pair_loss(seen, documents, further, place, wrong, policy, size))
        if lesson is not None:
            terms.append(teacher_term(queries, distinct, documents, extra, positive, lesson, policy, size))
            parts[-1] = parts[-1] + policy.teacher_weight * terms[-1]
    loss, terms = torch.stack(parts).mean(), [torch.stack(terms).mean()] if terms else []
    with torch.no_grad():
        gaps = losses.gap(queries, documents, positive, wrong, synthetic=seen.synthetic)
        active = (gaps > -policy.margin).double().mean()
        figures = torch.stack([each.double() for each in (loss.detach(), active, losses.spread(documents), *terms)])
    return loss, figures


def pair_loss(
    seen: MixedBatch,
    documents: Tensor,
    further: Tensor,
    place: dict[str, Tensor],
    wrong: Tensor,
    policy: LossPolicy,
    size: int,
) -> Tensor:
    """The loss of a batch's pairs whose embeddings are cut to their first `size` numbers."""
    queries, documents = cut(seen.queries, size), cut(documents, size)
    synthetic = None if seen.synthetic is None else cut(seen.synthetic, size)
    if policy.name == "triplet":
        right, kept = place["positive"], {"hardness": policy.hardness, "synthetic": synthetic}
        return losses.triplet(queries, documents, right, wrong, policy.margin, **kept)
    weights, matching = None, place["same"]
    if "partial" in place:
        both = (place["relevant"], place["partial"]), (place["same"], place["nearly"])
        weights = tuple(match.to(queries) + policy.soft_weight * partly.to(queries) for match, partly in both)
        matching = matching | place["nearly"]
    return losses.infonce(
        queries,
        documents,
        place["positive"],
        wrong,
        matching,
        policy.temperature,
        policy.margin if policy.name == "margin-ce" else 0.0,
        symmetric=policy.symmetric,
        synthetic=synthetic,
        further=(cut(further, size), place["wrong"]) if len(further) else None,
        weights=weights,
        grades=place.get("grade"),
    )


def teacher_term(
    queries: Tensor,
    distinct: Tensor,
    documents: Tensor,
    extra: Tensor,
    positive: Tensor,
    lesson: Lesson,
    policy: LossPolicy,
    size: int,
) -> Tensor:
    """The teacher's KL term where embeddings are cut to their first `size` numbers."""
    # The student is compared as it searches: not mixed.
    anchors, texts = (queries, documents) if lesson.side == "document" else (documents[positive], distinct)
    scores, allowed = (to_device(array, documents.device) for array in (lesson.scores, lesson.allowed))
    cosines = cut(anchors, size) @ cut(torch.cat([texts, extra]), size).T
    return losses.distillation(cosines, scores, allowed, policy.temperature, policy.teacher_temperature)


def mix_batch(
    queries: Tensor,
    documents: Tensor,
    positive: Tensor,
    relevant: Tensor,
    batch: Batch,
    context: Context,
    step: int,
    draw: np.random.Generator,
) -> MixedBatch:
    """The batch's queries and synthetic negatives under the run's mixing, neighbours from batch and bank."""
    if not context.mixing.active(step, context.total):
        return MixedBatch(queries)
    others = ~relevant
    if batch.partial is not None:
        others &= ~to_device(batch.partial, others.device)
    if context.bank is not None:
        fits, others_there = context.bank.masks(context.rows, batch)
        documents = torch.cat([documents, context.bank.embeddings])
        relevant, others = torch.cat([relevant, fits], dim=1), torch.cat([others, others_there], dim=1)
    return mixing.mix(queries, documents, positive, relevant, others, context.mixing, draw)


Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


def plain_backward(
    model: Any, accelerator: Accelerator, texts: list[np.ndarray], budget: int, objective: Objective
) -> Tensor:
    """Encodes all texts, then backpropagates through all of them: fastest, but needs memory for every text at once."""
    loss, figures = objective(embed_together(model, accelerator, texts, budget))
    # Each process holds the gradient of its own share, and DistributedDataParallel takes their mean.
    accelerator.backward(loss * accelerator.num_processes)
    return figures


def cached_backward(
    model: Any, accelerator: Accelerator, texts: list[np.ndarray], budget: int, objective: Objective
) -> Tensor:
    """The gradients of `plain_backward` with the memory of one part; texts are encoded twice, a third more time.

    First without gradient, for the loss and its gradient on the embeddings; then part by part, each
    with the same dropout as before, for the gradient on the parameters.
    """
    processes, encoder = Processes.of(accelerator), accelerator.unwrap_model(model)
    mine = share_of(texts, processes)
    parts = [mine[part] for part in chunks([len(texts[i]) for i in mine], budget or encoder.budget)]
    states = []
    with torch.no_grad():
        local = None
        for part in parts:
            states.append(_random_state(accelerator.device))
            embeddings = model([texts[i] for i in part], _WHOLE)
            local = embeddings.new_empty(len(texts), embeddings.shape[1]) if local is None else local
            local[to_device(part, local.device)] = embeddings
        leaf = processes.completed(local, mine).requires_grad_()
    loss, figures = objective(leaf)
    (slope,) = torch.autograd.grad(loss * accelerator.num_processes, leaf)
    after = _random_state(accelerator.device)
    for number, part in enumerate(parts, 1):
        _set_random_state(states[number - 1], accelerator.device)
        # Gradients are exchanged once, with the last part.
        wait = accelerator.no_sync(model) if number < len(parts) else contextlib.nullcontext()
        with wait:
            embeddings = model([texts[i] for i in part], _WHOLE)
            accelerator.backward((embeddings * slope[to_device(part, slope.device)]).sum())
    _set_random_state(after, accelerator.device)
    return figures


# -- several processes ---------------------------------------------------------------------------


def embed_together(model: Any, accelerator: Accelerator, texts: list[np.ndarray], budget: int) -> Tensor:
    """Embeddings of token rows (N, D), each process encoding its share; gradients flow into the own share only.

    Every process then holds all embeddings and computes the same loss over the whole batch, so
    in-batch negatives are shared and the result is that of one process with the larger batch.
    """
    processes = Processes.of(accelerator)
    if processes.count == 1:
        return model(texts, budget)
    mine = share_of(texts, processes)
    local = model([texts[i] for i in mine], budget)
    every = local.new_zeros(len(texts), local.shape[1])
    return processes.completed(every.index_copy(0, to_device(mine, local.device), local), mine)


def share_of(texts: list[np.ndarray], processes: Processes) -> np.ndarray:
    """The numbers of the texts this process encodes; dealing out by length gives each the same work."""
    return processes.share(np.argsort([-len(row) for row in texts], kind="stable"))


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
