"""Models in other forms: equal to the encoder, usable without this package, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from hr_search import load_encoder
from hr_search.base.errors import InputError
from hr_search.commands.parser import main
from hr_search.export import comparison, folder, reduction, smoothing, static
from hr_search.export.requirements import require_model, require_out, require_packages

TEXTS = ["welder", "joins metal parts with an electric arc and grinds the seam", "", "baker " * 200]
PROMPTS = {"query": "welder ", "document": "cook cook "}


@pytest.fixture(scope="module")
def prompted(tmp_path_factory) -> Path:
    """A model with a prompt for each side, mean pooling and a layer after it."""
    place = tmp_path_factory.mktemp("prompted")
    encoder = load_encoder(str(make_model(place / "plain", "xlm-roberta")), precision="fp32", prompts=PROMPTS)
    torch.manual_seed(1)
    encoder.model.insert(2, Dense(32, 24))
    encoder.save(place / "model")
    return place / "model"


def exported(model: Path, out: Path, form: str, **plan) -> tuple[dict, pd.DataFrame | None]:
    encoder = load_encoder(str(model), precision="fp32", device="cpu")
    return folder.export(encoder, str(model), out, folder.Plan(form, **plan))


def encode_as_the_readme_says(place: Path, texts: list[str], side: str) -> np.ndarray:
    """Embeddings made by the code of the folder's README in a process that must not import torch."""
    code = re.search(r"```python\n(.*?)```", (place / "README.md").read_text(), re.DOTALL)[1]
    script = "\n".join(
        [
            "import sys",
            "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'sentence_transformers', 'hr_search')))",
            code,
            "data = json.load(sys.stdin)",
            "print(json.dumps(encode(data['texts'], data['side']).tolist()))",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, input=json.dumps({"texts": texts, "side": side}), text=True,
        capture_output=True, check=False, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout), np.float32)


# -- the graph -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "mpnet", "distilbert"])
def test_graph_gives_the_embeddings_of_the_model(tmp_path, architecture):
    pytest.importorskip("onnxruntime")
    from hr_search.export.runtime import ExportedModel

    model = make_model(tmp_path / "model", architecture)
    manifest, table = exported(model, tmp_path / "out", "onnx")
    assert table is None and manifest["deviation"] <= folder.EQUAL and manifest["dimensions"] == 32
    encoder, other = load_encoder(str(model), precision="fp32"), ExportedModel(tmp_path / "out", threads=1)
    np.testing.assert_allclose(other.encode(TEXTS), encoder.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(other.encode(TEXTS), axis=1), 1, atol=1e-5)


def test_readme_works_with_onnxruntime_and_tokenizers_alone(tmp_path, prompted):
    pytest.importorskip("onnxruntime")
    exported(prompted, tmp_path / "out", "onnx")
    encoder = load_encoder(str(prompted), precision="fp32")
    for side in PROMPTS:
        theirs = encode_as_the_readme_says(tmp_path / "out", TEXTS, side)
        np.testing.assert_allclose(theirs, encoder.encode(TEXTS, side), atol=1e-5)
    assert theirs.shape == (4, 24)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) == 10


