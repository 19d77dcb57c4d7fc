"""Texts that mean harm, and a report on a table of them, which several tests read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from conftest import JOBS, make_model

from hr_search.base import paths
from hr_search.commands import parser
from hr_search.runs.folders import Run

FLAG = "window.hacked=1;document.title='hacked'"
HOSTILE = [
    f"<script>{FLAG}</script>",
    f"</script></title></style></textarea><script>{FLAG}</script>",
    f"<img src=x onerror={FLAG}>",
    f"\"'><svg onload={FLAG}><b autofocus tabindex=0 onfocus={FLAG}>",
    f"[link](javascript:{FLAG}) ![picture](javascript:{FLAG})",
    "{{ 7*7 }} {% import os %} {{ ''.__class__.__mro__ }} {# x #}",
    "{} {0} {text} {query.__class__} %s %(x)s $HOME `id` ${x}",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \x08\x08\r",
    "nul\x00end",
    "half \ud83d and \udc00 characters",
    "pay \u202eevil\u202d left \u2066here\u2069",
    "nurse 👩\u200d⚕️ 🩺 ﷽ Z͑ͫ̓a̴l̷g̸o",
    "=cmd|' /C calc'!A0",
    '+1+1";"@SUM(A1)\t-2+3',
    r"$\oops_ \frac{1}{$ \input{/etc/passwd} $100k",
    "'; DROP TABLE jobs; -- \\\" \n new line \u2028 \u2029",
    "../../../etc/passwd C:\\CON\\NUL file:///etc/passwd",
    "NA",
    "__proto__ constructor null None nan 1e999 True",
    "word " * 2_000_000,
]


def hostile_table(path: Path, longest: int | None = None) -> pd.DataFrame:
    """A table of hostile queries, documents and groups, each in its own words so that rows stay apart.

    Args:
        path: where it is written.
        longest: characters of the longest text, or all of its ten million.
    """
    rows = [
        {"query": f"{title} {text}", "positive": f"{text[:longest]} {words}", "group": f"{number}{text}"}
        for number, (text, (title, words)) in enumerate(zip(HOSTILE * 2, list(JOBS.items()) * 4, strict=False))
        if len(text) < 1000 or number < len(HOSTILE)
    ]
    rows[len(HOSTILE) - 1]["query"] = "a title"  # one long text is enough
    rows[len(HOSTILE) - 1]["group"] = "a group"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="ascii")
    return pd.DataFrame(rows, dtype=object)


@dataclass(frozen=True)
class HostileReport:
    """A report on hostile texts: pages, tables and a model, made with parameters other than the defaults.

    Attributes:
        folder: holds the table, the base model and, in `home`, all that the report wrote.
        table: queries, documents and groups.
        run: the report's run.
    """

    folder: Path
    table: pd.DataFrame
    run: Run

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @classmethod
    def make(cls, folder: Path) -> HostileReport:
        """Runs the report, through the command line as a person would."""
        data = folder / "{hostile} <b>'$x'.jsonl"
        table = hostile_table(data, 1_000_000)
        parameters = {
            "datapath": data,
            "groupcolumn": "group",
            "keephtml": True,  # so that pages meet what they must not obey
            "testshare": 0.3,
            "validationshare": 0.3,
            "splitseed": 3,
            "modelname": make_model(folder / "model"),
            "maxlength": 16,
            "loss": "infonce",
            "temperature": 0.1,
            "learningrate": 1e-3,
            "batchsize": 8,
            "epochs": 2,
            "maxsteps": 4,
            "evalsteps": 2,
            "patience": 0,
            "seed": 7,
            "direction": "d2q",
            "goal": "recall@10",
            "outputpath": folder / "home" / "trained.pt",
            "projectname": f"../../<script>{FLAG}</script>",
            "mined": 0,
            "points": 40,
            "checkpoints": 2,
            "neighbours": 4,
            "examples": 3,
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(paths.HOME_VARIABLE, str(folder / "home"))
            patch.setenv("NUMBA_DISABLE_JIT", "1")  # a map this small is drawn faster than its code is compiled
            given = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
            assert parser.main(["report", *given]) == 0
        (run,) = (folder / "home" / "metrics" / "runs").iterdir()
        return cls(folder, table, Run(run))
