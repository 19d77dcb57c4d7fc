"""Suite files: what they say, and what is refused in one sentence."""

from __future__ import annotations

import pytest
from suite_data import write_suite, write_table

from hr_search.base.errors import InputError
from hr_search.suite.suite_file import read_suite, source_folder


def test_a_task_gets_what_the_file_says_and_defaults(tmp_path):
    table = write_table(tmp_path)
    first = {"name": "a", "data": table, "family": "x", "metric": "map", "direction": "both", "split": "test"}
    first |= {"test-share": 0.4, "maxlength": 16, "dropidentical": True, "licence": "CC0", "get": "ask\n us"}
    suite = read_suite(write_suite(tmp_path, first, {"name": "b", "data": "sample_ru"}))
    a, b = suite.tasks
    assert suite.name == "small" and a.there and b.there
    assert (a.family, a.metric, a.directions, a.split, a.maxlength) == ("x", "map", ("q2d", "d2q"), "test", 16)
    assert (a.settings.testshare, a.settings.datapath, a.dropidentical) == (0.4, table, True)
    assert (a.licence, a.get) == ("CC0", "ask us")
    assert (b.family, b.metric, b.directions, b.split, b.maxlength, b.get) == ("b", "mrr", ("q2d",), "all", 0, "")


def test_data_to_be_got_may_be_missing(tmp_path):
    (task,) = read_suite(write_suite(tmp_path, {"name": "a", "data": "none/here", "get": "hf:OWNER/NAME"})).tasks
    assert not task.there


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrik": "mrr"}, 'task 1 has no key "metrik"; did you mean "metric"'),
        ({"learningrate": 1}, 'has no key "learningrate"'),
        ({"querycolum": "x"}, 'did you mean "querycolumn"'),
        ({"metric": "map@0"}, r"task 1 \(a\): metric is 'map@0'; did you mean \"map\""),
        ({"metric": ["map"]}, "metric is"),
        ({"direction": "up"}, "direction is 'up'; valid names: q2d, d2q, both"),
        ({"split": "train"}, "split is 'train'"),
        ({"maxlength": 1}, "maxlength is 1; it must be between 8"),
        ({"maxlength": "x"}, "maxlength is 'x'"),
        ({"name": "../x"}, "cannot name a folder"),
        ({"name": ""}, "has no name"),
        ({"data": None}, "has no data"),
        ({"data": "none.csv"}, r"its data none\.csv does not exist; check the path, or say under get:"),
        ({"condense": 50}, "condense, which is learnt from train rows; give split: test"),
        ({"family": "all families"}, "which is the name of the mean over families"),
        ({"cvs": True, "split": "test"}, "has cvs and split, which means nothing"),
        ({"cvs": True, "data": "esco"}, "is for a file whose rows are CVs"),
        ({"test_share": 0.1, "testshare": 0.2}, "gives testshare twice"),
    ],
)
def test_a_task_that_cannot_be_meant_is_refused_by_name(tmp_path, change, said):
    task = {"name": "a", "data": write_table(tmp_path), **change}
    with pytest.raises(InputError, match=said):
        read_suite(write_suite(tmp_path, task))


def test_a_suite_of_nothing_of_twins_or_of_other_keys_is_refused(tmp_path):
    task = {"name": "a", "data": "sample_ru"}
    with pytest.raises(InputError, match="has no tasks"):
        read_suite(write_suite(tmp_path))
    with pytest.raises(InputError, match="two tasks with the name A; give each its own"):
        read_suite(write_suite(tmp_path, task, {**task, "name": "A"}))
    with pytest.raises(InputError, match='has no key "taks"; did you mean "tasks"'):
        read_suite(write_suite(tmp_path, task, taks=[]))
    with pytest.raises(InputError, match="must be lines of `name: value`"):
        read_suite(write_suite(tmp_path, "sample_ru"))
    path = tmp_path / "twice.yaml"
    path.write_text("tasks:\n  - name: a\n    data: esco\n    data: sample_ru\n")
    with pytest.raises(InputError, match="gives data twice"):
        read_suite(path)


def test_the_suites_of_the_checkout_are_read():
    tiny, hr = (read_suite(source_folder() / name) for name in ("tiny.yaml", "hr.yaml"))
    assert all(task.there for task in tiny.tasks) and len(hr.tasks) == 12
    assert all(task.licence for task in hr.tasks)
