"""Tables over finished grids: values, paired effects, intervals over seeds and queries, marginals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.evaluation.comparison import per_query
from hr_search.evaluation.significance import paired_comparison
from hr_search.grids import grid_file, runner
from hr_search.grids.arms import arm_name, arm_table, direction_of, usual_values, without_folders
from hr_search.grids.effects import best_sentence, effect_table, marginal, settings_of
from hr_search.runs.folders import Run


def finish(cell: grid_file.Cell, scores: np.ndarray, names: list[str], **more) -> Run:
    """A finished run with these reciprocal ranks of its test queries."""
    run, settings = Run(paths.runs() / cell.runid), cell.settings
    files.write_json(run.folder / "config.json", settings.to_dict())
    files.write_json(run.folder / "environment.json", {"processes": more.pop("processes", 1)})
    data = {"name": settings.datapath, "fingerprint": f"seed{settings.seed}"} | more.pop("data", {})
    command = f"python3 train.py --datapath=/home/me/my.csv --seed={settings.seed}"
    times = {"seconds": 9.0, "training_seconds": 5.0 + settings.margin, "steps": 10, "best_step": 5}
    table = pd.DataFrame(
        {"query": names, "group": more.pop("groups", names), "relevant": 1, "rank": 1, "found": "[]", "expected": "[]"}
    )
    parts = [
        table.assign(**{"mrr": scores + shift + more_back, "ndcg@10": scores, "system": system, "direction": direction})
        for system, shift in (("trained", 0.0), ("base", -9.0))
        for direction, more_back in (("q2d", 0), ("d2q", 0.01))
    ]
    run.write("queries", pd.concat(parts))
    files.write_json(run.folder / "summary.json", {**times, "data": data, "command": command, **more})
    return run


def make(tmp_path: Path, values: dict, score, **more) -> grid_file.Grid:
    """A grid whose cells are finished with `score(settings)`, a pair of (Q,) values and query names; None = not finished."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    found = grid_file.read_grid(path)
    for cell in found.cells:
        result = score(cell.settings)
        if result is not None:
            finish(cell, *result, **{key: value(cell.settings) for key, value in more.items()})
    runner.write_cells(found, runner.known_outcomes(found))
    return found


QUERIES = [f"query {number}" for number in range(60)]


def noisy(settings, gain: dict) -> tuple[np.ndarray, list[str]]:
    random = np.random.default_rng([settings.seed, int(settings.margin * 10), settings.loss == "infonce"])
    common = np.random.default_rng(9).uniform(0.3, 0.6, 60)
    return common + gain.get(settings.margin, 0) + random.normal(0, 0.05, 60), QUERIES


VALUES = {"product": {"margin": [0.1, 0.2, 0.5]}, "seeds": [1, 2, 3]}


@pytest.fixture
def table(home, tmp_path) -> pd.DataFrame:
    make(tmp_path, VALUES, lambda settings: noisy(settings, {0.5: 0.1}))
    return arm_table("tiny")


def test_arms_are_read_from_their_runs(table):
    assert len(table) == 9 and list(dict.fromkeys(table["arm"])) == ["margin=0.1", "margin=0.2", "margin=0.5"]
    assert (table["rows"] == 10 * 32).all() and set(table["seconds"]) == {5.1, 5.2, 5.5}
    assert table["seed"].tolist() == [1, 2, 3] * 3


def test_a_real_gain_is_found_and_a_chance_one_is_not(table):
    effects = effect_table(table)
    assert effects["arm"][0] == "margin=0.5"
    by_arm = effects.set_index("arm")
    assert by_arm["verdict"]["margin=0.1"] == "the baseline" and np.isnan(by_arm["difference"]["margin=0.1"])
    best, other = by_arm.loc["margin=0.5"], by_arm.loc["margin=0.2"]
    assert best["low"] < 0.1 < best["high"] and best["low"] > 0.05 and best["p_holm"] <= 0.001
    assert best["verdict"].startswith("margin=0.5 is better than margin=0.1 in MRR")
    assert other["low"] < 0 < other["high"] and other["p_holm"] > 0.05
    assert "no difference" in other["verdict"]
    assert (by_arm["seeds"] == 3).all() and (by_arm["budget"] == "same").all()
    assert by_arm["seconds"].to_dict() == pytest.approx({"margin=0.1": 5.1, "margin=0.2": 5.2, "margin=0.5": 5.5})
    assert ((by_arm["value_low"] < by_arm["value"]) & (by_arm["value"] < by_arm["value_high"])).all()
    pd.testing.assert_frame_equal(effects, effect_table(table))


