"""Several tables in one `datapath`: how they are written, which are refused, and which rows meet in a step."""

from __future__ import annotations

import shlex

import numpy as np
import pandas as pd
import pytest
from test_train import run

from hr_search.base.errors import InputError
from hr_search.batches import epoch_batches, step_plan
from hr_search.checks import check_settings
from hr_search.commands.flags import given, settings_from
from hr_search.commands.parser import build_parser
from hr_search.grids.arms import without_folders
from hr_search.places import absolute, require_tables
from hr_search.release import command
from hr_search.settings import FIELDS, Settings, read_recipe
from hr_search.sources import labels

TWO = '["a.jsonl", {"path": "b.jsonl", "groupcolumn": "job"}]'


def typed(*words: str) -> Settings:
    """The settings of a command line of `train`."""
    return settings_from(None, given(build_parser().parse_args(["train", *words]), FIELDS))


# -- how they are written ------------------------------------------------------------------------


def test_flags_recipe_json_and_the_command_of_a_run_say_the_same(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("datapath:\n  - a.jsonl\n  - Path: b.jsonl\n    group-column: job\n")
    settings = read_recipe(recipe)
    assert settings.datapath == TWO == Settings(datapath=TWO).datapath
    assert Settings.from_mapping(settings.to_dict()) == settings
    assert typed(*shlex.split(command(settings))[2:]) == settings
    assert typed("--datapath", "a.jsonl", "--datapath=b.jsonl").datapath == '["a.jsonl", "b.jsonl"]'
    assert typed("--datapath", "a.jsonl").datapath == "a.jsonl"
    # One table without columns of its own is a path like any other.
    assert Settings.from_mapping({"datapath": [{"path": "a.jsonl", "share": 2}]}) == Settings(datapath="a.jsonl")


def test_each_table_is_read_with_its_own_columns_over_the_common_ones():
    entries = ["a.csv", {"path": "b.csv", "querycolumn": "job", "template": ""}]
    first, second = Settings.from_mapping({"datapath": entries, "querycolumn": "title", "template": "{x}"}).tables()
    assert (first.datapath, first.querycolumn, first.template) == ("a.csv", "title", "{x}")
    assert (second.datapath, second.querycolumn, second.template) == ("b.csv", "job", "")


def test_what_is_held_out_is_up_to_the_tables():
    entries = ["a.csv", {"path": "b.csv", "testshare": 0.1}]
    some = Settings.from_mapping({"datapath": entries, "validationshare": 0, "testshare": 0})
    assert some.holds_out("test") and not some.holds_out("validation")
    none = Settings.from_mapping({"datapath": [{"path": "a.csv", "testshare": 0}]})
    assert none.holds_out("validation") and not none.holds_out("test")
    assert none.replace(testpath="b.csv").holds_out("test")


def test_paths_in_a_list_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.csv").touch()
    settings = Settings.from_mapping({"datapath": ["jobs.csv", "none.csv"]})
    found = absolute(settings)
    assert found.datapath == f'["{tmp_path}/jobs.csv", "none.csv"]'
    with pytest.raises(InputError, match=r"^datapath none\.csv does not exist"):
        require_tables(found)
    assert without_folders(command(found)) == command(settings)
    assert labels('["x/jobs.csv", "y/jobs.csv", "hf:o/n"]') == ["jobs.csv (1)", "jobs.csv (2)", "hf:o/n"]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "lists no table"),
        (["a", 3], "table 2 is 3; it must be a path"),
        ([{"share": 1}], "table 1 has no path"),
        (["a", {"path": "b", "groupcolum": "x"}], 'table 2 has no setting "groupcolum"; did you mean "groupcolumn"'),
        ([{"path": "a", "share": -1}, {"path": "b", "share": 1}], "table 1 has the share -1; it must be 0 or more"),
        ([{"path": "a", "share": "many"}, "b"], "share is 'many'; it must be a number"),
        ([{"path": "a", "share": 0}, {"path": "b", "share": 0}], "shares of datapath are all 0"),
        ([{"path": "a", "share": 1}, "b"], "only some tables of datapath have a share"),
        (["a.csv", "./a.csv"], r"lists \./a.csv twice with the same columns"),
        ([{"path": "a", "Path": "b"}], "table 1 gives path twice"),
        ("[a.csv, b.csv]", "not a list in JSON"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(entries, said):
    with pytest.raises(InputError, match=rf"^recipe.yaml: .*{said}"):
        Settings.from_mapping({"datapath": entries}, "recipe.yaml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"negatives": "mined"}, "--negatives mined compares rows with documents of all tables"),
        ({"stage": "rerank"}, "--stage rerank compares"),
        ({"mixing": "mean", "bank": 100}, "--bank compares"),
        ({"softgroupcolumn": "isco", "loss": "triplet"}, "--softgroupcolumn weighs the positives of --loss infonce"),
    ],
)
def test_what_cannot_be_done_with_several_tables_or_soft_positives(changes, said):
    with pytest.raises(InputError, match=said):
        check_settings(Settings(datapath=TWO, **changes))


