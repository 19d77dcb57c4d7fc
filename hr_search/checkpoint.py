"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is never half-written, and the previous one is kept beside it (`FILE.previous`),
so a machine that fails while writing loses at most `checkpointsteps` steps.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hr_search.base.errors import InputError, one_line
from hr_search.base.files import whole_file
from hr_search.history import Progress, checked_progress

log = logging.getLogger(__name__)

VERSION = 2
# Settings that may differ between the interrupted run and the one that goes on.
_FREE = {"resume", "checkpointpath", "checkpointsteps", "outputpath", "projectname", "tracker", "epochs", "maxsteps"}

Parts = dict[str, Any]  # what has a state_dict and a load_state_dict: model, optimiser, bank, miner


# -- the state of a run --------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """The state of the random generators of this process."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def store(
    path: str,
    settings: dict[str, Any],
    origin: str,
    parts: Parts,
    schedule: Any,
    progress: Any,
    randoms: list[dict[str, Any]],
) -> None:
    """Writes the checkpoint of a run between two of its steps.

    Args:
        path: where it goes.
        settings: of the run, name to value.
        origin: fingerprint of the data and of how it is cut into steps.
        parts: what has a state of its own.
        schedule: of the learning rate.
        progress: an object whose attributes are tensors, numbers, texts, lists and dicts of them.
        randoms: the `random_state` of each process; they encode different texts, so their dropout differs.

    Raises:
        InputError: the place cannot be written.
    """
    state = {
        "settings": settings,
        "fingerprint": origin,
        "schedule": {"last_epoch": schedule.last_epoch},
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "random": randoms,
        "progress": dict(vars(progress)),  # not dataclasses.asdict: that copies the best weights
    }
    save_checkpoint(path, state)


def restore(
    path: str,
    settings: dict[str, Any],
    origin: str,
    parts: Parts,
    schedule: Any,
    process: int = 0,
    figures: int = 3,
) -> tuple[Progress, dict[str, Any]] | None:
    """Loads a checkpoint into the parts, the schedule and the random generators of a run, in its `process`-th process.

    A checkpoint that is torn or edited is skipped in favour of the previous one.

    Args:
        path: as given to `store`.
        settings: of the run that goes on, name to value; `epochs` and `maxsteps` may differ.
        origin: fingerprint of the data and of how it is cut into steps.
        parts: what has a state of its own.
        schedule: of the learning rate.
        process: number of this process in its launch.
        figures: that a step of the run has.

    Returns:
        The progress and the settings it was made with; None where there is no checkpoint yet.

    Raises:
        InputError: no file there is a whole checkpoint, or it belongs to other settings or data.
    """
    own = parts, schedule, process, figures
    found = load_checkpoint(path, settings, origin, lambda state: (_load(state, *own), state))
    if found is None:
        log.info("no checkpoint at %s yet: starting from the beginning", path)
        return None
    progress, state = found
    log.info("resuming after step %d", progress.step)
    return progress, state["settings"]


