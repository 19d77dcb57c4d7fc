"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is written whole or not at all, and the one before it is kept beside it (`FILE.previous`),
so a machine that dies while writing costs at most `checkpointsteps` steps.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from hr_search.errors import InputError, one_line
from hr_search.files import whole_file

log = logging.getLogger(__name__)

VERSION = 2
# Settings that may differ between the interrupted run and the one that goes on.
_FREE = {"resume", "checkpointpath", "checkpointsteps", "outputpath", "projectname", "tracker"}


def save_checkpoint(path: Path | str, state: dict[str, Any]) -> None:
    """Writes `state` (tensors, numbers, texts, lists and dicts of them) to `path`; keeps the one before.

    Raises:
        InputError: the place cannot be written.
    """
    path = Path(path)
    with whole_file(path, "wb") as file:
        torch.save({"version": VERSION, **state}, file)
        if path.exists():
            os.replace(path, previous(path))


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_name(path.name + ".previous")


def load_checkpoint(path: Path | str, settings: dict[str, Any], fingerprint: str) -> dict[str, Any] | None:
    """The newest whole checkpoint at `path`, or None where there is none.

    Args:
        path: as given to `save_checkpoint`.
        settings: of the run that goes on.
        fingerprint: of the data of the run that goes on.

    Raises:
        InputError: no file there is a whole checkpoint, or it belongs to other settings or data.
    """
    path = Path(path)
    candidates = [file for file in (path, previous(path)) if file.exists()]
    if not candidates:
        return None
    for file in candidates:
        state, trouble = _read(file)
        if state is not None:
            break
        log.warning("%s is not a whole checkpoint (%s)", file, trouble)
    else:
        raise InputError(f"{path} is not a whole checkpoint of this program; delete it or start without --resume.")
    different = [
        name for name, value in settings.items() if name not in _FREE and state["settings"].get(name, value) != value
    ]
    if different:
        name = different[0]
        raise InputError(
            f"{file} was made with {name} = {state['settings'][name]!r}, not {settings[name]!r}; "
            "resume with equal settings or give another --checkpointpath."
        )
    if state["fingerprint"] != fingerprint:
        raise InputError(
            f"{file} was made on other data or by another number of processes; resume as it began or give another "
            "--checkpointpath."
        )
    return state


def _read(file: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names a dozen kinds for torn and foreign files
        return None, one_line(error, 120)
    if not isinstance(state, dict) or state.get("version") != VERSION or not {"settings", "fingerprint"} <= set(state):
        return None, "another format or version"
    return state, ""
