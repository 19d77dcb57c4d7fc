"""The text of Word's XML, also where python-docx passes over it: content controls, insertions and text boxes.

CV templates put whole sections into content controls and side columns into text boxes, and python-docx gives the direct
runs and hyperlinks of a paragraph only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# What is no text of the document: properties, what tracked changes took away, the old copy of a drawing for programs
# that do not know the new one, and the small annotations above East Asian words.
_SKIPPED = frozenset(("pPr", "rPr", "sdtPr", "tblPr", "trPr", "tcPr", "sectPr", "del", "moveFrom", "Fallback", "rt"))
_SIGNS = {"tab": "\t", "ptab": "\t", "cr": "\n", "noBreakHyphen": "-"}


def word_lines(container: Any) -> list[str]:
    """The lines of a document's body: paragraphs, each with the text boxes anchored in it after it, and table cells.

    Args:
        container: an lxml element that holds paragraphs and tables.

    Returns:
        A line for each paragraph, row by row and cell by cell in tables; a merged cell counts once.
    """
    lines = []
    for element in _inside(container):
        if _name(element) == "p":
            pieces, boxes = _paragraph(element)
            lines += ["".join(pieces), *(line for box in boxes for line in word_lines(box))]
        elif _name(element) != "tc" or not _continues(element):
            lines += word_lines(element)
    return lines


def _inside(element: Any) -> Iterator[Any]:
    """The children that hold text of the document."""
    for child in element.iterchildren("*"):
        if _name(child) not in _SKIPPED and not (_name(child) == "sdt" and _is_placeholder(child)):
            yield child


def _paragraph(element: Any) -> tuple[list[str], list[Any]]:
    """The pieces of text in a paragraph or a part of it, and the contents of the text boxes anchored there."""
    pieces, boxes = [], []
    for child in _inside(element):
        name = _name(child)
        if name == "t":
            pieces.append(child.text or "")
        elif name == "br":
            pieces += ["\n"] * (_value(child, "type") in ("", "textWrapping"))  # not where a page or column ends
        elif name in _SIGNS:
            pieces.append(_SIGNS[name])
        elif name == "txbxContent":
            boxes.append(child)
        else:
            inner, more = _paragraph(child)
            pieces += inner
            boxes += more
    return pieces, boxes


def _is_placeholder(control: Any) -> bool:
    """Whether a content control shows the hint of its template ("Click here to enter text"), not a person's words."""
    return any(
        _name(mark) == "showingPlcHdr" and _value(mark, "val") not in ("0", "false", "off")
        for part in control.iterchildren("*")
        if _name(part) == "sdtPr"
        for mark in part.iterchildren("*")
    )


def _continues(cell: Any) -> bool:
    """Whether a table cell belongs to the one above it."""
    return any(
        _name(mark) == "vMerge" and _value(mark, "val") in ("", "continue")
        for part in cell.iterchildren("*")
        if _name(part) == "tcPr"
        for mark in part.iterchildren("*")
    )


def _name(element: Any) -> str:
    """The tag of an element without its namespace."""
    return element.tag.rpartition("}")[2]


def _value(element: Any, name: str) -> str:
    """An attribute of an element in the namespace of the element; "" where there is none."""
    return element.get(element.tag.removesuffix(_name(element)) + name, "")
