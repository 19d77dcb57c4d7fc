"""Pages that open anywhere and load nothing: an executed notebook as HTML, and the index of all runs."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import logging
import math
import mimetypes
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import jinja2
import nbformat
import numpy as np
import pandas as pd
from bs4 import BeautifulSoup, Tag
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from traitlets.config import Config

from hr_search import config, files, paths
from hr_search.errors import InputError, one_line

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
PAGE_LIMIT = 4_000_000  # bytes of outputs; encoded, with text and style, a page stays under 6 MB
TEXT_LIMIT = 30_000  # characters of one console output
SHOWN_TYPES = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
LABELS = {"parameters": "Default parameters", "injected-parameters": "Parameters of this run"}
LOADING = {"src", "data", "poster", "background", "xlink:href"}
SENDING = {"srcset", "action", "formaction", "ping"}
# Settings that have a column of their own, or say where a run writes and not what it does.
NOT_CHIPS = {"datapath", "modelname", "projectname", "outputpath", "resume", "tracker"}
NOT_CHIPS |= {"checkpointpath", "checkpointsteps"}


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """A content security policy under which only `script` runs and nothing is fetched from anywhere."""
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{allowed}'"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def duration(seconds: float) -> str:
    """Seconds as a person says them: `8.4 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def export_html(
    notebook_path: Path | str, html_path: Path | str, title: str = "", links: Mapping[str, str] | None = None
) -> Path:
    """An executed notebook as one self-contained page with folded code, contents and described images.

    The page makes no network request, follows the light or dark scheme of the reader and prints well.
    Outputs that would make it larger than 6 MB are replaced, largest first, by a line that names the notebook.

    Args:
        notebook_path: the executed `.ipynb`.
        html_path: where the page goes.
        title: the page's title; empty = the notebook's first heading.
        links: labels to relative addresses for the bar on top, such as the other pages of the report.

    Returns:
        The path of the page.

    Raises:
        InputError: the notebook cannot be read or the page cannot be written.
    """
    notebook_path, html_path = Path(notebook_path), Path(html_path)
    try:
        notebook = nbformat.read(notebook_path, as_version=4)
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        raise InputError(f"{notebook_path} is not a readable notebook ({one_line(error)}).") from error
    first_heading = _prepare(notebook, notebook_path.name)
    script, style = _asset("report.js"), _asset("page.css") + _asset("report.css")
    page = {"script": script, "policy": _policy(script), "style": style, "links": dict(links or {})}
    page |= {"title": title or first_heading or notebook_path.stem, "self": quote(html_path.name)}
    shown = Config({"NbConvertBase": {"display_data_priority": SHOWN_TYPES}})
    exporter = HTMLExporter(config=shown, template_file="report.html.j2", extra_template_paths=[str(ASSETS)])
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # lines of one log in one box
    exporter.register_filter("as_text", MarkdownWithMath(renderer=IPythonRenderer(escape=True)).render)
    html, _ = exporter.from_notebook_node(notebook, resources={"page": page})
    files.write_text(html_path, _finished(html, notebook_path.parent.resolve()))
    return html_path


def _prepare(notebook: nbformat.NotebookNode, name: str) -> str:
    """Labels cells, describes images and cuts what is too long, in place; gives the first heading."""
    headings = [""]
    described: Counter[str] = Counter()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source = re.sub(r"```.*?```", "", cell.source, flags=re.S)
            headings += [re.sub(r"[*_`]", "", text) for text in re.findall(r"(?m)^#{1,6}\s+(.+?)[\s#]*$", source)]
        if cell.cell_type != "code":
            continue
        cell.metadata.label = _label(cell)
        cell.metadata.failed = any(output.output_type == "error" for output in cell.outputs)
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = _shortened(output.text)
            if "data" not in output:
                continue
            output.data = {kind: output.data[kind] for kind in SHOWN_TYPES if kind in output.data}
            if "text/plain" in output.data:
                output.data["text/plain"] = _shortened(output.data["text/plain"])
            kind = next((kind for kind in output.data if kind.startswith("image/")), "")
            if kind:
                given = [output.metadata.get("alt"), output.metadata.get(kind, {}).get("alt"), cell.metadata.get("alt")]
                text = next((str(each) for each in [*given, headings[-1]] if each), "Figure")
                described[text] += 1
                output.metadata.alt = text if described[text] == 1 else f"{text} ({described[text]})"
    _fit(notebook, name)
    return next((heading for heading in headings if heading), "")


