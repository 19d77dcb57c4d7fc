"""HTML in texts: tags become line breaks or go, entities become the characters they stand for.

Job boards give descriptions as HTML, and a model that reads tags reads fewer words. What only looks like a tag stays:
"C < D and A > B", "List<String>", "<ФИО>", a placeholder such as "<title>". A text counts as HTML where it holds what
nobody writes by chance: a closing tag, an attribute, `<p>`, `<li>`, `<br>` or `<hr>`, a comment, an entity.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from hr_search.data.counts import Counts


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_LINES = _names(  # elements that stand on lines of their own
    "address article aside blockquote body br caption center dd div dl dt fieldset figcaption figure footer form h1 h2 "
    "h3 h4 h5 h6 head header hr html li main nav ol option p pre section table tbody tfoot thead title tr ul"
)
_CELLS = frozenset(("td", "th"))
_HIDDEN = frozenset(("script", "style"))  # what is between their tags is not text
_ALONE = frozenset(("br", "hr", "li", "p"))  # enough by themselves, without a closing tag
_TAGS = _names(  # names that mean a tag and nothing else
    "a b big blockquote br dd div dl dt em font h1 h2 h3 h4 h5 h6 hr html i img li ol p pre s script span strike "
    "strong style sub sup tbody td tfoot th thead tr tt u ul wbr nobr"
)
_WORDS = _names(  # names that are also words to be filled in, "<title>": tags with an attribute or in pairs
    "abbr address article aside body button caption center cite code details figcaption figure footer form head header "
    "iframe input label link main mark meta nav noscript option path section select small source summary svg table "
    "textarea time title video"
)
_ATTRIBUTE = r"""(?:\s+|(?<=["']))[a-z_:@][\w:.@-]*(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>=][^\s"'<>]*))?"""
_TAG = re.compile(rf"<(/?)([a-z][\w:-]*)((?:{_ATTRIBUTE})*)\s*/?>", re.IGNORECASE | re.ASCII)
_COMMENT = re.compile("<!--.*?-->", re.DOTALL)
_DECLARATION = re.compile(r"<!doctype\s[^<>]*>|<\?xml\b[^<>]*>|<!\[[^<>]*\]>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE | re.ASCII)
_BLANKS = re.compile(r"[ \t\r\f\v\u00a0]+")
_BREAKS = re.compile(r" ?\n[ \n]*")


def plain(text: str) -> str:
    """A text without HTML; the same text where it holds none.

    List items, paragraphs and rows of tables become lines, cells are separated by spaces, scripts, styles and comments
    go. Text that is HTML twice over ("&lt;p&gt;") is read twice.
    """
    if "<" not in text and "&" not in text:
        return text
    bare, tags = _without_tags(text)
    decoded = _decoded(bare)
    if not tags and decoded != bare:
        decoded = _decoded(_without_tags(decoded)[0])
    if decoded == text:
        return text
    return _BREAKS.sub("\n", _BLANKS.sub(" ", decoded)).strip()


def _without_tags(text: str) -> tuple[str, bool]:
    """The text without its tags and comments, and whether it held any."""
    if "<" not in text:
        return text, False
    bare = text
    if "<!" in text or "<?" in text:
        # Comments up to the last end of one only: each start would be followed to the end of the text.
        end = text.rfind("-->") + 3 if "-->" in text else 0
        bare = _DECLARATION.sub("", _COMMENT.sub("", text[:end]) + text[end:])
    tags = [(tag, tag[2].lower()) for tag in _TAG.finditer(bare)]
    closed = {name for tag, name in tags if tag[1]}
    paired = closed.intersection(name for tag, name in tags if not tag[1])
    if bare == text and not any(_is_evidence(tag, name, paired) for tag, name in tags):
        return text, False
    pieces, end, hidden = [], 0, ""
    for tag, name in tags:
        if not (name in paired or (name in _TAGS and not tag[3]) or (name in _TAGS | _WORDS and "=" in tag[3])):
            continue  # "a<b and c>d"
        if not hidden:
            pieces.append(bare[end : tag.start()])
        end = tag.end()
        if name in _HIDDEN and name in paired:
            hidden = "" if tag[1] else hidden or name
        if not hidden:
            pieces.append("\n" if name in _LINES else " " if name in _CELLS else "")
    return "".join([*pieces, "" if hidden else bare[end:]]), True


def _is_evidence(tag: re.Match[str], name: str, paired: set[str]) -> bool:
    """Whether a tag shows that its text is HTML and does not only compare or name something."""
    if name in paired or (name in _TAGS and tag[1]):
        return True
    return (name in _TAGS | _WORDS and "=" in tag[3]) or (name in _ALONE and not tag[3])


def _decoded(text: str) -> str:
    """The text with its entities as characters, read twice, since "&amp;nbsp;" is common; unknown ones stay."""
    for _ in range(2):
        text = _ENTITY.sub(_character, text) if "&" in text else text
    return text


def _character(entity: re.Match[str]) -> str:
    return html.unescape(entity[0])


def without_html(texts: pd.Series) -> tuple[pd.Series, int]:
    """`plain` of each text of a column; repeated texts are read once.

    Returns:
        The column, and how many of its texts held HTML.
    """
    codes, distinct = pd.factorize(texts)
    results = np.array([plain(text) for text in distinct], dtype=object)
    changed = results != np.array(distinct, dtype=object)
    if not changed.any():
        return texts, 0
    return pd.Series(results[codes], texts.index, dtype=object), int(changed[codes].sum())


def pairs_without_html(pairs: pd.DataFrame) -> tuple[pd.DataFrame, Counts]:
    """A pairs table without HTML in its queries, documents and negatives, and how many texts held some."""
    columns: dict[str, pd.Series | list[list[str]]] = {}
    columns["query"], queries = without_html(pairs["query"])
    columns["positive"], documents = without_html(pairs["positive"])
    negatives = list(map(_each, pairs["negatives"]))
    if any(count for _, count in negatives):
        columns["negatives"] = [texts for texts, _ in negatives]
    return pairs.assign(**columns), Counts(html=queries + documents + sum(count for _, count in negatives))


def _each(texts: Iterable[str]) -> tuple[list[str], int]:
    bare = [plain(text) for text in texts]
    return bare, sum(old != new for old, new in zip(texts, bare, strict=True))
