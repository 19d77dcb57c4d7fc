"""The index of all runs: one page to sort, filter, compare and repeat them."""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from hr_search import settings
from hr_search.base import files, paths
from hr_search.base.errors import InputError, one_line
from hr_search.reports.pages import ASSETS, asset, duration, inert_json, policy, readable

# Settings that have a column of their own, or say where a run writes and not what it does.
NOT_CHIPS = {"datapath", "modelname", "projectname", "outputpath", "resume", "tracker"}
NOT_CHIPS |= {"checkpointpath", "checkpointsteps"}


def write_index() -> Path:
    """The page `reports/index.html`: all runs, newest first, to sort, filter, compare and repeat.

    Runs that are unfinished or damaged are left out and named at the foot of the page.

    Returns:
        The path of the page.

    Raises:
        InputError: the page cannot be written.
    """
    runs, skipped = read_runs()
    names = dict.fromkeys([*settings.FIELDS, *(name for run in runs for name in run["config"])])
    # With a single run nothing varies yet, and what it changed is of interest.
    kinds = {name: len({json.dumps(run["config"].get(name)) for run in runs}) for name in names}
    varied = [name for name, count in kinds.items() if count > 1 or len(runs) == 1]
    for run in runs:
        chosen = {name: run["config"].get(name) for name in varied if name in settings.FIELDS and name not in NOT_CHIPS}
        changed = {name: value for name, value in chosen.items() if value not in (None, settings.FIELDS[name].default)}
        run["chips"] = [f"{name}={value}" for name, value in changed.items()]
    script = asset("runs.js")
    loader = jinja2.FileSystemLoader(ASSETS)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = duration
    page = environment.get_template("runs.html.j2").render(
        runs=runs,
        skipped=skipped,
        data=Markup(inert_json(_data(runs, varied))),
        style=Markup(asset("page.css") + asset("runs.css")),
        script=Markup(script),
        policy=policy(script),
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )
    index = paths.reports() / "index.html"
    files.write_text(index, readable(page))
    return index


def read_runs() -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """What the index shows of every finished run, newest first, and the folders it leaves out.

    Returns:
        The runs, and pairs of a folder's name and the reason why it is not among them.
    """
    runs, skipped = [], []
    folders = paths.runs().iterdir() if paths.runs().is_dir() else []
    for folder in sorted(each for each in folders if each.is_dir() and not each.name.startswith(".")):
        try:
            runs.append(read_run(folder))
        except (InputError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            skipped.append((folder.name, one_line(error, 200).replace(f"{folder}/", "").rstrip(".")))
    runs.sort(key=lambda run: (run["started"], run["id"]), reverse=True)
    rivals: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        rivals[run["fingerprint"]] += [run["mrr"]] if run["mrr"] is not None else []
    for number, run in enumerate(runs):
        others = rivals[run["fingerprint"]]
        run |= {"anchor": f"run-{number}", "best": len(others) > 1 and run["mrr"] == max(others)}
    return runs, skipped


def read_run(folder: Path) -> dict[str, Any]:
    """One finished run as the index shows it; a missing or wrong file raises one of the usual errors of reading."""
    summary, values = files.read_json(folder / "summary.json"), files.read_json(folder / "config.json")
    inert_json(dict(values))  # a browser reads no NaN
    started, data = datetime.datetime.fromisoformat(summary["started"]), summary["data"]
    counts = [f"{name} {data[name]}" for name in ("train", "validation", "test") if name in data]
    return headline(summary) | {
        "id": folder.name,
        "started": started.astimezone(datetime.UTC).isoformat(),
        "when": started.strftime("%Y-%m-%d %H:%M"),
        "data": str(data["name"]),
        "rows": ", ".join(counts),
        "fingerprint": str(data.get("fingerprint", "")),
        "model": str(summary["model"]),
        "config": values,
        "steps": _finite(summary["steps"]),
        "seconds": _finite(summary["seconds"]),
        "verdict": str(summary.get("verdict", "")),
        "command": str(summary.get("command", "")),
        "metrics": _metrics(summary["metrics"]),
        "curve": _curve(folder / "history.csv"),
        "pages": sorted(page.stem for page in (paths.reports() / folder.name).glob("*.html")),
    }


def headline(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers that tell a run at a glance, None where its `summary.json` has none.

    Returns:
        `mrr` of the trained model on q2d with its interval `low`, `high`; `base`, that of the model before
        training; `gain`, their difference.
    """
    metrics = _metrics(summary["metrics"])
    mrr, low, high = metrics.get("trained q2d mrr", [None] * 3)
    base = metrics.get("base q2d mrr", [None])[0]
    return {"mrr": mrr, "low": low, "high": high, "base": base, "gain": None if None in (mrr, base) else mrr - base}


def _finite(value: Any) -> float | None:
    """A number of a JSON file as it is, None for what is missing, NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise InputError(f"summary.json holds {value!r} where a number belongs.")
    return value if value is not None and math.isfinite(value) else None


def _metrics(metrics: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """The nested metrics of a summary as `"trained q2d mrr": [value, low, high]`."""
    flat = {
        f"{system} {direction} {name}": [_finite(each) for each in [*triple, None, None][:3]]
        for system, directions in metrics.items()
        for direction, values in directions.items()
        for name, triple in values.items()
    }
    return {name: triple for name, triple in flat.items() if triple[0] is not None}


def _curve(path: Path) -> dict[str, str] | None:
    """A small curve (120 x 32) of the validation MRR over the steps, None where there is none."""
    try:  # not pandas: it takes five times as long for so small a file, and there may be hundreds
        with path.open(encoding="utf-8", newline="") as file:
            points = [[float(row["step"] or "nan"), float(row["mrr"] or "nan")] for row in csv.DictReader(file)]
        table = np.array(points).reshape(-1, 2)
        table = table[np.isfinite(table).all(axis=1)]
        steps, values = table[np.unique(np.linspace(0, len(table) - 1, 60).round().astype(int))].T
    except (OSError, LookupError, ValueError, csv.Error):
        return None
    across = 3 + 114 * (steps - steps[0]) / max(np.ptp(steps), 1e-9)
    down = 28 - 24 * (values - values.min()) / max(np.ptp(values), 1e-9)
    drawn = [f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True)]
    label = f"validation MRR from {values[0]:.3f} to {values[-1]:.3f}, best {values.max():.3f}"
    return {"points": " ".join(drawn), "x": f"{across[-1]:.1f}", "y": f"{down[-1]:.1f}", "label": label}


def _data(runs: list[dict[str, Any]], varied: list[str]) -> dict[str, Any]:
    """What the page's script needs: settings all runs share, and for each run the rest and its numbers."""
    common = {name: value for name, value in (runs[0]["config"] if runs else {}).items() if name not in varied}
    rows = []
    for run in runs:
        rows.append({
            "id": run["id"], "fingerprint": run["fingerprint"],
            "settings": {name: run["config"].get(name) for name in varied},
            "facts": {name: run[name] for name in ("data", "model", "started", "steps", "seconds", "gain")},
            "metrics": {name: [each if each is None else round(each, 5) for each in triple]
                        for name, triple in run["metrics"].items()},
        })  # fmt: skip
    return {"common": common, "runs": rows}
