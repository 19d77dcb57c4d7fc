"""`tune` and the stages of `evaluate` as a user meets them: what is chosen is kept, used by default, and refused whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import JOBS

from hr_search.base.errors import InputError
from hr_search.commands import parser, tuning
from hr_search.data.loading import load_data
from hr_search.encoder import load_encoder
from hr_search.search.memory import FOLDER, open_memory
from hr_search.search.policy import FILE, SearchPolicy, read_policies, write_policies
from hr_search.settings import FIELDS, Settings

SHARES = ["--validationshare", "0.3", "--testshare", "0.2"]


@pytest.fixture
def model(tmp_path, tiny_model):
    """A model's folder of one's own."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def others(tmp_path):
    """A table of pairs that has none of the jobs' texts."""
    rows = [{"query": f"senior {title}", "positive": f"{text} with care"} for title, text in JOBS.items()]
    pd.DataFrame(rows).to_csv(tmp_path / "others.csv", index=False)
    return tmp_path / "others.csv"


@pytest.fixture
def tuned(home, model, jobs_file):
    """A model with a memory and a policy of both directions."""
    assert parser.main(["tune", "--model", str(model), "--datapath", str(jobs_file), *SHARES]) == 0
    write_policies(model, {name: SearchPolicy(True, "both", k=3, fusion=0.2) for name in ("q2d", "d2q")})
    return model


