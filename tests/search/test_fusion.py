"""Words beside meaning: hashed scores equal the libraries' own, their sums with cosines, and the kept word index."""

from __future__ import annotations

import bm25s
import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from hr_search.base.errors import InputError
from hr_search.evaluation.lexical import NGRAMS, words
from hr_search.search import fusion
from hr_search.search.fusion import FEATURES, WordIndex, fuse, scaled

TEXTS = [
    "Сварщик ручной дуговой сварки, сварщик НАКС",
    "Бухгалтер на первичную документацию",
    "Водитель-экспедитор категории Б",
    "Разработчик C++ и C#, разработка сервисов",
    "сварщик",
]
QUERIES = ["СВАРЩИК", "сварщики сварщик сварщик", "водитель", "C++", "qqq zzz"]
MORE = ["сварщик", "сварщик на вахту", "пекарь"]


def spelt(texts: list[str]) -> list[str]:
    return [" ".join(words(text)) for text in texts]


def test_tfidf_equals_the_vectoriser_where_no_hashes_collide():
    settings = {"analyzer": "char_wb", "ngram_range": NGRAMS}
    vectoriser = TfidfVectorizer(**settings, sublinear_tf=True)
    documents = vectoriser.fit_transform(spelt(TEXTS))
    hasher = HashingVectorizer(**settings, n_features=FEATURES, norm=None, alternate_sign=False)
    hashed = hasher.transform(vectoriser.get_feature_names_out()).sum(axis=0)
    found = WordIndex.fit(TEXTS).scores(TEXTS)  # no n-grams outside the vocabulary, which the vectoriser would drop
    assert hashed.max() < FEATURES and found.dtype == np.float32
    np.testing.assert_allclose(found, (documents @ documents.T).toarray(), atol=1e-6)
    assert WordIndex.fit(TEXTS).scores(QUERIES)[4].max() == 0


def test_a_background_counts_as_further_texts_do():
    background = fusion.frequencies(MORE)
    assert background[-1] == 3 and background.max() == 3
    vectoriser = TfidfVectorizer(analyzer="char_wb", ngram_range=NGRAMS, sublinear_tf=True).fit(spelt([*TEXTS, *MORE]))
    documents = vectoriser.transform(spelt(TEXTS))
    found = WordIndex.fit(TEXTS, background=background).scores(TEXTS)
    np.testing.assert_allclose(found, (documents @ documents.T).toarray(), atol=1e-6)
    assert np.abs(found - WordIndex.fit(TEXTS).scores(TEXTS)).max() > 1e-3


def test_bm25_equals_the_library_on_words():
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index([words(text) for text in TEXTS], show_progress=False)
    known = [[word for word in words(query) if word in index.vocab_dict] for query in QUERIES]
    expected = [index.get_scores(query) if query else np.zeros(len(TEXTS)) for query in known]
    np.testing.assert_allclose(WordIndex.fit(TEXTS, "bm25").scores(QUERIES), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["tfidf", "bm25"])
def test_texts_without_words_score_zero(kind):
    assert WordIndex.fit(["", "!"], kind).scores(["welder", ""]).tolist() == [[0, 0], [0, 0]]
    found = WordIndex.fit(["welder", "", "nun"], kind).scores(["welder", "-"])
    assert found[0, 0] > 0 and not found[:, 1:].any() and not found[1].any()


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match='did you mean "bm25"'):
        WordIndex.fit(TEXTS, "bm52")


# -- sums ----------------------------------------------------------------------------------------


@pytest.fixture
def both():
    generator = np.random.default_rng(0)
    return generator.normal(size=(6, 9)).astype(np.float32), generator.exponential(size=(6, 9)).astype(np.float32)


