"""The index of all runs: one page to sort, filter, compare and repeat them, with the pages of grids and suites."""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from hr_search import settings
from hr_search.base import files, paths
from hr_search.base.errors import InputError, one_line
from hr_search.reports.gallery import galleries
from hr_search.reports.pages import ASSETS, asset, duration, inert_json, policy, printable
from hr_search.reports.reference import write_reference

# Settings without a chip: they have a column of their own, or say where a run writes and not what it does.
NOT_CHIPS = {"datapath", "modelname", "projectname", "outputpath", "resume", "tracker"}
NOT_CHIPS |= {"checkpointpath", "checkpointsteps"}
UNREADABLE = (InputError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What reading the files of a damaged run may raise."""


@dataclass
class Row:
    """One finished run as the index shows it.

    Attributes:
        id: the run's folder.
        started, when: the time in UTC for sorting, and as the run noted it.
        data, rows: the name of the data, and its rows in words.
        fingerprint, tested: of all rows, and of those of the test; the latter is empty where an older run does not say
            it and no other run on the same rows does.
        model, config: the base model, and the settings.
        steps, seconds: None where unknown.
        verdict, command: the run's sentence, and the command that repeats it.
        metrics: value and interval by name, `"trained q2d mrr": [value, low, high]`.
        mrr, low, high: the MRR of the trained model on q2d and its 95 % interval.
        base, gain: the MRR of the model before training, and what training added.
        curve: the validation MRR over the steps, drawn by `_curve`.
        pages: names of the run's pages.
        chips: settings that differ from their defaults, as `name=value`.
        anchor: the row's id on the page.
        best: whether no other run with the same test has a higher MRR, if there are others.
    """

    id: str
    started: str
    when: str
    data: str
    rows: str
    fingerprint: str
    tested: str
    model: str
    config: dict[str, Any]
    steps: float | None
    seconds: float | None
    verdict: str
    command: str
    metrics: dict[str, list[float | None]]
    mrr: float | None
    low: float | None
    high: float | None
    base: float | None
    gain: float | None
    curve: dict[str, str] | None
    pages: list[str]
    chips: list[str] = field(default_factory=list)
    anchor: str = ""
    best: bool = False


def write_index() -> Path:
    """The page `reports/index.html`: all runs, newest first, to sort, filter, compare and repeat.

    Runs that are unfinished or damaged are left out and named at the foot of the page. The page of all parameters, to
    which it links, is written, too.

    Returns:
        The path of the page.

    Raises:
        InputError: the page cannot be written.
    """
    runs, skipped = read_runs()
    varied = _varied(runs)
    for run in runs:
        run.chips = _chips(run.config, varied)
    script = asset("runs.js")
    loader = jinja2.FileSystemLoader(ASSETS)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = duration
    page = environment.get_template("runs.html.j2").render(
        runs=runs,
        skipped=skipped,
        grids=galleries({run.id: run for run in runs}),
        suites=sorted(page.stem for page in (paths.reports() / "suites").glob("*.html")),
        data=Markup(inert_json(_script_data(runs, varied))),
        style=Markup(asset("page.css") + asset("runs.css")),
        script=Markup(script),
        policy=policy(script),
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )
    write_reference()
    index = paths.reports() / "index.html"
    files.write_text(index, printable(page))
    return index


def read_runs() -> tuple[list[Row], list[tuple[str, str]]]:
    """Every finished run, newest first, and the folders that the index leaves out.

    Returns:
        The runs, and pairs of a folder's name and the reason why it is not among them.
    """
    runs, skipped = [], []
    folders = paths.runs().iterdir() if paths.runs().is_dir() else []
    for folder in sorted(each for each in folders if each.is_dir() and not each.name.startswith(".")):
        try:
            runs.append(read_run(folder))
        except UNREADABLE as error:
            skipped.append((folder.name, one_line(error, 200).replace(f"{folder}/", "").rstrip(".")))
    runs.sort(key=lambda run: (run.started, run.id), reverse=True)
    known = {run.fingerprint: run.tested for run in runs if run.tested}
    rivals: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        run.tested = run.tested or known.get(run.fingerprint, "")
        if run.mrr is not None:
            rivals[run.tested or run.fingerprint].append(run.mrr)
    for number, run in enumerate(runs):
        others = rivals[run.tested or run.fingerprint]
        run.anchor, run.best = f"run-{number}", len(others) > 1 and run.mrr == max(others)
    return runs, skipped


def read_run(folder: Path) -> Row:
    """One finished run; a missing or wrong file raises one of `UNREADABLE`."""
    summary, values = files.read_json(folder / "summary.json"), files.read_json(folder / "config.json")
    inert_json(dict(values))  # raises: browsers do not read NaN
    started, data = datetime.datetime.fromisoformat(summary["started"]), summary["data"]
    metrics = _metrics(summary["metrics"])
    mrr, low, high = metrics.get("trained q2d mrr", [None] * 3)
    base = metrics.get("base q2d mrr", [None])[0]
    return Row(
        id=folder.name,
        started=started.astimezone(datetime.UTC).isoformat(),
        when=started.strftime("%Y-%m-%d %H:%M"),
        data=str(data["name"]),
        rows=", ".join(f"{part} {data[part]}" for part in ("train", "validation", "test") if part in data),
        fingerprint=str(data.get("fingerprint", "")),
        tested=str(data.get("test_fingerprint", "")),
        model=str(summary["model"]),
        config=values,
        steps=_finite(summary["steps"]),
        seconds=_finite(summary["seconds"]),
        verdict=str(summary.get("verdict", "")),
        command=str(summary.get("command", "")),
        metrics=metrics,
        mrr=mrr,
        low=low,
        high=high,
        base=base,
        gain=None if None in (mrr, base) else mrr - base,
        curve=_curve(folder / "history.csv"),
        pages=sorted(page.stem for page in (paths.reports() / folder.name).glob("*.html")),
    )


def _finite(value: Any) -> float | None:
    """A number of a JSON file as it is, None if it is missing, NaN or infinite."""
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
    """The validation MRR over the steps as a polyline of 120 x 32 and its label, None if there is none."""
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


def _varied(runs: Sequence[Row]) -> list[str]:
    """The settings in which runs differ; all of them for a single run, whose own choices are then shown."""
    names = dict.fromkeys([*settings.FIELDS, *(name for run in runs for name in run.config)])
    counts = {name: len({json.dumps(run.config.get(name)) for run in runs}) for name in names}
    return [name for name, count in counts.items() if count > 1 or len(runs) == 1]


def _chips(config: Mapping[str, Any], varied: Sequence[str]) -> list[str]:
    """The varied settings of a run that differ from their defaults, as `name=value`."""
    chosen = {name: config.get(name) for name in varied if name in settings.FIELDS and name not in NOT_CHIPS}
    return [f"{name}={value}" for name, value in chosen.items() if value not in (None, settings.FIELDS[name].default)]


def _script_data(runs: Sequence[Row], varied: Sequence[str]) -> dict[str, Any]:
    """What the page's script needs: the settings that all runs share, and each run's own settings and numbers."""
    common = {name: value for name, value in (runs[0].config if runs else {}).items() if name not in varied}
    rows = [
        {
            "id": run.id,
            "fingerprint": run.fingerprint,
            "tested": run.tested,
            "settings": {name: run.config.get(name) for name in varied},
            "facts": {name: getattr(run, name) for name in ("data", "model", "started", "steps", "seconds", "gain")},
            "metrics": {
                name: [each if each is None else round(each, 5) for each in triple]
                for name, triple in run.metrics.items()
            },
        }
        for run in runs
    ]
    return {"common": common, "runs": rows}
