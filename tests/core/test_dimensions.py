"""Leading dimensions: what is trained beside the whole embedding, and embeddings that are cut."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from test_lessons import lessons_of
from test_train import run, weights

from hr_search import dimensions, losses
from hr_search.base.errors import InputError
from hr_search.batches import index_rows, make_batch, negative_mask
from hr_search.data.tasks import tasks_of
from hr_search.dimensions import cut, leading_sizes
from hr_search.encoder import load_encoder
from hr_search.evaluation.dimensions import dimensions_table, goal_at
from hr_search.evaluation.scoring import embed_sides, evaluate, evaluate_embeddings, token_tables
from hr_search.mixing import MixingPolicy
from hr_search.step import Context, LossPolicy, batch_loss, mix_batch

# -- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dimension", "sizes"),
    [
        ("", 384, ()),
        ("  ", 0, ()),
        ("384,256,128,64", 384, (256, 128, 64)),
        ("64, 128,256", 384, (256, 128, 64)),
        ("384", 384, ()),
        ("384,64", 0, (384, 64)),
    ],
)
def test_sizes_below_the_whole_come_largest_first(text, dimension, sizes):
    assert leading_sizes(text, dimension) == sizes


@pytest.mark.parametrize(
    "text", ["64,", ",64", "64;32", "64 32", "x", "-64", "0", "064", "6.4e1", "64.0", "٦٤", "1" * 5000]
)
def test_what_is_not_a_list_of_whole_numbers_is_refused(text):
    with pytest.raises(InputError, match="give whole numbers above 0 with commas between them"):
        leading_sizes(text)


def test_sizes_that_repeat_or_do_not_fit_the_model_are_refused():
    with pytest.raises(InputError, match="names 64 twice"):
        leading_sizes("128,64,64")
    with pytest.raises(InputError, match="names 512, and the model's embeddings have 384 numbers"):
        leading_sizes("64,512", 384)
    leading_sizes("64,512", 512)


def test_cut_embeddings_have_length_1_and_zeros_stay():
    draw = torch.Generator().manual_seed(0)
    whole = torch.nn.functional.normalize(torch.randn(3, 4, 8, generator=draw), dim=-1)
    whole[1, 2] = 0
    whole.requires_grad_()
    short = cut(whole, 5)
    norms = whole[..., :5].norm(dim=-1, keepdim=True)
    assert short.shape == (3, 4, 5) and (short[1, 2] == 0).all()
    torch.testing.assert_close(short * norms, whole[..., :5])
    assert cut(whole, 8) is whole
    (short * (short != 0)).sum().backward()
    assert whole.grad.isfinite().all() and (whole.grad[..., 5:] == 0).all()


# -- in the loss ---------------------------------------------------------------------------------

POLICIES = [
    LossPolicy("triplet"),
    LossPolicy("triplet", hardness="all", negatives="random"),
    LossPolicy("margin-ce"),
    LossPolicy("infonce", symmetric=False),
    LossPolicy("infonce", teacher_weight=0.5, teacher_temperature=2.0),
]


def scene(jobs, policy, mixing=None, taught=""):
    """Random embeddings (D = 8) of a batch, the batch, its context and its lesson."""
    rows, chosen = index_rows(jobs), np.array([0, 5, 4, 9, 13, 2])
    batch = make_batch(rows, chosen)
    lesson = lessons_of(rows, taught).lesson(batch, chosen, 3) if taught else None
    count = len(batch.queries) + len(batch.documents) + (len(lesson.further) if lesson else 0)
    draw = torch.Generator().manual_seed(1)
    embeddings = torch.nn.functional.normalize(torch.randn(count, 8, generator=draw), dim=-1).requires_grad_()
    return embeddings, batch, Context(rows, {}, policy, mixing or MixingPolicy(), 0, 10), lesson


def with_sizes(policy, *sizes):
    return LossPolicy(**{**vars(policy), "dimensions": sizes})


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("taught", ["", "document", "query"])
def test_the_loss_is_the_mean_of_the_losses_of_cut_embeddings(jobs, policy, taught):
    embeddings, batch, context, lesson = scene(jobs, policy, taught=taught)
    single = [batch_loss(cut(embeddings, size), batch, context, 3, lesson) for size in (8, 5, 2)]
    context.loss = with_sizes(policy, 5, 2)
    loss, figures = batch_loss(embeddings, batch, context, 3, lesson)
    torch.testing.assert_close(loss, torch.stack([each for each, _ in single]).mean())
    assert figures[0].item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.equal(figures[1:3], single[0][1][1:3])  # active share and spread are those of the whole
    terms = torch.stack([figures for _, figures in single])[:, 3:].mean(dim=0)
    torch.testing.assert_close(figures[3:], terms, rtol=1e-5, atol=1e-7)
    mine, theirs = (torch.autograd.grad(each, embeddings)[0] for each in (loss, sum(each for each, _ in single) / 3))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("strategy", ["weighted", "slerp", "mochi", "synco"])
@pytest.mark.parametrize("name", ["triplet", "infonce"])
def test_mixing_sees_whole_embeddings_and_its_results_are_cut(jobs, strategy, name):
    policy = LossPolicy(name, dimensions=(3,))
    mixing = MixingPolicy(strategy, k=3, probability=0.7, own=True, detach=False, count=2)
    embeddings, batch, context, _ = scene(jobs, policy, mixing)
    loss, _ = batch_loss(embeddings, batch, context, 3)
    queries, documents = (
        embeddings[: len(batch.queries)][torch.from_numpy(batch.query)],
        embeddings[len(batch.queries) :],
    )
    right, relevant, same = (torch.from_numpy(each) for each in (batch.positive, batch.relevant, batch.same))
    draw = np.random.default_rng([0, 1, 3])
    wrong = torch.from_numpy(negative_mask(batch, "batch", draw))
    seen = mix_batch(queries, documents, right, relevant, batch, context, 3, draw)
    found = []
    for size in (8, 3):
        synthetic = None if seen.synthetic is None else cut(seen.synthetic, size)
        given = cut(seen.queries, size), cut(documents, size), right, wrong
        found.append(
            losses.triplet(*given, synthetic=synthetic)
            if name == "triplet"
            else losses.infonce(*given, same, synthetic=synthetic)
        )
    torch.testing.assert_close(loss, torch.stack(found).mean())
    assert found[0] != found[1]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_the_whole_size_alone_changes_no_bit(tiny_model, jobs, policy):
    changes = {"loss": policy.name, "epochs": 2, "learningrate": 1e-3}
    plain, before = run(tiny_model, jobs, **changes)
    named, after = run(tiny_model, jobs, dimensions="32", **changes)
    assert torch.equal(weights(plain), weights(named))
    assert [row["loss"] for row in before.history[1:]] == [row["loss"] for row in after.history[1:]]


@pytest.mark.parametrize("more", [{"mixing": "weighted", "bank": 40}, {"mixing": "synco", "loss": "triplet"}])
def test_gradient_caching_trains_the_same_model(tiny_model, jobs, more):
    changes = {"epochs": 2, "learningrate": 1e-3, "chunktokens": 40, "dimensions": "16,4", "loss": "infonce", **more}
    taught = {"lessons": lessons_of(index_rows(jobs), drawn=2)}
    whole, _ = run(tiny_model, jobs, **taught, **changes)
    parts, _ = run(tiny_model, jobs, gradcache=True, **taught, **changes)
    other, _ = run(tiny_model, jobs, **taught, **{**changes, "dimensions": ""})
    assert torch.allclose(weights(whole), weights(parts), atol=2e-5)
    assert not torch.allclose(weights(whole), weights(other), atol=2e-5)


def test_sizes_larger_than_the_model_are_refused_before_the_first_step(tiny_model, jobs):
    with pytest.raises(InputError, match="names 64, and the model's embeddings have 32"):
        run(tiny_model, jobs, dimensions="64,16")


# -- what cut embeddings are worth ---------------------------------------------------------------


def test_training_at_a_small_size_makes_it_search_better(tiny_model, jobs):
    tasks, found = tasks_of(jobs), {}
    for sizes in ("", "4"):
        # Without validation rows the last weights are kept: at full size the task is solved within a few steps.
        given = {"loss": "infonce", "epochs": 6, "dimensions": sizes}
        encoder, _ = run(tiny_model, jobs, validate=lambda _: {"mrr": math.nan}, **given)
        sides = embed_sides(encoder, token_tables(encoder, tasks))
        found[sizes] = goal_at(tasks["q2d"], sides, [4], "mrr")["mrr_4"]
    assert found["4"] > found[""] + 0.15, found


def test_the_table_holds_what_a_shortened_model_reaches(tiny_model, jobs):
    tasks, encoder = tasks_of(jobs), load_encoder(str(tiny_model), precision="fp32")
    sides = embed_sides(encoder, token_tables(encoder, tasks))
    table = dimensions_table(tasks, sides, [8, 2], seed=0)
    assert table.columns.tolist() == ["direction", "dimensions", "metric", "value", "low", "high"]
    assert table["dimensions"].drop_duplicates().tolist() == [32, 8, 2] and len(table) == 2 * 3 * 6
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    for size in (32, 8, 2):
        short = load_encoder(str(tiny_model), precision="fp32")
        dimensions.shorten(short, size)
        assert short.dimension == size
        for direction, results in evaluate(short, tasks).items():
            rows = table[(table["direction"] == direction) & (table["dimensions"] == size)].set_index("metric")
            for metric in ("mrr", "ndcg@10"):
                assert rows.loc[metric, "value"] == pytest.approx(results[metric].mean(), abs=1e-9)
    whole = evaluate_embeddings(tasks, sides)["q2d"]["mrr"].mean()
    assert table["value"].iloc[0] == pytest.approx(whole) and goal_at(tasks["q2d"], sides, [], "mrr") == {}


@pytest.mark.parametrize("size", [-1, 33])
def test_a_model_cannot_be_shortened_to_what_it_does_not_have(tiny_model, size):
    with pytest.raises(InputError, match=f"dimensions is {size}, and embeddings of .* have 32 numbers; give 1 to 32"):
        dimensions.shorten(load_encoder(str(tiny_model)), size)


def test_sentence_transformers_cuts_a_saved_model_as_we_do(tiny_model, jobs, tmp_path):
    encoder, _ = run(tiny_model, jobs, epochs=1, dimensions="16,8")
    encoder.save(tmp_path / "model")
    texts = jobs["positive"].tolist()
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu", truncate_dim=8).encode(texts)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    ours = cut(torch.from_numpy(encoder.encode(texts)), 8).numpy()
    dimensions.shorten(encoder, 8)
    assert theirs.shape == (len(texts), 8)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(texts), theirs, atol=1e-5)


# -- as a user meets it --------------------------------------------------------------------------


def flags(model, table, *more):
    return ["--datapath", str(table), "--modelname", str(model), "--testshare", "0.3", "--maxsteps", "2", *more]


def test_a_run_reports_every_size(home, tmp_path, tiny_model, jobs_file, capsys, caplog):
    from hr_search.commands import parser
    from hr_search.runs import folders

    words = flags(tiny_model, jobs_file, "--dimensions", "8,16", "--goal", "pass@1", "--validationshare", "0.2")
    model = tmp_path / "model"
    assert parser.main(["train", *words, "--precision", "fp32", "--outputpath", str(model)]) == 0
    out, run = capsys.readouterr(), folders.open_run()
    assert "pass@1 of the first numbers of the embeddings" in out.out and "pass@1_16 0." in out.err + caplog.text
    table, history, metrics = (run.table(name) for name in ("dimensions", "history", "metrics"))
    assert history[["pass@1_16", "pass@1_8"]].notna().all(axis=None)
    whole = table[table["dimensions"] == 32].set_index(["direction", "metric"])["value"]
    trained = metrics[metrics["system"] == "trained"].set_index(["direction", "metric"])["value"]
    pd.testing.assert_series_equal(whole, trained, check_names=False)
    assert table["direction"].drop_duplicates().tolist() == ["q2d", "d2q"]
    assert "truncate_dim=8" in (model / "README.md").read_text()
    words = ["evaluate", "--model", str(model), "--datapath", str(jobs_file), "--split", "test", "--testshare", "0.3"]
    assert parser.main([*words, "--validationshare", "0.2", "--nofloors", "--dimensions", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[str(model)]
    rows = table[(table["dimensions"] == 8) & (table["metric"] == "mrr")].set_index("direction")["value"]
    assert {name: found[name]["mrr"][0] for name in found} == pytest.approx(rows.to_dict(), abs=1e-9)


def test_runs_without_it_have_no_such_table(home, tiny_model, jobs_file, capsys):
    from hr_search.commands import parser
    from hr_search.runs import folders

    assert parser.main(["train", *flags(tiny_model, jobs_file)]) == 0
    run = folders.open_run()
    assert not run.has("dimensions") and not [name for name in run.table("history") if "_" in name and "mrr" in name]
    assert "first numbers" not in capsys.readouterr().out


@pytest.mark.parametrize(("value", "words"), [("64,16", "have 32 numbers"), ("8;4", "whole numbers"), ("8,8", "twice")])
def test_bad_sizes_end_in_a_sentence_and_leave_no_run(home, tiny_model, jobs_file, capsys, value, words):
    from hr_search.commands import parser
    from hr_search.runs import folders

    assert parser.main(["train", *flags(tiny_model, jobs_file, "--dimensions", value)]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and not folders.list_runs()


def test_an_index_remembers_its_size(home, tmp_path, tiny_model, jobs, capsys):
    from hr_search.commands import parser

    corpus, folder = tmp_path / "corpus.txt", str(tmp_path / "index")
    corpus.write_text("\n".join(jobs["positive"]), encoding="utf-8")
    same = ["--model", str(tiny_model), "--json"]
    assert parser.main(["index", "--corpus", str(corpus), "--out", folder, "--dimensions", "8", *same]) == 0
    assert '"dimension": 8' in capsys.readouterr().out
    assert parser.main(["index", "--append", "--corpus", str(corpus), "--out", folder, "--json"]) == 0
    assert '"added": 0' in capsys.readouterr().out
    ask = ["search", "bread oven dough", "--top", "3"]
    assert parser.main([*ask, "--corpus", str(corpus), "--dimensions", "8", *same]) == 0
    fresh = capsys.readouterr().out
    assert parser.main([*ask, "--index", folder, "--json"]) == 0
    kept = capsys.readouterr().out
    assert [item["row"] for item in json.loads(fresh)] == [item["row"] for item in json.loads(kept)]
    for words in ([*ask, "--index", folder], ["index", "--append", "--corpus", str(corpus), "--out", folder]):
        assert parser.main([*words, "--dimensions", "8"]) == 2
        assert "--dimensions does not apply to --" in capsys.readouterr().err
    assert parser.main([*ask, "--corpus", str(corpus), "--dimensions", "33", *same]) == 2
    assert "give 1 to 32" in capsys.readouterr().err
