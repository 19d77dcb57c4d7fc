"""The race: our recipe and sentence-transformers train for the same time, and are tested on the same queries.

Speed and quality in one figure. The peer gets its trainer, its documented losses and batches without
repeated texts, the learning rate that suits its in-batch loss best, and the same model, length, precision
and pilot run; the clock counts training only. Which steps fit into the time is found by a pilot of some
steps and fixed before the training begins, so a run depends on the clock by its number of steps alone. A pilot
is never quite right: our side runs after the peer's in-batch loss and aims at no more time than that really took
with the same seed, all that we do before the first step included, which the peer's clock leaves out.

Where the recipe mixes the base model's weights into the trained ones, both in-batch models are tested with and
without that, which the peer's trainer does not do, and the peer has its best rate for either. The pairs that are
compared: ours with each arm, and ours without the base model with the peer's in-batch loss as it comes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import files, paths
from hr_search.base.choices import METRICS
from hr_search.base.devices import hardware
from hr_search.base.errors import InputError
from hr_search.bench import peer
from hr_search.bench.cases import Order
from hr_search.bench.meters import best_device, step_clock
from hr_search.bench.processes import at_least, measure, model_folder
from hr_search.data import loading
from hr_search.evaluation.metrics import embedding_scores, evaluate
from hr_search.evaluation.significance import holm, paired_comparison
from hr_search.grids.effects import crossed_interval
from hr_search.grids.workers import cores
from hr_search.interpolation import Interpolation
from hr_search.models import condenser, embedded
from hr_search.runs import provenance
from hr_search.settings import Settings

log = logging.getLogger(__name__)

RATES = (2e-5, 5e-5, 1e-4, 2e-4)
PEER = "MultipleNegativesRankingLoss"
TESTED = ("mrr", "pass@1", "recall@10")
_PILOT, _WARM = 20, 5  # steps of the pilot, the first of which are not timed
_EPOCHS = 10_000  # more than any race has time for


@dataclasses.dataclass(frozen=True)
class Arm:
    """One competitor: a side with a loss and a learning rate of its own."""

    name: str
    side: str
    loss: str
    learningrate: float

    @property
    def variant(self) -> Arm:
        """The same with the base model's weights mixed in after training; of ours, without."""
        how = "nothing mixed in" if self.side == "ours" else "base mixed in"
        return dataclasses.replace(self, name=f"{self.name}, {how}")

    def tests(self, found: dict[str, Any]) -> dict[Arm, dict[str, list[float]]]:
        """What the tests of a run tell, of the arm itself and of its variant if there is one."""
        values, mixed = found["values"], found.get("mixed")
        if not mixed:
            return {self: values}
        own, other = (mixed, values) if self.side == "ours" else (values, mixed)
        return {self: own, self.variant: other}


