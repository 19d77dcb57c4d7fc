"""The name audit: overlap by hand, names swapped everywhere, and rankings that move only where names are read."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.commands.parser import main
from hr_search.cvs.audit import audit, audit_model, rank_biased_overlap, renamed
from hr_search.cvs.documents import read_cvs
from hr_search.cvs.names import GENDERS, ORIGINS, names_of
from hr_search.data.resume_texts import resume_text
from hr_search.data.resumes import read_resume
from hr_search.encoder import load_encoder


@pytest.mark.parametrize(
    ("other", "p", "overlap"),
    [
        ([0, 1, 2], 0.9, 1.0),
        # A = 0, 1, 1: 1 - (1 - p) / p * p = p
        ([1, 0, 2], 0.9, 0.9),
        # A = 0, 1/2, 1: p^3 + (1 - p) / p * (p^2 / 2 + p^3) at p = .5: 1/8 + 1/8 + 1/8
        ([1, 2, 0], 0.5, 0.375),
        ([2, 1, 0], 0.5, 0.125 + 0.125 + 0.125),
    ],
)
def test_rank_biased_overlap_by_hand(other, p, overlap):
    assert rank_biased_overlap([0, 1, 2], other, p) == pytest.approx(overlap, abs=1e-12)


def test_equal_rankings_overlap_exactly():
    order = np.random.default_rng(3).permutation(997)
    assert rank_biased_overlap(order, order) == 1.0
    assert rank_biased_overlap([], []) == 1.0


def test_names_differ_by_origin_and_gender():
    assert names_of("russian", "female")[0] == ("Ольга", "Смирнова")
    assert names_of("russian", "male", latin=True)[0] == ("Sergey", "Smirnov")
    assert names_of("caucasian", "female")[2][1] == "Саркисян"
    assert names_of("english", "female")[0] == ("Эмили", "Джонсон")
    for origin in ORIGINS:
        for gender in GENDERS:
            for latin in (False, True):
                names = names_of(origin, gender, latin)
                assert len(set(names)) == 64
                letters = "".join(name for pair in names for name in pair).replace("-", "").lower()
                assert letters.isalpha() and (min(letters) >= "а" if not latin else max(letters) < "а")


def cv(first, last, about, **more):
    return read_resume({"first_name": first, "last_name": last, "skills": "x", "about": about} | more)


def test_a_swap_reaches_every_mention_and_no_address():
    old = cv(
        "Иван",
        "Петров",
        "ПЕТРОВ Иван Сергеевич, Петров@example.com",
        middle_name="Сергеевич",
        jobs=[{"duties": "Иван"}],
    )
    new = renamed(old, "Юрген", "Краузе")
    assert (new.first, new.middle, new.last, new.jobs[0].duties) == ("Юрген", "", "Краузе", "Юрген")
    assert new.about == "КРАУЗЕ Юрген , Петров@example.com"
    assert resume_text(new)[0] == resume_text(old)[0] == "x\n, [email]"


def by_length(queries, texts):
    """Shorter texts rank higher: reads names wherever they stand."""
    return np.array([[-len(text) for text in texts] for _ in queries], np.float64)


def people(count=6):
    return [cv("Иван", "Петров", f"Иван {'щ' * at}", title="Повар") for at in range(1, count + 1)]


def test_names_move_rankings_only_where_they_are_read():
    left_out = audit(by_length, ["q"], people())
    assert (left_out["rbo_mean"] == 1.0).all() and (left_out["rbo_min"] == 1.0).all()
    assert (left_out[["movement", "gain"]] == 0).all(axis=None)
    assert len(left_out) == len(ORIGINS) * len(GENDERS) and (left_out["cvs"] == 6).all()
    kept = audit(by_length, ["q"], people(), identity=True)
    assert (kept["rbo_min"] < 1).any() and kept["movement"].max() >= 1
    # Longer names than "Иван Петров" cost ranks here: all Central Asian ones are.
    assert (kept[kept["origin"] == "central-asian"]["gain"] < 0).all()
    pd.testing.assert_frame_equal(kept, audit(by_length, ["q"], people(), identity=True))
    assert not kept.equals(audit(by_length, ["q"], people(), identity=True, seed=7))


def test_gain_and_movement_by_hand():
    # Two CVs; whoever is not called Петров falls behind: each half moves its one CV from rank to rank.
    cvs = [cv("Иван", "Петров", "a"), cv("Иван", "Петров", "b")]
    known = lambda queries, texts: np.array([["Петров" in text for text in texts]], np.float64)  # noqa: E731
    row = audit(known, ["q"], cvs, identity=True).iloc[0]
    # Swapped alone, the first falls behind the second (A = 0, 1: overlap p); the second was last before.
    assert (row["movement"], row["gain"]) == (1, -0.5)
    assert row["rbo_min"] == pytest.approx(0.9) and row["rbo_mean"] == pytest.approx(0.95)


def test_a_name_that_is_also_a_word_of_the_cv_is_not_swapped_in():
    firsts = " ".join(first for first, _ in names_of("english", "male"))
    cvs = [cv("Иван", "Петров", firsts.replace("Гарри", "")), cv("Иван", "Петров", "b")]
    table = audit(by_length, ["q"], cvs)
    assert (table["rbo_min"] == 1.0).all()


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(InputError, match="none of these CVs has a first and a last name"):
        audit(by_length, ["q"], [read_resume({"title": "Cook", "skills": "x"})] * 2)
    with pytest.raises(InputError, match="0 queries and 2 CVs"):
        audit(by_length, [], people(2))
    with pytest.raises(InputError, match="1 queries and 1 CVs"):
        audit(by_length, ["q"], people(1))


def test_a_model_without_identity_ranks_all_names_alike(tiny_model, tmp_path, capsys):
    sample = paths.checkout() / "data" / "sample_cvs.jsonl"
    found, _ = read_cvs([sample])
    encoder = load_encoder(str(tiny_model))
    vacancies = ["нужен сварщик", "ищем повара", "administrator of servers"]
    table = audit_model(encoder, vacancies, [each.resume for each in found])
    assert (table["rbo_min"] == 1.0).all() and (table["movement"] == 0).all()
    queries = tmp_path / "vacancies.txt"
    queries.write_text("\n".join(vacancies), encoding="utf-8")
    assert main(["cvs", str(sample), "--audit", "--model", str(tiny_model), "--queries", str(queries), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["audit"]
    assert {row["rbo_min"] for row in told["left out"]} == {1.0}
    assert len(told["kept"]) == len(table)
