"""The tables of a suite, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from suite_data import FLOOR, A, B, cell_of, task_of

from hr_search.base.errors import InputError
from hr_search.suite import figures, summary
from hr_search.suite.summary import make_tables, read_tables, write_tables

TASKS = [
    task_of("one", "x", directions=("q2d", "d2q")),
    task_of("two", "x", metric="map"),
    task_of("three", "y"),
    task_of("gone", "y", get="ask us"),
]
DONE = {
    ("one", "bm25"): cell_of(q2d=[0.0, 0.2], d2q=[0.1, 0.3]),
    ("one", "A"): cell_of(q2d=[0.4, 0.6], d2q=[0.2, 0.2]),
    ("one", "B"): cell_of(q2d=[0.5, 0.7], d2q=[0.4, 0.4]),
    ("two", "bm25"): cell_of(q2d=[0.3, 0.3]),
    ("two", "A"): cell_of(q2d=[0.5, 0.5]),
    ("two", "B"): cell_of(q2d=[0.6, 0.6]),
    ("three", "bm25"): cell_of(q2d=[0.9] * 3),
    ("three", "A"): cell_of(q2d=[0.8] * 3),
}
FAILED = {("three", "B"): "out of luck"}


@pytest.fixture(scope="module")
def tables():
    return make_tables(TASKS, [FLOOR, A, B], DONE, FAILED)


def test_every_cell_is_a_row_also_a_failed_and_a_skipped_one(tables):
    cells = tables.cells
    assert cells["status"].value_counts().to_dict() == {"finished": 11, "failed": 1, "skipped": 1}
    row = cells[(cells["task"] == "one") & (cells["direction"] == "q2d") & (cells["system"] == "A")].iloc[0]
    assert (row["value"], row["queries"], row["documents"], row["seconds"]) == (pytest.approx(0.5), 2, 9, 2)
    assert 0.4 <= row["low"] <= 0.5 <= row["high"] <= 0.6 and row["kind"] == "model"
    assert cells.loc[cells["status"] == "failed", ["task", "system", "error"]].to_numpy().tolist() == [
        ["three", "B", "out of luck"]
    ]
    assert cells.iloc[-1][["task", "system", "get"]].tolist() == ["gone", "", "ask us"]
    wide = summary.wide(cells)
    assert wide.columns.tolist() == ["task", "direction", "metric", "bm25", "A", "B"]
    assert wide.iloc[2].tolist()[:5] == ["two", "q2d", "map", "0.300 [0.300, 0.300]", "0.500 [0.500, 0.500]"]
    assert wide["B"].iloc[3] == "failed"
    assert summary.counted_tasks(cells) == "4 tasks: 2 finished, 1 failed, 1 skipped"


def test_families_average_directions_then_tasks_then_families_where_all_systems_finished(tables):
    # one: A (.5 + .2) / 2 = .35, B (.6 + .4) / 2 = .5; two: .5 and .6; three is left out, since B failed.
    families = tables.families.set_index(["family", "system"])
    assert families.loc[("x", "A"), "value"] == pytest.approx((0.35 + 0.5) / 2)
    assert families.loc[("x", "B"), "value"] == pytest.approx((0.5 + 0.6) / 2)
    assert families.loc[("x", "B"), "difference"] == pytest.approx(0.125)
    assert np.isnan(families.loc[("x", "A"), "difference"])
    assert set(families["tasks"]) == {2} and set(tables.families["family"]) == {"x", "all families"}
    gains = summary.gains(tables.families)
    assert gains["system"].tolist() == ["B", "B"]
    # B is above A by .1 and .1 to .2 whichever queries are drawn, so the paired interval is narrow.
    assert gains["low"].iloc[0] == pytest.approx(0.125) and gains["high"].iloc[0] == pytest.approx(0.125)
    assert summary.wide_families(tables.families).columns.tolist() == ["family", "tasks", "bm25", "A", "B"]


def test_families_of_unequal_size_weigh_alike():
    tasks = [task_of("a", "x"), task_of("b", "x"), task_of("c", "y")]
    done = {(name, "A"): cell_of(q2d=[value] * 2) for name, value in (("a", 0.2), ("b", 0.4), ("c", 0.9))}
    families = make_tables(tasks, [A], done, {}).families.set_index("family")
    assert families.loc["all families", "value"] == pytest.approx((0.3 + 0.9) / 2)
    assert families.loc["all families", "tasks"] == 3


def test_pairs_are_tested_with_holm_over_tasks_and_directions(tables):
    found = tables.comparison
    assert found[["a", "b"]].drop_duplicates().to_numpy().tolist() == [["bm25", "A"], ["bm25", "B"], ["A", "B"]]
    between = found[(found["a"] == "A") & (found["b"] == "B")]
    assert between[["task", "direction"]].to_numpy().tolist() == [["one", "q2d"], ["one", "d2q"], ["two", "q2d"]]
    assert between["difference"].tolist() == pytest.approx([0.1, 0.2, 0.1])
    assert (between["p_holm"] >= between["p"]).all() and between["p_holm"].max() == 1
    assert between["verdict"].iloc[0].startswith("no difference could be shown between B and A in MRR")


def test_a_difference_that_all_queries_share_is_real():
    tasks = [task_of("a"), task_of("b")]
    generator = np.random.default_rng(0)
    low = generator.uniform(0, 0.4, 60)
    done = {("a", "A"): cell_of(q2d=low.tolist()), ("a", "B"): cell_of(q2d=(low + 0.3).tolist())}
    done |= {("b", "A"): cell_of(q2d=low.tolist()), ("b", "B"): cell_of(q2d=low[::-1].tolist())}
    tables = make_tables(tasks, [A, B], done, {})
    assert summary.real_differences(tables.comparison)["task"].tolist() == ["a"]
    assert summary.counted_differences(tables.comparison).to_numpy().tolist() == [["A", "B", 1, 0, 1]]
    assert "B is better than A in MRR by .300" in tables.comparison["verdict"].iloc[0]


def test_groups_are_drawn_and_flipped_whole():
    generator = np.random.default_rng(1)
    values = [(generator.random(12).repeat(5) + shift).tolist() for shift in (0.0, 0.1)]
    alone = {("a", name): cell_of(q2d=each) for name, each in zip("AB", values, strict=True)}
    grouped = {
        key: dataclasses.replace(cell, queries=cell.queries.assign(group=cell.queries["query"] // 5))
        for key, cell in alone.items()
    }
    found = [make_tables([task_of("a")], [A, B], cells, {}) for cells in (alone, grouped)]
    for name, low, high in (("cells", "low", "high"), ("families", "low", "high")):
        (one, whole), spread = (getattr(each, name).iloc[0] for each in found), 5**0.5
        assert whole["value"] == pytest.approx(one["value"])
        assert whole[high] - whole[low] == pytest.approx(spread * (one[high] - one[low]), rel=0.15)
    assert found[1].comparison["p"][0] > found[0].comparison["p"][0]


def test_tables_come_back_as_they_were_written(tables, tmp_path):
    write_tables(tmp_path, tables)
    again = read_tables(tmp_path)
    for name in ("cells", "comparison", "families"):
        old, new = getattr(tables, name), getattr(again, name)
        pd.testing.assert_frame_equal(new, old, check_dtype=False, rtol=1e-7)
    (tmp_path / "families.csv").write_text("family,value\nx,many\n")
    with pytest.raises(InputError, match=r"families\.csv is missing or damaged"):
        read_tables(tmp_path)


def test_the_figure_shows_every_finished_cell(tables, closed):
    ax = figures.dots_and_intervals(tables.cells)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["bm25", "A", "B"]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "one q2d\nMRR", "one d2q\nMRR", "two q2d\nMAP", "three q2d\nMRR",
    ]  # fmt: skip
    assert ax.get_title(loc="left") == "B leads in 3 of 4 rows, bm25 in 1"
    assert "three q2d: bm25 0.90" in figures.words_of(tables.cells)
    tied = tables.cells.assign(value=tables.cells["value"].where(tables.cells["task"] != "three", 0.9))
    assert figures.leaders(tied) == "B leads in 3 of 4 rows; a tie in 1"
    assert "three q2d: bm25 and A 0.90" in figures.words_of(tied)
    with pytest.raises(InputError, match="no finished cells"):
        figures.dots_and_intervals(tables.cells[tables.cells["status"] == "skipped"])
