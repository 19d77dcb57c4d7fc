"""Contact details out of texts: e-mails, phones, links and handles become one fixed word each.

Patterns find contact details in the forms people write them in, Russian ones above all. They know nothing of names
and addresses, so a text is not anonymous afterwards. What is no contact stays: salaries, years, dates, INN and OGRN
numbers, versions, "24/7", C++, Node.js and ASP.NET. Every pattern is bounded, so that a text takes time in proportion
to its length, whatever it holds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

WORDS = {"emails": "[email]", "phones": "[phone]", "links": "[link]", "handles": "[handle]"}
"""What stands in a text in place of each kind."""

# -- links and e-mails ---------------------------------------------------------------------------

_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_PATH = r"""(?:[/?#](?:[^\s<>"«»]*[^\s<>"«».,;:!?)\]}'…])?)?"""  # the punctuation of the sentence is not part of it
_TOP = r"(?:xn--[a-z0-9-]{2,59}|[^\W\d_]{2,24})"
# Endings that make two words with a dot a domain. Not among them: what ends file names and libraries (js, py, md) and
# what follows a full stop where the space is missing (is, in, us). Endings that are words or abbreviations count in
# small letters only: "до 18:00.Online", "гр.РФ".
_ENDINGS = "ru|su|com|org|biz|kz|ua|uz|lv|lt|ee|de|fr|es|eu|uk|cz|ch|cn|gov|edu"
_WORDS = "рф|info|pro|online|site|website|store|shop|space|club|tech|dev|app|ai|co|by|ge|az|jobs|work|career|careers"
# Endings that count with a path behind them, as in "boards.example.me/12".
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
    rf"|(?:{_LABEL}\.){{1,6}}(?:{_ENDINGS}|(?-i:{_WORDS}))(?![\w-]|\.\w)"
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
    # A colon says that an account follows; without one, only what no word looks like is taken for an account.
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
_MONEY = r"(?!\s{0,2}(?:руб|р\.|₽|rub|rur|тыс|млн|тенге|тг\b|₸|kzt|сум\b|грн|uah|byn|usd|eur|долл|евро|[$€£%]))"
_NUMBER = re.compile(rf"[+(\d][{_SPACES}.{_HYPHENS}()\d]{{4,}}")
_PHONE = re.compile(
    rf"{_START}(?:\+\s?[17]{_SPREAD}{{10}}|\+\s?{_COUNTRY}{_SPREAD}{{7,12}}"
    # 8 or 7 without a plus: only in the groups of a phone, for "80 000 - 120 000" has eleven digits as well.
    rf"|[78]{_GAP}\(\s?\d{{3,5}}\s?\)(?:{_GAP}\d){{5,7}}"
    rf"|[78]{_GAP}\d{{3}}{_GAP}\d{{3}}{_GAP}\d\d{_GAP}\d\d"
    r"|[78][ -]\d{3}[ -]\d\d[ -](?:\d\d[ -]\d{3}|\d{3}[ -]\d\d)"
    r"|8[ -]?800(?:[ -]?\d){7}"
    # Without any prefix: a code in brackets, or the hyphens of a phone.
    rf"|\(\s?\d{{3}}\s?\){_GAP}\d{{3}}{_GAP}\d\d{_GAP}\d\d"
    rf"|\(\s?\d{{4}}\s?\){_GAP}\d\d{_GAP}\d\d{_GAP}\d\d"
    rf"|\(\s?\d{{5}}\s?\){_GAP}\d{_GAP}\d\d{_GAP}\d\d"
    r"|[3489]\d\d[ -]\d{3}-\d\d-\d\d|9\d\d \d{3} \d\d \d\d|[2-9]\d\d-\d{3}-\d{4})"
    rf"(?!\d){_MONEY}",
    re.IGNORECASE,
)
# After a word that announces one, any number of five digits or more is a phone.
_CALL = re.compile(r"тел|моб|сот|факс|phone|tel|mob|cell|fax", re.IGNORECASE)
_ANNOUNCED = re.compile(
    r"(?<![^\W_])((?:тел|телефон|моб|сот|факс|phone|tel|mob|mobile|cell|fax)(?:\.\s?:?|\s?[:№])\s?)"
    rf"(?!(?:19|20)\d\d\D)(\(?\d{_SPREAD}{{4,14}})(?!\d){_MONEY}",
    re.IGNORECASE,
)
# Thousands, as amounts and ranges of amounts are written: "+15 000 - 20 000".
_THOUSANDS = rf"\d{{1,3}}(?:[.{_SPACES}]\d{{3}})+"
_AMOUNT = re.compile(rf"\+?\s?{_THOUSANDS}(?:\s?[{_HYPHENS}]\s?{_THOUSANDS})?")
_BEYOND = 16  # characters behind a number that tell whether it is an amount of money


def redact(text: str) -> tuple[str, Counter[str]]:
    """A text without contact details, and how many of each kind it held.

    Args:
        text: any text.

    Returns:
        The text with the words of `WORDS` in their places, and the counts by kind (`emails`, `phones`,
        `links`, `handles`).
    """
    found: Counter[str] = Counter()
    # Addresses first: they may hold an @ or digits that would else be taken for something of their own. The tests in
    # front are for speed: most texts have no contact at all, and these patterns are slow to find none.
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
        text = _replaced(text, (each for each in _ANNOUNCED.finditer(text) if not _is_amount(each[2])), "phones", found)
    return text, found


def _phones(text: str) -> Iterator[re.Match[str]]:
    """The phones among the numbers of a text."""
    end = 0
    for number in _NUMBER.finditer(text):
        for phone in _PHONE.finditer(text, max(end, number.start()), number.end() + _BEYOND):
            if phone.start() < number.end() and not _is_amount(phone[0]):
                yield phone
                end = phone.end()


def _is_amount(number: str) -> bool:
    """Whether digits are thousands: groups of three, one of them 000."""
    return bool(_AMOUNT.fullmatch(number.strip())) and "000" in re.split(r"\D+", number)


def _replaced(text: str, matches: Iterator[re.Match[str]], kind: str, found: Counter[str]) -> str:
    """`text` with each match replaced, but for its first group, which announces it, and counted."""
    parts, end = [], 0
    for match in matches:
        start = match.end(1) if match.re.groups else match.start()
        parts += [text[end:start], WORDS[kind]]
        end = match.end()
        found[kind] += 1
    return "".join([*parts, text[end:]]) if parts else text


def redacted(texts: pd.Series) -> tuple[pd.Series, Counter[str]]:
    """`redact` of a column; repeated texts are worked on once, and count each time.

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


def redact_pairs(pairs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """A pairs table without contact details in any of its texts, and the counts of all kinds.

    Groups that were told apart by a contact, such as the link of a vacancy, get a number, so that they stay apart.

    Args:
        pairs: columns `query`, `positive`, `negatives` (lists) and maybe `group`.

    Returns:
        The table, and how often each kind of `WORDS` was replaced (0 where none was found).
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
    return pairs.assign(**changed), {kind: counts[kind] for kind in WORDS}
