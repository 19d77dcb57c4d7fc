"""The playground: knobs turned without encoding again, and what its tables and its sliders show."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from conftest import job_pairs
from helpers import MARKUP

from hr_search.base.errors import InputError
from hr_search.data.tasks import tasks_of
from hr_search.encoder import load_encoder
from hr_search.search import playground, views
from hr_search.search.fusion import WordIndex, fuse
from hr_search.search.memory import keys_of
from hr_search.search.playground import Corpus, Playground, corpus_of
from hr_search.search.policy import SearchPolicy, write_policies
from hr_search.search.stages import placed

MIXED = SearchPolicy(mixing="both", k=3, weight=0.3, fusion=0.2)


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return load_encoder(str(tiny_model), 32, "fp32", device="cpu")


def known(pairs: pd.DataFrame, test: bool) -> pd.DataFrame:
    """The last four jobs as a test, or the others as a memory."""
    return pairs[pairs["group"].isin(pairs["group"].unique()[-4:]) == test]


@pytest.fixture(scope="module", params=["q2d", "d2q"])
def play(request, encoder):
    pairs = job_pairs()
    corpus = corpus_of(tasks_of(known(pairs, True))[request.param], 100)
    return Playground({"base": encoder, "trained": encoder}, corpus, known(pairs, False), MIXED)


# -- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["weighted", "slerp"])
@pytest.mark.parametrize("mixing", ["documents", "queries", "both"])
def test_a_slider_gives_what_a_search_from_scratch_gives(play, encoder, strategy, mixing):
    shelf, corpus = play.shelves["trained"], play.corpus
    asking, searched = shelf.sides
    query = corpus.queries[1]
    words_of = WordIndex.fit(corpus.documents, "tfidf", shelf.memory.background).scores([query])
    for weight in (0.0, 0.35, 1.0):
        policy = SearchPolicy(centre=weight < 1, mixing=mixing, strategy=strategy, k=3, weight=weight, fusion=0.4)
        left = placed(encoder.encode([query], asking), asking, False, shelf.memory, policy, keys_of([query]))
        documents = encoder.encode(corpus.documents, searched)
        right = placed(documents, searched, True, shelf.memory, policy, keys_of(corpus.documents))
        last = list(play.scores(query, policy).values())
        np.testing.assert_allclose(last[-2], (left @ right.T)[0], atol=2e-6)
        np.testing.assert_allclose(last[-1], fuse(left @ right.T, words_of, 0.4)[0], atol=2e-4)


def test_no_slider_encodes_a_text(play, monkeypatch):
    query, counts = play.corpus.queries[0], []
    play.scores(query, MIXED)
    monkeypatch.setattr(type(play.shelves["base"].encoder), "embed", lambda *_, **__: counts.append(1))
    for policy in (MIXED.replace(weight=0.9), MIXED.replace(k=2), MIXED.replace(fusion=0.0, centre=True)):
        play.scores(query, policy)
    assert not counts


def test_moving_the_weight_finds_no_neighbour_again(play, monkeypatch):
    query = play.corpus.queries[0]
    before = play.scores(query, MIXED)
    monkeypatch.setattr(playground, "placed", lambda *_, **__: pytest.fail("neighbours were looked for again"))
    after = play.scores(query, MIXED.replace(weight=0.8, fusion=0.6))
    assert not np.allclose(list(before.values())[2], list(after.values())[2])


def test_columns_are_the_cosines_then_the_stages(play):
    assert list(play.scores("welder", MIXED)) == ["base", "trained", "trained + mixing", "+ words"]
    assert list(play.scores("welder", MIXED.replace(centre=True), "base"))[2:] == [
        "base + centring and mixing",
        "+ words",
    ]
    columns = play.scores("welder", SearchPolicy())
    assert list(columns) == ["base", "trained", "+ words"]
    order = [np.argsort(-columns[name], kind="stable").tolist() for name in ("trained", "+ words")]
    assert order[0] == order[1]  # without words and mixing, the last column is the cosine


def test_the_best_come_first_and_of_equal_ones_the_first(play):
    found = play.search("an unknown text", SearchPolicy(fusion=1.0), top=3)
    scores = play.scores("an unknown text", SearchPolicy(fusion=1.0))
    assert found.index.tolist() == [1, 2, 3] and found.shape == (3, 3)
    for name in found:
        expected = sorted(range(len(scores[name])), key=lambda at: (-scores[name][at], at))[:3]
        assert found[name].tolist() == expected


def test_more_neighbours_than_the_memory_has_are_lowered(play):
    many, all_of_them = (play.scores("welder", MIXED.replace(k=k)) for k in (900, play.largest_k))
    for name, scores in many.items():
        np.testing.assert_array_equal(scores, all_of_them[name])


@pytest.mark.parametrize(("query", "staged", "said"), [(" ", "", "empty"), ("welder", "trainde", 'mean "trained"')])
def test_what_cannot_be_searched_is_refused(play, query, staged, said):
    with pytest.raises(InputError, match=said):
        play.scores(query, MIXED, staged)


def test_a_playground_needs_texts_and_pairs(encoder):
    pairs = job_pairs()
    with pytest.raises(InputError, match="no texts"):
        Playground({"base": encoder}, Corpus("q2d", [], [], {}), pairs)
    with pytest.raises(InputError, match="no pairs"):
        Playground({"base": encoder}, Corpus("q2d", ["a"], [], {}), pairs.iloc[:0])


# -- corpus and knobs ----------------------------------------------------------------------------


def test_a_small_corpus_keeps_only_queries_whose_answers_it_has():
    task = tasks_of(job_pairs())["q2d"]
    corpus = corpus_of(task, 7)
    assert len(corpus.documents) == 7 and set(corpus.documents) < set(task.documents)
    for query in corpus.queries:
        right = {corpus.documents[at] for at in corpus.right(query)}
        assert right == {task.documents[at] for at in task.relevant[task.queries.index(query)]}
    whole = corpus_of(task, 1000)
    assert whole.queries == task.queries and whole.documents == task.documents
    assert whole.right("WELDER") == whole.right("welder") != frozenset() and not whole.right("nobody")
    assert len(whole.examples(3)) == 3 and whole.examples(3)[0] == task.queries[0]


def test_a_corpus_is_read_from_lines_and_from_tables(tmp_path, jobs_file):
    (tmp_path / "lines.txt").write_text("one\n\ntwo\nthree\n")
    lines = playground.read_corpus(str(tmp_path / "lines.txt"), "q2d", 2)
    assert lines.documents == ["one", "three"] and lines.examples(3) == []
    table = playground.read_corpus(str(jobs_file), "d2q", 100)
    assert "welder" in table.documents and table.right(table.queries[0])


def test_knobs_begin_where_tune_left_them(tmp_path):
    assert playground.beginning(None, "q2d", {}) == playground.UNTUNED
    write_policies(tmp_path, {"q2d": SearchPolicy(centre=True, fusion=0.3, rerank="../second")})
    begun = playground.beginning(tmp_path, "q2d", {"weight": 0.1})
    assert begun == SearchPolicy(centre=True, fusion=0.3, weight=0.1)
    assert playground.beginning(tmp_path, "d2q", {}) == playground.UNTUNED
    with pytest.raises(InputError, match='knob "wieght"; did you mean "weight"'):
        playground.beginning(tmp_path, "q2d", {"wieght": 0.1})


# -- what is shown -------------------------------------------------------------------------------


def cells(shown: str) -> list[list[str]]:
    return [
        [cell.get_text() for cell in row.find_all(["th", "td"])] for row in BeautifulSoup(shown, "html.parser")("tr")
    ]


def test_a_table_marks_relevant_texts_and_how_far_they_moved(play):
    query, top = play.corpus.queries[0], 3
    right, found = play.corpus.right(query), play.search(query, MIXED, top=len(play.corpus.documents))
    head, *rows = cells(views.result_table(play, query, MIXED, top=top))
    assert len(rows) == top and len(head) == 5
    for column, name in enumerate(found, 1):
        first = min(rank for rank, at in found[name].items() if at in right)
        assert head[column] == f"{name}first ✓ at {first}"
        for rank in range(1, top + 1):
            at, shown = found.at[rank, name], rows[rank - 1][column]
            assert shown.startswith("✓") == (at in right)
            before = found.index[found.iloc[:, column - 2] == at][0] if column > 1 else rank
            step = "new" if before > top else f"▲{before - rank}" if before > rank else f"▼{rank - before}"
            assert shown.endswith(step) if before != rank else not re.search(r"(new|[▲▼]\d+)$", shown)


def test_a_table_obeys_no_text_and_cuts_long_ones(encoder):
    corpus = Corpus("q2d", [MARKUP, "word " * 100], [], {})
    play = Playground({"<b>base</b>": encoder}, corpus, job_pairs(), MIXED)
    shown = views.result_table(play, MARKUP)
    soup = BeautifulSoup(shown, "html.parser")
    assert not soup.find_all(["script", "img"]) and "alert(1)" in soup.get_text()
    assert soup("tr")[0]("th")[1].get_text() == "<b>base</b>"
    assert max(len(cell.get_text()) for cell in soup("td")) <= views.CUT + len(" new")


def test_a_slider_changes_the_table_and_an_empty_query_says_so(play):
    board = views.board(play, play.corpus.queries[0], 3)
    controls = {each.description: each for each in walk(board) if getattr(each, "description", "")}
    out = board.children[-1]
    before = out.value
    assert cells(before) == cells(views.result_table(play, play.corpus.queries[0], MIXED, top=3))
    controls["mixing weight"].value = 1.0
    controls["weight of words"].value = 0.0
    expected = views.result_table(play, play.corpus.queries[0], MIXED.replace(weight=1.0, fusion=0.0), top=3)
    assert out.value == expected != before
    controls["stages on"].value = "base"
    assert "base + mixing" in out.value and "trained + mixing" not in out.value
    controls["search for"].value = " "
    assert "the query is empty" in out.value and "<table" not in out.value


def test_where_nobody_watches_there_are_no_sliders(play, monkeypatch, caplog):
    monkeypatch.setenv("HR_SEARCH_HEADLESS", "1")
    monkeypatch.setattr(views, "board", lambda *_: pytest.fail("a board was made"))
    with caplog.at_level("INFO"):
        views.show_board(play, "welder")
    assert "JupyterLab" in caplog.text


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)
