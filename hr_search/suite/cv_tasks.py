"""Tasks made of CVs alone: the desired position finds the rest of the CV, and back."""

from __future__ import annotations

import dataclasses

import pandas as pd

from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.cvs.documents import read_cvs
from hr_search.data.duplicates import normalise
from hr_search.data.resume_texts import resume_text
from hr_search.data.resumes import Resume
from hr_search.data.tasks import Task, tasks_of
from hr_search.settings import Settings


def cv_tasks(settings: Settings) -> dict[str, Task]:
    """The search tasks of a file of CVs in fields: "q2d" from position to CV, "d2q" back.

    The text of a CV lacks its position, and, without `identity`, who the person is. CVs with one position are relevant
    alike; those without a position, or with nothing else, are left out.

    Raises:
        InputError: a CV cannot be read, or fewer than two positions are left.
    """
    rows = []
    for resume in read_resumes(settings):
        text = resume_text(without_position(resume), settings.identity)[0]
        key = normalise(resume.position)
        if key and normalise(text):
            rows.append({"query": resume.position, "positive": text, "group": key})
    pairs = pd.DataFrame(rows, columns=["query", "positive", "group"])
    if pairs["group"].nunique() < 2:
        raise InputError(
            f"{settings.datapath} has {pairs['group'].nunique()} desired positions with something else beside them; a "
            "task needs CVs for at least two."
        )
    return tasks_of(pairs)


def read_resumes(settings: Settings) -> list[Resume]:
    """All CVs of `datapath`.

    Raises:
        InputError: one cannot be read.
    """
    found, wrong = read_cvs([paths.resolve(settings.datapath)], settings.encoding, settings.trustfile)
    if wrong:
        raise InputError(wrong[0])
    return [cv.resume for cv in found]


def without_position(resume: Resume) -> Resume:
    """A CV without the desired position."""
    return dataclasses.replace(resume, position="")
