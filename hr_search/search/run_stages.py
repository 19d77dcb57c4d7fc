"""The stages of a search on the test rows of a finished run, with the knobs that `tune` chose or fitted on the spot."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hr_search.base.errors import InputError
from hr_search.data.loading import Data, load_data
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder
from hr_search.evaluation import scoring
from hr_search.evaluation.significance import LABELS
from hr_search.release import model_folder
from hr_search.runs.folders import Run
from hr_search.search import identity, stages, tuning
from hr_search.search.memory import FOLDER, Memory, build_memory, open_memory, refuse_known
from hr_search.search.policy import SearchPolicy, read_policies
from hr_search.search.stage_figures import complete
from hr_search.settings import Settings

MEMORY = 1500  # known pairs that a memory made on the spot holds at most, and
TOKENS = 600_000  # tokens that are encoded for it at most: a minute on two cores
_SAME = 0.005  # by how much the cosine's metric may differ from that of the run: precision, threads


@dataclasses.dataclass(frozen=True)
class Examined:
    """The stages of a run's search.

    Attributes:
        table: from `stages.stages_table`.
        policy: the knobs.
        origin: a sentence on where the knobs are from.
        fitted: the steps of `tuning.tune`; None where the knobs were chosen before.
    """

    table: pd.DataFrame
    policy: SearchPolicy
    origin: str
    fitted: pd.DataFrame | None = None


def kept_model(run: Run) -> Path | None:
    """The folder of the encoder that a run saved; None where it saved none, or it is gone."""
    place = run.config.get("outputpath") if run.config.get("stage") != "rerank" else ""
    folder = model_folder(place) if place else None
    return folder if folder and (folder / "modules.json").is_file() else None


def data_of(run: Run) -> tuple[Settings, Data]:
    """The settings of a run and its data, read again.

    Raises:
        InputError: the data cannot be read, or they have changed since.
    """
    settings = Settings.from_mapping(run.config, f"the run {run.id}")
    with _quiet("hr_search.data"):  # the counts are in the notebook on the data
        data = load_data(settings)
    if data.fingerprint != run.summary["data"]["fingerprint"]:
        raise InputError(f"{settings.datapath} is no longer what the run {run.id} has read; repeat the run.")
    return settings, data


def examine(
    run: Run,
    encoder: Encoder,
    data: Data,
    direction: str,
    goal: str = "mrr",
    reader: Callable[[str], stages.Reads] | None = None,
) -> Examined:
    """What each stage of a search adds on a run's test rows, in one direction.

    The knobs are those in the model's `search.json`. Where there are none, they are fitted on the run's validation
    rows, with train rows as the memory; test rows are only measured.

    Args:
        run: a finished run.
        encoder: the model that the run saved, or its base model.
        data: the run's data.
        direction: "q2d" or "d2q".
        goal: the metric.
        reader: opens the folder of a second stage; None = the second stage is left out.

    Raises:
        InputError: the saved model is another run's; nothing to fit on, or too much to encode for it here; or the run
            trained a second stage, or searched in stages itself.
    """
    if run.config.get("stage") == "rerank":
        raise InputError(f"the run {run.id} trained a second stage; `tune --rerank` on its encoder shows what it adds.")
    if run.config.get("stage") == "search":
        raise InputError(f"the run {run.id} is such a search; the tables above compare it with the plain cosine.")
    tasks, seed = data.tasks("test"), run.config.get("seed", 0)
    folder = Path(encoder.name)
    known = read_policies(folder) if folder.is_dir() else {}
    reads, fitted = None, None
    if direction in known:
        policy, memory = known[direction], None
        if policy.staged and (folder / FOLDER).is_dir():
            memory = open_memory(folder / FOLDER, identity.fingerprint(encoder))
        if policy.rerank and reader is not None:
            reads = reader(os.path.normpath(folder / policy.rerank))
        origin = "The knobs are those that `tune` kept in the model's search.json."
    else:
        memory, validation = _to_fit_on(encoder, data, tasks["q2d"])
        sides = scoring.embed_sides(encoder, scoring.token_tables(encoder, validation))
        with _quiet(tuning.__name__):  # its steps are shown as a table
            tuned = tuning.tune(validation[direction], sides, memory, goal)
        policy, fitted = tuned.policy, tuned.steps
        count, pairs = len(validation[direction].queries), memory.pairs.nnz
        origin = f"The knobs were fitted here on {count:,} validation queries; the memory holds {pairs:,} train pairs."
    if memory is not None:
        refuse_known(memory, tasks["q2d"].documents)
    sides = scoring.embed_sides(encoder, scoring.token_tables(encoder, tasks))
    found = stages.evaluate_stages(tasks[direction], sides, policy, memory, reads)
    _refuse_other(run, encoder, found[0].results[goal], direction, goal)
    return Examined(stages.stages_table(found, goal, seed), policy, origin, fitted)


def readable(table: pd.DataFrame, metric: str = "mrr") -> pd.DataFrame:
    """The table of stages with its gains and intervals in one column each, for a page."""
    rows = []
    for row in complete(table).itertuples():
        gained = row.gain == row.gain  # the plain cosine has none
        rows.append(
            {
                "stage": row.stage,
                LABELS.get(metric, metric): f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]",
                "gain over the cosine": f"{row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]" * gained,
                "p (Holm)": f"{row.p_holm:.4f}" * gained,
                "ms a query": f"{row.ms:.2f}",
            }
        )
    return pd.DataFrame(rows).set_index("stage").rename_axis(None)


def steps_shown(fitted: pd.DataFrame) -> pd.DataFrame:
    """The steps of a fit with their knobs in words, for a page."""
    knobs = [", ".join(f"{name} {value}" for name, value in each.items()) for each in fitted["knobs"]]
    taken = fitted["taken"].map({True: "yes", False: "no"})
    return fitted.assign(knobs=knobs, taken=taken).set_index("stage").rename_axis(None).round(4)


def spread(count: int, limit: int) -> np.ndarray:
    """At most `limit` of the numbers below `count`, evenly spaced and ascending."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64))