def test_differences_are_those_of_the_mean_over_seeds_and_queries(table):
    effects = effect_table(table).set_index("arm")
    scores = {
        name: np.array([per_query(Run(paths.runs() / run), "trained", "q2d")["mrr"] for run in part["run"]])
        for name, part in table.groupby("arm")
    }
    shift = (scores["margin=0.5"] - scores["margin=0.1"]).mean(axis=0)
    assert effects["difference"]["margin=0.5"] == pytest.approx(shift.mean())
    assert effects["value"]["margin=0.2"] == pytest.approx(scores["margin=0.2"].mean())
    plain = paired_comparison(scores["margin=0.1"].mean(axis=0), scores["margin=0.5"].mean(axis=0), 0)
    assert effects["p"]["margin=0.5"] == plain["p"] and effects["effect"]["margin=0.5"] == pytest.approx(
        plain["effect"]
    )
    other = effect_table(table, baseline="margin=0.5").set_index("arm")
    assert other["difference"]["margin=0.1"] == pytest.approx(-effects["difference"]["margin=0.5"])


def test_effects_draw_and_flip_whole_groups(home, tmp_path):
    groups = [str(number // 5) for number in range(60)]
    found = []
    for own in (QUERIES, groups):
        make(tmp_path, VALUES, lambda s: noisy(s, {0.5: 0.01}), groups=lambda s, own=own: own)
        found.append(effect_table(arm_table("tiny")).set_index("arm").loc["margin=0.5"])
    plain, grouped = found
    assert grouped["difference"] == plain["difference"] and grouped["effect"] == plain["effect"]
    runs = arm_table("tiny").query("arm in ('margin=0.1', 'margin=0.5')")["run"]
    values = [per_query(Run(paths.runs() / run), "trained", "q2d")["mrr"].to_numpy() for run in runs]
    before, after = np.mean(values[:3], axis=0), np.mean(values[3:], axis=0)
    assert grouped["p"] == pytest.approx(paired_comparison(before, after, 0, groups=groups)["p"], abs=0.02)
    assert plain["p"] == pytest.approx(paired_comparison(before, after, 0)["p"], abs=0.02)
    assert abs(grouped["p"] - plain["p"]) > 0.05 and abs(grouped["low"] - plain["low"]) > 1e-4


def test_holm_corrects_over_the_arms(table):
    effects = effect_table(table).set_index("arm").drop("margin=0.1")
    p = effects["p"].sort_values()
    assert effects["p_holm"][p.index[0]] == pytest.approx(2 * p.iloc[0])
    assert effects["p_holm"][p.index[1]] == pytest.approx(max(p.iloc[1], 2 * p.iloc[0]))


def test_splits_that_differ_by_seed_are_paired_within_the_seed(home, tmp_path):
    def score(settings):
        chosen = np.random.default_rng(settings.seed).permutation(60)[: 20 + 10 * settings.seed]
        values, _ = noisy(settings, {0.2: 0.2})
        return values[chosen], [QUERIES[index] for index in chosen]

    make(tmp_path, VALUES, score)
    effects = effect_table(arm_table("tiny")).set_index("arm")
    row = effects.loc["margin=0.2"]
    assert row["difference"] == pytest.approx(0.2, abs=0.03) and row["p"] < 0.001 and row["low"] < 0.2 < row["high"]


def test_seeds_that_failed_are_left_out_on_both_sides(home, tmp_path):
    def score(settings):
        missing = {(1, 0.1), (2, 0.2), (1, 0.5), (2, 0.5)}
        if (settings.seed, settings.margin) in missing or (settings.seed == 3 and settings.margin == 0.5):
            return None
        return np.full(60, settings.margin * settings.seed), QUERIES

    make(tmp_path, VALUES, score)
    effects = effect_table(arm_table("tiny")).set_index("arm")
    assert effects["verdict"]["margin=0.1"] == "the baseline" and set(effects.index) == {"margin=0.1", "margin=0.2"}
    # margin 0.1 has the seeds 2 and 3, margin 0.2 has 1 and 3: they share the third.
    assert effects["difference"]["margin=0.2"] == pytest.approx(0.3)
    assert effects["seeds"].to_dict() == {"margin=0.1": 2, "margin=0.2": 2}


def test_arms_without_a_common_seed_are_not_compared(home, tmp_path):
    entries = [{"margin": 0.1, "seed": 1}, {"margin": 0.2, "seed": 2}]
    make(tmp_path, {"list": entries}, lambda settings: (np.linspace(0, 1, 60), QUERIES))
    effects = effect_table(arm_table("tiny"))
    assert effects["difference"].isna().all() and effects["verdict"].str.contains("shares no seed").sum() == 1


def test_a_path_with_the_seed_in_it_is_one_arm_over_all_seeds(home, tmp_path):
    product = {"modelname": ["a-{seed}", "b-{seed}"]}
    values = {"base": {"stage": "search"}, "product": product, "seeds": [1, 2]}
    nothing = {"steps": lambda settings: 0, "training_seconds": lambda settings: 0}
    shift = {"a": 0, "b": 0.1}
    make(tmp_path, values, lambda settings: (np.full(60, 0.5 + shift[settings.modelname[0]]), QUERIES), **nothing)
    effects = effect_table(arm_table("tiny")).set_index("arm")
    assert effects["seeds"].to_dict() == {"modelname=b-{seed}": 2, "modelname=a-{seed}": 2}
    assert effects["difference"]["modelname=b-{seed}"] == pytest.approx(0.1)
    assert "over 2 seeds; picking" in best_sentence(effects.reset_index(), "mrr")


def test_another_budget_is_reported(home, tmp_path):
    entries = [{"batchsize": 16}, {"batchsize": 32}]
    steps = {"steps": lambda settings: 20, "processes": lambda settings: 2}
    make(tmp_path, {"list": entries}, lambda settings: (np.linspace(0, 1, 60), QUERIES), **steps)
    effects = effect_table(arm_table("tiny"), baseline="batchsize=16").set_index("arm")
    assert effects["budget"].to_dict() == {"batchsize=16": "same", "batchsize=32": "1,280 rows against 640"}


def test_other_data_and_other_rows_are_refused(home, tmp_path):
    data = {"data": lambda settings: {"fingerprint": f"print{settings.margin}"}}
    make(tmp_path, VALUES, lambda settings: (np.zeros(60), QUERIES), **data)
    with pytest.raises(InputError, match="have different data"):
        effect_table(arm_table("tiny"))
    make(tmp_path, VALUES, lambda settings: (np.zeros(3), ["a", "b", str(settings.margin)]))
    with pytest.raises(InputError, match="tested on different rows"):
        effect_table(arm_table("tiny"))


def test_arms_may_see_more_or_fewer_rows_of_the_same_data(home, tmp_path):
    entries = [{"maxrows": 10}, {"maxrows": 20, "epochs": 2}]
    data = {"data": lambda settings: {"fingerprint": f"print{settings.maxrows}"}}
    make(tmp_path, {"list": entries, "seeds": [1, 2]}, lambda settings: (np.linspace(0, 1, 60), QUERIES), **data)
    assert effect_table(arm_table("tiny"))["difference"].notna().sum() == 1
    data = {"data": lambda settings: {"fingerprint": f"print{settings.epochs}"}}
    entries = [{"maxrows": 10}, {"maxrows": 10, "epochs": 2}]
    make(tmp_path, {"list": entries, "seeds": [1, 2]}, lambda settings: (np.linspace(0, 1, 60), QUERIES), **data)
    with pytest.raises(InputError, match="have different data"):
        effect_table(arm_table("tiny"))


def test_every_arm_has_its_start_and_the_command_that_repeats_it(table):
    effects = effect_table(table, "d2q")
    assert np.allclose(effects["value"] - effects["base"], 9) and (effects["best_step"] == 5).all()
    assert (effects["command"] == "python3 train.py --datapath=my.csv --seed=1").all()
    assert (effects["direction"] == "d2q").all() and (effects["metric"] == "mrr").all()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train.py --datapath=/a/b.csv --margin=0.1", "train.py --datapath=b.csv --margin=0.1"),
        ("train.py '--datapath=/a b/c d.csv'", "train.py '--datapath=c d.csv'"),
        (
            "train.py --datapath=data/b.csv --template='{a} / {b}'",
            "train.py --datapath=data/b.csv '--template={a} / {b}'",
        ),
    ],
)
def test_a_command_loses_the_folders_of_a_machine(command, said):
    assert without_folders(command) == said


