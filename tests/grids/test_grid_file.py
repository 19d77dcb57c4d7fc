"""Grid files become cells."""

from __future__ import annotations

import logging

import pandas as pd
import pytest
from stand_ins import write_grid

from hr_search.base.errors import InputError
from hr_search.grids import grid_file
from hr_search.grids.entries import Range
from hr_search.grids.grid_file import Search, read_grid
from hr_search.settings import FIELDS

SPACE = {"margin": {"low": 0.1, "high": 1.0}}


def test_a_product_runs_all_arms_of_a_seed_before_the_next(tmp_path):
    product = {"loss": ["infonce", "triplet"], "Margin": [0.1, 0.2]}
    found = read_grid(write_grid(tmp_path, name="g", base={"learning_rate": 1e-4}, product=product, seeds=[3, 1]))
    assert found.name == "g" and found.varied == ("loss", "margin", "seed")
    values = [(cell.settings.loss, cell.settings.margin, cell.settings.seed) for cell in found.cells]
    assert values == [
        (loss, margin, seed) for seed in (3, 1) for loss in ("infonce", "triplet") for margin in (0.1, 0.2)
    ]
    assert all(cell.settings.learningrate == 1e-4 and cell.settings.projectname == "g" for cell in found.cells)
    assert len({cell.runid for cell in found.cells}) == 8
    assert all(cell.runid.startswith("g-") for cell in found.cells)


def test_a_list_may_set_different_things_and_repeats_run_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    entries = [{"loss": "infonce"}, {"margin": 0.5}, {"loss": "infonce", "margin": 0.3}]
    found = read_grid(write_grid(tmp_path, base={"datapath": "esco"}, list=entries))
    assert found.name == "tiny" and found.varied == ("loss", "margin")
    # A margin of 0.3 is the default, so the third entry is the first one.
    assert [(cell.settings.loss, cell.settings.margin) for cell in found.cells] == [("infonce", 0.3), ("triplet", 0.5)]
    assert "1 repeated cells" in caplog.text


def test_random_cells_are_the_same_every_time_and_within_bounds(tmp_path):
    spec = {
        "learningrate": {"low": 1e-5, "high": 1e-3, "log": True},
        "batchsize": {"low": 4, "high": 6},
        "maxlength": {"low": 8, "high": 512, "log": True},
        "margin": {"low": 0.1, "high": 0.2},
        "loss": ["infonce", "triplet"],
    }
    path = write_grid(tmp_path, random={"count": 200, "seed": 5, "settings": spec})
    found, again = read_grid(path), read_grid(path)
    assert found == again and len(found.cells) == 200
    drawn = pd.DataFrame([cell.settings.to_dict() for cell in found.cells])
    assert drawn["learningrate"].between(1e-5, 1e-3).all() and 5e-5 < drawn["learningrate"].median() < 2e-4
    assert set(drawn["batchsize"]) == {4, 5, 6} and set(drawn["loss"]) == {"infonce", "triplet"}
    assert drawn["maxlength"].between(8, 512).all() and drawn["margin"].between(0.1, 0.2).all()
    other = read_grid(write_grid(tmp_path, random={"count": 200, "seed": 6, "settings": spec}))
    assert {cell.runid for cell in other.cells}.isdisjoint(cell.runid for cell in found.cells)


