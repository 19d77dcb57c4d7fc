"""A study: the cells of a search, drawn one after another from what the earlier ones reached in validation.

The study lies in an Optuna storage. Every machine that has the same grid file and the same storage draws from it and
adds to it; the number of trials is that of all of them. A trial is judged by the validation metric of the model that
its run keeps, never by the test. Each trial's random numbers come from its number, so a study that one worker makes in
two starts is the study that it makes in one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import claims, files, paths
from hr_search.base.errors import InputError
from hr_search.grids.entries import Range
from hr_search.grids.grid_file import Cell, Grid, make_cell
from hr_search.grids.study_tables import FACTS
from hr_search.grids.workers import Outcome, ready, run_cells, train_cell
from hr_search.runs import tracking, trials
from hr_search.runs.folders import Run
from hr_search.settings import FIELDS, TYPES

log = logging.getLogger(__name__)

ENOUGH = 4  # finished trials, before importances are asked for
NOTEBOOK = "10_study"
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


def run_study(
    grid: Grid, workers: int = 1, retry: bool = False, scheduler: str = "", run: Callable[[Cell], None] = train_cell
) -> pd.DataFrame:
    """Runs the trials that a study still lacks and writes `metrics/grids/<name>/trials.csv` after each.

    A trial that fails does not stop the others. What was stopped in the middle is run again by the next start, with the
    same settings.

    Args:
        grid: from `read_grid`, with a `search`.
        workers: processes side by side; each gets its share of the processor's cores. Trials that run side by side do
            not learn from each other.
        retry: run trials again that failed before.
        scheduler: address of a Dask cluster that runs the cells instead, `tcp://HOST:PORT`.
        run: what runs a cell; it must leave a finished run.

    Returns:
        `Study.table`.

    Raises:
        InputError: no worker, missing data or models, a storage that is locked or out of reach, a study of other
            settings, or a grid that is already running.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1.")
    with claims.claimed(claims.inside(grid.folder), f"the grid {grid.name}", "stop it"):
        ready(make_cell(grid.name, grid.search.common, grid.name))
        study = Study(grid)
        study.take_up(retry)
        table, left = study.write(), study.left()
        log.info("study %s: %d of %d trials are left", grid.name, left, grid.search.trials)
        if not left:
            return table
        try:
            tracked = tracking.parent_run(grid.search.common.get("tracker", "none"), grid.name, grid.folder)
            with tracked as study.told:
                cells = run_cells(study.cells(), left, run, workers, scheduler, grid.name)
                with contextlib.closing(cells):
                    for cell, outcome in cells:
                        study.settle(cell, outcome)
                        study.write()
        except BaseException as error:
            with contextlib.suppress(InputError):  # the first error is the one to report
                study.give_back()
                if isinstance(error, KeyboardInterrupt):
                    log.warning(
                        "the grid %s was stopped; %d of %d trials are left, and the same command goes on with them.",
                        *(grid.name, study.left(), grid.search.trials),
                    )
            raise
        return study.write()


