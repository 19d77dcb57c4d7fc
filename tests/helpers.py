"""What tests of several rooms share: notebooks, pages, finished runs and processes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from hr_search.base import paths
from hr_search.reports import pages
from hr_search.settings import Settings

METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}

MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"  # a text that a page must not obey

# -- notebooks -----------------------------------------------------------------------------------


def write_notebook(path: Path, parameters: str | None, *codes: str) -> Path:
    """A notebook of a cell tagged parameters (None = without) and code cells."""
    cells = [new_markdown_cell(f"# {path.stem}")]
    if parameters is not None:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [new_code_cell(code) for code in codes]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=METADATA), path)
    return path


def printed(path: Path) -> str:
    """All that the cells of an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(each.text for cell in cells for each in cell.get("outputs", []) if each.output_type == "stream")


# -- pages ---------------------------------------------------------------------------------------


def display(data: dict, **metadata) -> NotebookNode:
    """An output of a cell that displays `data`, contents by type."""
    return new_output("display_data", data=data, metadata=metadata)


def exported(folder: Path, *cells: NotebookNode, title: str = "", links: dict | None = None):
    """The page of a notebook of these cells: its text and its parsed form."""
    path = folder / "02_train.ipynb"
    # Not nbformat's writer: it refuses texts that a damaged notebook may hold.
    path.write_text(json.dumps(new_notebook(cells=list(cells), metadata=METADATA)))
    text = pages.export_html(path, folder / "02_train.html", title, links).read_text(encoding="utf-8")
    return text, BeautifulSoup(text, "html.parser")


def loads_nothing(text: str) -> int:
    """Checks that a page fetches nothing, links in its text apart, and has a policy; the number of its scripts."""
    soup = BeautifulSoup(text, "html.parser")
    for tag in soup.find_all(True):
        for name in ("src", "srcset", "poster", "data", "action", "background", "xlink:href", "formaction"):
            assert str(tag.get(name, "data:")).startswith("data:"), tag
        if tag.name != "a":
            assert str(tag.get("href", "data:")).startswith(("data:", "#")), tag
        assert not [name for name in tag.attrs if name.startswith("on")], tag
        assert tag.name not in ("iframe", "object", "embed", "form") or tag.get("role") == "search", tag
    blocks = [each for each in soup.find_all(["style", "script"]) if each.get("type") != "application/json"]
    code = " ".join(each.get_text() for each in blocks)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(|innerHTML|eval\(", code)
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert "default-src 'none'" in policy and "img-src data:" in policy
    scripts = [each.string for each in blocks if each.name == "script"]
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1]
    return len(scripts)


# -- processes -----------------------------------------------------------------------------------


def wait_until(condition: Callable[[], object], seconds: int = 300) -> bool:
    """Whether a condition comes true before a time that even a busy machine does not need."""
    for _ in range(20 * seconds):
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def alive(process: int) -> bool:
    """Whether a process of this number runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# -- finished runs -------------------------------------------------------------------------------


def write_run(
    name: str,
    mrr: float = 0.7,
    base: float = 0.5,
    started: str = "2026-11-21T18:05:03",
    history=(0.5, 0.6, 0.7),
    fingerprint: str = "f",
    **changes,
) -> Path:
    """The folder of a finished run: config, summary and history; `changes` are settings or entries of the summary."""
    folder = paths.runs() / name
    folder.mkdir(parents=True)
    settings = {key: value for key, value in changes.items() if key in Settings().to_dict()}
    (folder / "config.json").write_text(json.dumps(Settings(**settings).to_dict()))
    trained = {"mrr": [mrr, 0.65, 0.75], "pass@1": [0.6, None, None]}
    summary = {
        "run_id": name,
        "projectname": "p",
        "started": started,
        "seconds": 200.0,
        "steps": 120,
        "best_step": 80,
        "data": {"name": "esco", "train": 900, "validation": 100, "test": 101, "fingerprint": fingerprint},
        "model": "embedded",
        "command": "python train.py --seed 1",
        "verdict": "Training helps.",
        "metrics": {"trained": {"q2d": trained}, "base": {"q2d": {"mrr": [base, 0.4, 0.6]}}},
    }
    summary |= {key: value for key, value in changes.items() if key not in settings}
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = [f"{20 * step},{value}" for step, value in enumerate(history)]
    (folder / "history.csv").write_text("\n".join(["step,mrr", *rows]) + "\n")
    return folder