def _label(cell: nbformat.NotebookNode) -> str:
    """What the fold of a code cell says: its kind, its number and how long it ran."""
    parts = [next((LABELS[tag] for tag in cell.metadata.get("tags", []) if tag in LABELS), "Code")]
    seconds = cell.metadata.get("papermill", {}).get("duration") or 0
    parts += [f"In [{cell.execution_count}]"] * bool(cell.execution_count) + [duration(seconds)] * (seconds >= 0.5)
    return " · ".join(parts)


def _shortened(text: str) -> str:
    """Console text as a terminal would leave it (a carriage return overwrites), cut where it is endless."""
    text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
    rest = len(text) - TEXT_LIMIT
    return text if rest <= 0 else f"{text[:TEXT_LIMIT]}\n… {rest} more characters are in the notebook"


def _fit(notebook: nbformat.NotebookNode, name: str) -> None:
    """Replaces the largest outputs by a note until all of them together fit on a page."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("data")]
    sizes = [max(len(str(value).encode()) for value in output.data.values()) for output in outputs]
    total = sum(sizes)
    for size, output in sorted(zip(sizes, outputs, strict=True), key=lambda pair: -pair[0]):
        if total <= PAGE_LIMIT:
            return
        log.warning("%s: an output of %.1f MB is left out of the page; it stays in the notebook", name, size / 1e6)
        output.data = {"text/plain": f"An output of {size / 1e6:.1f} MB is left out here; it is in {name}."}
        total -= size


def _finished(html: str, folder: Path) -> str:
    """The exporter's page made harmless, with images inside, scrolling tables, unique heading names and contents."""
    soup = BeautifulSoup(html, "html.parser")
    main = soup.find("main")
    # Not nbconvert's own embedding: it closes inline tags of a text before their content.
    for image in main.select('img[src]:not([src^="data:"])'):
        file, (kind, _) = (folder / unquote(image["src"])).resolve(), mimetypes.guess_type(image["src"])
        if file.is_relative_to(folder) and file.is_file() and str(kind).startswith("image/"):
            image["src"] = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    _disarm(main)
    for table in main.find_all("table"):
        if table.find_parent("table") is None:
            table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    used: set[str] = set()
    contents = soup.new_tag("ol")
    for heading in main.select(".jp-MarkdownCell :is(h1, h2, h3)"):
        anchor, text = heading.find("a", class_="anchor-link"), heading.get_text().removesuffix("¶").strip()
        name = heading.get("id") or re.sub(r"[^\w-]+", "-", text).strip("-") or "part"
        name = name if name not in used else f"{name}-{len(used)}"
        used.add(name)
        heading["id"] = name
        if anchor:
            anchor.attrs |= {"href": f"#{name}", "aria-label": "Link to this part"}
        if heading.name != "h1":
            row = soup.new_tag("li", attrs={"class": f"level-{heading.name[1]}"})
            row.append(soup.new_tag("a", href=f"#{name}", string=text))
            contents.append(row)
    if len(contents.contents) > 1:
        fold = soup.new_tag("details")
        fold.extend([soup.new_tag("summary", string="Contents"), contents])
        soup.find("nav", class_="toc").append(fold)
    return str(soup)


def _disarm(part: Tag) -> None:
    """Removes whatever in a part of a page could run, load or send something: defence beside the policy."""
    for tag in part.find_all(["script", "iframe", "frame", "object", "embed", "link", "meta", "base", "form"]):
        tag.decompose()
    for style in part.find_all("style"):
        style.string = re.sub(r"(?i)@import[^;]*;?|url\s*\([^)]*\)?", "", style.string or "")
    for tag in part.find_all(True):
        for name, value in list(tag.attrs.items()):
            text = re.sub(r"\s", "", "".join(value)).lower()
            harmful = name.startswith("on") or name in SENDING or (name == "style" and "url(" in text)
            if name in LOADING or (name == "href" and tag.name != "a"):
                harmful = not text.startswith(("data:image/", "#"))
            elif name == "href":  # a link may lead anywhere a reader chooses to go, but runs nothing
                harmful = bool(re.match(r"[^/?#]*:", text)) and not text.startswith(("http:", "https:", "mailto:"))
            if harmful:
                del tag[name]


