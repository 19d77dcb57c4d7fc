"""The text of a CV: desired position, skills, jobs newest first, education, about; without who the person is.

The template has no labels: they would be the same words in each CV, in one language. Contact details in running text
are replaced as by redaction; names that the CV gives are taken out wherever they stand as written there.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hr_search.base.errors import InputError, shown
from hr_search.data.cleaning import clean, first_row
from hr_search.data.redaction import redact
from hr_search.data.resumes import KINDS, Job, Resume, parsed, read_resume

logger = logging.getLogger(__name__)

# No part of an e-mail, a link or a double name: these are for redaction, or another person's.
_ALONE = r"(?<![\w@./-])(?:{})(?![\w@/-]|\.\w)"
_WORDS = 12  # of a name; more are a text in the wrong column
_SPACES = re.compile(r"[ \t\u00a0]{2,}")


def resume_text(resume: Resume, identity: bool = False) -> tuple[str, Counter[str]]:
    """A CV as one text, and how many details that say who the person is were left out, by kind.

    Args:
        resume: the CV.
        identity: keep these details, before all else; nothing is counted then.

    Returns:
        The text, "" where the CV says nothing of what the person can do; and the counts, by the kinds of `KINDS` and,
        for contacts in running text, of `redaction.WORDS`.
    """
    if resume.empty:
        return "", Counter()
    told = _told(resume)
    if identity:
        own = [text for kind in KINDS for found, text in resume.personal if found == kind and text]
        name = " ".join(part for part in (resume.first, resume.middle, resume.last) if part)
        return clean("\n".join(part for part in (name, *own, told) if part)), Counter()
    text, left = redact(told)
    text, names = without_name(text, resume)
    left.update(kind for kind, _ in resume.personal)
    left["names"] += names + bool(resume.first or resume.last)
    return clean(text), +left


def without_name(text: str, resume: Resume) -> tuple[str, int]:
    """A text without the name of its CV, and how many words were taken out."""
    words = name_words(resume)
    if not words:
        return text, 0
    bare, count = replaced_words(text, dict.fromkeys(words, ""))
    lines = [(old, _SPACES.sub(" ", new).strip()) for old, new in zip(text.split("\n"), bare.split("\n"), strict=True)]
    return "\n".join(new for old, new in lines if new or not old), count  # a line of nothing but the name goes


def name_words(resume: Resume) -> list[str]:
    """The words of a CV's name that are no initials, each once."""
    words = f"{resume.first} {resume.middle} {resume.last}".split()
    return list(dict.fromkeys(word for word in words[:_WORDS] if len(word.rstrip(".")) > 1))


def replaced_words(text: str, words: Mapping[str, str]) -> tuple[str, int]:
    """A text with each of these words, as it stands, capitalised or in capitals, replaced; and how many were.

    Only whole words are replaced, and none inside an e-mail address or a link.
    """
    every = {word.upper(): new.upper() for word, new in words.items()}
    every |= {word.title(): new for word, new in words.items()} | dict(words)
    if not every:
        return text, 0
    longest = sorted(every, key=lambda word: (-len(word), word))
    pattern = re.compile(_ALONE.format("|".join(map(re.escape, longest))))
    return pattern.subn(lambda word: every[word[0]], text)


def _told(resume: Resume) -> str:
    """All that says what the person can do."""
    parts = [resume.position, ", ".join(resume.skills), *map(_job_line, resume.jobs), *resume.education]
    return "\n".join(part for part in (*parts, resume.about, resume.body) if part)


def _job_line(job: Job) -> str:
    head = f"{job.position} ({job.business})" if job.position and job.business else job.position or job.business
    return ": ".join(part for part in (head, job.duties) if part)


# -- columns of tables ---------------------------------------------------------------------------


def with_resume_texts(
    table: pd.DataFrame, columns: Sequence[str], source: str, identity: bool = False
) -> tuple[pd.DataFrame, int]:
    """A raw table whose CVs in fields are texts.

    Args:
        table: the raw table; a CV is a cell that is an object, or a text that spells one in JSON, or such an item of a
            list.
        columns: those that may hold CVs.
        source: the file, for errors.
        identity: as for `resume_text`.

    Returns:
        The table, and how many CVs were turned into texts; the log says what was left out.

    Raises:
        InputError: an object is not a CV.
    """
    changed, left, count = {}, Counter[str](), 0
    for column in columns:
        cells = table[column].tolist()
        if not any(map(_may_hold, cells)):
            continue
        texts = []
        for row, cell in enumerate(cells, first_row(table)):
            text, found, here = _cell_text(cell, f'{source}, row {row}, column "{shown(column)}"', identity)
            texts.append(text)
            left += found
            count += here
        changed[column] = pd.Series(texts, table.index, dtype=object)
    if count:
        logger.info("%s: %d CVs in fields became texts; left out: %s", source, count, left_out(left))
    return table.assign(**changed) if changed else table, count


def left_out(left: Counter[str]) -> str:
    """What was left out of CVs, for a sentence."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(left.items())) or "nothing"


def _may_hold(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.lstrip()[:1] == "{" or cell.lstrip()[:2] == "[{"
    return isinstance(cell, Mapping) or (
        isinstance(cell, list | tuple) and any(isinstance(each, Mapping) for each in cell)
    )


def _cell_text(cell: Any, place: str, identity: bool) -> tuple[Any, Counter[str], int]:
    """A cell with its CVs as texts, what was left out of them, and how many there were."""
    if not _may_hold(cell):
        return cell, Counter(), 0
    value = parsed(cell)
    several = isinstance(value, list | tuple)
    items = list(value) if several else [value]
    found, left = [], Counter[str]()
    for item in items:
        resume = read_resume(item) if isinstance(item, Mapping) else None
        if resume is None and isinstance(cell, str):
            return cell, Counter(), 0  # a text like any other
        if resume is None and isinstance(item, Mapping):
            raise InputError(
                f"{place} holds a mapping that is no CV (its keys: {listed(item)}); give it keys such as title, "
                "skills, experience and education, or name another column."
            )
        text, out = resume_text(resume, identity) if resume else (item, Counter())
        found.append(text)
        left += out
    return found if several else found[0], left, sum(isinstance(item, Mapping) for item in items)


def listed(names: Mapping[str, Any] | Sequence[str]) -> str:
    """The first names of fields, for a sentence."""
    return ", ".join(shown(name, 30) for name in list(names)[:8]) + ", …" * (len(names) > 8) or "none"