def test_wrong_names_are_refused(table):
    for words, part in (
        ({"metric": "mr"}, 'did you mean "mrr"'),
        ({"direction": "q2q"}, 'did you mean "q2d"'),
        ({"baseline": "margin=0.15"}, 'did you mean "margin='),
    ):
        with pytest.raises(InputError, match=part):
            effect_table(table, **words)
    with pytest.raises(InputError, match="does not vary"):
        marginal(effect_table(table), "loss")


@pytest.mark.parametrize(("direction", "more"), [("q2d", 0.0), ("d2q", 0.01)])
def test_a_grid_is_judged_in_its_own_direction(home, tmp_path, direction, more):
    values = VALUES | {"base": {"direction": direction}}
    make(tmp_path, values, lambda settings: (np.full(60, settings.margin), QUERIES))
    cells = arm_table("tiny")
    assert direction_of(cells) == direction
    assert sorted(effect_table(cells)["value"]) == pytest.approx([0.1 + more, 0.2 + more, 0.5 + more])
    assert sorted(effect_table(cells, "q2d")["value"]) == pytest.approx([0.1, 0.2, 0.5])


def test_unfinished_and_lost_grids_are_refused(home, tmp_path):
    found = make(tmp_path, VALUES, lambda settings: None)
    with pytest.raises(InputError, match="no finished cell yet"):
        arm_table("tiny")
    make(tmp_path, VALUES, lambda settings: (np.zeros(3), ["a", "b", "c"]))
    (paths.runs() / found.cells[0].runid / "summary.json").unlink()
    with pytest.raises(InputError, match="is gone; start the grid again"):
        arm_table("tiny")


