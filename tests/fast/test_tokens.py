"""Token tables: exactly what the tokenizer says, once, and grouped by length."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.fast import tokens
from hr_search.fast.tokens import TokenTable, batches_by_length, fingerprint, tokenise

WORDS = ["welder", "baker", "cook", "of", "bread", "and", "metal", "query:"]
CLS, SEP, UNKNOWN, PAD = range(4)


def make_tokenizer(words: list[str] = WORDS, **options) -> PreTrainedTokenizerFast:
    """One token a word, `<s>` before and `</s>` after a text."""
    pieces = ["<s>", "</s>", "<unk>", "<pad>", *words]
    core = Tokenizer(models.WordLevel({piece: at for at, piece in enumerate(pieces)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", CLS), ("</s>", SEP)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", **options)


def ids(*words: str) -> list[int]:
    """The tokens of a text, written by hand."""
    return [CLS, *(WORDS.index(word) + 4 if word in WORDS else UNKNOWN for word in words), SEP]


@pytest.fixture
def cached(home, monkeypatch) -> Path:
    """A cache of its own that holds small tables too, written in several slices; gives its folder."""
    monkeypatch.setattr(tokens, "_CACHED_FROM", 5)
    monkeypatch.setattr(tokens, "_SLICE", 3)
    return paths.cache() / "tokens"


TEXTS = ["welder of metal", "", "baker", "cook and baker of bread and metal", "zebra", "baker", "query: cook"]


def assert_rows(table: TokenTable, expected: list[list[int]]) -> None:
    assert [row.tolist() for row in table] == expected
    assert table.ids.dtype == np.int32 and table.offsets.dtype == np.int64
    assert table.lengths.tolist() == [len(row) for row in expected]


# -- tokens --------------------------------------------------------------------------------------


def test_tokens_by_hand():
    table = tokenise(make_tokenizer(), TEXTS, maxlength=6)
    expected = [ids(*text.split()) for text in TEXTS]
    expected[3] = [*expected[3][:5], SEP]  # cut to six, the last special token kept
    assert_rows(table, expected)
    assert len(table) == 7 and table[4].tolist() == [CLS, UNKNOWN, SEP]
    assert table.used().tolist() == sorted({token for row in expected for token in row})


def test_the_prompt_stands_before_each_text():
    table = tokenise(make_tokenizer(), ["cook", ""], prompt="query: ")
    assert_rows(table, [ids("query:", "cook"), ids("query:")])


def test_rows_are_found_as_in_a_list():
    table = tokenise(make_tokenizer(), TEXTS)
    assert table[-1].tolist() == table[6].tolist() == ids("query:", "cook") and table[np.int64(2)].tolist() == ids(
        "baker"
    )
    assert [row.tolist() for row in reversed(table)] == [row.tolist() for row in table][::-1]
    for outside in (7, -8):
        with pytest.raises(IndexError):
            table[outside]


def test_no_texts():
    table = tokenise(make_tokenizer(), [])
    assert_rows(table, [])
    assert (
        len(table) == 0
        and table.used().tolist() == []
        and table.highest() == 0
        and batches_by_length(table.lengths, 10) == []
    )


def test_a_former_call_leaves_no_trace():
    tokenizer = make_tokenizer()
    tokenizer(["welder", "cook and baker"], padding="max_length", max_length=3, truncation=True)
    assert tokenise(tokenizer, TEXTS)[3].tolist() == ids(*TEXTS[3].split())
    assert len(tokenise(tokenizer, TEXTS, maxlength=4)[3]) == 4
    assert tokenise(tokenizer, TEXTS)[3].tolist() == ids(*TEXTS[3].split())


# -- cache ---------------------------------------------------------------------------------------


def test_a_cache_hit_equals_a_fresh_table(cached):
    fresh = tokenise(make_tokenizer(), TEXTS, "query: ", 6, cached=False)
    assert not cached.exists()
    first = tokenise(make_tokenizer(), TEXTS, "query: ", 6)
    (folder,) = cached.iterdir()
    assert sorted(item.name for item in folder.iterdir()) == ["ids.npy", "offsets.npy"]
    before = (folder / "ids.npy").stat()
    hit = tokenise(make_tokenizer(), TEXTS, "query: ", 6)
    assert (folder / "ids.npy").stat() == before and [item.name for item in cached.iterdir()] == [folder.name]
    assert isinstance(hit.ids, np.memmap) and not hit.ids.flags.writeable
    for table in (first, hit):
        assert_rows(table, [row.tolist() for row in fresh])
        assert table.used().tolist() == fresh.used().tolist()
        assert table.highest() == max(max(row.tolist()) for row in fresh)


@pytest.mark.parametrize("sweep", [TokenTable.used, TokenTable.highest])
def test_a_sweep_over_a_mapped_table_gives_each_part_back(tmp_path, monkeypatch, sweep):
    monkeypatch.setattr(tokens, "_SWEPT", 1000)
    np.save(tmp_path / "ids.npy", np.arange(10_500, dtype=np.int32))
    table, released = TokenTable(np.load(tmp_path / "ids.npy", mmap_mode="r"), np.array([0, 10_500])), []
    monkeypatch.setattr(tokens, "release", lambda array: released.append(array is table.ids))
    assert np.max(sweep(table)) == 10_499 and released == [True] * 11


def test_a_hit_reads_what_lies_there(cached):
    tokenise(make_tokenizer(), TEXTS)
    (folder,) = cached.iterdir()
    np.save(folder / "ids.npy", np.full_like(np.load(folder / "ids.npy"), 7))
    assert set(tokenise(make_tokenizer(), TEXTS).used().tolist()) == {7}


@pytest.mark.parametrize(
    ("options", "texts", "prompt", "maxlength"),
    [
        ({}, TEXTS, "", 7), ({}, TEXTS, "query: ", 128), ({}, TEXTS[::-1], "", 128), ({}, TEXTS[:-1], "", 128),
        ({"words": WORDS[::-1]}, TEXTS, "", 128), ({"truncation_side": "left"}, TEXTS, "", 128),
        ({}, ["welder", " of metal", *TEXTS[1:]], "", 128),
    ],
    ids=["maxlength", "prompt", "order", "fewer texts", "vocabulary", "truncation side", "borders of texts"],
)  # fmt: skip
def test_whatever_changes_the_tokens_gives_another_key(cached, options, texts, prompt, maxlength):
    tokenise(make_tokenizer(), TEXTS)
    table = tokenise(make_tokenizer(**options), texts, prompt, maxlength)
    assert len(list(cached.iterdir())) == 2
    assert_rows(
        table, [row.tolist() for row in tokenise(make_tokenizer(**options), texts, prompt, maxlength, cached=False)]
    )


def test_few_texts_are_not_cached(cached):
    tokenise(make_tokenizer(), TEXTS[:4])
    assert not cached.exists()
    assert tokens._CACHED_FROM == 5
    tokenise(make_tokenizer(), TEXTS[:5])
    assert len(list(cached.iterdir())) == 1


def test_an_error_on_the_way_leaves_no_cache(cached):
    with pytest.raises(TypeError):
        tokenise(make_tokenizer(), [*TEXTS, None])
    assert list(cached.parent.rglob("*.npy")) == [] and list(cached.parent.rglob("ids.raw")) == []


def test_a_cache_that_cannot_be_written(cached):
    cached.parent.mkdir(parents=True)
    cached.write_text("a file where the folder belongs")
    with pytest.raises(InputError, match="cannot be written"):
        tokenise(make_tokenizer(), TEXTS)


def test_fingerprint_of_a_tokenizer():
    tokenizer = make_tokenizer()
    mark = fingerprint(tokenizer)
    assert mark == fingerprint(make_tokenizer())
    tokenizer(["welder"], padding="max_length", max_length=5, truncation=True)
    assert mark == fingerprint(tokenizer)
    marks = {mark, fingerprint(make_tokenizer([*WORDS, "new"])), fingerprint(make_tokenizer(truncation_side="left"))}
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert len(marks | {fingerprint(tokenizer)}) == 4


class Plain:
    """A tokenizer without a fast core."""

    def __init__(self, name: str, vocabulary: dict[str, int]) -> None:
        self.name, self.vocabulary = name, vocabulary

    def __repr__(self) -> str:
        return f"Plain({self.name})"

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary


def test_fingerprint_of_a_slow_tokenizer():
    mark = fingerprint(Plain("a", {"x": 0, "y": 1}))
    assert mark == fingerprint(Plain("a", {"y": 1, "x": 0}))
    assert len({mark, fingerprint(Plain("b", {"x": 0, "y": 1})), fingerprint(Plain("a", {"x": 1, "y": 0}))}) == 3


@given(
    st.lists(st.lists(st.sampled_from([*WORDS, "zebra"]), max_size=8).map(" ".join), max_size=12), st.integers(3, 12)
)
@settings(deadline=None, derandomize=True)
def test_any_texts(texts, maxlength):
    tokenizer = make_tokenizer()
    table = tokenise(tokenizer, texts, maxlength=maxlength)
    whole = [ids(*text.split()) for text in texts]
    assert_rows(table, [row if len(row) <= maxlength else [*row[: maxlength - 1], SEP] for row in whole])


# -- groups by length ----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 600), max_size=80), st.integers(1, 2000))
@settings(deadline=None, derandomize=True)
def test_groups_hold_every_text_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    groups = batches_by_length(lengths, budget)
    flat = np.concatenate([*groups, np.array([], np.int64)])
    assert sorted(flat.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[flat]) <= 0).all()  # longest first
    for group in groups:
        assert len(group) == 1 or len(group) * lengths[group].max() <= budget
    for group, following in itertools.pairwise(groups):
        assert (len(group) + 1) * max(1, lengths[group].max()) > budget  # as full as the budget allows
        assert lengths[group].min() >= lengths[following].max()


def test_groups_by_hand():
    groups = batches_by_length(np.array([3, 10, 4, 1, 4]), 8)
    assert [group.tolist() for group in groups] == [[1], [2, 4], [0, 3]]
    assert [group.tolist() for group in batches_by_length(np.array([5, 5]), 0)] == [[0], [1]]