class Study:
    """The study of a grid, opened or begun.

    Attributes:
        study: Optuna's.
        url: of its storage, with an absolute path.
        place: this folder of tables among those that share the storage.
        asked: the trials that run here, by run id.
        told: variables that all cells get.

    Raises:
        InputError: optuna is missing, the storage is locked or out of reach, or the study has other settings.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid, self.search = grid, grid.search
        self.asked: dict[str, Any] = {}
        self.told: dict[str, str] = {}
        self.url = trials.storage_url(grid.search.storage or f"sqlite:///{grid.folder / 'study.db'}")
        self.place = _place(grid)
        self.study = trials.begun_together(self._open)
        before, made_of = self.study.user_attrs["made of"], _made_of(grid)
        if before != made_of:
            raise InputError(
                f"the study {grid.name} was begun with {_first_difference(before, made_of)}; give the grid a new name, "
                "or take that back."
            )

    def _open(self) -> Any:
        """Optuna's study, begun where there is none."""
        optuna, pruner = trials.optuna_package(), trials.make_pruner(self.search.pruner, self.search.startup)
        with self.answering():
            storage = trials.open_storage(self.url)
            options = {"direction": "maximize", "load_if_exists": True, "pruner": pruner}
            study = optuna.create_study(study_name=self.grid.name, storage=storage, **options)
            if "made of" not in study.user_attrs:
                study.set_user_attr("made of", _made_of(self.grid))
            return study

    def answering(self) -> contextlib.AbstractContextManager[None]:
        """A block of work on the storage."""
        return trials.answering(self.url)

    # -- which trials there are ------------------------------------------------------------------

    def known(self) -> list[Any]:
        """All trials that count, in the order of their numbers: not those that were given up for another."""
        with self.answering():
            every = self.study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs["again"] for trial in every if "again" in trial.user_attrs}
        return [trial for trial in every if trial.number not in replaced and "surplus" not in trial.user_attrs]

    def left(self) -> int:
        """How many trials have not been begun by any machine."""
        begun = sum(trial.state.name != "WAITING" for trial in self.known())
        return max(0, self.search.trials - begun)

    def take_up(self, retry: bool) -> None:
        """Goes on from where this place was stopped: runs that had finished count, others are asked for again."""
        for frozen in self.known():
            failed, ours = frozen.state.name == "FAIL", frozen.user_attrs.get("place") == self.place
            if frozen.state.name == "RUNNING" and ours:
                run = Run(paths.runs() / frozen.user_attrs["run"])
                if (run.folder / "summary.json").is_file():
                    self._settle(self._opened(frozen), Outcome("finished", run.summary["seconds"]), run)
                else:
                    self._again(frozen, "it was stopped")
            elif failed and retry:
                self._again(frozen)

    def give_back(self) -> None:
        """Lets the trials that run here be asked for again."""
        for frozen in self.known():
            if frozen.number in {trial.number for trial in self.asked.values()}:
                self._again(frozen, "it was stopped")
        self.asked.clear()

    def _again(self, frozen: Any, error: str = "") -> None:
        """Puts the settings of a trial at the head of the queue; one that is under way ends as failed."""
        with self.answering():
            if error:
                trial = self._opened(frozen)
                trial.set_user_attr("error", error)
                self.study.tell(trial, state=self._state("FAIL"))
            self.study.enqueue_trial(frozen.params, user_attrs={"again": frozen.number})

    def _opened(self, frozen: Any) -> Any:
        return trials.optuna_package().trial.Trial(self.study, frozen._trial_id)

    def _state(self, name: str) -> Any:
        return trials.optuna_package().trial.TrialState[name]

    # -- drawing ---------------------------------------------------------------------------------

    def cells(self) -> Iterator[Cell]:
        """Draws one cell after another until all trials have been begun."""
        while self.left():
            if cell := self.ask():
                yield cell

    def ask(self) -> Cell | None:
        """The cell of the next trial; None where another machine took the last one, or a twin has its result."""
        optuna, search = trials.optuna_package(), self.search
        with self.answering():
            trial = self.study.ask()
            earlier = [each for each in self.known() if each.number < trial.number]
            if len(earlier) >= search.trials:
                trial.set_user_attr("surplus", True)
                self.study.tell(trial, state=self._state("FAIL"))
                return None
            seed = np.random.SeedSequence([search.seed, trial.number]).generate_state(1)[0]
            self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=search.startup, seed=int(seed))
            values = {name: _suggested(trial, name, spread) for name, spread in search.space.items()}
            twins = [each for each in earlier if each.params == values and each.state.name in ("COMPLETE", "PRUNED")]
            if twins:
                self._copy(trial, twins[0])
                return None
            cell = make_cell(self.grid.name, {**search.common, **_tidy(values)}, f"the grid {self.grid.name}")
            runid = f"{self.grid.name}-{trial.number:03d}-{cell.runid.rsplit('-', 1)[1]}"
            self.asked[runid] = trial
            trial.set_user_attr("run", runid)
            trial.set_user_attr("place", self.place)
        how = trials.told(self.url, self.grid.name, trial._trial_id, search.pruner, search.startup)
        return dataclasses.replace(ready(cell), runid=runid, environment={**self.told, **how})

    def _copy(self, trial: Any, twin: Any) -> None:
        """Ends a trial with the result of an earlier one of the same settings."""
        for number, value in twin.intermediate_values.items():
            trial.report(value, number)
        for name in ("run", "place"):
            trial.set_user_attr(name, twin.user_attrs.get(name, ""))
        trial.set_user_attr("seconds", 0.0)
        self.study.tell(trial, None if twin.state.name == "PRUNED" else twin.value, state=twin.state)
        log.info("trial %d repeats trial %d and takes its result", trial.number, twin.number)

    # -- results ---------------------------------------------------------------------------------

    def settle(self, cell: Cell, outcome: Outcome) -> None:
        """Tells the study what became of a cell that ran here."""
        self._settle(self.asked[cell.runid], outcome, Run(paths.runs() / cell.runid))
        del self.asked[cell.runid]

    def _settle(self, trial: Any, outcome: Outcome, run: Run) -> None:
        value, state, error = None, "FAIL", outcome.error
        if outcome.status == "finished":
            value, pruned = objective(run)
            state = "PRUNED" if pruned else "COMPLETE"
            if math.isnan(value):
                value, state, error = None, "FAIL", "its run has no validation rows to be judged by"
        with self.answering():
            for name, fact in (("seconds", outcome.seconds), ("error", error), ("notebook", outcome.notebook)):
                if fact and fact == fact:
                    trial.set_user_attr(name, fact)
            self.study.tell(trial, None if state == "PRUNED" else value, state=self._state(state))

    def table(self) -> pd.DataFrame:
        """The trials of all machines.

        Returns:
            One row per trial: trial (its number), the settings that vary, status (finished, pruned, failed, running or
            waiting), value (the validation metric of the model that was kept; of a pruned trial its last one),
            validations, seconds, run, place (which machine and folder), notebook (of a failed trial) and error.
        """
        rows = []
        for trial in self.known():
            facts = {name: trial.user_attrs.get(name, "") for name in ("run", "place", "notebook", "error")}
            facts |= {"status": STATES[trial.state.name], "seconds": trial.user_attrs.get("seconds", math.nan)}
            last = trial.intermediate_values[trial.last_step] if trial.last_step is not None else math.nan
            value = {"COMPLETE": trial.value, "PRUNED": last}.get(trial.state.name, math.nan)
            facts |= {"value": value, "validations": len(trial.intermediate_values)}
            settings = {name: trial.params.get(name, "") for name in self.grid.varied}
            rows.append({"trial": trial.number, **settings, **{name: facts[name] for name in FACTS}})
        return pd.DataFrame(rows, columns=["trial", *self.grid.varied, *FACTS])

    def importances(self) -> pd.DataFrame:
        """How much each setting decides whether a trial is among the best, by Optuna (PED-ANOVA, Watanabe et al. 2023).

        Returns:
            Columns setting and importance (they sum to 1), largest first; without rows below `ENOUGH` finished trials.
        """
        shares: dict[str, float] = {}
        if sum(trial.state.name == "COMPLETE" for trial in self.known()) >= ENOUGH:
            with self.answering():
                shares = trials.optuna_package().importance.get_param_importances(self.study)
        return pd.DataFrame(list(shares.items()), columns=["setting", "importance"])

    def write(self) -> pd.DataFrame:
        """Writes `trials.csv`, which it returns, `curves.csv` (each validation of each trial) and `importance.csv`."""
        table = self.table()
        curves = [
            {"trial": trial.number, "validation": number, "value": value}
            for trial in self.known()
            for number, value in sorted(trial.intermediate_values.items())
        ]
        curves = pd.DataFrame(curves, columns=["trial", "validation", "value"])
        for name, part in (("trials", table), ("curves", curves), ("importance", self.importances())):
            files.write_csv(self.grid.folder / f"{name}.csv", part)
        return table