def evaluated(capsys, *words) -> dict:
    """The JSON of an `evaluate`."""
    capsys.readouterr()
    assert parser.main(["evaluate", "--json", "--nofloors", *map(str, words)]) == 0

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def refused(capsys, *words) -> str:
    """The one sentence of a command line that is refused."""
    capsys.readouterr()
    assert parser.main([*map(str, words)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hr_search: ")]
    assert len(lines) == 1
    return lines[0]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tune_keeps_memory_and_knobs_beside_the_model(home, model, jobs_file, capsys):
    before = content(model)
    assert parser.main(["tune", "--model", str(model), "--datapath", str(jobs_file), *SHARES]) == 0
    shown = capsys.readouterr().out
    assert all(
        word in shown for word in ("centring", "mixing", "words", "q2d, mrr on", "d2q, mrr on", str(model / FILE))
    )
    assert set(read_policies(model)) == {"q2d", "d2q"}
    assert {name: data for name, data in content(model).items() if name in before} == before
    data = load_data(Settings(datapath=str(jobs_file), validationshare=0.3, testshare=0.2))
    manifest = json.loads((model / FOLDER / "memory.json").read_text())
    assert manifest["document"] == data.train["positive"].nunique()


def test_tune_prints_json_and_fits_one_direction(home, model, jobs_file, capsys):
    write_policies(model, {"q2d": SearchPolicy(fusion=0.123)})
    words = ["tune", "--model", str(model), "--datapath", str(jobs_file), *SHARES, "--json", "--direction", "d2q"]
    assert parser.main(words) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert list(found) == ["d2q"] and SearchPolicy.from_dict(found["d2q"]["policy"]) == read_policies(model)["d2q"]
    assert [step["stage"] for step in found["d2q"]["steps"]] == ["centring", "mixing", "words"]
    assert read_policies(model)["q2d"].fusion == 0.123


def test_out_is_a_whole_copy_that_evaluate_can_use(home, tmp_path, tiny_model, jobs_file, capsys):
    out = tmp_path / "out"
    words = ["--datapath", str(jobs_file), *SHARES, "--out", str(out), "--maxlength", "24", "--condense", "40"]
    assert parser.main(["tune", "--model", str(tiny_model), *words]) == 0
    assert not (tiny_model / FILE).exists() and not (tiny_model / FOLDER).exists()
    encoder = load_encoder(str(out))
    assert encoder.maxlength == 24 and encoder.condenser.characters == 40
    write_policies(out, {"q2d": SearchPolicy(mixing="both", k=3)})
    found = evaluated(capsys, "--model", out, "--datapath", jobs_file, "--split", "test", *SHARES)
    assert {"+ mixing", "stages", str(out)} == set(found)


def test_a_copy_made_anew_keeps_the_other_direction_unless_it_is_of_another_model(home, tmp_path, model, jobs_file):
    out = tmp_path / "out"
    words = ["tune", "--model", str(model), "--datapath", str(jobs_file), *SHARES, "--out", str(out), "--direction"]
    for direction in ("q2d", "d2q"):
        assert parser.main([*words, direction]) == 0
        write_policies(out, {direction: SearchPolicy(fusion=0.123)})
    assert read_policies(out)["q2d"].fusion == 0.123
    assert parser.main([*words, "d2q", "--maxlength", "24"]) == 0
    assert list(read_policies(out)) == ["d2q"]


def test_out_keeps_the_card(home, tmp_path, model, jobs_file):
    (model / "README.md").write_text("how it was trained")
    out = tmp_path / "out"
    assert parser.main(["tune", "--model", str(model), "--datapath", str(jobs_file), *SHARES, "--out", str(out)]) == 0
    assert (out / "README.md").read_text() == "how it was trained" and (out / FILE).is_file()


def test_evaluate_uses_what_was_chosen_unless_it_is_plain(tuned, jobs_file, capsys):
    held = ["--model", tuned, "--datapath", jobs_file, "--split", "test", *SHARES]
    found = evaluated(capsys, *held)
    assert set(found) == {str(tuned), "+ centring", "+ mixing", "+ words", "stages"}
    stages = found["stages"]["d2q"]
    assert [row["stage"] for row in stages] == ["cosine", "+ centring", "+ mixing", "+ words"]
    assert "gain" not in stages[0] and all(row["gain_low"] <= row["gain"] <= row["gain_high"] for row in stages[1:])
    plain = evaluated(capsys, *held, "--plain")
    assert set(plain) == {str(tuned)} and plain[str(tuned)] == found[str(tuned)]
    assert set(evaluated(capsys, *held, "--fusion", "0", "--centre", "no")) == {str(tuned), "+ mixing", "stages"}
    assert set(evaluated(capsys, *held, "--plain", "--fusion", "1", "--words", "bm25")) == {
        str(tuned), "+ words", "stages",
    }  # fmt: skip
    assert parser.main(["evaluate", *map(str, held)]) == 0
    shown = capsys.readouterr().out
    assert "q2d: mrr with each stage added" in shown and "NaN" not in shown


def test_a_memory_by_hand_needs_no_tune(home, tiny_model, jobs_file, others, capsys):
    words = ["--model", tiny_model, "--datapath", jobs_file, "--memory", others]
    assert "+ mixing" in evaluated(capsys, *words, "--searchmixing", "documents", "--k", "3")
    assert "+ centring" in evaluated(capsys, *words, "--centre")
    assert "+ words" in evaluated(capsys, *words, "--fusion", "0.2")


def test_the_memory_is_read_with_the_columns_that_are_given(home, tmp_path, tiny_model, jobs_file, others, capsys):
    names = {"query": "a", "positive": "b"}
    for place in (jobs_file, others):
        pd.read_csv(place).rename(columns=names).assign(c=1).to_csv(tmp_path / f"named_{place.name}", index=False)
    columns = ["--querycolumn", "a", "--positivecolumn", "b"]
    words = ["--model", tiny_model, "--datapath", tmp_path / "named_jobs.csv", "--centre", *columns]
    assert "+ centring" in evaluated(capsys, *words, "--memory", tmp_path / "named_others.csv")
    said = refused(capsys, "evaluate", *words, "--memory", others)
    assert "others.csv" in said and 'no column "a"' in said


def test_rows_of_the_test_are_refused_in_a_memory_unless_left_out(tuned, jobs_file, capsys):
    words = ["evaluate", "--model", tuned, "--datapath", jobs_file]
    said = refused(capsys, *words)
    assert "documents that are searched" in said and "--split test" in said and "--leaveout" in said
    assert "+ mixing" in evaluated(capsys, *words[1:], "--leaveout")
    assert "+ words" in evaluated(capsys, *words[1:], "--searchmixing", "none")  # which gives nothing away
    said = refused(capsys, *words, "--leaveout", "--searchmixing", "none")
    assert "--leaveout is for mixing, and nothing is mixed; give --searchmixing as well" in said


def test_tune_reads_the_settings_that_decide_the_split():
    """The same flags give the same rows in `train` and `tune`: every setting that loading reads is a flag of both."""
    read, weights = set(), {"gradecolumn", "softgroupcolumn"}  # of rows in the loss: they decide none

    class Watched:
        def tables(self):
            return [self]

        def __getattr__(self, name):
            read.add(name)
            return getattr(Settings(datapath="sample_ru"), name)

    load_data(Watched())
    assert read > weights and read - weights <= set(tuning.TUNED) <= set(FIELDS)


def test_a_recipe_counts_like_its_flags(home, tmp_path, model, jobs_file, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"datapath: {jobs_file}\nvalidationshare: 0.3\ntestshare: 0.2\nloss: infonce\nepochs: 2\nmaxlength: 64\n"
    )
    words = ["tune", "--model", str(model), "--json"]
    assert parser.main([*words, "--recipe", str(recipe)]) == 0
    first = json.loads(capsys.readouterr().out)
    assert parser.main([*words, "--datapath", str(jobs_file), *SHARES]) == 0
    assert json.loads(capsys.readouterr().out) == first


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fusion", "1.5"], "fusion is 1.5; it must be between 0 and 1"),
        (["--fusion", "nan"], "between 0 and 1"),
        (["--fusion", "much"], "--fusion is 'much'; it must be a number"),
        (["--searchmixing", "both", "--k", "2.5"], "--k is '2.5'; it must be a whole number"),
        (["--centre", "perhaps"], "--centre is 'perhaps'; it must be true or false"),
        (["--searchmixing", "document"], 'did you mean "documents"'),
        (["--fusion", "0.1", "--words", "bm52"], 'did you mean "bm25"'),
        (["--searchmixing", "both", "--strategy", "mean"], "valid names: weighted, slerp"),
        (["--k", "3"], "--k is a knob of mixing, and nothing is mixed; give --searchmixing as well"),
        (["--scaling", "minmax"], "give --fusion as well"),
        (["--reranktop", "20"], "give --rerank as well"),
        (["--memory", "others.csv"], "no stage of this search uses the --memory"),
        (["--centre"], "need known pairs, and none are kept with"),
        (["--searchmixing", "both"], "give a table of pairs as --memory, or run `tune`"),
        (["--searchmixing", "both", "--memory", "others.csv", "--k", "13"], "others.csv has only 12 distinct"),
        (["--centre", "--memory", "none.csv"], "none.csv does not exist"),
        (["--centre", "--memory", "empty.csv"], "empty.csv"),
        (["--centre", "--memory", "unpaired.csv"], "unpaired.csv"),
        (["--rerank", "./none"], 'folder "./none" does not exist'),
        (["--rerank", "MODEL"], "is no cross-encoder"),
        (["--rerank", "."], "neither modules.json nor config.json"),
        (["--searchmixng", "both"], 'did you mean "--searchmixing"'),
    ],
)
def test_a_knob_that_cannot_be_is_refused(
    home, tmp_path, monkeypatch, model, jobs_file, others, capsys, flags, message
):
    monkeypatch.chdir(tmp_path)
    Path("empty.csv").write_text("query,positive\n")
    Path("unpaired.csv").write_text("query,positive\nwelder,\nbaker,\n")
    flags = [str(model) if flag == "MODEL" else flag for flag in flags]
    said = refused(capsys, "evaluate", "--model", model, "--datapath", jobs_file, "--nofloors", *flags)
    assert message in said


