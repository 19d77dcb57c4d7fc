"""The probes that a run kept, read back: texts, and their embeddings at every validation."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hr_search.base.errors import InputError, one_line

LOG = logging.getLogger(__name__)

Checkpoints = Mapping[int, np.ndarray]
"""Step to the embeddings (P, D) of the same P texts."""


def load_probes(run_folder: Path | str) -> tuple[pd.DataFrame, dict[int, np.ndarray]]:
    """The probe texts of a run and their embeddings at every validation.

    Returns:
        The texts (columns side, text, group), and a dict from step to (P, D) float32 embeddings in ascending order.

    Raises:
        InputError: the run kept no probes, or a file is damaged or does not fit the texts.
    """
    folder = Path(run_folder) / "probes"
    names = [re.fullmatch(r"step_(\d+)\.npy", path.name) for path in folder.glob("step_*.npy")]
    files = {int(name[1]): folder / name[0] for name in names if name}
    path = folder / "texts.csv"
    if not files or not path.is_file():
        raise InputError(
            f"{folder} holds no probe embeddings; drift is measured on validation rows, with probes above 0."
        )
    checkpoints: dict[int, np.ndarray] = {}
    try:
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)  # a job may be titled "NA"
        for step in sorted(files):
            path = files[step]
            checkpoints[step] = np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); repeat the run.") from error
    if missing := [name for name in ("side", "text", "group") if name not in texts]:
        raise InputError(f"{folder / 'texts.csv'} has no column {missing[0]}; repeat the run.")
    for step, x in checkpoints.items():
        if x.ndim != 2 or len(x) != len(texts) or x.dtype.kind != "f":
            raise InputError(f"{files[step]} is {x.dtype} {x.shape} for {len(texts)} texts; repeat the run.")
    return texts, {step: x.astype(np.float32, copy=False) for step, x in checkpoints.items()}


def until_kept(checkpoints: Checkpoints, kept: int) -> tuple[dict[int, np.ndarray], str]:
    """The checkpoints that led to the model which a run kept, and a sentence that says which ones these are.

    Later ones were thrown away with the training that a run's patience ended. All are returned where the base model
    was kept, because they show what did not help, and where the kept step has no probes.

    Args:
        checkpoints: from `load_probes`.
        kept: the run's `best_step`.
    """
    whole, last = dict(checkpoints), max(checkpoints)
    if kept == 0:
        rest = f"; the steps up to {last:,}, which were thrown away, are shown all the same" if last else ""
        return whole, f"the kept model is the base model{rest}."
    if kept not in whole:
        return whole, (
            f"the model of step {kept:,} was kept, but there are no probes of it, as the run was resumed after it; "
            f"shown are steps up to {last:,}, which was not kept."
        )
    if kept == last:
        return whole, f"the model of step {kept:,} was kept, the last one validated."
    left = {step: x for step, x in whole.items() if step <= kept}
    return left, f"the model of step {kept:,} was kept; the steps after it, up to {last:,}, were thrown away."


def usable_texts(checkpoints: Checkpoints) -> np.ndarray:
    """Which texts have a finite embedding at every checkpoint, (P,) booleans; the log counts the others.

    Raises:
        InputError: no checkpoint, shapes that differ, fewer than two usable texts.
    """
    if not checkpoints:
        raise InputError("there is no checkpoint to compare; train with probes above 0.")
    first = min(checkpoints)
    for step, x in checkpoints.items():
        if np.ndim(x) != 2 or np.shape(x) != np.shape(checkpoints[first]):
            raise InputError(f"step {step} has embeddings {np.shape(x)}, step {first} {np.shape(checkpoints[first])}.")
    finite = np.logical_and.reduce([np.isfinite(x).all(axis=1) for x in checkpoints.values()])
    if finite.sum() < 2:
        raise InputError(f"only {finite.sum()} texts have finite embeddings at every checkpoint; lower learningrate.")
    if not finite.all():
        LOG.warning("%d of %d probe texts have no finite embedding and are left out", (~finite).sum(), len(finite))
    return finite


def cut(text: str, length: int) -> str:
    """A text on one line, of at most `length` characters; an ellipsis marks where it is cut."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1] + "…"
