"""The bundled skills of ESCO: their names, other names and descriptions, taken apart where that is certain.

The package that carries the occupations (see `esco`) also carries 13,939 skills, each as one text: name, other names,
description, with nothing between them. A description starts with a capital letter, so it is found for nearly all. Where
the name ends is harder, as most words are lower case: "apply first aid give first aid ...". It is certain where the
name comes again at once in another form ("write French" / "writing French") or where a verb follows that is never a
noun, and no word of the name has come twice by then.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from hr_search.data import esco
from hr_search.data.duplicates import normalise

_OPENER = re.compile(r"[A-Z][a-z]+,?")
_END = re.compile(r"[.:;!?]\)?$")
_LONGEST = 9  # words of a name
_SEEN = 2  # descriptions that must open with a word before it counts as one that opens descriptions
_NOUN_SHARE = 0.1  # a verb is certain where it is used as a noun in a smaller share of its uses
# After these words a verb belongs to the same name: "learn to cook", "plan and manage events".
_LINKS = {"to", "and", "or", "not", "how", "that", "which", "who", "a", "an", "the", "of", "in", "for", "with", "by"}
_LINKS |= {"on", "at", "from", "into", "as", "this", "these", "their", "its", "any", "all", "each", "about", "against"}
_LINKS |= {"between", "during", "through", "within", "under", "over", "without", "towards", "across", "before", "after"}
_LINKS |= {"than", "using"}
_BEFORE_VERBS = {"to", "and", "or", "not", "can", "will", "may", "must", "should", "who", "that", "which", "they"}
_CAUSING = {"help", "let", "make", "have", "see", "watch", "hear"}  # "help clients make decisions" is one name


class Skill(NamedTuple):
    """The parts of one skill; `name` is "" where it cannot be told from the `others`."""

    name: str
    others: str
    description: str


class _Verbs(NamedTuple):
    """Verbs that open names: those never used as nouns (`certain`), and all of them (`possible`)."""

    certain: frozenset[str]
    possible: frozenset[str]


def load_skills() -> pd.DataFrame:
    """Names of about 13,300 skills beside their descriptions, and names beside other names.

    Queries of kind "title", which validation and test use too, are names that are certain and do not stand in their own
    description. All else is of kind "keywords", for train only: names that do, other names beside the description (with
    the name among them where its end is uncertain), and names beside the other names.

    Returns:
        A table with the columns `query`, `positive`, `negatives` (empty lists), `group` (the skill's address) and
        `kind`. Its `attrs` count the `skills` read, those left out (`unsplit`), those whose name is uncertain
        (`unnamed`) and those whose description repeats the name (`told`).

    Raises:
        InputError: the package is not installed or its data file is not the expected one.
    """
    table = esco.package_table("skills.csv")
    skills = split(table["description"].tolist())
    told = [bool(skill and skill.name) and _tells(skill) for skill in skills]
    rows = []
    for address, skill, tells in zip(table["id"], skills, told, strict=True):
        name, others, description = skill or ("", "", "")
        pairs = ((name, description, "keywords" if tells else "title"), (others, description, "keywords"))
        pairs += ((name, others, "keywords"),)
        rows += [(*pair, address) for pair in pairs if pair[0] and pair[1]]
    pairs = pd.DataFrame(rows, columns=["query", "positive", "kind", "group"])
    pairs["negatives"] = [[] for _ in range(len(pairs))]
    pairs = pairs[["query", "positive", "negatives", "group", "kind"]]
    unnamed = sum(skill is not None and not skill.name for skill in skills)
    pairs.attrs = {"skills": len(skills), "unsplit": skills.count(None), "unnamed": unnamed, "told": sum(told)}
    return pairs


def _tells(skill: Skill) -> bool:
    """Whether the words of the name stand in the description one after the other, be it in another form."""
    name, text = ([_root(word) for word in normalise(part).split()] for part in (skill.name, skill.description))
    return any(text[place : place + len(name)] == name for place in range(len(text) - len(name) + 1))


def split(texts: Sequence[str]) -> list[Skill | None]:
    """The parts of texts of the form "name, other names, description", where they can be found with certainty.

    Args:
        texts: one text per skill, white space folded.

    Returns:
        For each text its parts, or None where the start of the description is uncertain.
    """
    words = [text.split(" ") for text in texts]
    starts = _starts(words)
    verbs = _verbs([(own[:start], own[start:]) for own, start in zip(words, starts, strict=True) if start])
    skills: list[Skill | None] = []
    for own, start in zip(words, starts, strict=True):
        if not start:
            skills.append(None)
            continue
        end = _name_end(own[:start], verbs)
        skills.append(Skill(*(" ".join(part) for part in (own[:end], own[end:start], own[start:]))))
    return skills


def _starts(texts: Sequence[Sequence[str]]) -> list[int]:
    """Where the description of each text starts; 0 where that is uncertain.

    It starts at the only capital after the first word or, where there are more, at the only word of its first sentence
    that opens other descriptions too.
    """
    capitals = [[place for place, word in enumerate(words) if place and word[:1].isupper()] for words in texts]
    alone = Counter(
        words[places[0]].rstrip(",") for words, places in zip(texts, capitals, strict=True) if len(places) == 1
    )
    openers = {word for word, count in alone.items() if count >= _SEEN and _OPENER.fullmatch(word)}
    return [_start(words, places, openers) for words, places in zip(texts, capitals, strict=True)]


def _start(words: Sequence[str], capitals: Sequence[int], openers: set[str]) -> int:
    found = capitals if len(capitals) == 1 else [place for place in capitals if words[place].rstrip(",") in openers]
    if not found:
        return 0
    ends = [place for place, word in enumerate(words) if _END.search(word)]
    end = next((place for place in ends if place >= found[0]), len(words))
    certain = not any(place < found[0] for place in ends) and not any(place <= end for place in found[1:])
    return found[0] if certain else 0


def _verbs(parts: Sequence[tuple[Sequence[str], Sequence[str]]]) -> _Verbs:
    """The verbs that open names, told by their uses in the descriptions."""
    firsts = Counter(names[0].lower() for names, _ in parts)
    openers = Counter(description[0].rstrip(",").lower() for _, description in parts)
    uses, nouns = Counter(openers), Counter[str]()
    for _, description in parts:
        for before, word in itertools.pairwise(description):
            plain = word.strip(".,;:()").lower()
            if before.lower() == "to":
                uses[plain] += 1
            elif before.lower() not in _BEFORE_VERBS and before[-1:].isalpha() and not before.endswith("ly"):
                nouns[plain] += 1
    possible = {word for word in firsts if word.isalpha() and openers[word] and uses[word] > max(1, 0.3 * nouns[word])}
    certain = {word for word in possible if openers[word] >= _SEEN and nouns[word] <= _NOUN_SHARE * uses[word]}
    return _Verbs(frozenset(certain), frozenset(possible))


def _name_end(words: Sequence[str], verbs: _Verbs) -> int:
    """How many words at the start of a text of names are the first name; 0 where that is uncertain."""
    words = [word.lower() for word in words]
    roots = [_root(word) for word in words]
    end = _repeated(roots) or (_before_verb(words, roots, verbs) if words[0] in verbs.possible else 0)
    content = [root for root, word in zip(roots[:end], words, strict=False) if word not in _LINKS]
    plain = end <= _LONGEST and len(set(content)) == len(content) and words[end - 1] not in _LINKS
    return end if plain else 0


def _repeated(roots: Sequence[str]) -> int:
    """The length of the shortest run of words that comes again at once, in another form or the same; 0 for none."""
    return next((end for end in range(1, len(roots) // 2 + 1) if roots[:end] == roots[end : 2 * end]), 0)


def _before_verb(words: Sequence[str], roots: Sequence[str], verbs: _Verbs) -> int:
    """The length of a name that starts with a verb, up to the verb of the next one; 0 where that is uncertain."""
    for end in range(2, len(words)):
        word, before = words[end], words[end - 1]
        if before in _LINKS or not before[-1:].isalnum():
            continue
        if words[end : end + 2] == words[:2]:
            return end
        if word in verbs.certain:
            return 0 if before.endswith("ly") or (words[0] in _CAUSING and word != words[0]) else end
        if (
            word.endswith("ing") or word in verbs.possible
        ):  # perhaps a noun of this name: "operate heat sealing machines"
            after = _after_repeats(roots, end)
            if roots[end] not in after:
                return end if after and end > 2 else 0  # a single word that comes again is no proof
    return len(words) if len(set(roots)) == len(roots) else 0


def _after_repeats(roots: Sequence[str], end: int) -> set[str]:
    """What follows the words 1 to `end` where they come again; "" stands for the end of the text."""
    size, padded = end - 1, [*roots, ""]
    places = range(end + 1, len(roots) - size + 1)
    return {padded[place + size] for place in places if roots[place : place + size] == roots[1:end]}


@functools.lru_cache(maxsize=65536)
def _root(word: str) -> str:
    """A form that a verb shares with its gerund and a noun with its plural, in British and American spelling."""
    word = re.sub(r"(?<=\w{3})ing$", "", word.strip(",").replace("yz", "ys").replace("iz", "is").replace("our", "or"))
    return re.sub(r"([b-df-hj-np-tv-z])\1$", r"\1", esco.stem(word))