def test_folder_is_what_sentence_transformers_looks_for(tmp_path, prompted):
    pytest.importorskip("onnxruntime")
    exported(prompted, tmp_path / "out", "onnx")
    import onnxruntime

    out = tmp_path / "out"
    assert {"config.json", "modules.json", "tokenizer.json", "tokenizer_config.json"} <= {p.name for p in out.iterdir()}
    assert not list(out.glob("*.safetensors")) and (out / "onnx" / "model.onnx").is_file()
    session = onnxruntime.InferenceSession(str(out / "onnx" / "model.onnx"))
    assert [item.name for item in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert "last_hidden_state" in [item.name for item in session.get_outputs()]
    # The hidden states of the graph, taken through the folder's other modules, are the model's embeddings.
    encoder = load_encoder(str(prompted), precision="fp32")
    encoder.eval()
    rows = encoder.model.tokenizer([PROMPTS["query"] + text for text in TEXTS[:2]], padding=True, return_tensors="np")
    inputs = {name: rows[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    hidden = torch.from_numpy(session.run(["last_hidden_state"], inputs)[0])
    features = {"token_embeddings": hidden, "attention_mask": torch.from_numpy(inputs["attention_mask"])}
    for module in list(encoder.model)[1:]:
        features = module(features)
    theirs = features["sentence_embedding"].detach().numpy()
    np.testing.assert_allclose(theirs, encoder.encode(TEXTS[:2], "query"), atol=1e-5)


def test_leading_dimensions_and_truncated_models(tmp_path, prompted):
    pytest.importorskip("onnxruntime")
    from hr_search.export.runtime import ExportedModel

    encoder = load_encoder(str(prompted), precision="fp32")
    whole = encoder.encode(TEXTS)
    encoder.model.truncate_dim = 16
    folder.export(encoder, str(prompted), tmp_path / "out", folder.Plan("onnx", 8, "leading"))
    short = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(ExportedModel(tmp_path / "out").encode(TEXTS), short, atol=1e-5)


def test_a_graph_that_differs_is_not_written(tmp_path, tiny_model, monkeypatch):
    pytest.importorskip("onnxruntime")
    plain = folder.write_graph

    def other(encoder, path):
        with torch.no_grad():
            weight = encoder.transformer.embeddings.word_embeddings.weight
            weight[:, ::2] += 0.1
            plain(encoder, path)
            weight[:, ::2] -= 0.1

    monkeypatch.setattr(folder, "write_graph", other)
    with pytest.raises(InputError, match=r"differ from the model's by up to .* nothing was written"):
        exported(tiny_model, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_condenser_lies_beside_and_is_applied(tmp_path, tiny_model):
    pytest.importorskip("onnxruntime")
    from hr_search.export.runtime import ExportedModel
    from hr_search.models.condenser import Condenser

    encoder = load_encoder(str(tiny_model), precision="fp32", condenser=Condenser(20, {"welder": 1.0}))
    manifest, _ = folder.export(encoder, str(tiny_model), tmp_path / "out", folder.Plan("onnx"))
    text = "baker bakes bread in ovens. welder joins metal. nurse gives medicine in the ward."
    np.testing.assert_allclose(ExportedModel(tmp_path / "out").encode([text]), encoder.encode([text]), atol=1e-5)
    assert manifest["condense"] == 20 and "condenser.json" in (tmp_path / "out" / "README.md").read_text()


def test_openvino_gives_the_embeddings_of_the_model(tmp_path, prompted):
    pytest.importorskip("openvino")
    manifest, _ = exported(prompted, tmp_path / "out", "openvino")
    assert manifest["deviation"] <= folder.EQUAL
    assert {p.name for p in (tmp_path / "out" / "openvino").iterdir()} == {"openvino_model.xml", "openvino_model.bin"}
    ours = load_encoder(str(prompted), precision="fp32").encode(TEXTS, "query")
    np.testing.assert_allclose(encode_as_the_readme_says(tmp_path / "out", TEXTS, "query"), ours, atol=1e-4)


# -- int8 ----------------------------------------------------------------------------------------


def test_int8_is_smaller_and_near(tmp_path, prompted):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    exact, _ = exported(prompted, tmp_path / "onnx", "onnx")
    small, _ = exported(prompted, tmp_path / "int8", "int8")
    graphs = [onnx.load(tmp_path / form / "onnx" / "model.onnx").graph for form in ("onnx", "int8")]
    sizes = [sum(onnx.numpy_helper.to_array(item).nbytes for item in graph.initializer) for graph in graphs]
    assert sizes[1] < 0.45 * sizes[0]
    assert exact["cosine_least"] > 0.9999 and 0.98 < small["cosine_least"] <= small["cosine_mean"] < 1.00001
    assert small["deviation"] > exact["deviation"] and not (tmp_path / "int8" / "onnx" / "draft.onnx").exists()
    theirs = encode_as_the_readme_says(tmp_path / "int8", TEXTS, "document")
    ours = load_encoder(str(prompted), precision="fp32").encode(TEXTS)
    assert ((theirs * ours).sum(1) > 0.98).all()


def test_int8_that_is_far_off_is_not_written(tmp_path, tiny_model, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setattr(folder, "NEAR", 1.01)
    with pytest.raises(InputError, match=r"have a mean cosine of 1\.000 .* nothing was written; take --format onnx"):
        exported(tiny_model, tmp_path / "out", "int8")
    assert not (tmp_path / "out").exists()


def test_balanced_layers_give_the_same_and_are_as_before_afterwards(tiny_model):
    encoder = load_encoder(str(tiny_model), precision="fp32", device="cpu")
    encoder.eval()
    encoder.packs = False
    layer = encoder.transformer.encoder.layer[1].intermediate.dense
    before, weight = encoder.encode(TEXTS), layer.weight.detach().clone()
    hooks = len(layer._forward_pre_hooks)
    with smoothing.smoothed(encoder, {"query": TEXTS[:1], "document": TEXTS[1:]}):
        assert not torch.equal(layer.weight, weight) and len(layer._forward_pre_hooks) == hooks + 1
        np.testing.assert_allclose(encoder.encode(TEXTS), before, atol=1e-6)
    assert torch.equal(layer.weight, weight) and len(layer._forward_pre_hooks) == hooks
    np.testing.assert_array_equal(encoder.encode(TEXTS), before)


def test_balancing_moves_outliers_to_the_weights():
    peaks, columns = torch.tensor([100.0, 1.0, 1.0, 0.0]), torch.ones(4)
    factors = smoothing.balance(peaks, columns)
    spread = (peaks / factors)[:3]
    assert spread.max() / spread.min() < 0.1 * peaks.max()
    assert torch.isfinite(factors).all() and factors.log().mean().item() == pytest.approx(0, abs=1e-5)


def test_inputs_are_as_large_as_the_texts_make_them(tiny_model):
    encoder = load_encoder(str(tiny_model), precision="fp32", device="cpu")
    encoder.eval()
    peaks = smoothing.input_peaks(encoder, {"document": ["welder", "baker cook"]})
    layer = encoder.transformer.encoder.layer[0].attention.self.query
    assert len(peaks) == 13  # six in each of two layers, and the pooler
    rows = [torch.from_numpy(row)[None] for row in encoder.tokens(["welder", "baker cook"], "document")]
    with torch.no_grad():
        inputs = torch.cat([encoder.transformer.embeddings(row.long())[0] for row in rows])
    torch.testing.assert_close(peaks[layer], inputs.abs().amax(0))


def test_every_row_of_a_table_has_its_own_scale():
    from hr_search.export.quantised import int8_rows

    table = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32) * 10.0 ** np.arange(-25, 25)[:, None]
    table[3] = 0
    numbers, scales = int8_rows(table.astype(np.float32))
    assert numbers.dtype == np.int8 and scales.shape == (50, 1)
    apart = np.abs(numbers * scales - table) / np.maximum(np.abs(table).max(1, keepdims=True), 1e-30)
    assert apart.max() <= 0.5 / 127 * 1.001


# -- shorter embeddings --------------------------------------------------------------------------


def test_all_principal_directions_keep_every_cosine():
    vectors = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32) + 2
    directions = reduction.principal_directions(vectors, 6)
    np.testing.assert_allclose(directions @ directions.T, np.eye(6), atol=1e-6)
    np.testing.assert_allclose(vectors @ directions.T @ directions @ vectors.T, vectors @ vectors.T, rtol=1e-4)


def test_fewer_directions_keep_the_most_that_any_can():
    generator = np.random.default_rng(0)
    vectors = (generator.standard_normal((200, 6)) * [9, 1, 5, 0.1, 0.1, 3]).astype(np.float32)
    directions = reduction.principal_directions(vectors, 3)
    assert [int(np.abs(row).argmax()) for row in directions] == [0, 2, 5]
    best = np.square(np.linalg.svd(vectors, compute_uv=False)[:3]).sum()
    assert np.square(vectors @ directions.T).sum() == pytest.approx(best, rel=1e-5)


def test_directions_come_out_the_same_whatever_their_sign_in_lapack():
    vectors = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    found = reduction.principal_directions(vectors, 4)
    np.testing.assert_allclose(found, reduction.principal_directions(-vectors[::-1], 4), atol=1e-5)


def test_too_few_texts_for_so_many_directions():
    with pytest.raises(InputError, match="need at least 5 distinct texts, and the train rows have 4"):
        reduction.principal_directions(np.eye(4, 8, dtype=np.float32), 5)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("- dimensions: 64, 256,128\n", (256, 128, 64)),
        ('```json\n{"matryoshka_dims": [\n 768, 256\n]}\n```', (768, 256)),
        ("- dimensions: \n", ()),
        ("", ()),
    ],
)
def test_sizes_that_a_card_names(tmp_path, text, sizes):
    (tmp_path / "README.md").write_text(f"# card\n\n- epochs: 3\n{text}")
    assert reduction.trained_sizes(str(tmp_path)) == sizes
    assert reduction.trained_sizes(str(tmp_path / "missing")) == ()


def test_how_a_model_is_shortened():
    assert reduction.chosen("", 0, (), False) == ""
    assert reduction.chosen("", 128, (256, 64), True) == "leading"
    assert reduction.chosen("", 32, (256, 64), True) == "pca"
    assert reduction.chosen("pca", 128, (256, 64), True) == "pca"
    assert reduction.chosen("leading", 128, (), False) == "leading"
    with pytest.raises(InputError, match="give --datapath, or --reduction leading"):
        reduction.chosen("", 128, (), False)


# -- the static table ----------------------------------------------------------------------------


def test_static_table_loads_everywhere_and_knows_the_words(tmp_path, tiny_model):
    manifest, _ = exported(tiny_model, tmp_path / "out", "static", size=16)
    assert (manifest["dimensions"], manifest["reduction"]) == (16, "pca of the vocabulary")
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert isinstance(model[0], StaticEmbedding)
    encoder = load_encoder(str(tmp_path / "out"))
    np.testing.assert_allclose(
        encoder.encode(["welder", "baker cook"]), model.encode(["welder", "baker cook"]), atol=1e-6
    )
    table = model[0].embedding.weight.detach().numpy()
    words = model[0].tokenizer.get_vocab()
    assert table.shape == (len(words), 16)
    assert not table[[words["<s>"], words["</s>"], words["<pad>"], words["<unk>"]]].any()
    mean = (table[words["baker"]] + table[words["cook"]]) / 2
    np.testing.assert_allclose(encoder.encode(["baker cook"])[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_tokens_of_a_whole_table_are_as_far_apart_as_the_model_puts_them(tiny_model):
    encoder = load_encoder(str(tiny_model), precision="fp32", device="cpu")
    table = static.distil(encoder, 32)
    words = encoder.model.tokenizer.get_vocab()
    names = ["welder", "baker", "nurse"]
    ids = [words[name] for name in names]
    weights = static.token_weights(np.zeros(len(words)))[ids, None]
    alone = encoder.encode(names)
    np.testing.assert_allclose(
        np.linalg.norm(table[ids][0] / weights[0] - table[ids][1] / weights[1]),
        np.linalg.norm(alone[0] - alone[1]), atol=1e-4,
    )  # fmt: skip


def test_frequent_tokens_count_less():
    weights = static.token_weights(np.array([1000, 10, 0]))
    assert weights[0] < weights[1] < weights[2] <= 1
    zipf = static.token_weights(np.zeros(5))
    assert (np.diff(zipf) > 0).all()


# -- comparing -----------------------------------------------------------------------------------


def test_int8_and_binary_embeddings():
    vectors = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32) + 3
    vectors[:, 2] = 0
    apart = np.abs(comparison.int8_embeddings(vectors) - vectors) / np.maximum(np.abs(vectors).max(0), 1)
    assert apart.max() <= 0.51 / 127
    bits = comparison.binary_embeddings(vectors)
    assert set(np.unique(bits)) == {-1, 1} and bits[:, 0].mean() < 0.7  # about the mean, not about zero


def test_verb_compares_and_writes_the_table(home, tmp_path, prompted, jobs_file, capsys):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    words = ["export", "--model", str(prompted), "--format", "onnx", "--out", str(out), "--dimensions", "4"]
    words += ["--datapath", str(jobs_file), "--testshare", "0.4", "--validationshare", "0.1", "--json"]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    table = pd.read_csv(out / "export.csv")
    assert (printed["reduction"], printed["dimensions"], printed["folder"]) == ("pca", 4, str(out))
    assert len(table) == 8 == len(printed["table"])
    assert table["system"].tolist()[:4] == ["original", "onnx", "onnx, int8 embeddings", "onnx, binary embeddings"]
    assert table["bytes"].tolist()[:4] == [96, 16, 4, 1]
    assert table["p"].isna().tolist() == [True, False, False, False] * 2
    gaps = table["mrr"] - np.repeat(table["mrr"][::4].to_numpy(), 4)
    np.testing.assert_allclose(table["difference"].dropna(), gaps[table["p"].notna()], atol=1e-6)
    assert (table["ms_query"] > 0).all() and ((table["low"] <= table["mrr"]) & (table["mrr"] <= table["high"])).all()
    assert "export.csv" in (out / "README.md").read_text() and json.loads((out / "export.json").read_text())["opset"]


def test_verb_writes_a_static_table_with_its_frequencies(home, tmp_path, tiny_model, jobs_file, capsys):
    words = ["export", "--model", str(tiny_model), "--format", "static", "--out", str(tmp_path / "out")]
    assert main([*words, "--datapath", str(jobs_file), "--testshare", "0.4"]) == 0
    assert "static, 32 dimensions" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "export.json").read_text())["frequencies"] == "train texts and Zipf's law"
    assert set(pd.read_csv(tmp_path / "out" / "export.csv")["direction"]) == {"q2d", "d2q"}
    assert main(words) == 0  # an older export is replaced
    assert not (tmp_path / "out" / "export.csv").exists()


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--format", "static", "--dimensions", "33"], "--dimensions is 33, and the embeddings of .* have 32 numbers"),
        (["--format", "static", "--dimensions", "-1"], "--dimensions is -1"),
        (["--format", "static", "--threads", "0"], "--threads is 0"),
        (["--format", "static", "--reduction", "pca"], "give --dimensions, too"),
        (["--format", "static", "--reduction", "pca", "--dimensions", "4"], "does not apply to --format static"),
        (["--format", "torchscript"], "invalid choice"),
        (["--format", "static", "--datapath", "missing.csv"], "missing.csv"),
    ],
)
def test_bad_flags(home, tmp_path, tiny_model, capsys, flags, sentence):
    assert main(["export", "--model", str(tiny_model), "--out", str(tmp_path / "out"), *flags]) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_places_that_are_refused(tmp_path, tiny_model):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    for out, sentence in {
        tiny_model: "lies in the folder of the model",
        tiny_model / "onnx": "lies in the folder of the model",
        tmp_path / "full": "holds files that are not an export",
        tmp_path / "full" / "letter.txt": "is a file",
    }.items():
        with pytest.raises(InputError, match=sentence):
            require_out(str(out), str(tiny_model))
    (tmp_path / "full" / "export.json").write_text("{}")
    assert require_out(str(tmp_path / "full"), str(tiny_model)) == tmp_path / "full"


def test_models_that_no_graph_can_repeat(tmp_path, tiny_model):
    encoder = load_encoder(str(tiny_model))
    encoder.model[1].include_prompt = False
    with pytest.raises(InputError, match="leaves the tokens of its prompt out"):
        require_model(encoder)
    exported(tiny_model, tmp_path / "static", "static", size=8)
    with pytest.raises(InputError, match="has a module StaticEmbedding"):
        require_model(load_encoder(str(tmp_path / "static")))
    encoder = load_encoder(str(tiny_model))
    encoder.foreign = True
    with pytest.raises(InputError, match="is encoded by sentence-transformers itself"):
        require_model(encoder)


@pytest.mark.parametrize(("form", "extra"), [("onnx", "export"), ("int8", "export"), ("openvino", "openvino")])
def test_a_missing_package_names_its_extra(monkeypatch, form, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"the format {form} needs the package \w+; .*hr_search\[{extra}\]"):
        require_packages(form)
    require_packages("static")
