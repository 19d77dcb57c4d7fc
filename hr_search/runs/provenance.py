"""Where a run's numbers come from, and what speaks against them: the lines that stand beside its metrics."""

from __future__ import annotations

import pandas as pd

from hr_search.data.redaction import WORDS
from hr_search.runs.folders import Run

_PACKAGES = ("python", "torch", "transformers", "sentence-transformers")  # environment.json has more


COLLAPSED = 0.02  # a spread below this means that the embeddings have collapsed


def origin(run: Run) -> pd.DataFrame:
    """What the numbers of a run rest on: its data and their fingerprint, model, seeds, machine, versions.

    Returns:
        A column `value`; the rows are named by `what`.
    """
    environment, config = run.environment, run.config
    known, versions = environment["data"], environment["versions"]
    replaced = ", ".join(f"{known[kind]} {kind}" for kind in WORDS if kind in known)
    threads = f"{environment['threads']} threads in each of {environment['processes']} processes"
    rows = {
        "data": f"{known['name']}: {known['train']} train, {known['validation']} validation, {known['test']} test rows",
        "data fingerprint": known["fingerprint"],
        "contacts replaced": replaced or "none looked for (--redact)",
        "model": f"{environment['model']}, {environment['dimension']} dimensions",
        "seed": f"{config['seed']}, of the split {config.get('splitseed', config['seed'])}",
        "machine": f"{environment['hardware']}, {environment['precision']}, {threads}",
        "versions": ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions),
        "commit": environment["commit"] or "unknown",
    }
    return pd.DataFrame({"value": rows}).rename_axis("what")


def collapse_sentence(history: pd.DataFrame) -> str:
    """A warning where the embeddings fell together while training; "" where they did not.

    Args:
        history: a run's history, columns `step` and `spread`.
    """
    fallen = history[history["spread"] < COLLAPSED]
    if fallen.empty:
        return ""
    steps, still = ", ".join(str(step) for step in fallen["step"]), bool(history["spread"].iloc[-1] < COLLAPSED)
    return (
        f"WARNING: the embeddings had collapsed at step {steps} (spread below {COLLAPSED:g})"
        f"{' and had not recovered at the end' * still}: all texts look alike to the model, and its numbers mean "
        "little; lower --learningrate, raise --batchsize or change --loss."
    )
