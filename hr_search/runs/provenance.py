"""What a run's numbers depend on, and warnings about them: the lines beside its metrics."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from hr_search.base import files, load, paths
from hr_search.base.choices import COLLAPSED, CONTACTS

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hr_search.data.loading import Data
    from hr_search.encoder import Encoder
    from hr_search.runs.folders import Run

_PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "accelerate",
    "tokenizers",
    "numpy",
    "pandas",
    "scipy",
    "umap-learn",
    "bm25s",
)
_DECIDING = ("versions", "hardware", "device", "processes", "threads", "precision", "model", "dimension")
_PLACES = ("outputpath", "checkpointpath", "checkpointsteps", "resume", "projectname", "tracker", "probes")
_HEADLINE_PACKAGES = ("python", "torch", "transformers", "sentence-transformers")


def environment_of(data: Data, encoder: Encoder, accelerator: Accelerator) -> dict[str, Any]:
    """What a run's numbers depend on besides its settings, as `environment.json` keeps it."""
    import torch

    from hr_search.base.devices import hardware

    chosen = {"threads_chosen": load.choice()} if load.choice() else {}
    return {
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(encoder.device),
        "device": str(encoder.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        **chosen,
        "precision": encoder.precision,
        "model": encoder.name,
        "dimension": encoder.dimension,
        "data": {"name": data.name, "fingerprint": data.fingerprint, **data.counts.to_dict()},
    }


def origin(run: Run) -> pd.DataFrame:
    """What the numbers of a run rest on: its data and their fingerprint, model, seeds, machine, versions.

    Returns:
        A column `value`, indexed by `what`.
    """
    environment, config = run.environment, run.config
    known, versions = environment["data"], environment["versions"]
    replaced = ", ".join(f"{known[kind]} {kind}" for kind in CONTACTS if kind in known)
    threads = f"{environment['threads']} threads in each of {environment['processes']} processes"
    if how := environment.get("threads_chosen"):
        threads += f" ({how})"
    rows = {
        "data": f"{known['name']}: {known['train']} train, {known['validation']} validation, {known['test']} test rows",
        "data fingerprint": known["fingerprint"],
        "contacts replaced": replaced or "none looked for (--redact)",
        "model": f"{environment['model']}, {environment['dimension']} dimensions",
        "seed": f"{config['seed']}, of the split {config.get('splitseed', config['seed'])}",
        "machine": f"{environment['hardware']}, {environment['precision']}, {threads}",
        "versions": ", ".join(f"{name} {versions[name]}" for name in _HEADLINE_PACKAGES if name in versions),
        "commit": environment["commit"] or "unknown",
        "run fingerprint": f"{fingerprint(config, environment)}; runs that share it have the same numbers",
    }
    return pd.DataFrame({"value": rows}).rename_axis("what")


def fingerprint(config: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Twelve digits for everything that a run's numbers depend on, the number of threads included.

    Threads add up the parts of a sum in another order, so the last bits of a weight differ between one thread and
    two. What does not reach a number, such as where the model goes, is left out.

    Args:
        config: the settings of the run.
        environment: of the run, as `environment.json` holds it.
    """
    settings = {name: value for name, value in config.items() if name not in _PLACES}
    machine = {name: environment.get(name) for name in _DECIDING}
    kept = [settings, machine, environment["data"]["fingerprint"]]
    return files.digest(json.dumps(kept, sort_keys=True, ensure_ascii=False))[:12]


def collapse_sentence(history: pd.DataFrame) -> str:
    """A warning if the embeddings collapsed during training; "" if they did not.

    Args:
        history: a run's history, columns `step` and `spread`.
    """
    collapsed = history[history["spread"] < COLLAPSED]
    if collapsed.empty:
        return ""
    steps, still = ", ".join(str(step) for step in collapsed["step"]), bool(history["spread"].iloc[-1] < COLLAPSED)
    return (
        f"WARNING: the embeddings had collapsed at step {steps} (spread below {COLLAPSED:g})"
        f"{' and had not recovered at the end' * still}: all texts look alike to the model, and its numbers mean "
        "little; lower --learningrate, raise --batchsize or change --loss."
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version(), "platform": platform.system()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the checkout, with `+` if files have changed since; empty outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(paths.checkout()), *words], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if head and git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
