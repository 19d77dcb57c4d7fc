"""The peer's side of the speed benchmark: the installed sentence-transformers, used as its documentation says.

Its own trainer, losses, evaluator and mining function do the work. Only what must be equal is set:
weights, texts and their order, precision, dropout, prompts, length, learning rate, decay and clipping.
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
from hr_search.base.progress import quiet
from hr_search.bench.cases import Order, laid_out
from hr_search.bench.meters import best_device, forget_peak, peak_above, step_clock
from hr_search.bench.ours import Answer, held_out, reciprocal_ranks

_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
_DEFAULT_BATCH = 8  # of its training arguments


def require() -> None:
    """Refuses where what sentence-transformers needs to train is not installed.

    Raises:
        InputError: naming the extra.
    """
    if importlib.util.find_spec("datasets") is None:
        raise InputError(
            "the trainer of sentence-transformers needs the package datasets, which is not installed; "
            'run `pip install "hr_search[benchmark]"`.'
        )


def measure(order: Order, texts: dict[str, list]) -> Answer:
    """What `order` asks for, by the peer."""
    require()
    kinds = {"train": run_training, "learn": run_training, "evaluate": run_evaluation, "mine": run_mining}
    with quiet():
        return kinds[order.kind](order, texts)


def load(order: Order) -> Any:
    """The model with the order's dropout and length, or as it comes where the order is for defaults."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(order.model)
    changed = {name: order.dropout for name in _DROPOUTS if hasattr(config, name)}
    plain = order.defaults or order.dropout < 0
    model = SentenceTransformer(order.model, device=str(best_device()), config_kwargs={} if plain else changed)
    if not order.defaults:
        model.max_seq_length = min(order.maxlength, model.max_seq_length or order.maxlength)
    model.encode(["a", "a text to warm up with"] * 8)
    return model


def run_training(order: Order, texts: dict[str, list]) -> Answer:
    """Training through SentenceTransformerTrainer: rows/s, and each step's loss for "learn"."""
    table = pd.DataFrame(texts)
    model = load(order)
    batchsize = _DEFAULT_BATCH if order.defaults else order.batchsize
    pace = order.batchsize // batchsize  # so many of its steps are one of ours
    first, last = order.warm * pace, (order.warm + order.steps) * pace
    said: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(order, model, laid_out(table[: order.rows], order.settings), folder)
        if order.kind == "learn":  # its log rounds to four digits
            trainer.loss.register_forward_hook(lambda *call: said.append(float(call[-1].detach())))
        with step_clock(first, last) as ticks:
            trainer.train()
    answer: Answer = {"rows": {"": {"value": order.batchsize * order.steps / (ticks[last - 1] - ticks[first - 1])}}}
    if order.kind == "learn":
        task = held_out(table[order.rows :])
        sides = model.encode_query(task.queries), model.encode_document(task.documents)
        answer["mrr"] = reciprocal_ranks(task, *sides)
    return answer | {"seconds": np.diff(ticks[first - 1 : last]).tolist(), "losses": said}


def make_trainer(order: Order, model: Any, pairs: pd.DataFrame, folder: str) -> Any:
    """The peer's trainer over `pairs`, which it reads from top to bottom.

    Args:
        order: what both sides are told.
        model: the SentenceTransformer to train.
        pairs: rows in the order of training.
        folder: where it may write.
    """
    from torch.utils.data import BatchSampler, SequentialSampler

    columns = {"anchor": pairs["query"].tolist(), "positive": pairs["positive"].tolist()}
    if order.loss == "triplet" and not order.defaults:
        columns["negative"] = [wrong[0] for wrong in pairs["negatives"]]
    prompts = {name: model.prompts.get("query" if name == "anchor" else "document") for name in columns}
    equal = {} if order.defaults else _equal_arguments(order) | {"warmup_steps": 0}
    in_order = {"batch_sampler": lambda dataset, batch_size, drop_last, **_: BatchSampler(
        SequentialSampler(dataset), batch_size, drop_last
    )}  # fmt: skip
    return _trainer(order, model, columns, prompts, folder, {"num_train_epochs": 1} | in_order | equal)


