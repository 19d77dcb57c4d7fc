"""An executed notebook as one page that opens anywhere and loads nothing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import mimetypes
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import nbformat
from bs4 import BeautifulSoup, Tag
from bs4.element import PreformattedString
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from traitlets.config import Config

from hr_search.base import files
from hr_search.base.errors import InputError, one_line

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
PAGE_LIMIT = 6_000_000  # bytes of a page: what most mail servers accept
TEXT_LIMIT = 30_000  # characters of one console output
SHOWN_TYPES = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
COLLAPSED = "jp-MarkdownHeadingCollapsed"  # what JupyterLab notes in the cell of a collapsed heading
LABELS = {"parameters": "Default parameters", "injected-parameters": "Parameters of this run"}
SETUP = "setup"  # the tag of a cell that installs what is missing; a page has it only where it printed or failed
LOADING = {"src", "data", "poster", "background", "xlink:href"}
SENDING = {"srcset", "action", "formaction", "ping"}
# Elements that run, load or send something, and those whose content browsers parse by special rules.
REMOVED = ["script", "iframe", "frame", "object", "embed", "link", "meta", "base", "form", "animate", "set", "template"]
REMOVED += ["noscript", "noembed", "noframes", "xmp"]


def asset(name: str) -> str:
    """The text of a style sheet, script or template of the pages."""
    return (ASSETS / name).read_text(encoding="utf-8")


def policy(*scripts: str) -> str:
    """A content security policy under which only `scripts` run and nothing is fetched from anywhere."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    rules = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src {allowed}"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def printable(text: str) -> str:
    """`text` with a replacement sign for each control character and lone surrogate, which HTML cannot hold."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", "\ufffd", text)


def inert_json(value: Any) -> str:
    """`value` as JSON that cannot end the script element it is in.

    Raises:
        ValueError: it holds NaN or infinity, which browsers do not read.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\x7f\u2028\u2029\ud800-\udfff]", lambda each: f"\\u{ord(each[0]):04x}", text)


def duration(seconds: float) -> str:
    """Seconds in words: `8.4 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def export_html(
    notebook_path: Path | str, html_path: Path | str, title: str = "", links: Mapping[str, str] | None = None
) -> Path:
    """An executed notebook as one self-contained page with folded code, contents and described images.

    The page makes no network request, follows the reader's light or dark scheme and prints well.
    Outputs that would make it larger than 6 MB are replaced, largest first, by a line that names the notebook.
    Scripts in outputs are removed. For a map, an output holds an element with the attribute `data-hr-map` and its
    data as `<script type="application/json" data-hr-map-data>`; such a page gets the scripts of the map.

    Args:
        notebook_path: the executed `.ipynb`.
        html_path: where the page goes.
        title: the page's title; empty = the notebook's first heading.
        links: labels and relative addresses for the bar on top: the other pages of the report.

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
    notebook.cells = [
        cell for cell in notebook.cells if cell.get("outputs") or SETUP not in cell.metadata.get("tags", [])
    ]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            _prepare(cell, notebook_path.name)
    style = asset("page.css") + asset("report.css")
    soup = BeautifulSoup(printable(_rendered(notebook, html_path.name, style, links or {})), "html.parser")
    main = soup.find("main")
    _embed_images(main, notebook_path.parent.resolve())
    _disarm(soup.body)
    _make_tables_scroll(main, soup)
    headings = _name_headings(main, soup)
    _fold_sections(main, soup, {cell.id for cell in notebook.cells if cell.metadata.get(COLLAPSED)})
    soup.title.string = printable(title) or next(filter(None, headings), "") or notebook_path.stem
    used = sum(len(each.encode()) for each in [style, *_scripts(main)])
    _fit(main, PAGE_LIMIT - used, notebook_path.name)
    scripts = _scripts(main)  # again: the map may have been left out
    soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"] = policy(*scripts)
    soup.body.extend([soup.new_tag("script", string=script) for script in scripts])
    files.write_text(html_path, str(soup))
    return html_path


def _rendered(notebook: NotebookNode, page: str, style: str, links: Mapping[str, str]) -> str:
    """The HTML that nbconvert makes of a prepared notebook with our template."""
    shown = Config({"NbConvertBase": {"display_data_priority": SHOWN_TYPES}})
    exporter = HTMLExporter(config=shown, template_file="report.html.j2", extra_template_paths=[str(ASSETS)])
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # lines of one log in one box
    exporter.register_filter("as_text", MarkdownWithMath(renderer=IPythonRenderer(escape=True)).render)
    resources = {"page": {"style": style, "links": dict(links), "self": quote(page)}}
    return exporter.from_notebook_node(notebook, resources=resources)[0]