def _to_fit_on(encoder: Encoder, data: Data, test: Task) -> tuple[Memory, dict[str, Task]]:
    """A memory of train rows, and the validation tasks that choose.

    Raises:
        InputError: there are no validation rows, train rows have documents of theirs, or it takes too long.
    """
    validation = data.tasks("validation")
    how = "`python -m hr_search tune --model DIR` with the recipe of the run fits the stages"
    if not validation:
        raise InputError(f"the run has no validation rows to choose by; {how} with a --validationshare above 0.")
    pairs = data.train.iloc[spread(len(data.train), MEMORY)]
    task = validation["q2d"]
    texts = {
        "query": [*test.queries, *task.queries, *pairs["query"]],
        "document": [*test.documents, *task.documents, *pairs["positive"]],
    }
    tokens = sum(_length(encoder.tokens(side_texts, side)) for side, side_texts in texts.items())
    if tokens > TOKENS:
        raise InputError(f"{tokens:,} tokens are too many to encode in a report; {how}.")
    memory = build_memory(encoder, pairs, f"the memory (train rows of {data.name})")
    refuse_known(memory, task.documents, "repeat the run without --allowleaks")
    return memory, validation


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keeps a logger of this package from logging what is no warning."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _length(table: Sequence[np.ndarray]) -> int:
    """The tokens of a table."""
    return sum(map(len, table))


def _refuse_other(run: Run, encoder: Encoder, values: pd.Series, direction: str, goal: str) -> None:
    """Checks that the encoder ranks the test rows as it did in the run.

    Raises:
        InputError: another run has saved its model in the same place since.
    """
    system = "base" if kept_model(run) is None else "trained"
    table = run.table("metrics")
    metrics = table[(table["system"] == system) & (table["direction"] == direction) & (table["metric"] == goal)]
    if len(metrics) and abs(metrics["value"].iloc[0] - values.mean()) > _SAME:
        raise InputError(
            f"the model in {encoder.name} has {goal} {values.mean():.3f} on the test rows and that of {run.id} had "
            f"{metrics['value'].iloc[0]:.3f}; another run has saved its model there since."
        )
