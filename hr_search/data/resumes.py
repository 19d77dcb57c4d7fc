"""CVs in fields: what hh.ru's API returns, JSON Resume, or columns under recognised names, as one kind of record.

What says who a person is (name, birth, gender, place, contacts, links) is kept apart from what the person can do, so
that a text can be made without it. Years of education go too: they tell the age. So do employers' names and photos,
which no text holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hr_search.data.cleaning import clean
from hr_search.data.columns import reduced
from hr_search.data.html import plain

KINDS = ("names", "births", "genders", "photos", "places", "contacts", "links")
"""Kinds of details that say who a person is."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A job: what it was called, in which line of business, and what was done there."""

    position: str = ""
    business: str = ""
    duties: str = ""


@dataclasses.dataclass(frozen=True)
class Resume:
    """A CV in fields.

    Attributes:
        position: the desired position.
        skills: each once; languages other than the native one are among them.
        jobs: newest first.
        education: a line for each school, course or certificate.
        about: what the person says of themselves.
        body: the rest of a CV that came as one text.
        first: first name.
        middle: patronymic or middle name.
        last: last name.
        personal: further details of `KINDS`, each with its text; "" for a photo.
    """

    position: str = ""
    skills: tuple[str, ...] = ()
    jobs: tuple[Job, ...] = ()
    education: tuple[str, ...] = ()
    about: str = ""
    body: str = ""
    first: str = ""
    middle: str = ""
    last: str = ""
    personal: tuple[tuple[str, str], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing says what the person can do."""
        return not (self.position or self.skills or self.jobs or self.education or self.about or self.body)


# -- names of fields -----------------------------------------------------------------------------

_NAMES = {  # as `columns.reduced` writes them
    "position": "position title jobtitle desiredposition desiredjob label positionname должность желаемаядолжность "
    "желаемаяпозиция желаемаяпрофессия профессия ищетработунадолжность",
    "skills": "skills skillset keyskills hardskills навыки ключевыенавыки профессиональныенавыки уменияинавыки",
    "languages": "language languages языки знаниеязыков иностранныеязыки",
    "jobs": "experience workexperience work jobs workexperiencelist employmenthistory опыт опытработы местаработы",
    "education": "education educationlist образование образованиеивуз",
    "courses": "certificate certificates courses курсы сертификаты повышениеквалификации",
    "about": "about aboutme summary objective profile осебе обомне дополнительнаяинформация",
    "body": "text cv resume cvtext resumetext резюме текстрезюме текст",
    "first": "firstname givenname имя",
    "middle": "middlename patronymic отчество",
    "last": "lastname surname familyname фамилия",
    "name": "name fullname candidate candidatename фио кандидат соискатель",
    "births": "birthdate birthday dateofbirth birth age датарождения деньрождения годрождения возраст полвозраст",
    "genders": "gender sex пол",
    "photos": "photo image picture avatar фото фотография",
    "places": "area address location city region country metro district place адрес город регион страна проживание "
    "местожительства местопроживания городпереездкомандировки citizenship nationality гражданство национальность",
    "contacts": "contact contacts email mail phone phones telephone mobile telegram skype whatsapp контакты телефон "
    "почта электроннаяпочта телеграм",
    "links": "site sites url urls link links website homepage profiles portfolio linkedin github alternateurl ссылка "
    "ссылки сайт портфолио",
}
_FIELDS = {name: field for field, names in _NAMES.items() for name in names.split()}
_ENOUGH = frozenset(("jobs", "education", "courses", "about", "body"))  # a CV by themselves
_JOB = {
    "position": "position title jobtitle role должность",
    "business": "industry industries business description отрасль сферадеятельности",
    "duties": "duties responsibilities summary highlights achievements demands обязанности описание достижения",
    "start": "start startdate datefrom from начало",
    "end": "end enddate dateto to окончание",
}
_JOB_FIELDS = {name: field for field, names in _JOB.items() for name in names.split()}
_SCHOOL = ("level", "studytype", "area", "name", "institution", "organization", "result", "title", "courses")
_NATIVE = re.compile(r"\b(native|l1|mother tongue|родной)\b", re.IGNORECASE)
_NOW = re.compile(r"now|present|current|today|(по )?(н\.? ?в\.?|настоящее время|сей день)", re.IGNORECASE)
_DATE = re.compile(r"(?:(?:(\d\d)[./])?(\d\d)[./])?((?:19|20)\d\d)|((?:19|20)\d\d)-(\d\d)(?:-(\d\d))?(?:T.*)?")
_LAST = "9999"
_DEPTH = 8  # levels of objects and lists in which texts are looked for


def known_field(name: object) -> str:
    """The field of a CV that a column or key of this name holds; "" for none."""
    return _FIELDS.get(reduced(str(name)), "")


def tells(names: Iterable[object]) -> bool:
    """Whether columns or keys of these names make a CV: more than a title, and not those of a vacancy."""
    keys = {name for name in names if isinstance(name, str)}
    fields = {known_field(name) for name in keys}
    enough = "basics" in keys or fields & _ENOUGH or {"position", "skills"} <= fields
    return bool(enough) and not {"employer", "description"} <= keys


# -- reading -------------------------------------------------------------------------------------


def read_resume(value: Mapping[str, Any]) -> Resume | None:
    """The CV that a mapping holds, such as an object of JSON or a row of a table; None if it holds none.

    Keys that are not recognised are left out. A cell may hold JSON as text. HTML becomes plain text.
    """
    flat = _flat(value)
    if not tells(flat):
        return None
    found: dict[str, list[Any]] = {}
    for key, item in flat.items():
        if field := known_field(key):
            found.setdefault(field, []).append(parsed(item))
    first, middle, last = (" ".join(_texts(found.get(name))) for name in ("first", "middle", "last"))
    name = _texts(found.get("name"))
    if name and not (first and last):
        first, middle, last = split_name(f"{first} {name[0]}" if first and not last else name[0])
    personal = [(kind, text) for kind in KINDS if kind not in ("names", "photos") for text in _texts(found.get(kind))]
    photo = [("photos", "")] if any(found.get("photos", ())) else []
    skills = [*_texts(found.get("skills")), *_languages(found.get("languages"))]
    schools = [*_schools(found.get("education")), *_schools(found.get("courses"))]
    return Resume(
        position="\n".join(_texts(found.get("position"))),
        skills=tuple(dict.fromkeys(skills)),
        jobs=_jobs(found.get("jobs", [])),
        education=tuple(dict.fromkeys(schools)),
        about="\n".join(_texts(found.get("about"))),
        body="\n".join(_texts(found.get("body"))),
        first=first,
        middle=middle,
        last=last,
        personal=(*personal, *photo),
    )


def split_name(name: str) -> tuple[str, str, str]:
    """First, middle and last name of a whole name: a patronymic says which is which, else the first comes first."""
    words = name.replace(",", " ").split()
    place = next((at for at, word in enumerate(words) if at and PATRONYMIC.fullmatch(word)), 0)
    if place and words[place].lower() in _SONS and place > 1:  # "Мамедов Эльчин Ариф оглы": the father's name before it
        rest, middle = words[: place - 1], " ".join(words[place - 1 : place + 1])
    else:
        rest, middle = words[:place], words[place] if place else ""
    if place:  # "Петров Иван Сергеевич", or "Иван Сергеевич Петров"
        after = words[place + 1 :]
        if after or len(rest) == 1:
            return " ".join(rest), middle, " ".join(after)
        return " ".join(rest[1:]), middle, rest[0]
    return words[0] if words else "", " ".join(words[1:-1]), words[-1] if len(words) > 1 else ""


_SONS = ("оглы", "кызы", "ogly", "kyzy", "oglu", "qizi")
PATRONYMIC = re.compile(r"\w{2,}(вич|вна|ична|инична|vich|vna|ichna)|" + "|".join(_SONS), re.IGNORECASE)
"""A patronymic, or the word that ends one."""


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """A CV with its fields on one level, under names that mean one thing each."""
    flat = dict(value)
    for key in value:
        if known_field(key) == "body" and isinstance(whole := parsed(value[key]), Mapping):  # a row with a CV in it
            del flat[key]
            flat |= whole
    if isinstance(basics := flat.pop("basics", None), Mapping):  # JSON Resume
        flat |= {name: item for name, item in basics.items() if name not in flat}
    elif "skill_set" in flat or (isinstance(flat.get("experience"), list) and isinstance(flat.get("skills"), str)):
        flat["about"] = flat.pop("skills", None)  # hh.ru: `skills` is what a person says of themselves
    return flat


def parsed(item: Any) -> Any:
    """A cell; a list or an object where its text spells one in JSON."""
    if isinstance(item, str) and item.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(item)
    return item


def _texts(value: Any, depth: int = _DEPTH) -> list[str]:
    """The texts in a value, one after the other: of a list its items, of an object what it names."""
    if not depth or value is None or isinstance(value, bool) or value != value:
        return []
    if isinstance(value, str):
        return [text] if (text := plain(clean(value))) else []
    if isinstance(value, int | float):
        return [str(int(value) if value == value // 1 else value)]
    if isinstance(value, Mapping):
        ids = ("id", "preferred", "verified", "type", "needverification")
        parts = [item for key, item in value.items() if reduced(str(key)) not in ids and not _is_address(key, item)]
        return _texts(value.get("formatted", parts), depth - 1)
    return [text for item in value for text in _texts(item, depth - 1)] if isinstance(value, list | tuple) else []


def _is_address(key: Any, item: Any) -> bool:
    """Whether a value of an object leads to a page of the site that it comes from."""
    return isinstance(item, str) and "url" in str(key).lower() and "api." in item


def _languages(value: Any) -> list[str]:
    """Each language with its level, without native ones: they say where a person comes from."""
    items = [item for part in value or [] for item in (part if isinstance(part, list) else [part])]
    lines = []
    for item in items:
        native = isinstance(item, Mapping) and any(_NATIVE.search(str(part)) for part in item.values())
        if not native and not (isinstance(item, str) and _NATIVE.search(item)):
            lines += [" ".join(_texts(item))]
    return [line for line in lines if line]


def _jobs(values: list[Any]) -> tuple[Job, ...]:
    """Jobs, newest first; in their order where a date is missing or cannot be read."""
    items = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
    jobs, times = [], []
    for item in items:
        if not isinstance(item, Mapping):
            jobs += [Job(duties=text) for text in _texts(item)]
            continue
        parts: dict[str, list[str]] = {}
        fields = {key: _JOB_FIELDS.get(reduced(str(key)), "") for key in item}
        if "duties" not in fields.values():  # hh.ru: `description` is what was done; in JSON Resume, the business
            fields |= {key: "duties" for key in item if reduced(str(key)) == "description"}
        for key, field in fields.items():
            if field:
                parts.setdefault(field, []).extend(_texts(item[key]))
        business = ", ".join(dict.fromkeys(parts.get("business", ())))
        jobs.append(Job(" ".join(parts.get("position", ())), business, "\n".join(parts.get("duties", ()))))
        start, end = (" ".join(parts.get(name, ())) for name in ("start", "end"))
        times.append((_when(end) if end else _LAST, _when(start)))
    if times and len(times) == len(jobs) and all(end and start for end, start in times):
        order = sorted(range(len(jobs)), key=times.__getitem__, reverse=True)  # keeps the order of equal ones
        jobs = [jobs[at] for at in order]
    return tuple(job for job in jobs if job != Job())


def _when(text: str) -> str:
    """A date as year, month and day that can be compared; "" where it cannot be read."""
    if _NOW.fullmatch(text.strip()):
        return _LAST
    date = _DATE.fullmatch(text.strip())
    if not date:
        return ""
    parts = (date[3], date[2], date[1]) if date[3] else (date[4], date[5], date[6])
    return "-".join(part for part in parts if part)


def _schools(values: Any, inside: bool = False) -> list[str]:
    """A line for each school or course, without years; the level of education first."""
    lines: list[str] = []
    for value in values or ():
        for item in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(item, Mapping):
                lines += _texts(item)
                continue
            told = {reduced(str(key)): part for key, part in item.items()}
            line = ", ".join(dict.fromkeys(text for key in _SCHOOL for text in _texts(told.get(key))))
            lines += [line] if line else []
            for key in () if inside else ("primary", "additional", "attestation", "elementary"):  # hh.ru
                lines += _schools([told[key]], inside=True) if isinstance(told.get(key), list) else []
    return lines
