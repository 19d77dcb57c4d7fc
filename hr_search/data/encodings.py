"""The encoding of a text file: marked, UTF-8, or the one in which the bytes make likely words.

Validity does not identify a single-byte encoding: any bytes are text in most of them. So the same bytes are read in
each, and each reading is scored by how likely its letters are in some one language, and by what no language does,
such as Cyrillic and Latin letters in one word. The best reading counts only where it is good and no other one comes
near; else the file is refused. charset-normalizer alone is not enough: it reads capitals in KOI8-R as Windows-1251 and
short tables with cp1252 as anything.
"""

from __future__ import annotations

import codecs
import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hr_search.base.errors import InputError, shown

logger = logging.getLogger(__name__)

MARGIN = 5.0  # nats by which the best reading must beat every other one: odds of 150 to 1
WORST = -4.4  # nats a letter of the best reading may cost on average; letters at random cost more
_SAMPLE = 20_000  # characters that are scored

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CYRILLIC = {
    "Russian": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
    "Ukrainian": "оанивіертсклумдпзяьбгчйхжїцєшющфґ",
}
# The accented letters of each language, the frequent ones first.
_WESTERN = {
    "Danish": "åøæéöäü",
    "Dutch": "ëéïöüèóê",
    "Finnish": "äöåšž",
    "French": "éèàêçâîôûùëïœæüÿ",
    "German": "üäöß",
    "Icelandic": "áðíéóöúþýæ",
    "Italian": "àèòùìé",
    "Portuguese": "ãçáéíóõêúâàôü",
    "Spanish": "óíáéñúü",
    "Swedish": "äåöéü",
    "any": "éäöüáíóàèçñßâêîôûëïåøæãõúùìòœ",
}
_CENTRAL = {
    "Croatian": "čšžćđ",
    "Czech": "íáéřěýčšžůúňťóďö",
    "German": "üäöß",
    "Hungarian": "áéóöőíüúű",
    "Polish": "łęąśżóćńź",
    "Romanian": "ăâîşţ",
    "Slovak": "áíčéýšžľúťôňďóäŕĺ",
    "any": "éáíóöüäčšžłęąśżćńúýřěőűůăßâî",
}
# Each encoding with the nats it costs to assume it: exports of today write Windows' code pages.
_CANDIDATES = {
    "cp1251": (0.0, _CYRILLIC),
    "koi8_r": (1.0, _CYRILLIC),
    "cp866": (1.0, _CYRILLIC),
    "mac_cyrillic": (6.0, _CYRILLIC),
    "cp1252": (0.0, _WESTERN),
    "latin_1": (1.0, _WESTERN),
    "cp1250": (1.0, _CENTRAL),
    "iso8859_2": (2.0, _CENTRAL),
}
_NAMES = "UTF-8, UTF-16, UTF-32, " + ", ".join(_CANDIDATES)
_HIGH = "".join(
    bytes([code]).decode(name, "ignore") for name in ("cp1251", "cp1252", "latin_1") for code in range(128, 192)
)
# Words with a letter of the other alphabet among, before or behind theirs; UTF-8 read as Windows-1251 or cp1252.
_MISREAD = re.compile(
    r"[A-Za-z][\u0400-\u045f]+[a-z]|[а-яё][A-Za-z]+[а-яё]|[a-z][\u0400-\u045f]{1,2}\b|\b[\u0400-\u045f]{1,2}[a-z]{2}"
    f"|(?:[РСÐÑ][{re.escape(_HIGH)}]){{2,}}|Ã[{re.escape(_HIGH)}]|â€[™œ\u009d¢¦“”]"
)
_TYPOGRAPHY = frozenset("«»„“”‘’‚–—…•·№§©®™°±×½¼¾€£²³µ¿¡ºª\u00a0\u00ad")
_WITHIN_WORDS = frozenset("’·\u00ad")


