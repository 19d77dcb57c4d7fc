"""The race: our recipe and sentence-transformers train for the same time and are tested on the same queries.

Speed and quality in one figure. The peer gets its own trainer, its documented losses, batches without repeated texts,
the learning rate that suits its in-batch loss best, and the same model, length and precision. How the time is
measured and filled is described in `racers`. A pilot is never quite right, so our side runs after the peer's in-batch
loss and gets no more time than that loss really took with the same seed.

If the recipe blends weights of the base model into the trained ones, both in-batch models are tested with and without
them, which the peer's trainer does not do by itself, and the peer has its best rate for either. Ours is compared with
every arm, and ours without the base model with the peer's in-batch loss alone. The arms' names in the tables say
"mixed in" for blended.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import files, paths
from hr_search.base.cores import share_of_cores
from hr_search.base.devices import hardware
from hr_search.base.errors import InputError
from hr_search.bench import peer
from hr_search.bench.cases import Order, check_numbers
from hr_search.bench.meters import best_device
from hr_search.bench.model_folders import model_folder
from hr_search.bench.processes import measure
from hr_search.bench.racers import TESTED, Values
from hr_search.data import loading
from hr_search.evaluation.crossed import crossed_interval
from hr_search.evaluation.significance import holm, paired_comparison
from hr_search.models import embedded
from hr_search.runs import provenance
from hr_search.settings import Settings

log = logging.getLogger(__name__)

RATES = (2e-5, 5e-5, 1e-4, 2e-4)
OURS, OURS_PLAIN, PEER = "ours", "ours, nothing mixed in", "MultipleNegativesRankingLoss"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm of the comparison: a contender with a loss and a learning rate of its own."""

    name: str
    contender: str
    loss: str
    learningrate: float

    @property
    def variant(self) -> Arm:
        """The same with the base model's weights blended in after training; for ours, without them."""
        name = OURS_PLAIN if self.contender == "ours" else f"{self.name}, base mixed in"
        return dataclasses.replace(self, name=name)

    def values(self, answer: dict[str, Any]) -> dict[Arm, Values]:
        """The values that a run measured, of this arm and of its variant if there is one."""
        plain, blended = answer["values"], answer.get("blended")
        if not blended:
            return {self: plain}
        own, other = (blended, plain) if self.contender == "ours" else (plain, blended)
        return {self: own, self.variant: other}


Entry = tuple[Arm, int]  # one run: an arm and a seed


class Runs:
    """The runs of a race: measured in processes of their own, kept on disk, and listed in a table.

    Attributes:
        values: (arm, seed) -> metric -> one value per query.
        seconds: (arm, seed) -> training time.
    """

    def __init__(self, order: Order, path: Path, workers: int) -> None:
        """Nothing has run yet.

        Args:
            order: what all runs share.
            path: the table of runs; answers are kept beside it, in a folder with `_runs` at the end of its name.
            workers: runs side by side.
        """
        self.values: dict[Entry, Values] = {}
        self.seconds: dict[Entry, float] = {}
        self._order, self._path, self._workers = order, path, workers
        self._kept = path.with_name(f"{path.stem}_runs")
        self._circumstances = circumstances(Settings(**order.recipe))
        self._rows: list[dict[str, Any]] = []

    @property
    def table(self) -> pd.DataFrame:
        """One row per run, and one for its variant."""
        return pd.DataFrame(self._rows)

    def add(self, entries: Iterable[Entry], limits: Mapping[int, float] | None = None) -> None:
        """Measures runs, or reads what is kept of them, and writes the table after each.

        Args:
            entries: the runs.
            limits: seed -> seconds that our side gets; absent = those of the order.

        Raises:
            InputError: a run failed.
        """
        entries = list(entries)
        orders = [self._order_of(entry, limits or {}) for entry in entries]
        with ThreadPoolExecutor(self._workers) as pool:
            answers = pool.map(self._answer, [arm.contender for arm, _ in entries], orders)
            for entry, answer in zip(entries, answers, strict=True):
                self._enter(entry, answer)
                files.write_csv(self._path, self.table)

    def best(self, arms: Sequence[Arm], seed: int, blended: bool = False) -> Arm:
        """The arm with the highest MRR with a seed; for `blended`, after the base model was blended in, if it was."""

        def mrr(arm: Arm) -> float:
            variant = self.values.get((arm.variant, seed)) if blended else None
            return float(np.mean((variant or self.values[arm, seed])["mrr"]))

        return max(arms, key=mrr)

    def _order_of(self, entry: Entry, limits: Mapping[int, float]) -> Order:
        arm, seed = entry
        seconds = limits.get(seed, self._order.seconds) if arm.contender == "ours" else self._order.seconds
        return dataclasses.replace(
            self._order, loss=arm.loss, learningrate=arm.learningrate, seed=seed, seconds=seconds
        )

    def _answer(self, contender: str, order: Order) -> dict[str, Any]:
        name = files.digest(contender, json.dumps(dataclasses.asdict(order)), self._circumstances)
        place = self._kept / f"{name}.json"
        if place.is_file():
            return files.read_json(place)
        answer = measure(contender, order, {})
        if self._circumstances:
            files.write_json(place, answer)
        return answer

    def _enter(self, entry: Entry, answer: dict[str, Any]) -> None:
        arm, seed = entry
        self.seconds[entry] = answer["seconds"]
        for each, values in arm.values(answer).items():
            self.values[each, seed] = values
            row = {"arm": each.name, "learningrate": each.learningrate, "seed": seed}
            row |= {"steps": answer["steps"], "seconds": answer["seconds"]}
            row |= {metric: float(np.mean(values[metric])) for metric in TESTED}
            self._rows.append(row)
            log.info("%s", ", ".join(f"{name} {value}" for name, value in row.items()))


