"""The head of a CV that came as plain text: lines with name, birth, place and contacts, told apart with caution.

A line is taken for one of these only where it says so: a label, a contact and little else, an age, a patronymic or a
known first name. What stays in doubt stays in the text.
"""

from __future__ import annotations

import dataclasses
import re

from hr_search.cvs.names import read_name
from hr_search.data.redaction import WORDS, redact
from hr_search.data.resumes import Resume, split_name

_LINES = 15  # at the top of a CV, empty ones not counted
_SECTION = re.compile(
    r"\W*(опыт|образование|навыки|ключевые навыки|о себе|обо мне|цель|желаемая|обязанности|experience|work experience|"
    r"work history|employment|education|skills|summary|objective|profile|about)\b.*",
    re.IGNORECASE,
)
_HEADING = re.compile(r"\W*(резюме|cv|c\.v\.|resume|résumé|curriculum vitae|анкета)\W*", re.IGNORECASE)
_TITLE = re.compile(r"\W*(?:резюме|cv|resume|résumé|curriculum vitae|анкета)\s*[:—–-]\s*(.+)", re.IGNORECASE)
_NAME = re.compile(r"\W*(?:ф\.?\s?и\.?\s?о\.?|имя|full name|name)\s*[:—–]\s*(.+)", re.IGNORECASE)
_PART = re.compile(r"\W*(?:(фамилия|surname|last name)|(отчество|middle name))\s*[:—–]\s*(.+)", re.IGNORECASE)
_LABELS = {  # with a colon, anywhere in a CV
    "births": r"дата рождения|год рождения|возраст|date of birth|birth date|birthday|age|dob",
    "genders": r"пол|gender|sex|семейное положение|marital status",
    "places": r"гражданство|национальность|citizenship|nationality|место жительства|адрес проживания|home address",
}
_TOP_LABELS = {  # at the top only: elsewhere an address is a work place
    "places": r"адрес|город|город проживания|регион|проживает|address|location|city",
    "contacts": r"контакты|телефон|тел\.?|моб\.?|e-?mail|почта|эл\.? почта|электронная почта|telegram|телеграм|skype|"
    r"whatsapp|contacts?|phone|mobile|tel\.?",
    "links": r"сайт|портфолио|linkedin|github|website|portfolio",
    "photos": r"фото|photo",
}
_SHAPES = {  # without a label, at the top
    "births": re.compile(
        r"\W*(?:(?:мужчина|женщина|male|female)\s*,.{0,80}|\d\d (?:лет|года?|years?(?: old)?)\W*|"
        r"(?:родил(?:ся|ась)|born)\b.{0,60})",
        re.IGNORECASE,
    ),
    "genders": re.compile(r"\W*(?:мужчина|женщина|male|female)\W*", re.IGNORECASE),
    "places": re.compile(r"\W*(?:г\.|ул\.|(?:проживает|проживаю|lives in)\s)\s*\S.{1,100}", re.IGNORECASE),
}
_PIECES = re.compile(r"\s*[|•·]\s*")
_FOOTER = re.compile(r".{0,80}(?:резюме обновлено|resume updated)\b.{0,60}", re.IGNORECASE)  # pages of hh.ru
_REPLACED = re.compile("|".join(map(re.escape, WORDS.values())))
_KINDS = {"emails": "contacts", "phones": "contacts", "handles": "contacts", "links": "links"}


def _labelled(labels: dict[str, str]) -> list[tuple[str, re.Pattern[str]]]:
    # A longer line is a CV without line breaks.
    return [(kind, re.compile(rf"\W*(?:{words})\s*[:—–].{{0,120}}", re.IGNORECASE)) for kind, words in labels.items()]


_EVERYWHERE = _labelled(_LABELS)
_AT_TOP = [*_EVERYWHERE, *_labelled(_TOP_LABELS), *_SHAPES.items()]


def read_plain(text: str) -> Resume:
    """A CV of running text: the name and the personal lines of its head apart, all else as its body."""
    body: list[str] = []
    personal: list[tuple[str, str]] = []
    name = {"first": "", "middle": "", "last": ""}
    top = _LINES
    for line in text.split("\n"):
        top = -1 if _SECTION.fullmatch(line.strip()) else top - bool(line.strip())
        for piece in _PIECES.split(line.strip()) if top >= 0 else [line.rstrip()]:
            bare = piece.strip("#*_ \t")
            if top >= 0 and (part := _PART.fullmatch(bare)):
                name["last" if part[1] else "middle"] = part[3]
            elif top >= 0 and not name["first"] and (found := _name_in(bare)):
                name |= {key: word for key, word in zip(name, map(_in_small_letters, found), strict=True) if word}
            elif kind := _kind(bare, top >= 0):
                personal += [] if kind == "-" else [(kind, bare)]
            else:
                body.append(piece)
    whole = re.sub(r"\n{3,}", "\n\n", "\n".join(body)).strip()
    return Resume(body=whole, personal=tuple(personal), **name)


def with_head_apart(resume: Resume) -> Resume:
    """A CV whose body, where it has one, was searched for a head; what its fields say goes before."""
    if not resume.body:
        return resume
    found = read_plain(resume.body)
    named = resume if resume.first or resume.last else found
    return dataclasses.replace(
        resume,
        body=found.body,
        first=named.first,
        middle=named.middle,
        last=named.last,
        personal=(*resume.personal, *found.personal),
    )


def _name_in(line: str) -> tuple[str, str, str] | None:
    """The name that a line is, with or without a label."""
    if label := _NAME.fullmatch(line):
        return read_name(label[1]) or split_name(label[1])
    title = _TITLE.fullmatch(line)
    return read_name(title[1] if title else line)


def _in_small_letters(name: str) -> str:
    """A name in capitals as it is written in running text."""
    return name.title() if name.isupper() and len(name) > 2 else name


def _kind(line: str, top: bool) -> str:
    """What a personal line tells, by its kind; "-" for a line that tells nothing, "" for any other line."""
    if _FOOTER.fullmatch(line) or (top and _HEADING.fullmatch(line)):
        return "-"
    if kind := next((kind for kind, pattern in (_AT_TOP if top else _EVERYWHERE) if pattern.fullmatch(line)), ""):
        return kind
    if top:
        bare, found = redact(line)
        if found and len(re.findall(r"[^\W\d_]{2,}", _REPLACED.sub(" ", bare))) <= 3:
            return _KINDS[next(iter(found))]
    return ""