def write_index() -> Path:
    """The page `reports/index.html`: all runs, newest first, to sort, filter, compare and repeat.

    Runs that are unfinished or damaged are left out and named at the foot of the page.

    Returns:
        The path of the page.

    Raises:
        InputError: the page cannot be written.
    """
    runs, skipped = read_runs()
    names = dict.fromkeys([*config.FIELDS, *(name for run in runs for name in run["config"])])
    # With a single run nothing varies yet, and what it changed is of interest.
    kinds = {name: len({json.dumps(run["config"].get(name)) for run in runs}) for name in names}
    varied = [name for name, count in kinds.items() if count > 1 or len(runs) == 1]
    for run in runs:
        chosen = {name: run["config"].get(name) for name in varied if name in config.FIELDS and name not in NOT_CHIPS}
        changed = {name: value for name, value in chosen.items() if value not in (None, config.FIELDS[name].default)}
        run["chips"] = [f"{name}={value}" for name, value in changed.items()]
    script = _asset("runs.js")
    loader = jinja2.FileSystemLoader(ASSETS)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = duration
    page = environment.get_template("runs.html.j2").render(
        runs=runs,
        skipped=skipped,
        data=Markup(_data(runs, varied)),
        style=Markup(_asset("page.css") + _asset("runs.css")),
        script=Markup(script),
        policy=_policy(script),
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )
    index = paths.reports() / "index.html"
    files.write_text(index, page)
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
        except (InputError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            skipped.append((folder.name, one_line(error, 200).replace(f"{folder}/", "").rstrip(".")))
    runs.sort(key=lambda run: (run["started"], run["id"]), reverse=True)
    for number, run in enumerate(runs):
        rivals = [each["mrr"] for each in runs if each["fingerprint"] == run["fingerprint"] and each["mrr"] is not None]
        run |= {"anchor": f"run-{number}", "best": len(rivals) > 1 and run["mrr"] == max(rivals)}
    return runs, skipped


def read_run(folder: Path) -> dict[str, Any]:
    """One finished run as the index shows it; a missing or wrong file raises one of the usual errors of reading."""
    summary, values = files.read_json(folder / "summary.json"), files.read_json(folder / "config.json")
    json.dumps(dict(values), allow_nan=False)  # a browser reads no NaN
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
    try:
        table = pd.read_csv(path, usecols=["step", "mrr"]).astype(float).dropna()
        table = table.iloc[np.unique(np.linspace(0, len(table) - 1, 60).round().astype(int))]
    except (OSError, ValueError, IndexError):
        return None
    steps, values = table["step"].to_numpy(), table["mrr"].to_numpy()
    across = 3 + 114 * (steps - steps[0]) / max(np.ptp(steps), 1e-9)
    down = 28 - 24 * (values - values.min()) / max(np.ptp(values), 1e-9)
    points = [f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True)]
    label = f"validation MRR from {values[0]:.3f} to {values[-1]:.3f}, best {values.max():.3f}"
    return {"points": " ".join(points), "x": f"{across[-1]:.1f}", "y": f"{down[-1]:.1f}", "label": label}


def _data(runs: list[dict[str, Any]], varied: list[str]) -> str:
    """What the page's script needs, as JSON that cannot end its script element."""
    common = {name: value for name, value in (runs[0]["config"] if runs else {}).items() if name not in varied}
    rows = []
    for run in runs:
        own = {name.split(" ")[2]: each[0] for name, each in run["metrics"].items() if name.startswith("trained q2d ")}
        numbers = own | {name: run[name] for name in ("base", "gain", "steps", "seconds")}
        settings = {name: run["config"].get(name) for name in varied}
        kept = {name: run[name] for name in ("id", "fingerprint", "metrics")}
        rows.append(kept | {"settings": settings, "numbers": numbers})
    text = json.dumps({"common": common, "runs": rows}, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
