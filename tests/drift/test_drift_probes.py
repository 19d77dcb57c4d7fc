"""The probes of a run, read back as written, and every way in which they can be damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hr_search.base.errors import InputError
from hr_search.drift.probes import cut, load_probes, until_kept

X = np.random.default_rng(0).normal(size=(8, 16))


def write_run(folder: Path, texts: pd.DataFrame, checkpoints: dict[int, np.ndarray]) -> Path:
    (folder / "probes").mkdir()
    texts.to_csv(folder / "probes" / "texts.csv", index=False)
    for step, x in checkpoints.items():
        np.save(folder / "probes" / f"step_{step:06d}.npy", x)
    return folder


TEXTS = pd.DataFrame({"side": ["query", "document"], "text": ["NA", 'a "b",\n$c_d$ <e>'], "group": ["1", "null"]})


def test_probes_come_back_as_written_in_the_order_of_steps(tmp_path: Path):
    run = write_run(tmp_path, TEXTS, {1_000_000: X[:2], 120: X[2:4].astype(np.float16), 0: X[4:6]})
    (run / "probes" / "step_best.npy").write_bytes(b"not one of ours")
    texts, checkpoints = load_probes(run)
    pd.testing.assert_frame_equal(texts, TEXTS, check_dtype=False)
    assert list(checkpoints) == [0, 120, 1_000_000]
    assert all(x.dtype == np.float32 for x in checkpoints.values())
    assert checkpoints[1_000_000] == pytest.approx(X[:2], abs=1e-6)


@pytest.mark.parametrize(
    ("kept", "steps", "sentence"),
    [
        (80, [0, 40, 80], "the model of step 80 was kept; the steps after it, up to 1,200, were thrown away."),
        (1200, [0, 40, 80, 1200], "the model of step 1,200 was kept, the last one validated."),
        (0, [0, 40, 80, 1200], "the kept model is the base model; the steps up to 1,200, which were thrown away, are"),
        (60, [0, 40, 80, 1200], "the model of step 60 was kept, but there are no probes of it, as the run was resumed"),
    ],
)
def test_checkpoints_end_with_the_model_that_was_kept(kept, steps, sentence):
    checkpoints = dict.fromkeys((0, 40, 80, 1200), X[:2])
    left, said = until_kept(checkpoints, kept)
    assert list(left) == steps and said.startswith(sentence)
    assert until_kept({0: X[:2]}, 0)[1] == "the kept model is the base model."


def test_broken_probes_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="holds no probe embeddings; drift is measured on validation rows"):
        load_probes(tmp_path)
    run = write_run(tmp_path, TEXTS, {0: X[:2]})
    step = run / "probes" / "step_000000.npy"
    whole = step.read_bytes()
    for damage in (whole[:-8], b"", b"PK not an array"):
        step.write_bytes(damage)
        with pytest.raises(InputError, match=r"step_000000\.npy cannot be read"):
            load_probes(run)
    np.save(step, np.array([{"a": 1}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"step_000000\.npy cannot be read"):
        load_probes(run)
    for wrong in (X[:3], X[:2].astype(int), X[0][:2]):
        np.save(step, wrong)
        with pytest.raises(InputError, match="for 2 texts"):
            load_probes(run)
    with step.open("wb") as file:
        np.savez(file, a=X)
    with pytest.raises(InputError, match="for 2 texts"):
        load_probes(run)
    step.write_bytes(whole)
    table = run / "probes" / "texts.csv"
    TEXTS.drop(columns="group").to_csv(table, index=False)
    with pytest.raises(InputError, match="has no column group"):
        load_probes(run)
    table.write_bytes(b"side,text\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"texts\.csv cannot be read"):
        load_probes(run)
    table.unlink()
    with pytest.raises(InputError, match="holds no probe embeddings"):
        load_probes(run)


def test_texts_are_cut_to_one_line():
    assert cut(" a\n\tb ", 3) == "a b"
    assert cut("abcdef", 5) == "abcd…" and cut("abcde", 5) == "abcde"