# -- cells, before they are rendered -------------------------------------------------------------


def _prepare(cell: NotebookNode, notebook: str) -> None:
    """Labels a code cell and makes its outputs complete, harmless and not too long, in place."""
    cell.metadata.label = _label(cell)
    cell.metadata.failed = any(output.output_type == "error" for output in cell.outputs)
    for output in cell.outputs:
        if output.output_type == "stream":
            output.text = _console_text(output.text)
        if "data" in output:
            output.data = _prepared(output.data, notebook)
            kind = next((kind for kind in output.data if kind.startswith("image/")), "")
            given = [output.metadata.get("alt"), output.metadata.get(kind, {}).get("alt"), cell.metadata.get("alt")]
            output.metadata.alt = next((str(each) for each in given if each), "")


def _prepared(data: Mapping[str, Any], notebook: str) -> dict[str, Any]:
    """The contents of an output by type, as far as a page shows them."""
    data = {kind: data[kind] for kind in SHOWN_TYPES if kind in data}
    size = max((len(str(value)) for value in data.values()), default=0)
    if size > PAGE_LIMIT:
        data = {"text/plain": _left_out(size, notebook)}
    if "text/plain" in data:
        data["text/plain"] = _console_text(data["text/plain"])
    if "text/html" in data:  # parsed on its own, so that an unclosed tag ends with its output
        part = BeautifulSoup(data["text/html"], "html.parser")
        _disarm(part)
        for image in part.find_all("img", alt=False):
            image["alt"] = ""  # _name_headings describes it
        data["text/html"] = str(part)
    return data


def _label(cell: NotebookNode) -> str:
    """The words on a folded code cell: its kind, its number and how long it ran."""
    parts = [next((LABELS[tag] for tag in cell.metadata.get("tags", []) if tag in LABELS), "Code")]
    seconds = cell.metadata.get("papermill", {}).get("duration") or 0
    parts += [f"In [{cell.execution_count}]"] * bool(cell.execution_count) + [duration(seconds)] * (seconds >= 0.5)
    return " · ".join(parts)


def _console_text(text: str) -> str:
    """Console text as a terminal would show it (a carriage return overwrites the line), cut to `TEXT_LIMIT`."""
    text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
    rest = len(text) - TEXT_LIMIT
    return text if rest <= 0 else f"{text[:TEXT_LIMIT]}\n… {rest} more characters are in the notebook"


def _left_out(size: int, name: str) -> str:
    log.warning("%s: an output of %.1f MB is left out of the page; it stays in the notebook", name, size / 1e6)
    return f"An output of {size / 1e6:.1f} MB is left out here; it is in {name}."


# -- the page ------------------------------------------------------------------------------------


def _embed_images(main: Tag, folder: Path) -> None:
    """Embeds the images that lie beside the notebook."""
    # Not nbconvert's own embedding: it closes inline tags before their content.
    for image in main.select('img[src]:not([src^="data:"])'):
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            file, (kind, _) = (folder / unquote(image["src"])).resolve(), mimetypes.guess_type(image["src"])
            if file.is_relative_to(folder) and file.is_file() and str(kind).startswith("image/"):
                image["src"] = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _disarm(part: Tag) -> None:
    """Removes all that could run, load or send something; the content security policy is the second defence."""
    for text in [each for each in part.descendants if isinstance(each, PreformattedString)]:
        text.extract()  # comments and the like: browsers and parsers disagree on where they end
    for tag in part.find_all(REMOVED):
        if not _is_data(tag):
            tag.decompose()
    for style in part.find_all("style"):
        style.string = re.sub(r"(?i)@import[^;]*;?|url\s*\([^)]*\)?|<(?=[a-z/!?])", "", style.string or "")
    for tag in part.find_all(True):
        for name, value in list(tag.attrs.items()):
            text = re.sub(r"\s", "", "".join(value)).lower()
            harmful = name.startswith("on") or name in SENDING or (name == "style" and "url(" in text)
            if name in LOADING or (name == "href" and tag.name != "a"):
                harmful = not text.startswith(("data:image/", "#"))
            elif name == "href":  # a link may lead anywhere, but must not run anything
                harmful = bool(re.match(r"[^/?#]*:", text)) and not text.startswith(("http:", "https:", "mailto:"))
            if harmful:
                del tag[name]