def test_base_is_laid_over_the_recipe_whose_model_is_not_kept(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("loss: infonce\nmargin: 0.7\noutputpath: somewhere\nprojectname: other\n")
    found = read_grid(write_grid(tmp_path, recipe=str(recipe), base={"margin": 0.9}, product={"seed": [1]}))
    settings = found.cells[0].settings
    assert (settings.loss, settings.margin, settings.outputpath, settings.projectname) == ("infonce", 0.9, "", "tiny")


def test_run_ids_depend_on_what_a_cell_does_and_nothing_else(tmp_path):
    def runid(**values) -> str:
        return read_grid(write_grid(tmp_path, **values)).cells[0].runid

    plain = runid(base={"loss": "infonce"}, product={"margin": [0.2]})
    assert plain == runid(product={"margin": ["0.2"], "loss": ["infonce"]}, seeds=[FIELDS["seed"].default])
    assert plain == runid(base={"batchsize": FIELDS["batchsize"].default, "margin": 0.2}, list=[{"loss": "infonce"}])
    assert plain != runid(base={"loss": "infonce"}, product={"margin": [0.21]})
    assert plain != runid(name="other", base={"loss": "infonce"}, product={"margin": [0.2]})


def test_a_text_takes_the_seed_of_its_cell_and_templates_keep_their_braces(tmp_path):
    base = {"modelname": "models/{seed}/m-{seed}", "template": "{title} {seed}"}
    found = read_grid(write_grid(tmp_path, base=base, product={"testpath": ["", "{seed}.csv"]}, seeds=[3, 1]))
    values = [(cell.settings.seed, cell.settings.modelname, cell.settings.testpath) for cell in found.cells]
    assert values == [(seed, f"models/{seed}/m-{seed}", path) for seed in (3, 1) for path in ("", f"{seed}.csv")]
    assert {cell.settings.template for cell in found.cells} == {"{title} {seed}"}
    assert found.cells[1].written == {"modelname": base["modelname"], "testpath": "{seed}.csv"}
    default = read_grid(write_grid(tmp_path, base={"modelname": "m-{seed}"}, product={"margin": [0.1]}))
    assert default.cells[0].settings.modelname == f"m-{FIELDS['seed'].default}"


def test_tables_with_settings_of_their_own_are_a_datapath_of_cells(tmp_path):
    tables = ["a-{seed}.csv", {"path": "b.csv", "template": "{title}"}]
    (cell,) = read_grid(write_grid(tmp_path, base={"datapath": tables}, list=[{"seed": 7}])).cells
    assert [each.datapath for each in cell.settings.tables()] == ["a-7.csv", "b.csv"]
    assert cell.settings.tables()[1].template == "{title}"


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"prodcut": {"loss": ["infonce"]}}, 'did you mean "product"'),
        ({"base": {"loss": "infonce"}}, "no cells"),
        ({"product": {"loss": ["infonce"]}, "list": [{"loss": "triplet"}]}, "product and list"),
        ({"product": {"lerningrate": [1e-4]}}, 'did you mean "learningrate"'),
        ({"base": {"los": "infonce"}, "product": {"margin": [0.1]}}, 'base has no setting "los"'),
        ({"product": {"loss": ["infonse"]}}, 'did you mean "infonce"'),
        ({"product": {"margin": [0.1, 5]}}, "between 0 and 2"),
        ({"product": {"margin": 0.1}}, "list of values"),
        ({"product": {"margin": []}}, "list of values"),
        ({"product": {}}, "setting: value"),
        ({"product": [0.1]}, "setting: value"),
        ({"product": {"batchsize": list(range(1, 201)), "maxsteps": list(range(200))}}, "40,000 combinations"),
        ({"product": {"margin": [0.1], "Margin": [0.2]}}, "margin twice"),
        ({"product": {"outputpath": ["a", "b"]}}, "outputpath, which a grid decides"),
        ({"base": {"projectname": "x"}, "product": {"margin": [0.1]}}, "projectname, which a grid decides"),
        ({"base": [1], "product": {"margin": [0.1]}}, "base must be lines"),
        ({"list": []}, "list of settings"),
        ({"list": [{"margin": 0.1}, 3]}, "entry 2"),
        ({"list": [{}]}, "entry 1"),
        ({"product": {"seed": [1]}, "seeds": [1]}, "seeds and also product of seed"),
        ({"product": {"margin": [0.1]}, "seeds": 3}, "list of values"),
        ({"product": {"margin": [0.1]}, "seeds": [-1]}, "seed is -1"),
        ({"product": {"batchsize": list(range(1, 6001))}, "seeds": [1, 2]}, "12,000 cells"),
        ({"random": {"settings": {"margin": [0.1]}}}, "no count"),
        ({"random": {"count": 0, "settings": {"margin": [0.1]}}}, "between 1 and"),
        ({"random": {"count": 2, "seeds": 1, "settings": {"margin": [0.1]}}}, 'did you mean "seed"'),
        ({"random": {"count": 2, "settings": {"loss": {"low": 1, "high": 2}}}}, "loss needs a list"),
        ({"random": {"count": 2, "settings": {"margin": {"low": 1}}}}, "low and high"),
        ({"random": {"count": 2, "settings": {"margin": {"low": 0.5, "high": 0.1}}}}, "low must be below high"),
        ({"random": {"count": 2, "settings": {"margin": {"low": 0, "high": 1, "log": True}}}}, "above 0 for log"),
        ({"random": {"count": 2, "settings": {"margin": {"low": 0, "high": 9}}}}, "between 0 and 2"),
        ({"random": {"count": 2, "settings": {"margin": 0.1}}}, "must be lines"),
        ({"random": 5}, "must be lines"),
        ({"name": "a/b", "product": {"margin": [0.1]}}, "run id"),
        ({"base": {"modelname": "m-{sed}"}, "product": {"margin": [0.1]}}, r"modelname is 'm-\{sed\}'; only \{seed\}"),
        ({"product": {"modelname": ["{seed}/{}"]}, "seeds": [1]}, r"so take \{\} out"),
        ({"recipe": "nowhere.yaml", "product": {"margin": [0.1]}}, "does not exist"),
        ({"optuna": 40}, "must be lines of `name: value` with the names trials, space"),
        ({"optuna": {"space": SPACE}}, "optuna has no trials"),
        ({"optuna": {"trials": 3}}, "optuna has no space"),
        ({"optuna": {"trials": 3, "space": SPACE, "sampler": "tpe"}}, 'optuna has no key "sampler"'),
        ({"optuna": {"trials": 0, "space": SPACE}}, "trials is 0; it must be between 1 and"),
        ({"optuna": {"trials": 3, "startup": 0, "space": SPACE}}, "startup is 0"),
        ({"optuna": {"trials": "many", "space": SPACE}}, "trials is 'many'; it must be a whole number"),
        ({"optuna": {"trials": 3, "pruner": "medain", "space": SPACE}}, 'pruner is \'medain\'; did you mean "median"'),
        ({"optuna": {"trials": 3, "seed": -1, "space": SPACE}}, "seed is -1"),
        ({"optuna": {"trials": 3, "space": {}}}, "space must be lines of `setting: value`"),
        ({"optuna": {"trials": 3, "space": {"marg": SPACE["margin"]}}}, 'did you mean "margin"'),
        ({"optuna": {"trials": 3, "space": {"margin": {"low": 0.1, "high": 3}}}}, "margin is 3; it must be between 0 and 2"),
        ({"optuna": {"trials": 3, "space": {"margin": {"low": 0.1, "hihg": 1}}}}, 'did you mean "high"'),
        ({"optuna": {"trials": 3, "space": {"margin": {"low": 0, "high": 1, "log": True}}}}, "above 0 for log"),
        ({"optuna": {"trials": 3, "space": {"margin": {"low": 0, "high": 1, "step": 0.3}}}}, "the step 0.3; take one that"),
        ({"optuna": {"trials": 3, "space": {"margin": {"low": 0, "high": 1, "step": 2}}}}, "the step 2; take one that"),
        ({"optuna": {"trials": 3, "space": {"margin": {"low": 0.1, "high": 1, "step": 0.1, "log": True}}}}, "leave out one"),
        ({"optuna": {"trials": 3, "space": {"batchsize": {"low": 8, "high": 16, "step": 0.5}}}}, "step is 0.5; it must be a whole"),
        ({"optuna": {"trials": 3, "space": {"loss": {"choices": ["infonse"]}}}}, 'did you mean "infonce"'),
        ({"optuna": {"trials": 3, "space": {"loss": {"choices": ["infonce"], "low": 1}}}}, "has choices and low; keep one"),
        ({"optuna": {"trials": 3, "space": {"loss": {"low": 1, "high": 2}}}}, "loss needs a list"),
        ({"optuna": {"trials": 3, "space": {"goal": ["mrr", "map"]}}}, "varies goal, so that its trials could not be compared"),
        ({"optuna": {"trials": 3, "space": {"stream": [True, False]}}}, "varies stream, so that its trials could not be"),
        ({"optuna": {"trials": 3, "space": SPACE}, "seeds": [1, 2]}, "gives seeds, but a search has one run a trial"),
        ({"optuna": {"trials": 3, "space": SPACE}, "base": {"stage": "search"}}, "use the verb tune"),
        ({"optuna": {"trials": 3, "space": SPACE}, "base": {"validationshare": 0}}, "no validation rows to judge trials by"),
        ({"optuna": {"trials": 3, "space": SPACE}, "base": {"datapath": [{"path": "a.csv", "validationshare": 0}]}}, "no validation rows"),
        ({"optuna": {"trials": 3, "space": SPACE}, "list": [{"margin": 0.1}]}, "list and optuna"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_one_sentence(tmp_path, values, part):
    with pytest.raises(InputError, match=part) as caught:
        read_grid(write_grid(tmp_path, **values))
    assert "\n" not in str(caught.value)


def test_a_search_has_ranges_and_lists_and_no_cells_yet(tmp_path):
    space = {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "batchsize": {"low": 8, "high": 32, "step": 8}}
    space |= {"loss": {"choices": ["infonce", "triplet"]}, "symmetric": [True, False]}
    options = {"trials": "40", "space": space, "seed": 7}
    found = read_grid(write_grid(tmp_path, base={"maxsteps": 5}, optuna=options))
    assert found.cells == () and found.varied == ("learningrate", "batchsize", "loss", "symmetric")
    expected = {"learningrate": Range(1e-5, 1e-3, True), "batchsize": Range(8, 32, False, 8)}
    expected |= {"loss": ["infonce", "triplet"], "symmetric": [True, False]}
    assert found.search == Search(40, expected, {"maxsteps": 5, "projectname": "tiny"}, "median", 10, 7, "")


@pytest.mark.parametrize("path", sorted(grid_file.source_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_the_grids_of_the_checkout_compare_arms_of_one_budget(path):
    found = read_grid(path)
    assert found.name == path.stem
    if found.search:  # its cells are drawn as it goes
        return
    assert len({cell.settings.batchsize * cell.settings.maxsteps for cell in found.cells}) == 1
    assert (
        len({(cell.settings.datapath, cell.settings.testshare, cell.settings.maxlength) for cell in found.cells}) == 1
    )
    if path.stem != "smoke":
        assert len({cell.settings.seed for cell in found.cells}) >= 3
        trained = {cell.settings.patience for cell in found.cells if cell.settings.stage != "search"}
        assert trained <= {0}
