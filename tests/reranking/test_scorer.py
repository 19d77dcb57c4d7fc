"""The second stage scores pairs as CrossEncoder and transformers do, and refuses what is no cross-encoder."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import JOBS, make_model
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hr_search.base.errors import InputError
from hr_search.encoder import load_encoder
from hr_search.models import condenser
from hr_search.reranking.pairs import SECOND, pair_rows
from hr_search.reranking.scorer import load_reranker, new_reranker

WORDS = sorted({word for text in JOBS.values() for word in text.split()})


def texts(count: int, longest: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(count)]


TITLES, VACANCIES = texts(24, 6, 0) + texts(2, 90, 1), texts(24, 90, 2) + texts(2, 90, 3)


def cross_encoder(folder: Path, architecture: str = "bert", typed: bool = False, outputs: int = 1) -> Path:
    """A random cross-encoder whose logits differ from pair to pair, as transformers saves it."""
    make_model(folder / "base", architecture)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=outputs)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    model.save_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    if typed:
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.save_pretrained(folder / "model")
    if typed:
        place = folder / "model" / "tokenizer_config.json"
        place.write_text(
            json.dumps({**json.loads(place.read_text()), "model_input_names": tokenizer.model_input_names})
        )
    return folder / "model"


@pytest.fixture(scope="module")
def typed(tmp_path_factory) -> Path:
    return cross_encoder(tmp_path_factory.mktemp("typed"), typed=True)


# -- equality ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "typed", "roberta", "xlm-roberta", "distilbert", "mpnet"])
def test_scores_are_those_of_transformers(name, tmp_path):
    folder = cross_encoder(tmp_path, "bert" if name == "typed" else name, typed=name == "typed")
    reranker = load_reranker(folder, precision="fp32")
    assert reranker.packed == (name not in ("distilbert", "mpnet"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    features = tokenizer(
        TITLES, VACANCIES, truncation=True, max_length=reranker.maxlength, padding=True, return_tensors="pt"
    )
    assert ("token_type_ids" in features) == (name == "typed")
    with torch.inference_mode():
        wanted = model(**features).logits[:, 0].numpy()
    assert wanted.std() > 0.01
    np.testing.assert_allclose(reranker.score(TITLES, VACANCIES), wanted, atol=1e-5)


def test_token_types_matter_and_gradients_are_those_with_padding(typed):
    gradients = []
    for packs in (True, False):
        reranker = load_reranker(typed, precision="fp32")
        assert reranker.packs
        reranker.packs = packs
        rows = reranker.rows(TITLES, VACANCIES)
        reranker(rows).square().sum().backward()
        gradients.append({name: weight.grad for name, weight in reranker.model.named_parameters()})
    kinds = "bert.embeddings.token_type_embeddings.weight"
    assert gradients[0][kinds].abs().sum(dim=1).min() > 0
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5 + 2e-3 * float(gradient.abs().max())), name
    plain = reranker.infer([row & ~SECOND for row in rows])
    assert np.abs(plain - reranker.infer(rows)).max() > 0.01


def test_saved_model_is_a_cross_encoder_with_the_same_logits_and_order(typed, tmp_path):
    reranker = load_reranker(typed, maxlength=40, precision="fp32")
    reranker.save(tmp_path / "out", "# card")
    peer = CrossEncoder(str(tmp_path / "out"), device="cpu")
    found = peer.predict(list(zip(TITLES, VACANCIES, strict=True)), activation_fn=nn.Identity())
    ours = reranker.score(TITLES, VACANCIES)
    np.testing.assert_allclose(found, ours, atol=1e-4)
    plain = peer.predict(list(zip(TITLES, VACANCIES, strict=True)))
    assert np.argsort(plain).tolist() == np.argsort(ours).tolist()
    assert (tmp_path / "out" / "README.md").read_text() == "# card"
    again = load_reranker(tmp_path / "out", precision="fp32")
    assert again.maxlength == 40
    np.testing.assert_allclose(again.score(TITLES, VACANCIES), ours, atol=1e-6)
    peer.save(str(tmp_path / "peer"))  # in the form of sentence-transformers 6, with modules.json
    np.testing.assert_allclose(
        load_reranker(tmp_path / "peer", precision="fp32").score(TITLES, VACANCIES), ours, atol=1e-6
    )


@pytest.mark.parametrize("length", [8, 13, 40, 64])
def test_pairs_are_tokenised_as_the_tokenizer_does(typed, length):
    tokenizer = AutoTokenizer.from_pretrained(typed)
    rows = pair_rows(tokenizer, TITLES, VACANCIES, length)
    wanted = AutoTokenizer.from_pretrained(typed)(TITLES, VACANCIES, truncation=True, max_length=length)
    assert [(row & ~SECOND).tolist() for row in rows] == wanted["input_ids"]
    assert [(row >= SECOND).astype(int).tolist() for row in rows] == wanted["token_type_ids"]
    assert max(map(len, rows)) == length


def test_the_vacancy_is_cut_and_the_title_stays(typed):
    reranker = load_reranker(typed, maxlength=16)
    (row,) = reranker.rows(["welder baker nurse"], [" ".join(WORDS)])
    assert len(row) == 16
    assert reranker.tokenizer.decode((row & ~SECOND)[1:4]) == "welder baker nurse"


def test_order_and_slices_do_not_matter(typed, monkeypatch):
    reranker = load_reranker(typed, precision="fp32")
    whole = reranker.score(TITLES, VACANCIES)
    order = np.random.default_rng(0).permutation(len(TITLES))
    shuffled = reranker.score([TITLES[i] for i in order], [VACANCIES[i] for i in order])
    np.testing.assert_allclose(shuffled, whole[order], atol=1e-5)
    monkeypatch.setattr("hr_search.reranking.cross_encoder._SLICE", 5)
    np.testing.assert_allclose(reranker.score(TITLES, VACANCIES, progress=True), whole, atol=1e-5)
    assert reranker.score([], []).shape == (0,)


def test_bf16_keeps_logits_apart(typed):
    exact, rough = (load_reranker(typed, precision=name).score(TITLES, VACANCIES) for name in ("fp32", "bf16"))
    assert np.abs(exact - rough).max() < 0.5 and not np.array_equal(exact, rough)
    assert len(set(rough.tolist())) == len(rough)


def test_condenser_is_saved_and_applied(typed, tmp_path):
    reranker = load_reranker(typed, precision="fp32")
    rules = condenser.learn(list(JOBS), [f"{text}. {title}." for title, text in JOBS.items()], 60)
    vacancies = [". ".join(JOBS.values()) for _ in JOBS]
    plain = reranker.score(list(JOBS), vacancies)
    reranker.condenser = rules
    short = reranker.score(list(JOBS), vacancies)
    assert not np.allclose(plain, short, atol=1e-3)
    reranker.condenser = None
    np.testing.assert_allclose(reranker.score(list(JOBS), [rules(text) for text in vacancies]), short, atol=1e-5)
    reranker.condenser = rules
    reranker.save(tmp_path / "out")
    again = load_reranker(tmp_path / "out", precision="fp32")
    np.testing.assert_allclose(again.score(list(JOBS), vacancies), short, atol=1e-5)
    assert load_reranker(tmp_path / "out", maxlength=32).condenser.characters == 30


def test_compacted_vocabulary_scores_alike(typed):
    reranker = load_reranker(typed, precision="fp32")
    rows = reranker.rows(TITLES, VACANCIES)
    whole = reranker.infer(rows)
    kept = reranker.compact([np.concatenate(rows) & ~SECOND])
    assert kept < reranker._vocabulary.size
    np.testing.assert_allclose(reranker.infer(rows), whole, atol=1e-6)
    with pytest.raises(RuntimeError, match="expand"):
        reranker.save("anywhere")
    reranker.expand()
    np.testing.assert_allclose(reranker.infer(rows), whole, atol=1e-6)


# -- a new one -----------------------------------------------------------------------------------


def test_new_head_depends_on_the_seed_alone(tiny_model):
    first, again, other = (new_reranker(str(tiny_model), seed=seed, precision="fp32") for seed in (1, 1, 2))
    score = [each.eval().score(TITLES, VACANCIES) for each in (first, again, other)]
    assert np.array_equal(score[0], score[1]) and not np.allclose(score[0], score[2])


def test_pooler_of_zeros_gets_weights_and_gradients_reach_the_body(tmp_path):
    from transformers import BertModel

    make_model(tmp_path / "base")
    model = BertModel.from_pretrained(tmp_path / "base")
    nn.init.zeros_(model.pooler.dense.weight)
    model.save_pretrained(tmp_path / "base")
    reranker = new_reranker(str(tmp_path / "base"), precision="fp32")
    reranker(reranker.rows(TITLES, VACANCIES)).sum().backward()
    assert reranker.model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_new_reranker_from_an_encoder_folder(tiny_model, tmp_path):
    SentenceTransformer(str(tiny_model), device="cpu").save(str(tmp_path / "encoder"))
    assert new_reranker(str(tmp_path / "encoder"), 32).maxlength == 32


def test_a_length_an_encoder_was_saved_with_is_no_limit(tiny_model, tmp_path, caplog):
    load_encoder(str(tiny_model), 16).save(tmp_path / "encoder")
    for longest in (16, 48, 80):
        assert new_reranker(str(tmp_path / "encoder"), longest).maxlength == longest
    assert new_reranker(str(tmp_path / "encoder")).maxlength == 16 and not caplog.text
    longer = new_reranker(str(tmp_path / "encoder"), 81, "fp32")
    assert longer.maxlength == 80 and "takes at most 80 tokens; maxlength 81 is lowered" in caplog.text
    rows = longer.rows(["welder"], ["joins metal " * 100])
    assert len(rows[0]) == 80 and np.isfinite(longer.eval().infer(rows)).all()
    longer.save(tmp_path / "second")
    assert load_reranker(tmp_path / "second").maxlength == 80
    assert load_reranker(tmp_path / "second", 90).maxlength == 80


# -- bad input -----------------------------------------------------------------------------------


def test_several_outputs_are_refused(tmp_path):
    with pytest.raises(InputError, match="3 outputs"):
        load_reranker(cross_encoder(tmp_path, outputs=3))


def test_encoders_are_refused(tiny_model, tmp_path):
    with pytest.raises(InputError, match="no cross-encoder"):
        load_reranker(tiny_model)
    SentenceTransformer(str(tiny_model), device="cpu").save(str(tmp_path / "encoder"))
    with pytest.raises(InputError, match="no cross-encoder .it holds an encoder"):
        load_reranker(tmp_path / "encoder")


def test_other_folders_are_refused(typed, tmp_path):
    with pytest.raises(InputError, match="not a model folder"):
        load_reranker(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_reranker(tmp_path / "nothing")
    for path in typed.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="cannot be loaded"):
        load_reranker(tmp_path)


def test_pairs_of_unequal_number_and_nan_are_refused(typed):
    reranker = load_reranker(typed)
    with pytest.raises(InputError, match="2 titles and 1 vacancies"):
        reranker.score(["a", "b"], ["c"])
    nn.init.constant_(reranker.model.classifier.bias, float("nan"))
    with pytest.raises(InputError, match="NaN"):
        reranker.score(["a"], ["b"])


def test_tokenizer_that_joins_without_a_mark_is_refused(tmp_path):
    make_model(tmp_path / "base")
    place = tmp_path / "base" / "tokenizer.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "post_processor": None}))
    with pytest.raises(InputError, match="no mark between"):
        new_reranker(str(tmp_path / "base"))
