"""The name audit: other names are put into CVs, and what moves in the rankings is the names' doing.

Half of the CVs that have a name get one of another origin and gender, then the other half: if all changed at once,
what a model thinks of a whole origin would cancel. Rankings before and after are compared by rank-biased overlap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hr_search.base.errors import InputError
from hr_search.cvs.names import GENDERS, ORIGINS, names_of
from hr_search.data.resume_texts import name_words, replaced_words, resume_text
from hr_search.data.resumes import Job, Resume

if TYPE_CHECKING:
    from hr_search.encoder import Encoder

Score = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""Q queries and N texts to scores (Q, N), higher for nearer."""

_STEP = 1e6  # scores that agree to six decimals tie, as in all rankings of this package


def rank_biased_overlap(first: Sequence[int], second: Sequence[int], p: float = 0.9) -> float:
    """How much two rankings of the same items agree, 1 for equal ones and near 0 for one turned round.

    Extrapolated rank-biased overlap (Webber, Moffat and Zobel 2010, equation 30) at full depth k:
    A_k p^k + (1 - p) / p * sum over d of A_d p^d, where A_d is the share of the first d items that both have. It is
    computed as 1 minus the same sum of 1 - A_d, so that equal rankings give exactly 1.

    Args:
        first: N items, best first.
        second: the same items in another order.
        p: weight of a rank relative to the one above it; .9 gives the first ten ranks 86 % of the weight.
    """
    if not len(first):
        return 1.0
    places = np.empty(len(first), np.int64)
    order = {item: rank for rank, item in enumerate(first)}
    places[:] = [order[item] for item in second]
    deeper = np.maximum(places, np.arange(len(places)))  # an item is shared from the greater of its two ranks on
    shared = np.cumsum(np.bincount(deeper, minlength=len(places)))
    missing = 1 - shared / np.arange(1, len(places) + 1)
    weights = p ** np.arange(1, len(places) + 1)
    return float(1 - (missing[-1] * weights[-1] + (1 - p) / p * (missing * weights).sum()))


def renamed(resume: Resume, first: str, last: str) -> Resume:
    """A CV under another name, also where its own texts mention the old one; the middle name goes."""
    changes = dict.fromkeys(resume.middle.split(), "")
    changes |= dict.fromkeys(resume.last.split(), last) | dict.fromkeys(resume.first.split(), first)
    words = {word: changes[word] for word in name_words(resume)}

    def new(text: str) -> str:
        return replaced_words(text, words)[0]

    return dataclasses.replace(
        resume,
        first=first,
        middle="",
        last=last,
        position=new(resume.position),
        skills=tuple(map(new, resume.skills)),
        jobs=tuple(Job(new(job.position), new(job.business), new(job.duties)) for job in resume.jobs),
        education=tuple(map(new, resume.education)),
        about=new(resume.about),
        body=new(resume.body),
    )


def audit(
    score: Score, queries: Sequence[str], cvs: Sequence[Resume], identity: bool = False, seed: int = 42
) -> pd.DataFrame:
    """What names do to the rankings of CVs.

    Args:
        score: the ranking to audit.
        queries: Q texts, such as vacancies.
        cvs: N CVs; those without a first or last name stay as they are.
        identity: rank texts that begin with who the person is; without, texts before and after are equal, and so are
            the rankings.
        seed: of the halves and the names drawn.

    Returns:
        A row for each origin and gender: `origin`, `gender`, `cvs` (changed), `rbo_mean` and `rbo_min` (over queries
        and halves), `movement` (the most ranks that any CV moved) and `gain` (ranks that a changed CV rose on
        average; below 0, these names cost ranks).

    Raises:
        InputError: no queries, fewer than two CVs, or none with a name.
    """
    named = [at for at, cv in enumerate(cvs) if cv.first and cv.last]
    if not len(queries) or len(cvs) < 2:
        raise InputError(f"the name audit has {len(queries)} queries and {len(cvs)} CVs; it needs 1 and 2 at least.")
    if not named:
        raise InputError("none of these CVs has a first and a last name, so there are no names to swap.")
    texts = [resume_text(cv, identity)[0] for cv in cvs]
    before = _rankings(score(queries, texts))
    rng = np.random.default_rng(seed)
    rows = []
    for origin in ORIGINS:
        for gender in GENDERS:
            overlaps, movement, gains = [], 0, []
            for half in np.array_split(rng.permutation(named), 2):
                if not len(half):
                    continue
                swapped = list(texts)
                for at in sorted(half.tolist()):
                    swapped[at] = resume_text(_swapped(cvs[at], origin, gender, rng), identity)[0]
                after = _rankings(score(queries, swapped))
                overlaps += [rank_biased_overlap(old, new) for old, new in zip(before, after, strict=True)]
                rise = _ranks(before) - _ranks(after)
                movement = max(movement, int(np.abs(rise).max()))
                gains.append(rise[:, half].ravel())
            gain = float(np.concatenate(gains).mean()) + 0.0  # no -0
            rows.append((origin, gender, len(named), float(np.mean(overlaps)), min(overlaps), movement, gain))
    return pd.DataFrame(rows, columns=["origin", "gender", "cvs", "rbo_mean", "rbo_min", "movement", "gain"])


def audit_model(
    encoder: Encoder, vacancies: Sequence[str], cvs: Sequence[Resume], identity: bool = False, seed: int = 42
) -> pd.DataFrame:
    """`audit` of a model that ranks CVs for each vacancy by the cosine of their embeddings; a text is embedded once."""
    known: dict[tuple[str, str], np.ndarray] = {}

    def embedded(texts: Sequence[str], side: str) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if (side, text) not in known]
        if new:
            vectors = encoder.embed(encoder.tokens(new, side, cached=False))
            known.update({(side, text): vector for text, vector in zip(new, vectors, strict=True)})
        return np.stack([known[side, text] for text in texts])

    def score(queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        return embedded(queries, "query") @ embedded(texts, "document").T

    return audit(score, list(vacancies), cvs, identity, seed)


def _swapped(cv: Resume, origin: str, gender: str, rng: np.random.Generator) -> Resume:
    """A CV under a name drawn from those that do not occur in it: else its own words would seem to be the name."""
    everything = resume_text(cv, identity=True)[0]
    latin = not any("а" <= letter <= "я" for letter in (cv.first + cv.last).lower())
    names = names_of(origin, gender, latin)
    for at in rng.permutation(len(names)):
        first, last = names[at]
        if not replaced_words(everything, {first: "", last: ""})[1]:
            return renamed(cv, first, last)
    raise InputError(f'a CV holds all names of the audit ("{origin}", {gender}); audit CVs of one person each.')


def _rankings(scores: np.ndarray) -> np.ndarray:
    """The texts of each query (Q, N), best first, ties in their order."""
    return np.argsort(-np.round(np.asarray(scores, np.float64) * _STEP), axis=1, kind="stable")


def _ranks(rankings: np.ndarray) -> np.ndarray:
    """The rank of each text for each query, from 0, (Q, N)."""
    return np.argsort(rankings, axis=1, kind="stable")