def decoded(data: bytes, path: Path | str, encoding: str = "") -> str:
    """The text of a file's bytes, without a byte order mark; NUL characters become spaces.

    Args:
        data: the bytes.
        path: the file, for errors.
        encoding: the encoding; empty = detected.

    Raises:
        InputError: the bytes are not text in `encoding`; or, without one, they are binary, a damaged line breaks their
            UTF-8, or they may be in several encodings.
    """
    if encoding:
        return _as_told(data, path, encoding)
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "")
    if marked and marked != "utf-8-sig":
        return _as_told(data, path, marked)
    if (text := _wide(data)) is None:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            if _damaged(data):
                raise InputError(
                    f"{path}, line {line} breaks the UTF-8 of the file; save it in one encoding, or name it with "
                    "--encoding."
                ) from error
            text = _likeliest(data, path, line)
    controls = sum(text.count(chr(code)) for code in (*range(9), *range(14, 32)))
    if controls * 100 > len(text):  # a stray control character is dirt; many mean a binary file
        raise InputError(f"{path} is not text in {_NAMES}; save it in UTF-8, or name its encoding with --encoding.")
    return text.replace("\0", " ")


def refuse_misread(rows: Iterable[tuple[str, ...]], source: str) -> None:
    """Checks that texts do not look as if somebody had read them in a wrong encoding before.

    Raises:
        InputError: many rows have Cyrillic and Latin letters within one word, or UTF-8 read in another encoding.
    """
    count, odd, example = 0, [], ""
    for count, texts in enumerate(rows, 1):
        found = next(filter(None, (_MISREAD.search(text) for text in texts if not text.isascii())), None)
        if found:
            odd.append(count)
            example = example or _around(found)
    if not odd:
        return
    first = f'row {odd[0]} ("{shown(example, 30)}")'
    if len(odd) > max(1, 0.1 * count):
        raise InputError(
            f"{source}: the text of {len(odd)} of {count} rows, the first in {first}, looks as if it had been read in "
            "a wrong encoding; save the table again from its source in UTF-8, or name its --encoding (utf-8 to take "
            "the texts as they are)."
        )
    # Few rows are rather typed so: a Latin o in a Russian word looks right, and hides it from a search.
    what = "have a word of look-alike letters from two alphabets, or were once read in a wrong encoding"
    logger.warning("%s: %d of %d rows, the first of them %s, %s", source, len(odd), count, first, what)


def _around(found: re.Match) -> str:
    """The word, or most of it, in which a match lies."""
    left, right = found.string[max(0, found.start() - 15) : found.start()], found.string[found.start() :][:20]
    return (left.split()[-1] if left[-1:].strip() and left.split() else "") + right.split()[0]


def _as_told(data: bytes, path: Path | str, encoding: str) -> str:
    """The text in an encoding that a person or a byte order mark names."""
    try:
        return data.decode(encoding).removeprefix("\ufeff").replace("\0", " ")
    except LookupError as error:
        raise InputError(f'--encoding "{shown(encoding)}" is unknown; write cp1251, for example.') from error
    except ValueError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise InputError(
            f"{path}, line {_line(data[:start], encoding)} is not text in {encoding}; name another --encoding."
        ) from error


def _line(before: bytes, encoding: str) -> int:
    """The line, from 1, that follows some bytes of a file."""
    try:
        return before.decode(encoding, "ignore").count("\n") + 1
    except ValueError:  # idna and punycode cannot leave out what they do not know
        return before.count(b"\n") + 1


def _wide(data: bytes) -> str | None:
    """The text of UTF-16 or UTF-32 without a byte order mark; None for anything else."""
    if data.count(0) * 100 < len(data):
        return None
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        usual = sum(character.isspace() or "!" <= character <= "\u052f" for character in text[:_SAMPLE])
        if usual > 0.95 * len(text[:_SAMPLE]):
            return text
    return None


def _damaged(data: bytes) -> bool:
    """Whether bytes that are not UTF-8 were meant to be, at least in part."""
    if _usual(data) >= data.decode("utf-8-sig", "replace").count("\ufffd"):
        return True
    # Several files may have been joined: whole lines of UTF-8 among others are not chance.
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    whole = sum(_usual(line) > 2 and "\ufffd" not in line.decode("utf-8", "replace") for line in lines)
    return whole > 0.02 * len(lines)


