"""One run of a race, in a process of its own: a pilot, training for the given time, and the test.

The pilot finds how many steps fit into the time. That number is fixed before the training starts, so a run depends on
the clock through its number of steps alone. Our clock includes all that happens before the first step: loading the
model, the condenser, tokenisation; the peer's clock runs during its training only.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hr_search.batches import Rows, index_rows
from hr_search.bench import ours, peer
from hr_search.bench.cases import Order
from hr_search.bench.meters import step_clock
from hr_search.data import loading
from hr_search.data.tasks import Task, tasks_of
from hr_search.evaluation.metrics import embedding_scores, rank_all
from hr_search.experiment import encoder_for
from hr_search.models.interpolation import Interpolation
from hr_search.settings import Settings

TESTED = ("mrr", "pass@1", "recall@10")
Values = dict[str, list[float]]  # metric -> one value per query
_PILOT, _WARM = 20, 5  # steps of the pilot, the first of which are not timed
_EPOCHS = 10_000  # more than any race has time for


@dataclasses.dataclass
class Trained:
    """A model after its training.

    Attributes:
        model: an Encoder or a SentenceTransformer.
        interpolation: of its trained weights and those of the base model.
        ticks: the times (s) at which its steps ended.
        seconds: the time that counts in the race.
    """

    model: Any
    interpolation: Interpolation
    ticks: list[float]
    seconds: float


# -- ours ----------------------------------------------------------------------------------------


def run_ours(order: Order) -> dict[str, Any]:
    """Our side of a race: pilot, training through `train.fit`, test; answers as `run_peer` does."""
    settings = Settings(**order.recipe).replace(
        seed=order.seed, epochs=_EPOCHS, evalsteps=0, patience=0, checkpointpath="", resume=False
    )
    pairs, task = train_and_test(settings)
    rows, searched = index_rows(pairs), dict(zip(sides(settings), (task.queries, task.documents), strict=True))
    steps = steps_after_preparation(order.seconds, train_ours(settings, pairs, rows, searched, _PILOT))
    trained = train_ours(settings, pairs, rows, searched, steps)
    return answer(
        trained, lambda: tested(task, *(trained.model.encode(texts, side) for side, texts in searched.items()))
    )


def train_ours(
    settings: Settings, pairs: pd.DataFrame, rows: Rows, searched: dict[str, list[str]], steps: int
) -> Trained:
    """Our encoder after so many steps.

    Args:
        settings: the recipe.
        pairs: the train pairs.
        rows: the same, indexed.
        searched: the test's texts by side; their tokens stay in the compacted vocabulary.
        steps: of training.
    """
    started = time.perf_counter()
    encoder = encoder_for(settings, pairs)
    tables = ours.token_tables(encoder, rows, length=settings.trainlength)
    encoder.compact([*tables.values(), *(encoder.tokens(texts, side) for side, texts in searched.items())])
    interpolation = Interpolation(encoder, settings.baseshare)
    # The model is tested without the base model's weights, too, so they are blended in after training.
    settings = settings.replace(maxsteps=steps, baseshare=0.0)
    ticks, _ = ours.clocked_fit(encoder, rows, tables, settings, 1, steps)
    return Trained(encoder, interpolation, ticks, time.perf_counter() - started)


# -- the peer ------------------------------------------------------------------------------------


def run_peer(order: Order) -> dict[str, Any]:
    """The peer's side of a race: pilot, training through its trainer, test with its own encoding.

    Returns:
        `values` (metric -> one value per query), `steps` and `seconds`; for the in-batch model also `blended`, the
        values after the recipe's share of the base model's weights was blended in.
    """
    settings = Settings(**order.recipe)
    pairs, task = train_and_test(settings)
    anchor, positive = sides(settings)
    texts = {"query": pairs["query"], "document": pairs["positive"]}
    pairs = pd.DataFrame({"anchor": texts[anchor], "positive": texts[positive]})
    steps = fitting_steps(order.seconds, train_peer(order, settings, pairs, _PILOT).ticks)
    trained = train_peer(order, settings, pairs, steps)
    model = trained.model
    model.max_seq_length = settings.maxlength  # trained and tested at our lengths
    encode = {"query": model.encode_query, "document": model.encode_document}
    return answer(trained, lambda: tested(task, encode[anchor](task.queries), encode[positive](task.documents)))


def train_peer(order: Order, settings: Settings, pairs: pd.DataFrame, steps: int) -> Trained:
    """The peer's model after so many steps on `anchor` and `positive`."""
    model = peer.load(order)
    interpolation = Interpolation(model, settings.baseshare if order.loss == "infonce" else 0.0)
    with tempfile.TemporaryDirectory() as folder, step_clock(1, steps) as ticks:
        trainer = peer.make_race_trainer(order, model, pairs, sides(settings), steps, folder)
        started = time.perf_counter()
        trainer.train()
        return Trained(model, interpolation, ticks, time.perf_counter() - started)


# -- both ----------------------------------------------------------------------------------------


def answer(trained: Trained, values: Callable[[], Values]) -> dict[str, Any]:
    """The answer of a run; `values` tests the model as it is: trained, then with the base model blended in."""
    answered: dict[str, Any] = {"steps": len(trained.ticks), "seconds": trained.seconds, "values": values()}
    if trained.interpolation.share:
        trained.interpolation.blend(trained.model)
        answered["blended"] = values()
    return answered


def steps_after_preparation(seconds: float, pilot: Trained) -> int:
    """How many steps fit into `seconds` if all preparation is paid from them, too."""
    preparation = pilot.seconds - len(pilot.ticks) * pace(pilot.ticks)
    return fitting_steps(seconds - preparation, pilot.ticks)


def fitting_steps(seconds: float, ticks: Sequence[float]) -> int:
    """How many steps fit into `seconds` at the pace of a pilot whose steps ended at `ticks`; at least two."""
    return max(2, round(seconds / pace(ticks)))


def pace(ticks: Sequence[float]) -> float:
    """Seconds per step of a pilot, without its first steps."""
    return float(np.mean(np.diff(ticks[_WARM - 1 :])))


def sides(settings: Settings) -> tuple[str, str]:
    """The side that searches and the side that is searched, by the direction of the settings."""
    return ("query", "document") if settings.direction == "q2d" else ("document", "query")


def train_and_test(settings: Settings) -> tuple[pd.DataFrame, Task]:
    """The train pairs of the settings' tables, and the search task of their test pairs."""
    loaded = loading.load_data(settings)
    return loaded.train, tasks_of(loaded.test)[settings.direction]


def tested(task: Task, queries: np.ndarray, documents: np.ndarray) -> Values:
    """Each metric of TESTED with one value per query."""
    table = rank_all(task, embedding_scores(queries, documents))
    return {metric: table[metric].tolist() for metric in TESTED}
