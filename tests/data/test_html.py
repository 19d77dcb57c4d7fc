"""HTML out of texts, and nothing else out of them."""

from __future__ import annotations

import html as standard

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hr_search.data.html import pairs_without_html, plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p><strong>Обязанности:</strong></p><ul><li>варить</li><li>жарить &amp; парить</li></ul>",
         "Обязанности:\nварить\nжарить & парить"),
        ("a<br/>b<BR>c<br />d", "a\nb\nc\nd"),
        ("<ul>\n  <li>one\n  <li>two\n</ul>", "one\ntwo"),
        ("<b>Во</b>дитель", "Водитель"),
        ("<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>", "1 2\n3"),
        ("&nbsp;Привет,&nbsp;мир&hellip; &laquo;х&raquo; &#8212;&#x2014;", "Привет, мир… «х» ——"),
        ("C&amp;B specialist", "C&B specialist"),
        ("a&amp;nbsp;b", "a b"),
        ("&lt;p&gt;Hi&lt;/p&gt;&lt;p&gt;there&lt;/p&gt;", "Hi\nthere"),
        ("<p>The tag &lt;br&gt; breaks lines, C &lt; D</p>", "The tag <br> breaks lines, C < D"),
        ("<style>p{}</style><script>alert(1 < 2)</script>Job<!-- <p> secret -->", "Job"),
        ("<!DOCTYPE html><html><body><h1>Cook</h1>soups</body></html>", "Cook\nsoups"),
        ("<p class='a' data-x=1 hidden>text</p>", "text"),
        ("see <a href=\"https://x.example/?a=1&amp;b=<2>\">here</a>", "see here"),
        ("<a href=https://x.example/?id=5&lang=ru>here</a> <img src=\"a\"alt='b'/>it is", "here it is"),
        ("<![if !supportLists]>a<wbr>b<![endif]>", "ab"),
        ("ищем <highlighttext>Python</highlighttext>", "ищем Python"),
        ("<p>Ищем <ФИО>, A < B, B > C, List<String>, <title> и <имя></p>", "Ищем <ФИО>, A < B, B > C, List<String>, <title> и <имя>"),
        ("<p>cut off <stro", "cut off <stro"),
        ("<p>an <script>without an end", "an without an end"),
    ],
)  # fmt: skip
def test_html_becomes_text(text: str, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "C < D and A > B", "<ФИО>", "a<b and c>d", "x<b>y", "if (a<b && c>d)", "List<String>, Map<K, V>", "vector<a>",
        "R&D, AT&T, Q&A; B&B", "?a=1&copy=2&lt=3", "<title> in <address>", "<name>", "от <5 лет> опыта", "зарплата <100 000",
        "знать <div> и <span>", "<salary x=5>", "<-- стрелка", "1 < 2 > 0 &unknown; &; &#;", "<p and q>", "<@user> <a@b.ru>",
        "#include <main>", "a  b\n\n\nc\u00a0d", "<", "&", "", "</", "<!--", "</endif>",
    ],
)  # fmt: skip
def test_what_only_looks_like_html_stays(text: str) -> None:
    assert plain(text) is text


@given(st.text(alphabet="ab <>&;/p\"'=!-\nбя", max_size=40))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_no_letter_outside_of_tags_is_lost(text: str) -> None:
    inside = standard.escape(text)
    words = lambda each: "".join(each.split())  # noqa: E731
    assert words(plain(f"<p>{inside}</p>")) == words(text)


@pytest.mark.parametrize(
    "piece",
    [
        '<p a="',
        "<p a='\"",
        "<!--",
        "<script>",
        "<p a=b ",
        "<p ",
        "<",
        "&",
        "&#",
        "<a b=c\t",
        "<!doctype ",
        "</p",
        "<p a = ",
    ],
)
def test_time_grows_with_the_length_only(piece: str) -> None:
    assert isinstance(plain(piece * 40_000), str)  # quadratic time would take hours


def test_a_table_without_html_is_not_copied() -> None:
    pairs = pd.DataFrame({"query": ["a < b", "c"], "positive": ["d & e", "f"], "negatives": [["g"], []]})
    found, counts = pairs_without_html(pairs)
    pd.testing.assert_frame_equal(found, pairs)
    assert counts.html == 0
    found, counts = pairs_without_html(pairs.assign(positive="<p>x</p>", negatives=[["<br>y", "z"], []]))
    assert found["positive"].tolist() == ["x", "x"] and found["negatives"].tolist() == [["y", "z"], []]
    assert counts.html == 3