def test_nothing_is_encoded_before_what_can_be_refused_is(home, tiny_model, jobs_file, capsys, monkeypatch):
    monkeypatch.setattr("hr_search.evaluation.scoring.embed_sides", lambda *_, **__: pytest.fail("texts were encoded"))
    for flags in (["--centre"], ["--rerank", str(tiny_model)], ["--fusion", "2"]):
        refused(capsys, "evaluate", "--model", tiny_model, "--datapath", jobs_file, *flags)


def test_a_damaged_choice_or_memory_is_refused(tuned, jobs_file, capsys):
    words = ["evaluate", "--model", tuned, "--datapath", jobs_file, "--split", "test", *SHARES]
    kept = (tuned / FILE).read_text()
    for text, message in (
        ("{", "not a readable JSON"),
        ('{"q2d": {"fusion": 7}}', "between 0 and 1"),
        ("[]", "run `tune`"),
    ):
        (tuned / FILE).write_text(text)
        said = refused(capsys, *words)
        assert message in said and str(tuned / FILE) in said
        assert evaluated(capsys, *words[1:], "--plain")
    (tuned / FILE).write_text(kept)
    vectors = np.load(tuned / FOLDER / "query.npy")
    vectors[0, 0] = np.nan
    np.save(tuned / FOLDER / "query.npy", vectors)
    said = refused(capsys, *words)
    assert "is damaged" in said and "NaN" in said and "run `tune` again" in said


