"""The peer's side of the speed benchmark: the installed sentence-transformers, used as its documentation says.

Its own trainer, losses, evaluator and mining function do the work. Only what must be equal is set: weights, texts
and their order, precision, dropout, prompts, length, learning rate, weight decay and gradient clipping.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from hr_search.base.devices import use_bf16
from hr_search.base.errors import InputError
from hr_search.base.peak import forget_peak, peak_above
from hr_search.base.progress import quiet
from hr_search.bench.cases import Order
from hr_search.bench.meters import best_device, step_clock
from hr_search.bench.ours import WARMUP_TEXTS, Answer, held_out, reciprocal_ranks
from hr_search.bench.texts import in_training_order

_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
_DEFAULT_BATCH = 8  # of its training arguments


def require() -> None:
    """Checks that what sentence-transformers needs to train is installed.

    Raises:
        InputError: naming the extra.
    """
    if importlib.util.find_spec("datasets") is None:
        raise InputError(
            "the trainer of sentence-transformers needs the package datasets, which is not installed; "
            'run `pip install "hr_search[benchmark]"`.'
        )


def measure(order: Order, texts: dict[str, list]) -> Answer:
    """The peer's answer to `order`."""
    require()
    kinds = {"train": run_training, "learn": run_training, "evaluate": run_evaluation, "mine": run_mining}
    with quiet():
        return kinds[order.kind](order, texts)


def load(order: Order) -> Any:
    """The SentenceTransformer with the order's dropout and length, unchanged if the order is for defaults."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(order.model)
    changed = {name: order.dropout for name in _DROPOUTS if hasattr(config, name)}
    unchanged = order.defaults or order.dropout < 0
    model = SentenceTransformer(
        order.model,
        device=str(best_device()),
        model_kwargs={"attn_implementation": order.attention} if order.attention else {},
        config_kwargs={} if unchanged else changed,
    )
    if not order.defaults:
        model.max_seq_length = min(order.maxlength, model.max_seq_length or order.maxlength)
    model.encode(WARMUP_TEXTS)
    return model


# -- training ------------------------------------------------------------------------------------


def run_training(order: Order, texts: dict[str, list]) -> Answer:
    """Training through SentenceTransformerTrainer: rows/s; each step's loss for the kind "learn"."""
    table = pd.DataFrame(texts)
    model = load(order)
    pace = order.batchsize // (_DEFAULT_BATCH if order.defaults else order.batchsize)  # its steps to one of ours
    first, last = order.warm * pace, (order.warm + order.steps) * pace
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(order, model, in_training_order(table[: order.rows], order.settings), folder)
        if order.kind == "learn":  # its log rounds to four digits
            trainer.loss.register_forward_hook(lambda *call: losses.append(float(call[-1].detach())))
        with step_clock(first, last) as ticks:
            trainer.train()
    speed = {"value": order.batchsize * order.steps / (ticks[last - 1] - ticks[first - 1])}
    answer: Answer = {"rows": {"": speed}, "seconds": np.diff(ticks[first - 1 : last]).tolist(), "losses": losses}
    if order.kind == "learn":
        task = held_out(table[order.rows :])
        answer["mrr"] = reciprocal_ranks(task, model.encode_query(task.queries), model.encode_document(task.documents))
    return answer


def make_trainer(order: Order, model: Any, pairs: pd.DataFrame, folder: str) -> Any:
    """The peer's trainer over `pairs`, which it reads from top to bottom.

    Args:
        order: the order that both contenders get.
        model: the SentenceTransformer to train.
        pairs: rows in the order of training.
        folder: where it may write.
    """
    from torch.utils.data import BatchSampler, SequentialSampler

    def from_top_to_bottom(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> BatchSampler:
        return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)

    columns = {"anchor": pairs["query"].tolist(), "positive": pairs["positive"].tolist()}
    if order.needs_negatives:
        columns["negative"] = [negatives[0] for negatives in pairs["negatives"]]
    prompts = {name: model.prompts.get("query" if name == "anchor" else "document") for name in columns}
    arguments: dict[str, Any] = {"num_train_epochs": 1, "batch_sampler": from_top_to_bottom}
    if not order.defaults:
        arguments |= _equal_arguments(order) | {"warmup_steps": 0}
    return _trainer(order, model, columns, prompts, folder, arguments)


