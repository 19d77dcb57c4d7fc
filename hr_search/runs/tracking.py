"""Experiment trackers: the numbers of the history, sent to one if asked."""

from __future__ import annotations

import importlib.util
import math
from types import TracebackType

from accelerate import Accelerator
from accelerate.tracking import filter_trackers

from hr_search.base import paths
from hr_search.base.errors import InputError, one_line
from hr_search.settings import Settings


def require_tracker(name: str) -> None:
    """Checks that the tracker's package is installed, unless it is "none".

    Raises:
        InputError: it is not installed.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise InputError(
            f'the tracker {name} is not installed; run `pip install "hr_search[track]"` or use --tracker none.'
        )


class Tracker:
    """A context that sends numbers to the tracker that the settings name, or to none.

    Args:
        settings: `tracker` and `projectname`.
        accelerator: the run's; its trackers are accelerate's own classes.

    Raises:
        InputError: the tracker does not start.
    """

    def __init__(self, settings: Settings, accelerator: Accelerator) -> None:
        self.name, self.settings, self.accelerator = settings.tracker, settings, accelerator

    def __enter__(self) -> Tracker:
        if self.name == "none":
            return self
        try:
            self.accelerator.log_with = filter_trackers([self.name], str(paths.root() / "metrics" / "tracking"))
            config = self.settings.to_dict()
            self.accelerator.project_configuration.set_directories(str(paths.root() / "metrics" / "tracking"))
            self.accelerator.init_trackers(self.settings.projectname, config=config)
        except Exception as error:  # each tracker has errors of its own
            raise InputError(
                f"the tracker {self.name} does not start ({one_line(error)}); use --tracker none."
            ) from error
        return self

    def log(self, row: dict[str, float]) -> None:
        """Sends a row of the history, without values that are NaN or infinite."""
        if self.name != "none":
            figures = {name: value for name, value in row.items() if name != "step" and math.isfinite(value)}
            self.accelerator.log(figures, step=int(row["step"]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the tracker."""
        if self.name != "none":
            self.accelerator.end_training()
