"""Trials: a run that is one of a study's reports its validations to it and may be ended early.

The study lies in an Optuna storage, a database that several machines may share. A grid tells the run of a cell through
an environment variable which trial it is; a run without that variable is no trial.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hr_search.base.errors import InputError, one_line, shown

log = logging.getLogger(__name__)

VARIABLE = "HR_SEARCH_TRIAL"
PATIENCE = 60  # seconds that a locked SQLite file is waited for
_ATTEMPTS = 20  # at a storage that other processes begin at the same time
_TAKEN = ("already exist", "unique", "duplicate")  # what databases say then
T = TypeVar("T")


def optuna_package() -> Any:
    """The package optuna, which logs only warnings from then on.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError("a search needs the package optuna; run `pip install 'hr_search[search]'`.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


# -- the storage ---------------------------------------------------------------------------------


def storage_url(url: str) -> str:
    """The URL with an absolute path in place of the file of a SQLite database.

    Raises:
        InputError: it is no URL of a database, or one in memory, which no other process sees.
    """
    optuna_package()
    import sqlalchemy

    try:
        parsed = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise InputError(
            f"the storage {shown(url)} is no URL of a database; write sqlite:///FILE or postgresql://USER@HOST/NAME."
        ) from error
    if parsed.get_backend_name() != "sqlite":
        return url
    if parsed.database in (None, "", ":memory:"):
        raise InputError(f"the storage {shown(url)} lies in the memory of one process; write sqlite:///FILE.")
    return f"sqlite:///{Path(parsed.database).expanduser().absolute()}"


def open_storage(url: str) -> Any:
    """The Optuna storage at a URL from `storage_url`; its tables are made where they are missing.

    Raises:
        InputError: it is locked, damaged or out of reach.
    """
    optuna = optuna_package()
    waiting = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else {}
    with answering(url):
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **waiting})


def begun_together(work: Callable[[], T]) -> T:
    """The result of `work` on a storage, tried again where another process made the same table or row at that moment.

    Raises:
        InputError: as `work`.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return work()
        except InputError as error:
            if attempt == _ATTEMPTS - 1 or not any(words in str(error).lower() for words in _TAKEN):
                raise
            time.sleep(0.5)
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def answering(url: str) -> Iterator[None]:
    """A block of work on a storage, whose errors become one sentence.

    Raises:
        InputError: the storage is locked, damaged, out of reach or of another version of Optuna.
    """
    import sqlalchemy
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ImportError, RuntimeError, OSError) as error:
        place = shown(sqlalchemy.engine.make_url(url).render_as_string(hide_password=True), 200)
        if isinstance(error, ImportError):
            raise InputError(f"the storage {place} needs a package ({_reason(error)}); install it.") from error
        raise InputError(
            f"the storage {place} does not answer ({_reason(error)}); finished trials are kept, so free or "
            "repair it and start the same command again."
        ) from error


def _reason(error: BaseException) -> str:
    """Why a storage failed, in the database's own words where there are any."""
    cause: BaseException | None = error
    while cause is not None:
        if original := getattr(cause, "orig", None):
            return one_line(original)
        cause = cause.__cause__
    if isinstance(error, ImportError) and error.__cause__:
        return one_line(error.__cause__)
    return one_line(error)


def make_pruner(name: str, startup: int) -> Any:
    """What ends a trial early; validation 0, of the base model, ends none.

    Args:
        name: `median`: its best value so far is below the median of what the others had at that validation; `halving`:
            it is not in the better half at validation 1, 2, 4, 8, ... (successive halving, Li et al. 2018); `none`.
        startup: so many trials are finished before `median` compares.
    """
    pruners = optuna_package().pruners
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=0)
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return pruners.NopPruner()


# -- the trial of this process -------------------------------------------------------------------


def told(storage: str, study: str, trial: int, pruner: str, startup: int) -> dict[str, str]:
    """The environment variable that tells a run which trial it is; `trial` is Optuna's id of it, not its number."""
    return {VARIABLE: json.dumps({"storage": storage, "study": study, "trial": trial, "how": [pruner, startup]})}


def current() -> Trial | None:
    """The trial that this process runs; None for an ordinary run.

    Raises:
        InputError: its storage is locked or out of reach, or optuna is not installed.
    """
    words = os.environ.get(VARIABLE, "")
    return Trial(**json.loads(words)) if words else None


class Trial:
    """A trial under way. Its validations are numbered from 0, so that runs of other batch sizes can be compared."""

    def __init__(self, storage: str, study: str, trial: int, how: tuple[str, int]) -> None:
        optuna = optuna_package()
        self.url, self.study, self.count = storage, study, 0
        with answering(storage):
            # The sampler draws nothing here; with the default one Optuna would build a model of the study.
            parts = {"sampler": optuna.samplers.RandomSampler(), "pruner": make_pruner(*how)}
            found = optuna.load_study(study_name=study, storage=open_storage(storage), **parts)
            self.trial = optuna.trial.Trial(found, trial)

    def report(self, value: float) -> bool:
        """Tells the study the value of the next validation.

        Returns:
            Whether the trial should end here. False while the storage does not answer: the training is worth more
            than the pruning.

        Raises:
            InputError: the value is NaN, for want of validation rows.
        """
        if math.isnan(value):
            raise InputError("a search needs validation rows to judge trials by; set validationshare above 0.")
        number, self.count = self.count, self.count + 1
        try:
            with answering(self.url):
                self.trial.report(value, number)
                return bool(number) and self.trial.should_prune()
        except InputError as error:
            log.warning("this validation cannot end the trial: %s", error)
            return False