def make_race_trainer(
    order: Order, model: Any, pairs: pd.DataFrame, sides: tuple[str, str], steps: int, folder: str
) -> Any:
    """The peer's trainer as its documentation advises: shuffled, no text twice in a batch, a tenth of warm-up.

    Args:
        order: loss, learning rate, batch size, precision and seed.
        model: the SentenceTransformer to train.
        pairs: `anchor` and `positive`; the triplet loss gets the positive of a random other row as negative.
        sides: the sides ("query", "document") whose prompts anchor and positive get.
        steps: of training.
        folder: where it may write.
    """
    columns = {name: pairs[name].tolist() for name in ("anchor", "positive")}
    if order.loss == "triplet":
        shift = np.random.default_rng(order.seed).integers(1, len(pairs), len(pairs))
        other = (np.arange(len(pairs)) + shift) % len(pairs)
        columns["negative"] = pairs["positive"].to_numpy()[other].tolist()
    prompts = {name: model.prompts.get(sides[name != "anchor"]) for name in columns}
    advised = {"batch_sampler": "no_duplicates", "max_steps": steps, "warmup_steps": round(steps / 10)}
    return _trainer(order, model, columns, prompts, folder, _equal_arguments(order) | advised)


def _equal_arguments(order: Order) -> dict[str, Any]:
    """Training arguments that say what our settings say."""
    return {
        "per_device_train_batch_size": order.batchsize,
        "learning_rate": order.learningrate,
        "lr_scheduler_type": "linear",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": use_bf16(order.precision, best_device()),
    }


def _trainer(
    order: Order,
    model: Any,
    columns: dict[str, list],
    prompts: dict[str, str | None],
    folder: str,
    arguments: dict[str, Any],
) -> Any:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import (
        MultipleNegativesRankingLoss,
        TripletDistanceMetric,
        TripletLoss,
    )

    given = SentenceTransformerTrainingArguments(
        output_dir=folder,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=best_device().type == "cpu",
        seed=order.seed,
        prompts={name: prompt for name, prompt in prompts.items() if prompt},
        **arguments,
    )
    loss: nn.Module = MultipleNegativesRankingLoss(model)
    if "negative" in columns:
        loss = TripletLoss(model, TripletDistanceMetric.COSINE, 0.3)
    return SentenceTransformerTrainer(model=model, args=given, train_dataset=Dataset.from_dict(columns), loss=loss)


# -- evaluation and mining -----------------------------------------------------------------------


def run_evaluation(order: Order, texts: dict[str, list]) -> Answer:
    """InformationRetrievalEvaluator from texts to metrics: texts/s, GB above the loaded model, and MRR@10."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    model = load(order)
    queries = {f"q{at}": text for at, text in enumerate(texts["queries"])}
    documents = {f"d{at}": text for at, text in enumerate(texts["documents"])}
    relevant = {f"q{at}": {f"d{place}" for place in places} for at, places in enumerate(texts["relevant"])}
    memory = forget_peak(model.device)
    started = time.perf_counter()
    metrics = InformationRetrievalEvaluator(queries, documents, relevant)(model)
    seconds = time.perf_counter() - started
    rows = {
        "": {"value": (len(queries) + len(documents)) / seconds},
        "-memory": {"value": peak_above(memory, model.device)},
        "-mrr": {"value": float(metrics["cosine_mrr@10"])},
    }
    return {"rows": rows}


def run_mining(order: Order, texts: dict[str, list]) -> Answer:
    """mine_hard_negatives from texts: queries/s, the same for the search alone, and the negatives found."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    model = load(order)
    pairs = Dataset.from_dict(texts)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        # The second time the embeddings come from the folder, and only the search is left.
        for suffix in ("", "-search"):
            started = time.perf_counter()
            mined = mine_hard_negatives(
                pairs, model, num_negatives=10, range_max=100, batch_size=32, verbose=False, cache_folder=folder
            )
            rows[suffix] = {"value": len(pairs) / (time.perf_counter() - started)}
    negatives: dict[str, list[str]] = {}
    for query, negative in zip(mined["query"][:10_000], mined["negative"][:10_000], strict=True):
        negatives.setdefault(query, []).append(negative)
    return {"rows": rows, "negatives": negatives}