def _usual(data: bytes) -> int:
    """How many common characters of several bytes UTF-8 finds: letters of Europe, punctuation, pictures.

    The bytes of cp866 give many rare ones by chance.
    """
    return len(
        re.findall(
            "[\u00a0-\u052f\u2010-\u205e\u20a0-\u20bf\u2116-\u2122\U0001f300-\U0001faff]",
            data.decode("utf-8", "ignore"),
        )
    )


def _likeliest(data: bytes, path: Path | str, line: int) -> str:
    """The reading of the bytes, whose first character beyond ASCII is on `line`, that beats all others."""
    sample = b"\n".join(part for part in data.split(b"\n") if not part.isascii())[:_SAMPLE]
    readings: dict[str, tuple[float, str]] = {}
    for name, (price, languages) in _CANDIDATES.items():
        try:
            text = sample.decode(name)
        except UnicodeDecodeError:
            continue
        readings[text] = max(readings.get(text, (-math.inf, "")), (_score(text, languages) - price, name))
    ranked = sorted(((score, name, text) for text, (score, name) in readings.items()), reverse=True)
    foreign = sum(byte > 127 for byte in sample)
    if ranked and ranked[0][0] >= WORST * foreign - 3 and (len(ranked) < 2 or ranked[0][0] - ranked[1][0] >= MARGIN):
        try:
            return data.decode(ranked[0][1])
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
    examples = [f'{name} ("{shown(_word(text), 20)}")' for _, name, text in ranked[:2]]
    may_be = f"; its first letters may be {' or '.join(examples)}" if examples else ""
    raise InputError(
        f"{path}, line {line} is in an encoding that cannot be determined{may_be}; save it in UTF-8, or name "
        "the encoding with --encoding."
    )


def _word(text: str) -> str:
    """The first word with a character beyond ASCII."""
    return next((word for word in re.split(r'[\s,;"|]+', text) if not word.isascii()), "")


def _score(text: str, languages: dict[str, str]) -> float:
    """The log likelihood, roughly, of the characters beyond ASCII: in the language that suits them best."""
    letters: Counter[str] = Counter()
    penalty = 0.0
    for before, character, after in zip(" " + text[:-1], text, text[1:] + " ", strict=True):
        if character <= "\x7f":
            continue
        if character.isalpha():
            letters[character.lower()] += 1
            penalty += _clashes(before, character) + _clashes(character, after) * (after <= "\x7f")
        else:
            penalty += _strangeness(character)
            if before.isalpha() and after.isalpha() and character not in _WITHIN_WORDS:
                penalty += 6
    return max(_log_likelihood(letters, order) for order in languages.values()) - penalty


def _clashes(left: str, right: str) -> float:
    """What it costs that two characters, one at least beyond ASCII, follow each other."""
    if not (left.isalpha() and right.isalpha()):
        return 0.0
    cost = 8.0 * (_is_cyrillic(left) != _is_cyrillic(right)) + 5.0 * (left.islower() and right.isupper())
    accents = left > "\x7f" and right > "\x7f" and not _is_cyrillic(right)
    return cost + 2.0 * accents  # accented letters are rarely neighbours


def _is_cyrillic(character: str) -> bool:
    return "\u0400" <= character <= "\u052f"


def _strangeness(character: str) -> float:
    """What a character beyond ASCII that is not a letter costs a reading."""
    if character in _TYPOGRAPHY:
        return 3.0
    return 15.0 if unicodedata.category(character) in ("Cc", "Cn", "Co") or "\u2500" <= character <= "\u259f" else 8.0


def _log_likelihood(letters: Counter[str], order: str) -> float:
    """The log probability of letters whose frequency falls with their place in `order`."""
    rate = 0.89 if len(order) > 25 else 0.8
    total = sum(rate**place for place in range(len(order)))
    known = {letter: math.log(rate**place / total) for place, letter in enumerate(order)}
    return sum(count * known.get(letter, -11.0) for letter, count in letters.items())