def objective(run: Run) -> tuple[float, bool]:
    """What a trial is judged by: the validation goal of the weights that its run kept, and whether it was pruned."""
    summary, history = run.summary, run.table("history")
    return float(history.loc[history["step"] == summary["best_step"], run.config["goal"]].iloc[0]), "pruned" in summary


def _suggested(trial: Any, name: str, spread: list[Any] | Range) -> Any:
    """The value of a setting in a trial."""
    if isinstance(spread, list):
        return trial.suggest_categorical(name, spread)
    if TYPES[name] is int:
        return trial.suggest_int(name, int(spread.low), int(spread.high), step=int(spread.step) or 1, log=spread.log)
    return trial.suggest_float(name, spread.low, spread.high, step=spread.step or None, log=spread.log)


def _tidy(values: dict[str, Any]) -> dict[str, Any]:
    """The values with eight digits, to be read: three steps of .1 make .30000000000000004."""
    return {name: float(f"{value:.8g}") if isinstance(value, float) else value for name, value in values.items()}


def _place(grid: Grid) -> str:
    """The name of this folder of tables: the machine and a mark, kept in a file, as names of containers change."""
    file = grid.folder / "place"
    if not file.is_file():
        files.write_text(file, f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}")
    return file.read_text(encoding="utf-8").strip()


def _made_of(grid: Grid) -> str:
    """All that must be the same in every start of a study, as JSON: shared settings that are no defaults, and space."""
    search = grid.search
    common = {name: value for name, value in search.common.items() if value != FIELDS[name].default}
    space = {
        name: spread if isinstance(spread, list) else dataclasses.asdict(spread)
        for name, spread in search.space.items()
    }
    return json.dumps({"base": common, "space": space}, sort_keys=True)


def _first_difference(before: str, now: str) -> str:
    """The first setting in which two texts of `_made_of` differ, with its value in the former."""
    old, new = json.loads(before), json.loads(now)
    for part in ("base", "space"):
        for name in sorted({*old[part], *new[part]}):
            if old[part].get(name) != new[part].get(name):
                value = json.dumps(old[part][name]) if name in old[part] else "its default" * (part == "base") or "none"
                return f"another {part}, in which {name} was {value}"
    return "another grid file"