def test_marginals_and_the_best_arm(home, tmp_path):
    values = {"product": {"loss": ["infonce", "triplet"], "margin": [0.1, 0.2]}, "seeds": [1, 2]}
    levels = {("infonce", 0.1): 0.5, ("infonce", 0.2): 0.7, ("triplet", 0.1): 0.55, ("triplet", 0.2): 0.6}
    make(tmp_path, values, lambda s: (np.full(60, levels[s.loss, s.margin]), QUERIES))
    effects = effect_table(arm_table("tiny"))
    assert settings_of(effects) == ["loss", "margin"]
    margins = marginal(effects, "margin")
    assert margins["margin"].tolist() == [0.2, 0.1] and margins["mean"].tolist() == pytest.approx([0.65, 0.525])
    assert margins["best"].tolist() == pytest.approx([0.7, 0.55])
    assert margins["arm"].tolist() == ["loss=infonce, margin=0.2", "loss=triplet, margin=0.1"]
    sentence = best_sentence(effects, "mrr")
    assert "loss=infonce, margin=0.2 with mrr 0.700 [0.700, 0.700] over 2 seeds, 5 s" in sentence


def test_names_leave_out_what_is_usual():
    arms = pd.DataFrame({"loss": ["a", "a", "a", "b"], "margin": [0.1, 0.2, 0.30000001, 0.1]})
    assert usual_values(arms) == {"loss": "a"}
    even = pd.DataFrame({"loss": list("aaabb"), "negatives": list("xyzyz")})  # three of five: a name has to say which
    assert usual_values(even) == {}
    assert arm_name({"loss": "b", "margin": 0.1}, {"loss": "a"}) == "loss=b, margin=0.1"
    assert arm_name({"loss": "a", "margin": 0.3}, {"loss": "a", "margin": 0.3}) == "loss=a, margin=0.3"
    assert arm_name({}) == "all"


def test_a_grid_to_read_is_named_or_the_newest_with_a_result(home, tmp_path):
    make(tmp_path, {"name": "old", **VALUES}, lambda settings: (np.zeros(3), ["a", "b", "c"]))
    make(tmp_path, {"name": "empty", **VALUES}, lambda settings: None)
    assert runner.open_or_smoke() == "old" and runner.open_or_smoke("empty") == "empty"
    with pytest.raises(InputError, match="no grid emtpy"):
        runner.open_or_smoke("emtpy")


def test_the_page_of_a_grid(table, home):
    page = runner.write_page("tiny")
    text = page.read_text(encoding="utf-8")
    assert page == home / "reports" / "tiny" / "05_ablations.html"
    assert "margin=0.5 is better than margin=0.1 in MRR" in text and text.count("<img") >= 3
    written = pd.read_csv(paths.metrics() / "grids" / "tiny" / "effects.csv")
    pd.testing.assert_frame_equal(written, effect_table(table), rtol=1e-6, check_dtype=False)
