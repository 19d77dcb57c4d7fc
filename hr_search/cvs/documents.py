"""Files of CVs: JSON, tables, plain text, PDF and DOCX, one record for each CV; what cannot be read is told apart."""

from __future__ import annotations

import dataclasses
import io
import logging
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hr_search.base.errors import InputError, one_line, shown
from hr_search.base.paths import extension
from hr_search.cvs.header import with_head_apart
from hr_search.cvs.word import word_lines
from hr_search.data.formats import read_table, read_text
from hr_search.data.json_tables import json_values
from hr_search.data.resume_texts import listed
from hr_search.data.resumes import Resume, known_field, read_resume, tells
from hr_search.data.unpacking import Room, content

_OBJECTS = (".json", ".jsonl")
_TABLES = (".csv", ".tsv", ".xlsx", ".parquet")
_PLAIN = (".txt", ".md")
KINDS = (*_OBJECTS, *_TABLES, *_PLAIN, ".pdf", ".docx")
"""Endings of the files that are read; `.gz` may follow."""

_NEEDED = "a CV needs a desired position, skills, experience, education or a text"
_KEYS = "write keys as hh.ru's API or JSON Resume does: title, skills, experience, education"
_EXTRA = 'run `pip install "hr_search[cvs]"`, or save the file as text'


@dataclasses.dataclass(frozen=True)
class Cv:
    """A CV and where it comes from.

    Attributes:
        id: its own, or the name of its file, with the folders below the one given and the row in a file of several.
        resume: its fields.
        place: file and row, for errors.
    """

    id: str
    resume: Resume
    place: str


def read_cvs(
    places: Sequence[Path | str], encoding: str = "", trustfile: bool = False, besides: Path | None = None
) -> tuple[list[Cv], list[str]]:
    """The CVs of files and folders, and a sentence for each file or row that holds none.

    Args:
        places: files of `KINDS`, or folders, whose files are read in the order of their names, hidden ones left out.
        encoding: the encoding of text files; empty = detected.
        trustfile: let a file take more memory than a table may.
        besides: a file in these folders that is no CV: the one to be written.

    Raises:
        InputError: a place does not exist, a folder is empty, or two CVs have one id.
    """
    found, wrong = [], []
    for path, name in _files(places, besides).items():
        try:
            for cv, sentence in _read(path, name, encoding, trustfile):
                if cv:
                    found.append(cv)
                else:
                    wrong.append(sentence)
        except InputError as error:
            wrong.append(str(error))
    seen: dict[str, str] = {}
    for cv in found:
        if cv.id in seen:
            raise InputError(
                f'{seen[cv.id]} and {cv.place} have one id, "{shown(cv.id)}"; leave one of them out or rename it.'
            )
        seen[cv.id] = cv.place
    return found, wrong


def _files(places: Sequence[Path | str], besides: Path | None) -> dict[Path, str]:
    """The files to read, each once, and their names: in a folder, the path from there."""
    names: dict[Path, str] = {}
    for place in map(Path, places):
        if not place.exists():
            raise InputError(f"{place} does not exist; check the path.")
        inside = [place]
        if place.is_dir():
            inside = [path for path in sorted(place.rglob("*")) if path.is_file() and path != besides]
            inside = [path for path in inside if not any(part[0] == "." for part in path.relative_to(place).parts)]
            if not inside:
                raise InputError(f"the folder {place} has no files; put CVs into it ({', '.join(KINDS)}).")
        for path in inside:
            names.setdefault(path, path.relative_to(place).as_posix() if path != place else path.name)
    return names


def _read(path: Path, name: str, encoding: str, trustfile: bool) -> Iterable[tuple[Cv | None, str]]:
    """Each CV of a file, or the sentence that says why there is none."""
    kind = extension(path)
    if kind not in KINDS:
        raise InputError(f"{path} is of a kind that is not read; save it as one of {', '.join(KINDS)}.")
    if path.is_file() and path.stat().st_size < 1000 and not path.read_bytes().strip():
        raise InputError(f"{path} is empty; {_NEEDED}.")
    if kind in _OBJECTS:
        return _from_rows(path, name, _objects(path, read_text(path, encoding, trustfile)))
    if kind in _TABLES:
        return _from_rows(path, name, _rows(path, encoding, trustfile))
    if kind == ".pdf":
        text = _pdf_text(path, trustfile)
    elif kind == ".docx":
        text = _docx_text(path, trustfile)
    else:
        text = read_text(path, encoding, trustfile)
    return [_checked(name, {"text": text}, str(path))]