def race(
    recipe: Settings,
    minutes: float = 10.0,
    seeds: Sequence[int] = (1, 2, 3),
    rates: Sequence[float] = RATES,
    out: str = "",
    model: str = embedded.NAME,
    workers: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trains our recipe and the peer's in-batch and triplet loss for so long, and tests all on the same queries.

    The in-batch loss runs with every rate on the first seed and goes on with the best, which the triplet loss
    gets, too, and with the best for the base model mixed in if that is another. What each run found is kept
    beside the table, in a folder with `_runs` at the end, so that a race that was stopped goes on where it was.

    Args:
        recipe: our settings, with datapath and testpath; the test is in its direction.
        minutes: of training, for each run.
        seeds: of order and sampling.
        rates: learning rates the peer may choose from, by the test itself.
        out: the table of runs; empty = `metrics/race.csv`. The comparison goes beside it, `_effects` at the end.
        model: "embedded", or a model's folder.
        workers: runs side by side; each gets its part of the processor's cores.

    Returns:
        Runs (`arm`, `learningrate`, `seed`, `steps`, `seconds`, `mrr`, `pass@1`, `recall@10`) and effects (as
        `effects` gives them, then the arm's `learningrate` and mean `steps` and `seconds`).

    Raises:
        InputError: no test table, numbers that are too small, or a run that failed.
    """
    if not recipe.testpath:
        raise InputError("a race needs --testpath, the table on which both sides are tested.")
    if not minutes > 0:
        raise InputError(f"--minutes is {minutes:g}; it must be above 0.")
    at_least({"seeds": (len(seeds), 1), "rates": (len(rates), 1), "workers": (workers, 1)})
    peer.require()
    path = paths.resolve(out) if out else paths.metrics() / "race.csv"
    recipe = recipe.replace(modelname=model_folder("", model))
    # The peer keeps the dropout that the model comes with.
    order = Order(
        "race", recipe.modelname, precision=recipe.precision, dropout=-1.0, batchsize=recipe.batchsize,
        maxlength=recipe.trainlength or recipe.maxlength, recipe=recipe.to_dict(), seconds=60 * minutes,
        threads=max(1, cores() // workers) if workers > 1 else 0,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    values: dict[tuple[Arm, int], dict[str, list[float]]] = {}
    taken: dict[tuple[Arm, int], float] = {}
    limits: dict[int, float] = {}  # seconds that our side gets with a seed
    same, kept = circumstances(recipe), path.with_name(f"{path.stem}_runs")

    def answer(task: tuple[Arm, int]) -> dict[str, Any]:
        arm, seed = task
        seconds = limits[seed] if arm.side == "ours" else order.seconds
        given = dataclasses.replace(order, loss=arm.loss, learningrate=arm.learningrate, seed=seed, seconds=seconds)
        place = kept / f"{files.digest(arm.side, json.dumps(dataclasses.asdict(given)), same)}.json"
        if place.is_file():
            return files.read_json(place)
        found = measure(arm.side, given, {})
        if same:
            files.write_json(place, found)
        return found

    def run(tasks: Sequence[tuple[Arm, int]]) -> None:
        with ThreadPoolExecutor(workers) as pool:
            for (arm, seed), found in zip(tasks, pool.map(answer, tasks), strict=True):
                taken[arm, seed] = found["seconds"]
                for each, tests in arm.tests(found).items():
                    values[each, seed] = tests
                    known = {"arm": each.name, "learningrate": each.learningrate, "seed": seed}
                    means = {metric: float(np.mean(tests[metric])) for metric in TESTED}
                    rows.append({**known, "steps": found["steps"], "seconds": found["seconds"], **means})
                    log.info("%s", ", ".join(f"{name} {value}" for name, value in rows[-1].items()))
                files.write_csv(path, pd.DataFrame(rows))

    ours = Arm("ours", "ours", recipe.loss, recipe.learningrate)
    tried = [Arm(PEER, "peer", "infonce", rate) for rate in rates]
    run([(arm, seeds[0]) for arm in tried])
    best = max(tried, key=lambda arm: np.mean(values[arm, seeds[0]]["mrr"]))
    best_mixed = max(tried, key=lambda arm: np.mean(values.get((arm.variant, seeds[0]), values[arm, seeds[0]])["mrr"]))
    run([(arm, seed) for seed in seeds[1:] for arm in dict.fromkeys((best, best_mixed))])
    limits |= {seed: min(order.seconds, taken[best, seed], taken[best_mixed, seed]) for seed in seeds}
    triplet = Arm("TripletLoss", "peer", "triplet", best.learningrate)
    run([(arm, seed) for arm in (ours, triplet) for seed in seeds])
    compared = [ours, ours.variant, best, best_mixed.variant, triplet]
    arms = {arm.name: arm for arm in compared if (arm, seeds[0]) in values}
    runs_table = pd.DataFrame(rows)
    costs = runs_table.groupby(["arm", "learningrate"])[["steps", "seconds"]].mean()
    table = effects({name: [values[arm, seed] for seed in seeds] for name, arm in arms.items()})
    known = pd.DataFrame({name: {"learningrate": arm.learningrate, **costs.loc[(name, arm.learningrate)]}
                          for name, arm in arms.items()}).T  # fmt: skip
    table = table.join(known, on="arm")
    files.write_csv(path.with_name(f"{path.stem}_effects{path.suffix}"), table)
    return runs_table, table


def circumstances(recipe: Settings) -> str:
    """What two runs must share, beside their order, to be the same: data, model, code, versions, machine.

    Empty where the code was changed since its commit: then nobody can tell.
    """
    commit = provenance.commit()
    if commit.endswith("+"):
        return ""
    model = [
        (item.name, item.stat().st_size, item.stat().st_mtime_ns) for item in sorted(Path(recipe.modelname).iterdir())
    ]
    machine = hardware(best_device())
    return files.digest(loading.load(recipe).fingerprint, model, commit, machine, sorted(provenance.versions().items()))


def effects(values: dict[str, list[dict[str, list[float]]]]) -> pd.DataFrame:
    """Each arm's metrics, and those of one of ours minus the arm's; intervals draw seeds and queries anew.

    Args:
        values: arm -> for each seed, metric -> one value a query.

    Returns:
        One row a metric and pair: `arm`, `metric`, `value`, `low`, `high`; `minuend`, the arm of ours that it is
        compared with, empty in the row of ours; of that minus the arm `difference`, `difference_low`,
        `difference_high`, `p` (paired test of the queries' means over the seeds) and `p_holm`. Intervals as in
        `ablation`.
    """
    mine, plain = "ours", "ours, nothing mixed in"
    pairs = [(mine, arm) for arm in values if arm != mine]
    pairs += [(plain, arm) for arm in values if plain in values and arm == PEER]
    rows = []
    for metric in TESTED:
        scores = {arm: np.array([seed[metric] for seed in seeds]) for arm, seeds in values.items()}  # (S, Q) each
        tests = [paired_comparison(scores[arm].mean(0), scores[own].mean(0), 0) for own, arm in pairs]
        corrected = holm(test["p"] for test in tests)
        rows.append({"arm": mine, "metric": metric, **_located(scores[mine], ""), "minuend": ""})
        for (own, arm), test, p_holm in zip(pairs, tests, corrected, strict=True):
            rows.append({
                "arm": arm, "metric": metric, **_located(scores[arm], ""), "minuend": own,
                **_located(scores[own] - scores[arm], "difference"), "p": test["p"], "p_holm": p_holm,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _located(values: np.ndarray, name: str) -> dict[str, float]:
    """The mean of values (S, Q) and its 95 % interval over seeds and queries, under their column names."""
    low, high = crossed_interval(values, np.ones_like(values), 0)
    start = f"{name}_" * bool(name)
    return {name or "value": float(values.mean()), f"{start}low": low, f"{start}high": high}


# -- one run, in a process of its own ------------------------------------------------------------


def run_ours(order: Order) -> dict[str, Any]:
    """Our side of a race: pilot, training through `train.fit`, test as in `run_peer`."""
    from hr_search import train
    from hr_search.batches import index_rows
    from hr_search.bench.ours import token_tables
    from hr_search.encoder import load_encoder

    settings = Settings(**order.recipe).replace(
        seed=order.seed, epochs=_EPOCHS, evalsteps=0, patience=0, checkpointpath="", resume=False
    )
    pairs, task = train_and_test(settings)
    rows, nothing = index_rows(pairs), dict.fromkeys(METRICS, math.nan)
    searched = dict(zip(sides(settings), (task.queries, task.documents), strict=True))

    def fitted(steps: int) -> tuple[Any, Interpolation, list[float], float]:
        prompts = {"query": settings.queryprompt, "document": settings.documentprompt}
        encoder = load_encoder(
            settings.modelname, settings.maxlength, settings.precision, settings.dropout, prompts=prompts
        )
        started = time.perf_counter()
        if settings.condense:
            encoder.condenser = condenser.learn(pairs["query"], pairs["positive"], settings.condense)
        tables = token_tables(encoder, rows, length=settings.trainlength)
        encoder.compact([*tables.values(), *(encoder.tokens(texts, side) for side, texts in searched.items())])
        interpolation = Interpolation(encoder, settings.baseshare)
        with step_clock(1, steps) as ticks:
            # Tested with and without it, so it is mixed in afterwards: training is the same.
            train.fit(encoder, rows, tables, settings.replace(maxsteps=steps, baseshare=0.0), lambda step: nothing)
        return encoder, interpolation, ticks, time.perf_counter() - started

    def values() -> dict[str, list[float]]:
        return tested(task, *(encoder.encode(texts, side) for side, texts in searched.items()))

    _, _, ticks, whole = fitted(_PILOT)
    setup = whole - _PILOT * pace(ticks)
    steps = fitting_steps(order.seconds - setup, ticks)
    encoder, interpolation, _, seconds = fitted(steps)
    return {**with_and_without(values, encoder, interpolation), "steps": steps, "seconds": seconds}


def run_peer(order: Order) -> dict[str, Any]:
    """The peer's side of a race: pilot, training through its trainer, test with its own encoding.

    `mixed` holds the values of the in-batch model with the recipe's share of the base model in it.
    """
    settings = Settings(**order.recipe)
    pairs, task = train_and_test(settings)
    anchor, positive = sides(settings)
    columns = {"query": pairs["query"], "document": pairs["positive"]}
    pairs = pd.DataFrame({"anchor": columns[anchor], "positive": columns[positive]})

    def fitted(steps: int) -> tuple[Any, Interpolation, list[float], float]:
        model = peer.load(order)
        interpolation = Interpolation(model, settings.baseshare if order.loss == "infonce" else 0.0)
        with tempfile.TemporaryDirectory() as folder, step_clock(1, steps) as ticks:
            trainer = peer.make_racer(order, model, pairs, (anchor, positive), steps, folder)
            started = time.perf_counter()
            trainer.train()
            return model, interpolation, ticks, time.perf_counter() - started

    def values() -> dict[str, list[float]]:
        encode = {"query": model.encode_query, "document": model.encode_document}
        return tested(task, encode[anchor](task.queries), encode[positive](task.documents))

    steps = fitting_steps(order.seconds, fitted(_PILOT)[2])
    model, interpolation, _, seconds = fitted(steps)
    model.max_seq_length = settings.maxlength  # trained and tested at our lengths
    return {**with_and_without(values, model, interpolation), "steps": steps, "seconds": seconds}


def with_and_without(
    values: Callable[[], dict[str, list[float]]], model: Any, interpolation: Interpolation
) -> dict[str, dict[str, list[float]]]:
    """The `values` of a trained model, and as `mixed` those after the base model was mixed in, if it is to be."""
    answer = {"values": values()}
    if interpolation.share:
        interpolation.mix(model)
        answer["mixed"] = values()
    return answer


def fitting_steps(seconds: float, ticks: Sequence[float]) -> int:
    """How many steps fit into `seconds` at the pace of a pilot; at least two.

    Args:
        seconds: to be filled.
        ticks: the times at which the pilot's steps ended.
    """
    return max(2, round(seconds / pace(ticks)))


def pace(ticks: Sequence[float]) -> float:
    """Seconds a step takes in a pilot, whose first steps do not count."""
    return float(np.mean(np.diff(ticks[_WARM - 1 :])))


def sides(settings: Settings) -> tuple[str, str]:
    """The sides that are searched with and searched in, by the settings' direction."""
    return ("query", "document") if settings.direction == "q2d" else ("document", "query")


def train_and_test(settings: Settings) -> tuple[pd.DataFrame, loading.Task]:
    """The train rows of the settings' tables, and the search task of their test rows."""
    loaded = loading.load(settings)
    return loaded.train, loading.tasks(loaded.test)[settings.direction]


def tested(task: loading.Task, queries: np.ndarray, documents: np.ndarray) -> dict[str, list[float]]:
    """One value a query for each metric."""
    table = evaluate(task, embedding_scores(queries, documents))
    return {metric: table[metric].tolist() for metric in TESTED}
