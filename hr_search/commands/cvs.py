"""The verb `cvs`: CVs in files become a table of texts without who the person is, or are audited by their names."""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.commands.flags import add_settings, given, settings_from
from hr_search.commands.output import fixed, print_json, records, say

if TYPE_CHECKING:
    from hr_search.cvs.documents import Cv
    from hr_search.settings import Settings

log = logging.getLogger(__name__)

_READ = ("identity", "encoding", "trustfile")
_MODEL = ("maxlength", "precision")
_NAMED = 5  # files that cannot be read are named, the rest counted


def add_cvs(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `cvs`."""
    verb = verbs.add_parser(
        "cvs",
        help="turn CVs (JSON, JSON Resume, tables, text, PDF, DOCX) into a table of texts without who the person is",
        epilog="The table serves as --corpus of search and index. With --audit, the CVs are ranked for --queries by "
        "--model under names of other origins, without and with the identity of the persons.",
    )
    verb.add_argument("source", nargs="+", help="files of CVs, or folders of them")
    verb.add_argument("--out", default="", help=".jsonl file for the columns id and text")
    verb.add_argument("--skip", action="store_true", help="leave out what cannot be read; the exit code is then 1")
    verb.add_argument("--audit", action="store_true", help="swap names and report how the rankings move")
    verb.add_argument("--model", default="", help="with --audit: embedded (default), a folder or a Hub name")
    verb.add_argument("--queries", default="", help="with --audit: table or .txt file of vacancies")
    verb.add_argument("--column", default="", help="with --audit: column of the vacancies; default: found by name")
    verb.add_argument("--json", action="store_true", help="print one line of JSON")
    add_settings(verb, (*_READ, *_MODEL), maxlength="the model's own")
    verb.set_defaults(run=cvs)


def cvs(arguments: argparse.Namespace) -> int:
    """`cvs`: writes the texts, or prints the audit; 1 where something was skipped."""
    values = given(arguments, (*_READ, *_MODEL))
    settings = settings_from(None, values)
    out = _place(arguments, values)
    from hr_search.cvs.documents import read_cvs

    places = [paths.resolve(source) for source in arguments.source]
    found, wrong = read_cvs(places, settings.encoding, settings.trustfile, out)
    if wrong:
        sentence = _unread(wrong, len(found))
        if not (arguments.skip and found):
            raise InputError(sentence)
        log.warning(sentence)
    told: dict[str, Any] = {"cvs": len(found), "unread": len(wrong)}
    if out:
        told |= _write(found, out, settings.identity)
    if arguments.audit:
        told["audit"] = _audit(arguments, settings, found, "maxlength" in values)
    if arguments.json:
        print_json(told)
    return int(bool(wrong))


def _place(arguments: argparse.Namespace, values: dict[str, Any]) -> Path | None:
    """Where the table goes; None for an audit alone.

    Args:
        arguments: of the command line.
        values: the settings that it gives.

    Raises:
        InputError: flags that do not fit together, or a place that is no .jsonl file.
    """
    if not arguments.out and not arguments.audit:
        raise InputError(
            "the following arguments are required: --out, or --audit; see `python -m hr_search cvs --help`."
        )
    if arguments.audit and not arguments.queries:
        raise InputError("--audit ranks the CVs for vacancies; give --queries, a table or .txt file of them.")
    idle = [name for name in ("queries", "model", "column") if getattr(arguments, name)]
    idle += [name for name in _MODEL if name in values]
    if idle and not arguments.audit:
        raise InputError(f"--{idle[0]} is for --audit; give it, too, or leave --{idle[0]} out.")
    if not arguments.out:
        return None
    out = paths.resolve(arguments.out)
    if out.suffix.lower() != ".jsonl":
        raise InputError(f"--out {arguments.out} must end in .jsonl.")
    if out in map(paths.resolve, arguments.source):
        raise InputError(f"--out {arguments.out} is one of the files to be read; choose another name.")
    return out


def _unread(wrong: list[str], read: int) -> str:
    """One sentence about files and rows that hold no CV that can be read."""
    if len(wrong) == 1 and not read:
        return wrong[0]
    named = "; ".join(sentence.rstrip(".") for sentence in wrong[:_NAMED])
    more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    advice = "; --skip leaves such out" if read else ""
    return f"{len(wrong)} of {len(wrong) + read} CVs cannot be read: {named}{more}{advice}."


def _write(found: list[Cv], out: Path, identity: bool) -> dict[str, Any]:
    """Writes the texts and says what was left out of them."""
    from hr_search.base.files import whole_file
    from hr_search.data.resume_texts import left_out, resume_text

    left, bare = Counter[str](), 0
    with whole_file(out) as file:
        for cv in found:
            text, kinds = resume_text(cv.resume, identity)
            left += kinds
            bare += bool(cv.resume.body and not identity and not kinds)
            file.write(json.dumps({"id": cv.id, "text": text}, ensure_ascii=False) + "\n")
    log.info("%d CVs: %s; left out: %s", len(found), out, left_out(left))
    if bare:
        log.warning("no name and no contacts were found in %d plain texts; look whether they begin with some", bare)
    return {"file": str(out), "left_out": dict(sorted(left.items())), "nothing_found": bare}


def _audit(arguments: argparse.Namespace, settings: Settings, found: list[Cv], longer: bool) -> dict[str, Any]:
    """The audit of a model, identity left out and kept."""
    from hr_search.commands.searching import encoder_for
    from hr_search.cvs.audit import audit_model
    from hr_search.index.texts import read_corpus

    queries = read_corpus(arguments.queries, arguments.column, settings.encoding, settings.trustfile).texts
    encoder = encoder_for(arguments.model or "embedded", settings, longer, 0)
    resumes, told = [cv.resume for cv in found], {}
    for name, identity in (("left out", False), ("kept", True)):
        table = audit_model(encoder, queries, resumes, identity)
        told[name] = records(table)
        if not arguments.json:
            say(f"\nidentity {name}: {len(queries)} vacancies, {len(resumes)} CVs\n{fixed(table)}")
    return told
