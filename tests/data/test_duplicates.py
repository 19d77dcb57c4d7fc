"""Normalised texts, and near copies as counting by hand finds them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentences import sentence

from hr_search.data import duplicates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Водитель-экспедитор (кат. «Ё») ", "водитель экспедитор кат е"),
        ("C++ / C# developer, C", "c++ c# developer c"),
        ("R&D +7 C++11 a_b #1", "r d 7 c 11 a b 1"),
        ("ﬁtter ２nd", "fitter 2nd"),
        ("за\u0301мок сле\u00adсарь\u200b", "замок слесарь"),
        ("Йога Cafe\u0301", "йога café"),
        ("डॉक्टर 软件工程师", "डॉक्टर 软件工程师"),
        ("!!! — …", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert duplicates.normalise(text) == expected


@given(st.text(alphabet="aЯёйC1+#._—- \t\u00a0\u00ad\u0301\u200bİﬁß", max_size=12))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_normalise_ignores_case_and_outer_spaces_and_folds_inner_ones(text: str) -> None:
    result = duplicates.normalise(text)
    assert "  " not in result
    assert result == result.strip()
    assert duplicates.normalise(f"\n {text}\t") == result


def test_near_copies_agree_with_counting_by_hand() -> None:
    chooser = random.Random(0)
    pieces = [sentence(number, 9).split() for number in range(6)]
    chosen = [chooser.sample(pieces, chooser.randint(1, 4)) for _ in range(60)]
    texts = [" ".join(word for piece in row for word in piece) for row in chosen] + ["too short", ""]
    texts += [" ".join(reversed(text.split())) for text in texts[:5]]  # the same words are not the same text

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}

    runs = [shingles(text) for text in texts]
    expected = {
        (i, j)
        for i in range(len(texts))
        for j in range(len(texts))
        if runs[i] and len(runs[i] & runs[j]) > 0.5 * len(runs[i])
    }
    left, right, exact = duplicates.near_copies(texts)
    assert exact
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == expected
    left, right, _ = duplicates.near_copies(texts[:20], texts[20:])
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == {(i, j - 20) for i, j in expected if i < 20 <= j}


@pytest.mark.parametrize(("texts", "corpus"), [([], None), ([], ["a b"]), (["a b"], []), (["a b"], ["a b"])])
def test_nothing_to_compare_has_no_near_copies(texts: list[str], corpus: list[str] | None) -> None:
    left, right, exact = duplicates.near_copies(texts, corpus)
    assert (len(left), len(right), exact) == (0, 0, True)


def test_bounded_searches_still_find_the_copies_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sentence(number % 50, 200) for number in range(100)]  # each text twice
    wanted = {(i, j) for i in range(100) for j in range(100) if i % 50 == j % 50}
    monkeypatch.setattr(duplicates, "_WORDS_LIMIT", 5000)
    left, right, exact = duplicates.near_copies(texts)
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == wanted
    assert not exact
    monkeypatch.setattr(duplicates, "_WORDS_LIMIT", 10**6)
    monkeypatch.setattr(duplicates, "_WORK_LIMIT", 100 * 193)
    left, right, exact = duplicates.near_copies(texts)
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == {(i, j) for i, j in wanted if j < 50}
    assert not exact


def test_an_estimate_is_not_made_from_a_handful_of_shingles(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{sentence(number % 10, 12)} {sentence(100 + number, 14)}" for number in range(60)]  # 5 of 19 shared
    monkeypatch.setattr(duplicates, "_WORDS_LIMIT", 200)
    left, right, _ = duplicates.near_copies(texts)
    assert (left == right).all()


def test_texts_without_shared_wording_cost_one_look_up_per_shingle(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sentence(number) for number in range(2000)]
    monkeypatch.setattr(duplicates, "_WORK_LIMIT", 13 * len(texts))  # 20 words are 13 shingles
    left, right, exact = duplicates.near_copies(texts)
    assert exact and left.tolist() == right.tolist() == list(range(2000))