def _is_data(tag: Tag) -> bool:
    """Whether a tag holds the data of a map; if so, it is rewritten to hold JSON and nothing else."""
    if tag.name != "script" or tag.get("type") != "application/json" or not tag.has_attr("data-hr-map-data"):
        return False
    try:
        text = inert_json(json.loads(tag.string or ""))
    except (ValueError, RecursionError) as error:
        log.warning("the data of a map is left out: it is not JSON (%s)", one_line(error))
        return False
    tag.attrs = {name: value for name, value in tag.attrs.items() if name in ("id", "type") or name.startswith("data-")}
    tag.string = text
    return True


def _make_tables_scroll(main: Tag, soup: BeautifulSoup) -> None:
    """Puts each outermost table into an element that scrolls sideways."""
    for table in main.find_all("table"):
        if table.find_parent("table") is None:
            table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))


def _name_headings(main: Tag, soup: BeautifulSoup) -> list[str]:
    """Names headings, lists them in the contents, and describes images without an alt text by the heading above.

    Returns:
        The texts of the headings.
    """
    headings, used, described = [], set(), Counter()
    contents = soup.new_tag("ol")
    for tag in main.select(".jp-MarkdownCell :is(h1, h2, h3, h4), img"):
        if tag.name == "img":
            if not tag.get("alt"):
                text = (headings and headings[-1]) or "Figure"
                described[text] += 1
                tag["alt"] = text if described[text] == 1 else f"{text} ({described[text]})"
            continue
        anchor, text = tag.find("a", class_="anchor-link"), tag.get_text().removesuffix("¶").strip()
        name = tag.get("id") or re.sub(r"[^\w-]+", "-", text).strip("-") or "part"
        name = name if name not in used else f"{name}-{len(used)}"
        used.add(name)
        headings.append(text)
        tag["id"] = name
        if anchor:
            anchor.attrs |= {"href": f"#{name}", "aria-label": "Link to this section"}
        if tag.name in ("h2", "h3"):
            row = soup.new_tag("li", attrs={"class": f"level-{tag.name[1]}"})
            row.append(soup.new_tag("a", href=f"#{name}", string=text))
            contents.append(row)
    if len(contents.contents) > 1:
        fold = soup.new_tag("details")
        fold.extend([soup.new_tag("summary", string="Contents"), contents])
        soup.find("nav", class_="toc").append(fold)
    return headings


def _fold_sections(main: Tag, soup: BeautifulSoup, folded: set[str]) -> None:
    """Folds what follows a collapsed heading, up to the next heading of its level or a higher one.

    Args:
        main: the page's cells.
        soup: makes the tags.
        folded: ids of the cells whose heading is collapsed in JupyterLab; they themselves stay in sight.
    """
    for cell in [
        cell for cell in main.select(".jp-MarkdownCell") if cell.get("id", "").removeprefix("cell-id=") in folded
    ]:
        level = cell.select_one("h1, h2, h3, h4").name
        higher = ", ".join(f"h{number}" for number in range(1, int(level[1]) + 1))
        section = []
        for following in cell.find_next_siblings():
            if "jp-MarkdownCell" in following.get("class", []) and following.select_one(higher):
                break
            section.append(following)
        fold = soup.new_tag("details", attrs={"class": "section"})
        cell.insert_after(fold)
        fold.extend([soup.new_tag("summary", string="Show this section"), *(part.extract() for part in section)])


def _fit(main: Tag, room: int, name: str) -> None:
    """Replaces outputs and images, largest first, by a note until the page fits into `room` bytes."""
    parts = main.select(".jp-OutputArea-child, .jp-MarkdownCell img")
    total = len(str(main).encode())
    for size, part in sorted(((len(str(part).encode()), part) for part in parts), key=lambda pair: -pair[0]):
        if total <= room:
            return
        note = BeautifulSoup("", "html.parser").new_tag("p", string=_left_out(size, name))
        part.replace_with(note)
        total -= size - len(str(note).encode())


def _scripts(main: Tag) -> list[str]:
    """The scripts a page needs: its own, and those of the map if it has one."""
    found = []
    if main.select_one("[data-hr-map]"):
        from hr_search.drift import interactive_map  # slow to import, and most pages have no map

        found = interactive_map.scripts()
    # The policy's hashes are of the text as a browser reads it, and nothing in it may end the script element.
    texts = [re.sub(r"\r\n?", "\n", each) for each in [*found, asset("report.js")]]
    return [re.sub(r"<(?=/script|!--)", r"\\x3c", each, flags=re.I) for each in texts]