@pytest.mark.parametrize("scaling", ["zscore", "minmax"])
def test_weights_0_and_1_leave_one_kind_of_scores(both, scaling):
    cosines, others = both
    np.testing.assert_allclose(fuse(cosines, others, 0, scaling), scaled(cosines, scaling), atol=2e-6)
    np.testing.assert_allclose(fuse(cosines, others, 1, scaling), scaled(others, scaling), atol=2e-6)
    half, moved = fuse(cosines, others, 0.5, scaling), fuse(7 * cosines + 3, others, 0.5, scaling)
    np.testing.assert_allclose(half, (scaled(cosines, scaling) + scaled(others, scaling)) / 2, atol=2e-6)
    np.testing.assert_allclose(half, moved, atol=2e-6)


def test_scaled_rows_have_mean_0_and_deviation_1_or_reach_from_0_to_1(both):
    for scores in both:
        z, m = scaled(scores, "zscore"), scaled(scores, "minmax")
        np.testing.assert_allclose([z.mean(axis=1), z.std(axis=1)], [[0] * 6, [1] * 6], atol=1e-9)
        np.testing.assert_array_equal([m.min(axis=1), m.max(axis=1)], [[0] * 6, [1] * 6])
        assert (z.argsort(axis=1) == scores.argsort(axis=1)).all() and (m.argsort() == scores.argsort()).all()


@pytest.mark.parametrize("scaling", ["zscore", "minmax"])
def test_equal_scores_say_nothing_not_even_their_noise(both, scaling):
    flat = np.full((1, 9), 0.7, np.float32)
    flat[0, 3] += 5e-7  # the last bits of equal products
    assert not scaled(flat, scaling).any()
    words_only = fuse(flat, both[1][:1], 0.2, scaling)
    assert (words_only.argsort() == both[1][:1].argsort()).all()
    assert scaled(np.zeros((2, 1)), scaling).tolist() == [[0], [0]]


def test_more_of_one_score_is_never_less_of_the_sum(both):
    cosines, others = both
    before, raised = fuse(cosines, others, 0.4), others.copy()
    raised[:, 2] += 1
    assert (fuse(cosines, raised, 0.4)[:, 2] > before[:, 2]).all()


def test_sums_that_are_equal_tie():
    scores = np.array([[0.1 + 0.2, 0.3, 0.5, 0.1]])
    assert len({*fuse(scores, scores, 0.3)[0, :2].tolist()}) == 1


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_0_to_1_is_refused(both, weight):
    with pytest.raises(InputError, match="between 0 and 1"):
        fuse(*both, weight)
    with pytest.raises(InputError, match='did you mean "zscore"'):
        fuse(*both, 0.1, "zscores")


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tfidf", "bm25"])
def test_a_kept_index_scores_to_the_last_digit(tmp_path, kind):
    index = WordIndex.fit(TEXTS, kind, fusion.frequencies(MORE))
    index.save(tmp_path)
    opened = WordIndex.open(tmp_path, kind, len(TEXTS))
    np.testing.assert_array_equal(opened.scores(QUERIES), index.scores(QUERIES))
    assert len(opened) == len(TEXTS)


@pytest.mark.parametrize("name", ["words_data", "words_indices", "words_indptr", "words_idf"])
@pytest.mark.parametrize("damage", ["missing", "cut", "shorter", "pickled", "other numbers"])
def test_a_damaged_index_is_refused_in_one_sentence(tmp_path, name, damage):
    WordIndex.fit(TEXTS).save(tmp_path)
    path = tmp_path / f"{name}.npy"
    array = np.load(path)
    path.unlink()
    if damage == "cut":
        np.save(path, array)
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "shorter":
        np.save(path, array[:-1])
    elif damage == "pickled":
        np.save(path, np.array([{}], object), allow_pickle=True)
    elif damage == "other numbers":
        np.save(path, {"words_indptr": array[::-1], "words_indices": array + 99}.get(name, array * np.nan))
    with pytest.raises(InputError, match=r"word index in .* is damaged .*build it again"):
        WordIndex.open(tmp_path, "tfidf", len(TEXTS))


def test_an_index_of_more_texts_is_refused(tmp_path):
    WordIndex.fit(TEXTS).save(tmp_path)
    with pytest.raises(InputError, match="other texts"):
        WordIndex.open(tmp_path, "tfidf", 2)