def race(
    recipe: Settings,
    minutes: float = 10.0,
    seeds: Sequence[int] = (1, 2, 3),
    rates: Sequence[float] = RATES,
    out: str = "",
    model: str = embedded.NAME,
    workers: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trains our recipe and the peer's in-batch and triplet loss for equal time, and tests all on the same queries.

    The in-batch loss runs with every rate on the first seed. It continues with the best rate, which the triplet loss
    gets, too, and with the best rate for the blended model if that is another. The answer of each run is kept
    beside the table, in a folder with `_runs` at the end of its name, so a race that was stopped continues there.

    Args:
        recipe: our settings, with datapath and testpath; the test is in its direction.
        minutes: of training, per run.
        seeds: of order and sampling.
        rates: learning rates that the peer may choose from, by the test itself.
        out: the table of runs; empty = `metrics/race.csv`. The comparison goes beside it, with `_effects` at the end.
        model: "embedded", or a model's folder.
        workers: runs side by side; each gets its share of the processor's cores.

    Returns:
        Runs (`arm`, `learningrate`, `seed`, `steps`, `seconds`, `mrr`, `pass@1`, `recall@10`) and effects (those of
        `effects`, with the arm's `learningrate` and its mean `steps` and `seconds`).

    Raises:
        InputError: no test table, numbers that are too small, or a run that failed.
    """
    check_race(recipe, minutes, seeds, rates, workers)
    path = paths.resolve(out) if out else paths.metrics() / "race.csv"
    recipe = recipe.replace(modelname=model_folder(model))
    order = race_order(recipe, minutes, workers)
    runs, first = Runs(order, path, workers), seeds[0]

    rivals = [Arm(PEER, "peer", "infonce", rate) for rate in rates]
    runs.add((arm, first) for arm in rivals)
    best, best_blended = runs.best(rivals, first), runs.best(rivals, first, blended=True)
    runs.add((arm, seed) for seed in seeds[1:] for arm in dict.fromkeys((best, best_blended)))

    ours = Arm(OURS, "ours", recipe.loss, recipe.learningrate)
    triplet = Arm("TripletLoss", "peer", "triplet", best.learningrate)
    limits = {seed: min(order.seconds, runs.seconds[best, seed], runs.seconds[best_blended, seed]) for seed in seeds}
    runs.add(((arm, seed) for arm in (ours, triplet) for seed in seeds), limits)

    compared = [ours, ours.variant, best, best_blended.variant, triplet]
    table = effects_table(runs, [arm for arm in compared if (arm, first) in runs.values], seeds)
    files.write_csv(path.with_name(f"{path.stem}_effects{path.suffix}"), table)
    return runs.table, table


def check_race(recipe: Settings, minutes: float, seeds: Sequence[int], rates: Sequence[float], workers: int) -> None:
    """Checks that a race can start.

    Raises:
        InputError: what it lacks.
    """
    if not recipe.testpath:
        raise InputError("a race needs --testpath, the table on which both contenders are tested.")
    if not minutes > 0:
        raise InputError(f"--minutes is {minutes:g}; it must be above 0.")
    check_numbers({"seeds": (len(seeds), 1), "rates": (len(rates), 1), "workers": (workers, 1)})
    peer.require()


def race_order(recipe: Settings, minutes: float, workers: int) -> Order:
    """What all runs of a race share; the peer keeps the model's own dropout."""
    return Order(
        "race",
        recipe.modelname,
        precision=recipe.precision,
        dropout=-1.0,
        batchsize=recipe.batchsize,
        maxlength=recipe.trainlength or recipe.maxlength,
        recipe=recipe.to_dict(),
        seconds=60 * minutes,
        threads=share_of_cores(workers) if workers > 1 else 0,
    )


def circumstances(recipe: Settings) -> str:
    """A digest of what two runs must share, besides their order, to be the same: data, model, code, versions, machine.

    Empty if the code has changes without a commit, since then no digest can name it.
    """
    commit = provenance.commit()
    if commit.endswith("+"):
        return ""
    items = sorted(Path(recipe.modelname).iterdir())
    model = [(item.name, item.stat().st_size, item.stat().st_mtime_ns) for item in items]
    machine = hardware(best_device())
    data = loading.load_data(recipe).fingerprint
    return files.digest(data, model, commit, machine, sorted(provenance.versions().items()))


# -- effects -------------------------------------------------------------------------------------


def effects_table(runs: Runs, arms: Sequence[Arm], seeds: Sequence[int]) -> pd.DataFrame:
    """The `effects` of the arms, each with its learning rate, mean steps and mean seconds."""
    costs = runs.table.groupby(["arm", "learningrate"])[["steps", "seconds"]].mean()
    known = pd.DataFrame({"arm": [arm.name for arm in arms], "learningrate": [arm.learningrate for arm in arms]})
    known = known.join(costs, on=["arm", "learningrate"]).set_index("arm")
    return effects({arm.name: [runs.values[arm, seed] for seed in seeds] for arm in arms}).join(known, on="arm")


def effects(values: dict[str, list[Values]]) -> pd.DataFrame:
    """Each arm's metrics, and by how much ours is better; intervals resample seeds and queries.

    Args:
        values: arm -> for each seed, metric -> one value per query.

    Returns:
        One row per metric and pair: `arm`, `metric`, `value`, `low`, `high`; `minuend`, the arm of ours that it is
        compared with, empty in the row of ours; of the minuend minus the arm `difference`, `difference_low`,
        `difference_high`, `p` (paired test of the queries' means over the seeds) and `p_holm`. Intervals are those of
        `crossed_interval`.
    """
    pairs = [(OURS, arm) for arm in values if arm != OURS]
    if OURS_PLAIN in values and PEER in values:
        pairs.append((OURS_PLAIN, PEER))
    rows = []
    for metric in TESTED:
        scores = {arm: np.array([seed[metric] for seed in seeds]) for arm, seeds in values.items()}  # (S, Q) each
        tests = [paired_comparison(scores[arm].mean(0), scores[own].mean(0), 0) for own, arm in pairs]
        corrected = holm(test["p"] for test in tests)
        rows.append({"arm": OURS, "metric": metric, **_value(scores[OURS]), "minuend": ""})
        for (own, arm), test, p_holm in zip(pairs, tests, corrected, strict=True):
            difference = _difference(scores[own] - scores[arm]) | {"p": test["p"], "p_holm": p_holm}
            rows.append({"arm": arm, "metric": metric, **_value(scores[arm]), "minuend": own, **difference})
    return pd.DataFrame(rows)


def _value(values: np.ndarray) -> dict[str, float]:
    """The mean of values (S, Q) and its 95 % interval over seeds and queries."""
    low, high = crossed_interval(values, np.ones_like(values), 0)
    return {"value": float(values.mean()), "low": low, "high": high}


def _difference(values: np.ndarray) -> dict[str, float]:
    """The same under the names of a difference."""
    mean, low, high = _value(values).values()
    return {"difference": mean, "difference_low": low, "difference_high": high}