def test_the_memory_of_another_model_is_refused(tuned, tmp_path, jobs_file, capsys):
    encoder = load_encoder(str(tuned))
    encoder.model.prompts = {"query": "title: "}
    encoder.save(tmp_path / "changed")
    shutil.copytree(tuned / FOLDER, tmp_path / "changed" / FOLDER)
    shutil.copy(tuned / FILE, tmp_path / "changed" / FILE)
    words = ["evaluate", "--datapath", jobs_file, "--split", "test", *SHARES, "--model"]
    assert "embedded by another model" in refused(capsys, *words, tmp_path / "changed")
    assert "maxlength" in refused(capsys, *words, tuned, "--maxlength", "16")


def test_tune_refuses_what_it_could_not_keep(home, tmp_path, model, jobs_file, capsys):
    words = ["tune", "--datapath", jobs_file, *SHARES, "--model"]
    before = content(model)
    assert "give --out" in refused(capsys, *words, model, "--maxlength", "16")
    assert "give --out" in refused(capsys, *words, model, "--condense", "40")
    assert "give --out" in refused(capsys, "tune", "--datapath", jobs_file, *SHARES)  # embedded
    assert 'folder "./none" does not exist' in refused(capsys, *words, "./none")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years of it")
    assert "would be overwritten" in refused(capsys, *words, model, "--out", tmp_path / "work")
    assert content(model) == before


def test_tune_refuses_rows_that_cannot_choose(home, model, jobs_file, others, capsys):
    words = ["tune", "--model", model, "--datapath", jobs_file]
    assert "no validation rows to choose by" in refused(capsys, *words, "--validationshare", "0")
    said = refused(capsys, *words, *SHARES, "--memory", jobs_file)
    assert "documents that are searched" in said and "validation rows" in said
    said = refused(capsys, *words, "--validationpath", jobs_file, "--allowleaks")
    assert "of the 24 documents that are searched" in said and "leave --allowleaks out" in said
    assert "is no cross-encoder" in refused(capsys, *words, *SHARES, "--rerank", model)
    assert "give --rerank as well" in refused(capsys, *words, *SHARES, "--reranktop", "9")
    assert "there is no flag --fusion" in refused(capsys, *words, "--fusion", "0.1")
    assert not (model / FILE).exists() and not (model / FOLDER).exists()
    assert parser.main([*map(str, words), *SHARES, "--memory", str(others)]) == 0
    assert json.loads((model / FOLDER / "memory.json").read_text())["document"] == 12


def test_a_tune_that_cannot_write_leaves_everything(tuned, jobs_file, capsys, monkeypatch):
    before = content(tuned)

    def full(*_):
        raise InputError("the disk is full; make room.")

    monkeypatch.setattr("hr_search.search.memory.save_memory", full)
    assert "disk is full" in refused(capsys, "tune", "--model", tuned, "--datapath", jobs_file, *SHARES)
    assert content(tuned) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused_at_once(home, model, jobs_file, capsys):
    model.chmod(0o555)
    try:
        assert "cannot be written" in refused(capsys, "tune", "--model", model, "--datapath", jobs_file)
    finally:
        model.chmod(0o755)


def test_a_place_that_cannot_be_written_is_refused_before_any_work(home, model, jobs_file, capsys, monkeypatch):
    def refuse(path):
        raise InputError(f"{path} cannot be written; choose a place with room and permission.")

    monkeypatch.setattr("hr_search.release.require_place", refuse)
    monkeypatch.setattr("hr_search.data.loading.load_data", lambda *_: pytest.fail("rows were read"))
    assert str(model / FILE) in refused(capsys, "tune", "--model", model, "--datapath", jobs_file)


def test_the_kept_memory_opens_with_the_model_as_it_is_loaded_later(tuned):
    from hr_search.search.identity import fingerprint

    assert open_memory(tuned / FOLDER, fingerprint(load_encoder(str(tuned)))).vectors["query"].shape[1] == 32
