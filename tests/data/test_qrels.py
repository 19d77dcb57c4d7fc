"""Folders of judged queries in three layouts, and full-depth metrics over them as trec_eval gives them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, R, nDCG

from hr_search.base.errors import InputError
from hr_search.commands.parser import main
from hr_search.data import loading, qrels, tasks
from hr_search.data.counts import Counts
from hr_search.evaluation.metrics import rank_all
from hr_search.settings import Settings

QUERIES = {"q1": "cook", "q2": "smith", "q3": "nobody", "q4": "..."}
CORPUS = {
    "d1": "brings plates",
    "d2": "bakes fish",
    "d3": "Cook",
    "d4": "makes soup",
    "d5": "makes soup",
    "d6": "bends iron",
}
GRADES = [
    ("q1", "d4", 2),
    ("q1", "d2", 1),
    ("q1", "d1", 0),
    ("q2", "d6", 1),
    ("q2", "d2", 1),
    ("q2", "d5", -1),
    ("q4", "d1", 1),
]


def trec(
    folder: Path, header: bool = False, names: tuple[str, str, str] = ("queries.tsv", "corpus.tsv", "qrels.tsv")
) -> str:
    folder.mkdir(exist_ok=True)
    heads = ("q_id\ttext\n", "c_id\ttext\n", "q_id\t0\tc_id\trel\n") if header else ("", "", "")
    bodies = (
        "".join(f"{name}\t{text}\n" for name, text in QUERIES.items()),
        "".join(f"{name}\t{text}\n" for name, text in CORPUS.items()),
        "".join(f"{query}\t0\t{document}\t{grade}\n" for query, document, grade in GRADES),
    )
    for name, head, body in zip(names, heads, bodies, strict=True):
        (folder / name).write_text(head + body, encoding="utf-8")
    return str(folder)


def beir(folder: Path) -> str:
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": name, "text": text, "metadata": {}}) for name, text in QUERIES.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    split = {name: text.split(" ", 1) if " " in text else ["", text] for name, text in CORPUS.items()}
    lines = [json.dumps({"_id": name, "title": title, "text": text}) for name, (title, text) in split.items()]
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    rows = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in GRADES)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows, encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("layout", ["trec", "header", "talentclef", "txt", "beir"])
def test_every_layout_gives_the_same_tasks(tmp_path: Path, layout: str) -> None:
    makers = {
        "trec": lambda: trec(tmp_path / "a"),
        "header": lambda: trec(tmp_path / "a", header=True),
        "talentclef": lambda: trec(tmp_path / "a", True, ("queries", "corpus_elements", "qrels.tsv")),
        "txt": lambda: trec(tmp_path / "a", names=("queries.txt", "corpus.tsv", "qrels.txt")),
        "beir": lambda: beir(tmp_path / "a"),
    }
    both, counts = qrels.read_folder(makers[layout]())
    there, back = both["q2d"], both["d2q"]
    assert there.queries == ["cook", "smith"] == there.groups
    assert there.documents == ["bakes fish", "makes soup", "bends iron", "brings plates", "Cook", "makes soup"]
    assert [found.tolist() for found in there.relevant] == [[0, 1], [0, 2]]
    assert back.queries == there.documents[:3] and back.documents == there.queries
    assert [found.tolist() for found in back.relevant] == [[0, 1], [0], [1]]
    assert [each.tolist() for each in there.grades] == [[1, 2], [1, 1]]
    assert [each.tolist() for each in back.grades] == [[1, 1], [2], [1]]
    assert back.groups == ["cook", "cook", "smith"]
    assert counts == Counts(rows=4, empty=1, html=0, unknown=0, unanswered=1, distractors=3)


def test_the_part_chooses_among_several_judgements(tmp_path: Path) -> None:
    folder = beir(tmp_path / "a")
    (tmp_path / "a" / "qrels" / "dev.tsv").write_text("q2\td1\t1\nq3\td2\t1\n", encoding="utf-8")
    assert qrels.read_folder(folder, "validation")[0]["q2d"].queries == ["smith", "nobody"]
    assert qrels.read_folder(folder, "test")[0]["q2d"].queries == ["cook", "smith"]
    (tmp_path / "a" / "qrels" / "test.tsv").rename(tmp_path / "a" / "qrels" / "other.tsv")
    with pytest.raises(InputError, match="has dev.tsv, other.tsv; keep the one that judges the test queries"):
        qrels.read_folder(folder, "test")


def test_grades_have_a_threshold(tmp_path: Path) -> None:
    folder = Path(trec(tmp_path / "a"))
    both, counts = qrels.read_folder(str(folder), relevantfrom=2)
    there, back = both["q2d"], both["d2q"]
    # "smith" has documents of grade 1 only. "bakes fish" is a partial match of "cook", and no query of d2q.
    assert there.queries == ["cook"] and there.documents[0] == "makes soup" and there.documents[2] == "bakes fish"
    assert there.relevant[0].tolist() == [0, 2] and there.grades[0].tolist() == [2, 1]
    assert there.right(0).tolist() == [0] and back.queries == ["makes soup"] and back.grades[0].tolist() == [2]
    assert (counts.rows, counts.unanswered, counts.distractors) == (2, 2, 5)
    with pytest.raises(InputError, match=r"a marks no document as relevant to a query \(grade 2.5 or more\)"):
        qrels.read_folder(str(folder), relevantfrom=2.5)
    with (folder / "qrels.tsv").open("a") as file:
        file.write("q1\t0\td4\t1\nq2\t0\td6\t0.5\nq2\t0\td6\t3\n")  # of several judgements the highest counts
    both, _ = qrels.read_folder(str(folder), relevantfrom=2)
    assert both["q2d"].queries == ["cook", "smith"]
    assert [each.tolist() for each in both["q2d"].grades] == [[2, 1], [3, 1]]
    assert both["d2q"].groups == ["cook", "smith"]


def test_judgements_of_grade_one_are_not_graded(tmp_path: Path) -> None:
    folder = Path(trec(tmp_path / "a"))
    (folder / "qrels.tsv").write_text("q1\t0\td4\t1\nq1\t0\td1\t0\nq2\t0\td2\t1\n")
    both, _ = qrels.read_folder(str(folder))
    assert both["q2d"].grades is None and both["d2q"].grades is None


def test_the_threshold_is_a_setting(tmp_path: Path) -> None:
    rows = [{"query": f"title {n}", "positive": f"text {n}"} for n in range(30)]
    table, folder = tmp_path / "train.jsonl", Path(trec(tmp_path / "a"))
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert loading.search_tasks(Settings(datapath=str(folder), relevantfrom=2))["q2d"].queries == ["cook"]
    own = Settings(datapath=str(table), testpath=str(folder), validationshare=0, relevantfrom=2)
    loaded = loading.load_data(own)
    assert loaded.tasks("test")["q2d"].queries == ["cook"] and loaded.counts.unanswered == 2
    text = (folder / "qrels.tsv").read_text()
    (folder / "qrels.tsv").write_text(text.replace("d4\t2", "d4\t3"))
    assert loading.load_data(own).fingerprint != loaded.fingerprint  # the pairs are the same, their grades are not
    for read in (loading.load_data, loading.search_tasks):
        with pytest.raises(InputError, match="relevantfrom 2 is for folders of judged queries"):
            read(Settings(datapath=str(table), relevantfrom=2))


def test_full_depth_metrics_equal_trec_eval(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    folder = tmp_path / "a"
    folder.mkdir()
    grades = {
        (int(q), int(d)) for q, d in zip(generator.integers(0, 20, 150), generator.integers(0, 300, 150), strict=True)
    }
    (folder / "queries.tsv").write_text("".join(f"q{q}\tquery {q}\n" for q in range(25)))
    (folder / "corpus.tsv").write_text("".join(f"d{d}\tdocument {d // 2}\n" for d in range(400)))  # each text twice
    (folder / "qrels.tsv").write_text("".join(f"q{q} 0 d{d} {1 + d % 3}\n" for q, d in sorted(grades)))
    task = qrels.read_folder(str(folder))[0]["q2d"]
    assert len(task.documents) == 400
    scores = generator.permutation(len(task.queries) * 400).reshape(-1, 400) / 1e4
    result = rank_all(task, lambda start, stop: scores[start:stop])
    # The documents are ordered anew: the relevant ones first, each part in the order of the file.
    right = sorted({d for _, d in grades})
    order = right + [d for d in range(400) if d not in right]
    judged = [ir_measures.Qrel(f"q{q}", f"d{d}", 1 + d % 3) for q, d in grades]
    number = {int(text.split()[1]): row for row, text in enumerate(task.queries)}
    run = [
        ir_measures.ScoredDoc(f"q{q}", f"d{d}", float(scores[row, at]))
        for q, row in number.items()
        for at, d in enumerate(order)
    ]
    names = {AP: "map", RR: "mrr", R @ 10: "recall@10", nDCG @ 10: "ndcg@10"}
    found = {
        (names[each.measure], each.query_id): each.value for each in ir_measures.iter_calc(list(names), judged, run)
    }
    assert len(found) == 4 * len(number)
    for (metric, query), value in found.items():
        assert result[metric][number[int(query[1:])]] == pytest.approx(value, abs=1e-9), (metric, query)


def test_documents_identical_to_the_query(tmp_path: Path) -> None:
    both, _ = qrels.read_folder(trec(tmp_path / "a"))
    task = both["q2d"]
    assert [found.tolist() for found in tasks.identical(task)] == [[4], []]
    assert "q2d: 1 of 2 queries occur word for word" in tasks.identical_sentence(task)
    assert "as errors (--dropidentical)" in tasks.identical_sentence(task)
    bare = tasks.without_identical(task)
    assert "left out of their rankings" in tasks.identical_sentence(bare)
    assert tasks.identical_sentence(both["d2q"]) == ""
    row = np.array([[0.1, 0.5, 0.2, 0.3, 0.9, 0.4], [0.9, 0.1, 0.8, 0.3, 0.2, 0.4]])
    ranked, dropped = (rank_all(each, lambda start, stop: row[start:stop]) for each in (task, bare))
    assert ranked["rank"].tolist() == [2, 1] and dropped["rank"].tolist() == [1, 1]
    assert ranked["map"][0] == pytest.approx((1 / 2 + 2 / 6) / 2) and dropped["map"][0] == pytest.approx(
        (1 + 2 / 5) / 2
    )
    assert json.loads(ranked["found"][0]) == [4, 1, 5, 3, 2] and json.loads(dropped["found"][0]) == [1, 5, 3, 2, 0]
    assert dropped["map"][1] == ranked["map"][1]
    assert (row[0, 4], row[1, 4]) == (0.9, 0.2)  # the scores themselves stay


def test_identical_documents_that_are_right_stay(tmp_path: Path) -> None:
    folder = Path(trec(tmp_path / "a"))
    with (folder / "qrels.tsv").open("a") as file:
        file.write("q1\t0\td3\t1\n")
    task = qrels.read_folder(str(folder))[0]["q2d"]
    assert [len(found) for found in tasks.identical(task)] == [0, 0] and tasks.identical_sentence(task) == ""


def test_judged_queries_take_the_place_of_a_share(tmp_path: Path) -> None:
    rows = [{"query": f"title {n}", "positive": f"text {n}"} for n in range(30)]
    rows.append({"query": "driver", "positive": "makes soup"})  # the corpus may be known, the pair is new
    table = tmp_path / "train.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    folder = trec(tmp_path / "a")
    own = Settings(datapath=str(table), testpath=folder, validationshare=0)
    loaded = loading.load_data(own)
    test = loaded.tasks("test")
    assert len(test["q2d"].documents) == 6 and len(loaded.test) == 4
    assert list(loaded.test) == loading.COLUMNS and set(loaded.test["query"]) == {"cook", "smith"}
    assert (loaded.counts.unanswered, loaded.counts.distractors, loaded.counts.exact_leaks) == (1, 3, 1)
    assert loaded.tasks("validation") == {}
    (tmp_path / "a" / "corpus.tsv").write_text((tmp_path / "a" / "corpus.tsv").read_text() + "d7\tone more\n")
    assert loading.load_data(own).fingerprint != loaded.fingerprint
    split = loading.load_data(Settings(datapath=str(table), validationpath=folder))
    assert (
        split.tasks("test")["q2d"].queries == split.test["query"].tolist()
        and len(split.tasks("validation")["q2d"].queries) == 2
    )


@pytest.mark.parametrize("pair", [("Cook!", "bakes fish"), ("bakes fish", "cook")])
def test_a_judged_pair_in_train_is_a_leak(tmp_path: Path, pair: tuple[str, str]) -> None:
    rows = [{"query": f"title {n}", "positive": f"text {n}"} for n in range(30)]
    table = tmp_path / "train.jsonl"
    table.write_text("\n".join(map(json.dumps, [*rows, dict(zip(("query", "positive"), pair, strict=True))])))
    own = Settings(datapath=str(table), testpath=trec(tmp_path / "a"), validationshare=0)
    with pytest.raises(InputError, match=r"1 of 4 test rows also occur in train \(such as \"cook\": \"bakes fish\""):
        loading.load_data(own)
    assert len(loading.load_data(own.replace(allowleaks=True)).test) == 4


def test_judged_queries_are_redacted(tmp_path: Path) -> None:
    folder = Path(trec(tmp_path / "a"))
    with (folder / "corpus.tsv").open("a") as file:
        file.write("d7\twrite to a@b.ru or 8 916 123-45-67\n")
    both, counts = qrels.read_folder(str(folder), redact=True)
    assert both["q2d"].documents[-1] == "write to [email] or [phone]"
    assert (counts.emails, counts.phones, counts.links, counts.handles) == (1, 1, 0, 0)


def test_judgements_of_unknown_ids_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(trec(tmp_path / "a"))
    known, _ = qrels.read_folder(str(folder))
    with (folder / "qrels.tsv").open("a") as file:
        file.write("q1\t0\td77\t1\nq99\t0\td1\t0\n")
    found, counts = qrels.read_folder(str(folder))
    assert counts.unknown == 2 and counts.rows == 4
    assert "2 of 9 judgements are left out" in caplog.text
    assert '"d77" of line 8 is not in corpus.tsv; "q99" of line 9 is not in queries.tsv' in caplog.text
    assert [each.tolist() for each in found["q2d"].relevant] == [each.tolist() for each in known["q2d"].relevant]


def test_judged_texts_lose_their_html(tmp_path: Path) -> None:
    folder = Path(trec(tmp_path / "a"))
    with (folder / "corpus.tsv").open("a") as file:
        file.write("d7\t<p>serves <b>C&amp;B</b></p><ul><li>daily</li></ul>\n")
    both, counts = qrels.read_folder(str(folder))
    assert both["q2d"].documents[-1] == "serves C&B\ndaily" and counts.html == 1
    both, counts = qrels.read_folder(str(folder), keephtml=True)
    assert both["q2d"].documents[-1].startswith("<p>") and counts.html is None


def test_a_folder_is_evaluated_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = trec(tmp_path / "a")
    caplog.set_level("INFO", logger="hr_search")
    both = loading.search_tasks(Settings(datapath=folder))
    assert len(both["q2d"].documents) == 6 and both["q2d"].barred is None
    assert "unanswered 1" in caplog.text and "as errors (--dropidentical)" in caplog.text
    assert [
        len(found) for found in loading.search_tasks(Settings(datapath=folder), dropidentical=True)["q2d"].barred
    ] == [
        1,
        0,
    ]
    with pytest.raises(InputError, match="judged queries, which has no parts; use --split all"):
        loading.search_tasks(Settings(datapath=folder), "test")
    with pytest.raises(InputError, match="is a folder; training needs a table of pairs"):
        loading.load_data(Settings(datapath=folder))


def test_a_table_is_evaluated_whole_or_in_part(tmp_path: Path) -> None:
    table = tmp_path / "rows.jsonl"
    table.write_text("\n".join(json.dumps({"query": f"title {n}", "positive": f"text {n}"}) for n in range(40)))
    settings = Settings(datapath=str(table))
    assert len(loading.search_tasks(settings)["q2d"].queries) == 40
    assert loading.search_tasks(settings, "test")["q2d"].queries == loading.load_data(settings).test["query"].tolist()
    with pytest.raises(InputError, match="has no test rows under these shares"):
        loading.search_tasks(settings.replace(testshare=0), "test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("queries.tsv", None, r"without a file of queries \(queries.tsv or queries.jsonl\)"),
        ("corpus.tsv", None, "without a file of corpus"),
        ("qrels.tsv", None, "without a file of qrels"),
        ("queries.tsv", "", "queries.tsv is empty"),
        ("queries.tsv", "q_id\ttext\n", "queries.tsv has no rows"),
        ("queries.tsv", "q1 cook\n", "queries.tsv, line 1 has no tab"),
        ("corpus.tsv", "d1\tx\nd1\ty\n", 'has the id "d1" twice'),
        ("qrels.tsv", "q1\t0\td9\t1\n", r'none of its 1 judgements .* "d9" of line 1 is not in corpus.tsv'),
        ("qrels.tsv", "q9\t0\td1\t1\n", r'none of its 1 judgements .* "q9" of line 1 is not in queries.tsv'),
        ("qrels.tsv", "q1\t0\td1\t1\nq1\t0\td2\tgood\n", "qrels.tsv, line 2 is not a judgement"),
        ("qrels.tsv", "q1\td1\n", "line 1 is not a judgement"),
        ("qrels.tsv", "q1\t0\td1\t1\nq1\t0\td2\tnan\n", "line 2 has the grade nan; write a finite number"),
        ("qrels.tsv", "q1\t0\td1\t0\n", "marks no document as relevant to a query"),
        ("qrels.tsv", "q4\t0\td1\t1\n", "marks no document as relevant to a query"),
    ],
)
def test_folders_of_no_use(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    folder = Path(trec(tmp_path / "a"))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        qrels.read_folder(str(folder))


def test_what_is_a_folder(tmp_path: Path) -> None:
    assert qrels.is_folder(str(tmp_path))
    assert not any(qrels.is_folder(path) for path in ("", "esco", "hf:owner/name", str(tmp_path / "none.csv")))


def test_barred_documents_that_do_not_fit() -> None:
    task = tasks.Task("q2d", ["a"], ["b", "c"], [np.array([0])], ["g"])
    with pytest.raises(InputError, match="1 queries and 2 lists of barred documents"):
        rank_all(tasks.Task(**{**vars(task), "barred": [np.array([1])] * 2}), lambda start, stop: np.zeros((1, 2)))
    with pytest.raises(InputError, match="cannot be relevant and barred"):
        rank_all(tasks.Task(**{**vars(task), "barred": [np.array([0])]}), lambda start, stop: np.zeros((1, 2)))
    alone = rank_all(tasks.Task(**{**vars(task), "barred": [np.array([1])]}), lambda start, stop: np.zeros((1, 2)))
    assert (alone["rank"][0], alone["found"][0]) == (1, "[0]")  # the only document left, though both tie


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    folder = Path(trec(tmp_path / "a"))
    (folder / "corpus.tsv").write_bytes("d1\tcafé\n".encode() + b"d2\tcaf\xe9\n")
    with pytest.raises(InputError, match="corpus.tsv, line 2 breaks the UTF-8"):
        qrels.read_folder(str(folder))


def test_the_command_evaluates_a_folder(tmp_path: Path, tiny_model: Path, home: Path, capsys) -> None:
    words = ["evaluate", "--datapath", trec(tmp_path / "a"), "--model", str(tiny_model), "--json"]
    values = []
    for more, dropped in (([], 1), (["--drop-identical"], 1), (["--relevant-from", "2", "--nofloors"], 2)):
        assert main([*words, *more]) == 0
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        assert set(found[str(tiny_model)]) == {"q2d", "d2q"}
        assert f"1 of {3 - dropped} queries occur word for word" in printed.err
        assert f"unanswered {dropped}," in printed.err
        values.append(found.get("bm25"))
    assert values[0]["q2d"]["mrr"][0] < values[1]["q2d"]["mrr"][0]  # BM25 finds the query itself first
