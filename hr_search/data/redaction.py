"""Redaction: e-mails, phones, links and handles in texts are each replaced by a fixed word.

Patterns find contact details in the forms in which people write them, Russian ones above all. They know nothing of
names and addresses, so a redacted text is not anonymous. Everything else stays: salaries, years, dates, INN and OGRN
numbers, versions, "24/7", C++, Node.js and ASP.NET. Every pattern is bounded, so the time per text grows in
proportion to its length, whatever it holds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from hr_search.base.choices import CONTACTS
from hr_search.data.counts import Counts

WORDS = {kind: f"[{kind.removesuffix('s')}]" for kind in CONTACTS}  # what takes their place
"""The word that replaces each kind."""

# -- links and e-mails ---------------------------------------------------------------------------

_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_PATH = r"""(?:[/?#](?:[^\s<>"«»]*[^\s<>"«».,;:!?)\]}'…])?)?"""  # without the punctuation of the sentence
_TOP = r"(?:xn--[a-z0-9-]{2,59}|[^\W\d_]{2,24})"
# Endings that make two words joined by a dot a domain. Excluded: endings of file names and libraries (js, py, md) and
# words that follow a full stop with its space missing (is, in, us). Endings that are also words or abbreviations count
# in lower case only: "до 18:00.Online", "гр.РФ".
_ENDINGS = "ru|su|com|org|biz|kz|ua|uz|lv|lt|ee|de|fr|es|eu|uk|cz|ch|cn|gov|edu"
_WORD_ENDINGS = (
    "рф|info|pro|online|site|website|store|shop|space|club|tech|dev|app|ai|co|by|ge|az|jobs|work|career|careers"
)
# Endings that count only where a path follows, as in "boards.example.me/12".
_WITH_PATH = "me|in|it|us|to|is|be|no|at|nl|se|fi|pl|tv|fm|ly|gg|cc|am|kg|tj|link|page|media|team|live|bot|news|hr"
_PLACES = r"t\.me|tg\.me|telegram\.me|vk\.me|vk\.cc|wa\.me|m\.me|ok\.me|fb\.me|lnkd\.in|bit\.ly|goo\.gl|clck\.ru"
_LIBRARIES = "asp|vb|ado|ml|ms|dot|json|socket|draw|c|f|log4|quartz|akka|paint"
_URL = re.compile(r"""(?:https?|hxxps?|ftps?|tg|viber)://(?:[^\s<>"«»]*[^\s<>"«».,;:!?)\]}'…])?""", re.IGNORECASE)
_AT = re.compile(r"[(\[{]\s?(?:at|собака)\s?[)\]}]", re.IGNORECASE)
_EMAIL = re.compile(rf"(?<![\w.+-])[\w.+-]{{1,64}}(?:@|\s?{_AT.pattern}\s?)(?:{_LABEL}\.){{1,6}}{_TOP}", re.IGNORECASE)
_DOTTED = re.compile(r"\.(?:[^\W\d_]{2}|xn--)")
_DOMAIN = re.compile(
    rf"(?<![\w@.-])(?:www\d?\.{_LABEL}(?:\.{_LABEL}){{0,6}}"
    rf"|(?:{_PLACES})(?![\w-]|\.\w)"
    rf"|(?:{_LABEL}\.){{1,6}}(?:{_ENDINGS}|(?-i:{_WORD_ENDINGS}))(?![\w-]|\.\w)"
    rf"|(?:{_LABEL}\.){{1,6}}(?:{_WITH_PATH})(?=/\w)"
    rf"|(?!(?:{_LIBRARIES})\.)(?:{_LABEL}\.){{1,6}}(?-i:net|io)(?![\w-]|\.\w))"
    rf"(?::\d{{2,5}})?{_PATH}",
    re.IGNORECASE,
)

# -- handles -------------------------------------------------------------------------------------

_STEMS = (
    "telega", "телега", "телеграм", "telegram", "tg", "тг", "skype", "скайп", "viber", "вайбер", "whatsapp", "ватсап",
    "вотсап", "vk", "вк", "inst", "инст", "facebook", "linkedin", "github", "gitlab", "discord", "дискорд", "icq",
    "аська", "wechat",
)  # fmt: skip
_SERVICE = (
    r"(?:telegramm?|telega|телеграмм?е?|телега|тг|tg|skype|скайпу?|viber|вайбер|whatsapp|ватсап|вотсап|vk|вк|"
    r"вконтакте|insta(?:gram)?|инста(?:грамм?)?|facebook|linkedin|github|gitlab|discord|дискорд|icq|аська|wechat)"
)
_ACCOUNTS = (
    # A colon announces an account; without one, only what cannot be a word is taken for an account.
    re.compile(rf"(?<![^\W_])({_SERVICE}\s{{0,2}}[:=]\s{{0,2}})(?:live:)?[a-z][\w.-]{{1,62}}\w(?!\w)", re.IGNORECASE),
    re.compile(
        rf"(?<![^\W_])({_SERVICE}(?:\s{{1,2}}[-–—]?\s{{0,2}}|[-–—]\s{{0,2}}))"
        r"(?:live:[\w.-]{2,62}\w|(?=[a-z]{1,31}(?:[.-][a-z]{1,31})?[\d_])(?!web\d|api\d)[a-z][\w.-]{2,62}\w)(?!\w)",
        re.IGNORECASE,
    ),
    re.compile(r"(?<![^\W_])((?:icq|аська)\s{0,2}[:=№#-]?\s{0,2})\d(?:-?\d){4,8}(?!\d)", re.IGNORECASE),
)
_MENTION = re.compile(r"(?<![\w@])@[^\W\d][\w.-]{0,62}\w")

# -- phones --------------------------------------------------------------------------------------

_SPACES = r" \t\u00a0\u2007\u2009\u202f"
_HYPHENS = r"\-‐‑‒–—−"
_GAP = rf"[{_SPACES}.{_HYPHENS}]{{0,3}}"  # between the digits of a number
_SPREAD = rf"(?:[{_SPACES}.{_HYPHENS}()]{{0,4}}\d)"
_COUNTRY = r"(?:2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|[2-9]\d\d)"
_START = r"(?<![A-Za-z0-9_+])(?<!\d[.,:/-])"
_MONEY = re.compile(
    r"\s{0,2}(?:руб|р\.|₽|rub|rur|тыс|млн|тенге|тг\b|₸|kzt|сум\b|грн|uah|byn|usd|eur|долл|евро|[$€£%])", re.IGNORECASE
)
_NUMBER = re.compile(rf"[+(\d][{_SPACES}.{_HYPHENS}()\d]{{4,}}")
_DIGITS = (
    rf"(?:\+\s?[17]{_SPREAD}{{10}}|\+\s?{_COUNTRY}{_SPREAD}{{7,12}}"
    # 8 or 7 without a plus: only grouped as a phone, because "80 000 - 120 000" has eleven digits too.
    rf"|[78]{_GAP}\(\s?\d{{3,5}}\s?\)(?:{_GAP}\d){{5,7}}"
    rf"|[78]{_GAP}\d{{3}}{_GAP}\d{{3}}{_GAP}\d\d{_GAP}\d\d"
    r"|[78][ -]\d{3}[ -]\d\d[ -](?:\d\d[ -]\d{3}|\d{3}[ -]\d\d)"
    r"|8[ -]?800(?:[ -]?\d){7}"
    # Without a prefix: an area code in brackets, or hyphens placed as in a phone.
    rf"|\(\s?\d{{3}}\s?\){_GAP}\d{{3}}{_GAP}\d\d{_GAP}\d\d"
    rf"|\(\s?\d{{4}}\s?\){_GAP}\d\d{_GAP}\d\d{_GAP}\d\d"
    rf"|\(\s?\d{{5}}\s?\){_GAP}\d{_GAP}\d\d{_GAP}\d\d"
    r"|[3489]\d\d[ -]\d{3}-\d\d-\d\d|9\d\d \d{3} \d\d \d\d|[2-9]\d\d-\d{3}-\d{4})"
    r"(?!\d)"
)
_PHONE = re.compile(_START + _DIGITS)
_JOINED = re.compile(rf"([.,:/-])({_DIGITS})")  # directly after another phone
# After a word that announces a phone, any number of five digits or more is one.
_CALL = re.compile(r"тел|моб|сот|факс|phone|tel|mob|cell|fax", re.IGNORECASE)
_ANNOUNCED = re.compile(
    r"(?<![^\W_])((?:тел|телефон|моб|сот|факс|phone|tel|mob|mobile|cell|fax)(?:\.\s?:?|\s?[:№])\s?)"
    rf"(?!(?:19|20)\d\d\D)(\(?\d{_SPREAD}{{4,14}})(?!\d)",
    re.IGNORECASE,
)
# Amounts in thousands, and ranges of them: "+15 000 - 20 000".
_THOUSANDS = rf"\d{{1,3}}(?:[.{_SPACES}]\d{{3}})+"
_AMOUNT = re.compile(rf"\+?\s?{_THOUSANDS}(?:\s?[{_HYPHENS}]\s?{_THOUSANDS})?")
# What an amount of money, or a range of such, may look like: shorter than a phone with its prefix, in one spelling.
_CENTS = r"(?:[.,]\d\d)?"
_GROUPED, _BARE = rf"\d{{1,3}}(?:[.{_SPACES}]\d{{3}}){{1,3}}{_CENTS}", rf"\d{{4,9}}{_CENTS}"
_SUMS = re.compile(rf"\+?\s?(?:{_GROUPED}(?:\s?[{_HYPHENS}]\s?{_GROUPED})?|{_BARE}(?:\s?[{_HYPHENS}]\s?{_BARE})?)")
_BEYOND = 16  # characters after a number that are looked at, for digits and currencies


def redact(text: str) -> tuple[str, Counter[str]]:
    """A text without contact details, and how many of each kind were replaced.

    Args:
        text: any text.

    Returns:
        The text with contact details replaced by the words of `WORDS`, and the counts by kind (`emails`,
        `phones`, `links`, `handles`).
    """
    found: Counter[str] = Counter()
    # Addresses first: they may hold an @ or digits that would otherwise be taken for a handle or a phone. The cheap
    # tests before each pattern are for speed: most texts hold no contact, and the patterns take long to find none.
    if "://" in text:
        text = _replaced(text, _URL.finditer(text), "links", found)
    if "@" in text or _AT.search(text):
        text = _replaced(text, _EMAIL.finditer(text), "emails", found)
    if _DOTTED.search(text):
        text = _replaced(text, _DOMAIN.finditer(text), "links", found)
    lower = text.lower()
    if any(stem in lower for stem in _STEMS):
        for pattern in _ACCOUNTS:
            text = _replaced(text, pattern.finditer(text), "handles", found)
    if "@" in text:
        text = _replaced(text, _MENTION.finditer(text), "handles", found)
    text = _replaced(text, _phones(text), "phones", found)
    if _CALL.search(text):
        before = found["phones"]
        announced = (each for each in _ANNOUNCED.finditer(text) if not _is_amount(each, 2))
        text = _replaced(text, announced, "phones", found)
        if found["phones"] > before:  # a phone may be joined to one that a word announced
            text = _replaced(text, _phones(text), "phones", found)
    return text, found


def _phones(text: str) -> Iterator[re.Match[str]]:
    """The phones of a text that need no word before them; those of a list without spaces are joined to the first."""
    end = 0
    for number in _NUMBER.finditer(text):
        for phone in _PHONE.finditer(text, max(end, number.start()), number.end() + _BEYOND):
            if end <= phone.start() < number.end() and not _is_amount(phone):
                yield phone
                end = phone.end()
                while (joined := _JOINED.match(text, end)) and not _is_amount(joined, 2):
                    yield joined
                    end = joined.end()


def _is_amount(number: re.Match[str], group: int = 0) -> bool:
    """Whether a number is an amount in thousands with a group of 000, or an amount before a currency.

    The abbreviations of tenge and roubles also stand for Telegram and a river, so a currency alone makes no amount of
    what is written as a phone.
    """
    digits = number[group].strip()
    if _AMOUNT.fullmatch(digits) and "000" in re.split(r"\D+", digits):
        return True
    return bool(_SUMS.fullmatch(digits) and _MONEY.match(number.string, number.end(group)))


def _replaced(text: str, matches: Iterator[re.Match[str]], kind: str, found: Counter[str]) -> str:
    """`text` with each match replaced and counted; the first group of a match, which announces it, stays."""
    parts, end = [], 0
    for match in matches:
        start = match.end(1) if match.re.groups else match.start()
        parts += [text[end:start], WORDS[kind]]
        end = match.end()
        found[kind] += 1
    return "".join([*parts, text[end:]]) if parts else text


def redacted(texts: pd.Series) -> tuple[pd.Series, Counter[str]]:
    """`redact` of each text of a column; repeated texts are redacted once and counted each time.

    Returns:
        The column, and the counts by kind over all its rows.
    """
    codes, distinct = pd.factorize(texts)
    results = [redact(text) for text in distinct]
    counts: Counter[str] = Counter()
    for (_, found), times in zip(results, np.bincount(codes, minlength=len(distinct)).tolist(), strict=True):
        counts.update({kind: count * times for kind, count in found.items()})
    clean = np.array([text for text, _ in results], dtype=object)
    return pd.Series(clean[codes], texts.index, dtype=object), counts


def redact_pairs(pairs: pd.DataFrame) -> tuple[pd.DataFrame, Counts]:
    """A pairs table without contact details in any of its texts, and how many were replaced.

    A group whose name holds a contact, such as the link of a vacancy, gets a number, so that different groups
    stay different.

    Args:
        pairs: columns `query`, `positive`, `negatives` (lists) and optionally `group`.

    Returns:
        The table, and the counts of all kinds of `WORDS` (0 where none was found).
    """
    counts: Counter[str] = Counter()
    changed: dict[str, pd.Series | list[list[str]]] = {}
    for column in ("query", "positive"):
        changed[column], found = redacted(pairs[column])
        counts += found
    sizes = [len(texts) for texts in pairs["negatives"]]
    if any(sizes):
        flat, found = redacted(pd.Series([text for texts in pairs["negatives"] for text in texts], dtype=object))
        counts += found
        texts, ends = flat.tolist(), np.cumsum(sizes)
        changed["negatives"] = [texts[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    if "group" in pairs:
        groups = pairs["group"].fillna("").astype(str)
        clean, found = redacted(groups)
        counts += found
        numbers = pd.Series(pd.factorize(groups)[0] + 1, groups.index).astype(str)
        changed["group"] = clean.where(clean == groups, clean + " " + numbers)
    return pairs.assign(**changed), as_counts(counts)


def as_counts(found: Counter[str]) -> Counts:
    """Replacements by kind as the counts of a data set, 0 for a kind that was not found."""
    return Counts(**{kind: found[kind] for kind in WORDS})