def make_racer(order: Order, model: Any, pairs: pd.DataFrame, sides: tuple[str, str], steps: int, folder: str) -> Any:
    """The peer's trainer as its documentation advises: shuffled, no text twice in a batch, a tenth of warm-up.

    Args:
        order: loss, learning rate, batch size, precision and seed.
        model: the SentenceTransformer to train.
        pairs: `anchor` and `positive`; the triplet loss gets the positive of a random other row as negative.
        sides: whose prompts anchor and positive get.
        steps: of training.
        folder: where it may write.
    """
    columns = {name: pairs[name].tolist() for name in ("anchor", "positive")}
    if order.loss == "triplet":
        shift = np.random.default_rng(order.seed).integers(1, len(pairs), len(pairs))
        other = (np.arange(len(pairs)) + shift) % len(pairs)
        columns["negative"] = pairs["positive"].to_numpy()[other].tolist()
    prompts = {name: model.prompts.get(sides[name != "anchor"]) for name in columns}
    sampled = {"batch_sampler": "no_duplicates", "max_steps": steps, "warmup_steps": round(steps / 10)}
    return _trainer(order, model, columns, prompts, folder, _equal_arguments(order) | sampled)


def _equal_arguments(order: Order) -> dict[str, Any]:
    """Training arguments that say what our settings say."""
    return {
        "per_device_train_batch_size": order.batchsize, "learning_rate": order.learningrate, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "lr_scheduler_type": "linear", "bf16": use_bf16(order.precision, best_device()),
    }  # fmt: skip


def _trainer(
    order: Order, model: Any, columns: dict[str, list], prompts: dict[str, str | None], folder: str, more: dict
) -> Any:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import (
        MultipleNegativesRankingLoss,
        TripletDistanceMetric,
        TripletLoss,
    )

    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder, save_strategy="no", report_to="none", logging_strategy="no", disable_tqdm=True,
        use_cpu=best_device().type == "cpu", seed=order.seed,
        prompts={name: prompt for name, prompt in prompts.items() if prompt}, **more,
    )  # fmt: skip
    loss: nn.Module = MultipleNegativesRankingLoss(model)
    if "negative" in columns:
        loss = TripletLoss(model, TripletDistanceMetric.COSINE, 0.3)
    return SentenceTransformerTrainer(model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss)


def run_evaluation(order: Order, texts: dict[str, list]) -> Answer:
    """InformationRetrievalEvaluator from texts to metrics: texts/s, GB above the loaded model, and MRR@10."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    model = load(order)
    queries = {f"q{at}": text for at, text in enumerate(texts["queries"])}
    documents = {f"d{at}": text for at, text in enumerate(texts["documents"])}
    relevant = {f"q{at}": {f"d{place}" for place in places} for at, places in enumerate(texts["relevant"])}
    start = forget_peak(model.device)
    started = time.perf_counter()
    found = InformationRetrievalEvaluator(queries, documents, relevant)(model)
    seconds = time.perf_counter() - started
    return {"rows": {
        "": {"value": (len(queries) + len(documents)) / seconds},
        "-memory": {"value": peak_above(start, model.device)},
        "-mrr": {"value": float(found["cosine_mrr@10"])},
    }}  # fmt: skip


def run_mining(order: Order, texts: dict[str, list]) -> Answer:
    """mine_hard_negatives from texts: queries/s, the same for the search alone, and the negatives found."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    model = load(order)
    pairs = Dataset.from_dict(texts)
    values = {}
    with tempfile.TemporaryDirectory() as folder:
        # The second time the embeddings come from the folder, and what is left is the search.
        for suffix in ("", "-search"):
            started = time.perf_counter()
            mined = mine_hard_negatives(
                pairs, model, num_negatives=10, range_max=100, batch_size=32, verbose=False, cache_folder=folder
            )
            values[suffix] = {"value": len(pairs) / (time.perf_counter() - started)}
    negatives: dict[str, list[str]] = {}
    for query, negative in zip(mined["query"][:10_000], mined["negative"][:10_000], strict=True):
        negatives.setdefault(query, []).append(negative)
    return {"rows": values, "negatives": negatives}