def _from_rows(path: Path, name: str, rows: Sequence[tuple[str, Any]]) -> Iterable[tuple[Cv | None, str]]:
    """The CVs of the objects or rows of a file."""
    for at, (place, value) in enumerate(rows, 1):
        pairs = value.items() if isinstance(value, Mapping) else ()
        own = next((item for key, item in pairs if key.lower().strip("_") in _IDS), None)
        label = str(own).strip() if isinstance(own, str | int) and str(own).strip() else ""
        yield _checked(label or (name if len(rows) == 1 else f"{name}:{at}"), value, f"{path}{place}")


_IDS = ("id", "cv_id", "cvid", "resume_id", "resumeid")


def _checked(label: str, value: Any, place: str) -> tuple[Cv | None, str]:
    """A CV that has a text, or the sentence that says why it is none."""
    resume = read_resume(value) if isinstance(value, Mapping) else None
    if resume is None:
        keys = f" (its keys: {listed(value)})" if isinstance(value, Mapping) else ""
        return None, f"{place} is JSON of another shape than a CV{keys}; {_KEYS}."
    resume = with_head_apart(resume)
    if resume.empty:
        return None, f"{place} has no text of a CV; {_NEEDED}."
    return Cv(label, resume, place), ""


def _objects(path: Path, text: str) -> list[tuple[str, Any]]:
    """The objects of a JSON file and their places: one, one a line, a list, or the only list in an answer."""
    values = json_values(text, path)
    if len(values) > 1:
        return [(f", line {line}", value) for line, value in values]
    value = values[0][1]
    if isinstance(value, Mapping) and not tells(value):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], Mapping)]
        value = lists[0] if len(lists) == 1 else value
    if isinstance(value, list):
        return [(f", item {at}", item) for at, item in enumerate(value, 1)]
    return [("", value)]


def _rows(path: Path, encoding: str, trustfile: bool) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of a table, which has at least one known column."""
    table = read_table(path, encoding, trustfile)
    if not tells(table.columns) and not any(known_field(name) in ("position", "skills") for name in table.columns):
        raise InputError(
            f"{path} has no column known to hold a part of a CV (found: {listed(list(table.columns))}); name one of "
            "them position, skills, experience, education, about or text."
        )
    return [(f", row {at}", row) for at, row in enumerate(table.to_dict("records"), 1)]


def _pdf_text(path: Path, trustfile: bool) -> str:
    """The text of a PDF, page after page.

    Raises:
        InputError: pypdf is not installed, the file is damaged or has a password, or its pages are pictures.
    """
    try:
        import pypdf
    except ImportError as error:
        raise InputError(f"{path} is a PDF, which needs pypdf: {_EXTRA}.") from error
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it tells of each slip that it could mend
    room = Room(path, trustfile)
    try:
        reader = pypdf.PdfReader(io.BytesIO(content(path, trustfile)))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(f"{path} has a password; save it without one.")
        pages = []
        for page in reader.pages:
            pages.append(page.extract_text())
            room.take(len(pages[-1]))
    except InputError:
        raise
    except Exception as error:  # a damaged file may fail at any step
        raise InputError(f"{path} is not a readable PDF ({one_line(error)}); save it again, or as text.") from error
    if not "".join(pages).strip():
        raise InputError(f"{path} holds no text, its pages are pictures; have it read by OCR and save the text.")
    return "\n".join(pages)


def _docx_text(path: Path, trustfile: bool) -> str:
    """The paragraphs, text boxes and table cells of a DOCX file in their order, without page headers and footers.

    Raises:
        InputError: python-docx is not installed, or the file is damaged or holds no text.
    """
    try:
        import docx
    except ImportError as error:
        raise InputError(f"{path} is a DOCX file, which needs python-docx: {_EXTRA}.") from error
    data, room = content(path, trustfile, archive=True), Room(path, trustfile)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            room.take(sum(part.file_size for part in archive.infolist()))
        lines = word_lines(docx.Document(io.BytesIO(data)).element.body)
    except InputError:
        raise
    except Exception as error:  # a damaged archive or XML may fail at any step
        raise InputError(f"{path} is not a readable DOCX file ({one_line(error)}); save it again.") from error
    if not any(line.strip() for line in lines):
        raise InputError(f"{path} holds no text outside of pictures; save it as plain text.")
    return "\n".join(lines)
