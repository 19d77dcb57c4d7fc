"""Several tables as one: groups apart, held-out documents nowhere in train, rankings within tables."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from sentences import sentence

from hr_search.base.errors import InputError
from hr_search.data.loading import load_all, load_data, search_tasks
from hr_search.data.tasks import identical_sentence, without_identical
from hr_search.data.union import tasks_within, united, without_held_out
from hr_search.evaluation.tables import tables_table, validation_means
from hr_search.settings import Settings

PARTS = ("train", "validation", "test")


def frame(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["query", "positive", "group"])


def written(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.fixture
def halves(tmp_path: Path) -> list[str]:
    """20 groups of 3 rows in each of two files."""
    rows = [{"query": f"title {at}", "positive": sentence(at), "group": f"g{at // 3}"} for at in range(120)]
    return [
        written(tmp_path / name, rows[half]) for name, half in (("a.jsonl", slice(60)), ("b.jsonl", slice(60, 120)))
    ]


def test_groups_of_one_name_stay_two_and_marks_are_filled():
    first = frame(("cook", "soup", "1")).assign(softgroup=["51"], grade=[0.5])
    whole = united([first, frame(("cook", "stew", "1"))], ["a", "b"])
    assert whole["group"].tolist() == ["1: 1", "2: 1"] and whole["table"].tolist() == ["a", "b"]
    assert whole["softgroup"].tolist() == ["1: 51", ""] and whole["grade"].tolist() == [0.5, 1.0]
    assert united([first], ["a"]) is first


def test_documents_that_another_table_holds_out_leave_train():
    part = {
        name: pd.DataFrame({"document_key": list(keys)})
        for name, keys in zip(PARTS, ("abcd", "bce", "cf"), strict=True)
    }
    kept, counts = without_held_out(part)
    assert ["".join(kept[name]["document_key"]) for name in PARTS] == ["ad", "be", "cf"]
    assert counts.table_leaks == 3


TWO = united(
    [
        frame(("cook", "chef", "1"), ("baker", "pastry cook", "2")),
        frame(("cook", "stirs soup", "1"), ("welder", "joins metal", "2")),
    ],
    ["titles", "duties"],
)


def test_queries_are_ranked_among_the_documents_of_their_tables():
    tasks = tasks_within(TWO)
    there, back = tasks["q2d"], tasks["d2q"]
    assert there.queries == ["cook", "baker", "welder"]
    assert there.documents == ["chef", "pastry cook", "stirs soup", "joins metal"]
    assert [each.tolist() for each in there.relevant] == [[0, 2], [1], [3]]
    assert [each.tolist() for each in there.barred] == [[], [2, 3], [0, 1]]
    assert there.tables == ["titles", "titles", "duties"]
    assert [each.tolist() for each in back.barred] == [[2], [2], [1], [1]]
    assert back.tables == ["titles", "titles", "duties", "duties"]


def test_common_shares_that_no_table_takes_need_not_fit(halves):
    own = [{"path": path, "validationshare": 0.1, "testshare": 0.1} for path in halves]
    common = {"groupcolumn": "group", "validationshare": 0.5, "testshare": 0.5}
    assert all(load_data(Settings(datapath=json.dumps(own), **common)).sizes.values())


def test_identical_documents_are_left_out_beside_those_of_other_tables():
    pairs = united([frame(("cook", "chef", "1"), ("baker", "cook", "2")), frame(("welder", "joins", "1"))], ["a", "b"])
    task = tasks_within(pairs)["q2d"]
    assert "in their rankings, as errors" in identical_sentence(task)
    shared, task = task.barred[1], without_identical(task)
    assert [each.tolist() for each in task.barred] == [[1, 2], [2], [0, 1]]
    assert task.barred[1] is shared  # nothing is added, so nothing is copied
    assert "left out of their rankings" in identical_sentence(task)


def test_every_table_counts_alike_in_validation():
    values = {name: [1.0, 0.5, 0.5, 0.0] for name in ("mrr", "pass@1", "pass@5", "recall@10", "ndcg@10", "map")}
    results = pd.DataFrame(values).assign(group=list("abcd"))  # as `rank_all` makes them
    row = validation_means(results, "mrr", ["a", "a", "a", "b"])
    assert row["mrr"] == pytest.approx((2 / 3 + 0) / 2) and row["mrr_a"] == pytest.approx(2 / 3) and row["mrr_b"] == 0
    plain = validation_means(results, "map")
    assert plain["map"] == 0.5 and plain["se"] == pytest.approx(results["map"].sem()) and "map_a" not in plain
    table = tables_table({("base", "q2d"): results.iloc[:3]}, {"q2d": tasks_within(TWO)["q2d"]}, 0)
    assert table[table["metric"] == "mrr"].set_index("table")["value"].to_dict() == {"titles": 0.75, "duties": 0.5}


def test_tables_are_split_each_by_itself(halves):
    data = load_data(Settings(datapath=json.dumps(halves), groupcolumn="group", testshare=0.2))
    assert data.name == "a.jsonl + b.jsonl" and data.counts.groups == 40 and data.counts.rows == 120
    alone = [load_data(Settings(datapath=path, groupcolumn="group", testshare=0.2)) for path in halves]
    for part in PARTS:
        joined = pd.concat([getattr(each, part) for each in alone])
        assert getattr(data, part)["positive"].tolist() == joined["positive"].tolist()
        assert getattr(data, part)["table"].value_counts().to_dict() == {
            f"{'ab'[at]}.jsonl": len(getattr(each, part)) for at, each in enumerate(alone)
        }
    assert data.counts.exact_leaks == data.counts.table_leaks == 0
    assert (
        alone[0].fingerprint
        == load_data(
            Settings.from_mapping({"datapath": [halves[0]], "groupcolumn": "group", "testshare": 0.2})
        ).fingerprint
    )


def test_a_table_may_have_shares_of_its_own(halves):
    entries = [halves[0], {"path": halves[1], "testshare": 0.4, "validationshare": "0.2"}]
    data = load_data(Settings.from_mapping({"datapath": entries, "groupcolumn": "group", "testshare": 0.2}))
    shares = [{"testshare": 0.2}, {"testshare": 0.4, "validationshare": 0.2}]
    alone = [
        load_data(Settings(datapath=path, groupcolumn="group", **share))
        for path, share in zip(halves, shares, strict=True)
    ]
    assert data.test["positive"].tolist() == [text for each in alone for text in each.test["positive"]]
    assert data.validation["positive"].tolist() == [text for each in alone for text in each.validation["positive"]]
    entries[1]["testshare"] = 0.8
    with pytest.raises(InputError, match=r"add up to 1 and leave nothing for train"):
        load_data(Settings.from_mapping({"datapath": entries, "groupcolumn": "group"}))


def test_the_same_document_is_not_held_out_in_one_table_and_learnt_in_another(tmp_path, halves, caplog):
    rows = [json.loads(line) for line in Path(halves[0]).read_text().splitlines()]
    other = written(tmp_path / "c.jsonl", [row | {"group": f"h{at // 3}"} for at, row in enumerate(rows[::-1], 1)])
    settings = Settings(
        datapath=json.dumps([halves[0], other]), groupcolumn="group", validationshare=0.2, testshare=0.2
    )
    data = load_data(settings)
    assert data.counts.table_leaks > 0 and data.counts.exact_leaks == data.counts.test_leaks == 0
    assert "another table of datapath holds out their documents" in caplog.text
    assert load_data(settings.replace(allowleaks=True)).counts.exact_leaks > 0


def test_evaluation_reads_the_same_tables(halves):
    settings = Settings(datapath=json.dumps(halves), groupcolumn="group")
    assert len(load_all(settings)) == 120
    task = search_tasks(settings)["q2d"]
    assert {len(each) for each in task.barred} == {60} and len(task.queries) == 120


def test_a_table_with_other_columns_is_named(tmp_path, halves):
    other = written(tmp_path / "other.jsonl", [{"job": "cook", "skill": "soup"}, {"job": "welder", "skill": "metal"}])
    with pytest.raises(InputError, match=r'other\.jsonl has no column "group" \(--groupcolumn\)'):
        load_data(Settings(datapath=json.dumps([halves[0], other]), groupcolumn="group"))
    entries = [{"path": halves[0], "groupcolumn": "group"}, other]
    with pytest.raises(InputError, match=r"other\.jsonl has no known pair of query and document columns"):
        load_data(Settings.from_mapping({"datapath": entries}))
    own = {"path": other, "querycolumn": "job", "positivecolumn": "skill"}
    both = Settings.from_mapping({"datapath": [entries[0], own], "validationshare": 0, "testshare": 0})
    assert len(load_data(both).train) == 62
    with pytest.raises(InputError, match=r"is a folder; training needs a table of pairs"):
        (tmp_path / "folder").mkdir()
        load_data(Settings.from_mapping({"datapath": [halves[0], str(tmp_path / "folder")]}))


def test_grades_and_soft_groups_are_read_and_checked(tmp_path):
    rows = [
        {"query": f"t{at}", "positive": sentence(at), "w": at / 8, "isco": 25 if at % 2 else None} for at in range(1, 9)
    ]
    settings = Settings(datapath=written(tmp_path / "t.jsonl", rows), gradecolumn="w", softgroupcolumn="isco")
    train = load_data(settings.replace(validationshare=0, testshare=0)).train
    assert train["grade"].tolist() == [at / 8 for at in range(1, 9)]
    assert train["softgroup"].tolist() == ["25", ""] * 4
    for wrong, shown in ((0, "0"), (1.5, "1.5"), (None, ""), ("much", "much")):
        written(tmp_path / "t.jsonl", [rows[0], rows[1] | {"w": wrong}])
        with pytest.raises(InputError, match=rf'row 2: the grade of the pair is "{shown}"'):
            load_data(settings)
    with pytest.raises(InputError, match=r'has no column "v" \(--gradecolumn\)'):
        load_data(settings.replace(gradecolumn="v"))