def _load(state: dict[str, Any], parts: Parts, schedule: Any, process: int, figures: int) -> Progress:
    """Puts the state of a checkpoint into a run.

    Raises:
        Exception: of any kind, where a part is missing, or has another type or shape than this run.
    """
    progress = checked_progress(state["progress"], parts["model"].state_dict(), figures)
    if set(state["parts"]) != set(parts):
        raise ValueError(f"it has the parts {sorted(state['parts'])}, not {sorted(parts)}")
    if state["schedule"]["last_epoch"] != progress.step:
        raise ValueError("its schedule does not fit its step")
    random = state["random"]
    if isinstance(random, list):  # earlier versions kept the state of the first process only
        random = random[process]
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    for parameter, kept in parts["optimiser"].state.items():
        if any(kept[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")):
            raise ValueError("its optimiser is that of another model")
    torch.set_rng_state(random["cpu"])
    if random["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(random["cuda"])
    schedule.last_epoch = state["schedule"]["last_epoch"]
    schedule._last_lr = [group["lr"] for group in parts["optimiser"].param_groups]
    return progress


# -- the file ------------------------------------------------------------------------------------


def save_checkpoint(path: Path | str, state: dict[str, Any]) -> None:
    """Writes `state` (tensors, numbers, texts, lists and dicts of them) to `path`; keeps the previous one.

    Raises:
        InputError: the place cannot be written.
    """
    path = Path(path)
    with whole_file(path, "wb") as file:
        torch.save({"version": VERSION, **state}, file)
        # The older of the two goes only when the new one is safe on the disk, and never for a torn one.
        file.flush()
        os.fsync(file.fileno())
        if zipfile.is_zipfile(path):
            os.replace(path, previous(path))


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_name(path.name + ".previous")


def require_own(path: Path | str) -> None:
    """Checks that checkpoints may be written to `path`: there is nothing yet, or a checkpoint.

    Raises:
        InputError: another file is there, which would be lost.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if not start or (start == b"PK\x03\x04" and not zipfile.is_zipfile(path)):
            return  # torn
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        own = isinstance(state, dict) and {"version", "settings"} <= set(state)
    except FileNotFoundError:
        return
    except Exception:  # as in _read
        own = False
    if not own:
        raise InputError(f"{path} is not a checkpoint; it would be overwritten: give another --checkpointpath.")


def load_checkpoint(
    path: Path | str,
    settings: dict[str, Any],
    fingerprint: str,
    use: Callable[[dict[str, Any]], Any] = lambda state: state,
) -> Any:
    """The newest whole checkpoint at `path`, or None where there is none.

    Args:
        path: as given to `save_checkpoint`.
        settings: of the run that goes on.
        fingerprint: of the data of the run that goes on.
        use: what is done with the state; where it fails, the checkpoint before is taken.

    Returns:
        What `use` returns.

    Raises:
        InputError: no file there is a whole checkpoint, or it belongs to other settings or data.
    """
    path = Path(path)
    candidates = [file for file in (path, previous(path)) if file.exists()]
    for file in candidates:
        state, trouble = _read(file)
        if state is not None:
            _require_same(file, state, settings, fingerprint)
            try:
                used = use(state)
            except Exception as error:  # torch, numpy and we ourselves have a dozen kinds for edited states
                trouble = f"{type(error).__name__}: {one_line(error, 120)}"
            else:
                if file != path:
                    log.warning("going on from the checkpoint before it: %s", file)
                return used
        log.warning("%s is not a whole checkpoint (%s)", file, trouble)
    if not candidates:
        return None
    raise InputError(f"{path} is not a whole checkpoint of this program; give another --checkpointpath, or delete it.")


def _require_same(file: Path, state: dict[str, Any], settings: dict[str, Any], origin: str) -> None:
    """Checks that a checkpoint belongs to a run with these settings and data.

    Raises:
        InputError: naming the setting, or the data.
    """
    kept = state["settings"]
    for name, value in settings.items():
        if name not in _FREE and kept.get(name, value) != value:
            raise InputError(
                f"{file} was made with {name} = {kept[name]!r}, not {value!r}; resume with equal settings or give "
                "another --checkpointpath."
            )
    if state["fingerprint"] != origin:
        raise InputError(
            f"{file} was made on other data, from another base model or by another number of processes; resume as it "
            "began or give another --checkpointpath."
        )


def _read(file: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():  # torch itself compares no checksums
                return None, f"{damaged} in it is damaged"
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names a dozen kinds for torn and foreign files
        return None, one_line(error, 120)
    if not isinstance(state, dict) or state.get("version") != VERSION or not {"settings", "fingerprint"} <= set(state):
        return None, "another format or version"
    if not isinstance(state["settings"], dict):
        return None, "its settings are not a mapping"
    return state, ""