# -- which rows meet -----------------------------------------------------------------------------

TABLE = np.array([0, 1, 0, 0, 1, 0, 0, 1])  # rows 0, 2, 3, 5, 6 and rows 1, 4, 7


def epochs(count: int, **changes) -> list[list[np.ndarray]]:
    """The batches of each epoch."""
    plan = step_plan(**{"rows": 8, "per_step": 2, "epochs": count, "maxsteps": 0, "seed": 3, "table": TABLE} | changes)
    return [plan.epoch(epoch) for epoch in range(count)]


def test_without_shares_each_row_comes_once_and_no_step_mixes_tables():
    one, two = epochs(2, shares=(None, None))
    for batches in (one, two):
        assert sorted(np.concatenate(batches).tolist()) == list(range(8))
        assert sorted((len(batch), *set(TABLE[batch])) for batch in batches) == [(2, 0), (3, 0), (3, 1)]
    assert [batch.tolist() for batch in one] != [batch.tolist() for batch in two]


def test_a_table_goes_on_where_it_stopped_and_begins_again():
    found = epochs(5, shares=(1, 1))  # 4 of 5 rows in each epoch, and 4 of 3
    for batches in found:
        assert np.bincount(TABLE[np.concatenate(batches)]).tolist() == [4, 4]
    counts = np.bincount(np.concatenate([rows for batches in found for rows in batches]))
    assert counts[TABLE == 0].tolist() == [4] * 5  # 20 draws
    assert sorted(counts[TABLE == 1].tolist()) == [6, 7, 7]
    assert {row for batch in epochs(1, shares=(0, 7))[0] for row in batch} == {1, 4, 7}
    few = np.concatenate(epochs(1, shares=(1, 1000))[0])
    assert np.bincount(TABLE[few]).tolist() == [2, 8]  # a batch of one row has no in-batch negatives


def test_a_plan_goes_on_after_any_step():
    plan = step_plan(8, 2, 4, 10, 3, TABLE, (2, 1))
    whole = [(rows.tolist(), ends) for rows, ends in plan.batches()]
    assert plan.per_epoch == 3 and [at for at, (_, ends) in enumerate(whole, 1) if ends] == [3, 6, 9]
    assert len(whole) == plan.total == 10
    assert [(rows.tolist(), ends) for rows, ends in plan.batches(7)] == whole[7:]


def test_a_single_table_comes_in_the_order_it_always_had():
    for epoch in (0, 1):
        order = np.random.default_rng([3, epoch]).permutation(9)
        assert [rows.tolist() for rows in epoch_batches(9, 4, 3, epoch)] == [order[:4].tolist(), order[4:].tolist()]
        plan = step_plan(9, 4, 2, 0, 3, np.zeros(9, int), (5.0,))
        assert [rows.tolist() for rows in plan.epoch(epoch)] == [order[:4].tolist(), order[4:].tolist()]
    with pytest.raises(InputError, match="come from 2 tables, and datapath names 1"):
        step_plan(8, 2, 1, 0, 0, TABLE)


def test_two_halves_train_like_the_whole(tiny_model, jobs):
    names = ["ab"[at % 2] for at in pd.factorize(jobs["group"])[0]]
    groups = [f"{name}: {group}" for name, group in zip(names, jobs["group"], strict=True)]
    halves = jobs.assign(table=pd.Categorical(names), group=groups)
    first, second = (
        pd.DataFrame(run(tiny_model, pairs, loss="infonce", batchsize=6, epochs=3, datapath=place)[1].history)
        for pairs, place in ((halves, '["a", "b"]'), (jobs, "a"))
    )
    assert first["step"].tolist() == second["step"].tolist()
    assert first["loss"][1] == pytest.approx(second["loss"][1], rel=0.1)
    assert first["mrr"].max() == pytest.approx(second["mrr"].max(), abs=0.05)
    assert first["mrr"].max() > first["mrr"][0] + 0.2
