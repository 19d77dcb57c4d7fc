"""Model folders that a loader would wait for, drown in or misread: refused, each in one sentence."""

from __future__ import annotations

import base64
import json
import os
import threading

import pytest
from conftest import make_model
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from hr_search.base.errors import InputError
from hr_search.encoder import load_encoder
from hr_search.fast import tokens
from hr_search.models import trials
from hr_search.models.requirements import place_of

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 1234\n"


@pytest.fixture
def folder(tmp_path):
    return make_model(tmp_path / "model")


def refusal(folder):
    with pytest.raises(InputError) as caught:
        load_encoder(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "README.md", "1_Pooling/config.json"]
)
def test_a_pipe_in_place_of_a_file_is_refused_and_not_read(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if name == "config.json":
        assert "neither modules.json nor config.json" in refusal(folder)
    else:
        assert f"{path} is a pipe" in refusal(folder)


def test_a_link_to_a_device_or_to_nothing_is_refused(folder):
    (folder / "vocab.txt").symlink_to("/dev/zero")
    assert "vocab.txt is a pipe or a device" in refusal(folder)
    (folder / "vocab.txt").unlink()
    (folder / "vocab.txt").symlink_to("gone.txt")
    assert "vocab.txt leads to no file" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "pytorch_model.bin"])
def test_a_pointer_of_git_is_refused(folder, name):
    (folder / name).write_text(POINTER)
    assert f"{folder / name} is a pointer" in refusal(folder)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_hidden_layers": 1_000_000},
        {"hidden_size": 10**12},
        {"max_position_embeddings": 10**11},
        {"vocab_size": 10**30},
        {"num_attention_heads": 1e9},
        {"text_config": {"num_layers": 5000}},
        {"hidden_size": 100_000, "intermediate_size": 1_000_000},
        {"num_hidden_layers": 1000, "hidden_size": 40_000},
    ],
    ids=str,
)
def test_sizes_that_no_model_has_are_refused(folder, sizes):
    place = folder / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | sizes))
    assert f"{place} asks for " in refusal(folder)


def test_a_configuration_nested_too_deeply_is_refused(folder):
    (folder / "config.json").write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "nested too deeply" in refusal(folder)


def test_a_list_of_thousands_of_modules_is_refused(folder):
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Normalize"}
    (folder / "modules.json").write_text(json.dumps([module] * 5000))
    assert "lists 5000 modules" in refusal(folder)


def longer(count):
    return normalizers.Sequence([normalizers.Replace("a", "aa")] * count)


HOSTILE = {
    "doubling": {"normalizer": longer(40)},
    "one long replacement": {"normalizer": normalizers.Replace(Regex("[a-z]"), "x" * 100_000)},
    "prepended": {"normalizer": normalizers.Prepend("x" * 10_000_000)},
    "nested repetition": {"pre_tokenizer": pre_tokenizers.Split(Regex(r"(a+)+$"), "isolated")},
    "choices": {"pre_tokenizer": pre_tokenizers.Split(Regex(r"(z|zz)+$"), "isolated")},
    "normaliser": {"normalizer": normalizers.Replace(Regex(r"(.* ){20}$"), "x")},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_tokenizers_that_do_not_end_are_refused(folder, kind, capfd, monkeypatch):
    monkeypatch.setattr(trials, "_MEMORY", 1 << 29)  # filled sooner
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name, value in HOSTILE[kind].items():
        setattr(core, name, value)
    core.save(str(folder / "tokenizer.json"))
    assert "tokenizer.json cannot be used: it" in refusal(folder)
    assert "panicked" not in capfd.readouterr().err


def test_a_packed_table_with_a_long_replacement_is_suspicious():
    def packed(text):
        blob = (8).to_bytes(4, "little") + bytes(8) + b"a\0" + text + b"\0"
        return {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()}}

    assert not trials.suspicion(packed(b"ffi"))
    assert trials.suspicion(packed(b"x" * 5000))


ORDINARY = {
    "gpt": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "spaces": " {2,}",
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_tokenizers_are_not_tried(kind):
    assert not trials.suspicion({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": ORDINARY[kind]}}})


def test_unusual_tokenizers_that_end_are_used(folder):
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"(\w+\s?)+"), "isolated")
    core.save(str(folder / "tokenizer.json"))
    assert trials.suspicion(json.loads((folder / "tokenizer.json").read_text()))
    assert load_encoder(str(folder)).encode(["welder"]).shape == (1, 32)


def test_a_tokenizer_that_hangs_or_panics_later_ends_with_a_sentence(monkeypatch):
    class Panic(BaseException):
        """As the tokenizers library raises it."""

    def panic(texts, **options):
        raise Panic("retry-limit-in-match over")

    with pytest.raises(InputError, match="fails on texts such as 'welder' .retry-limit"):
        tokens.tokenise(panic, ["welder"])
    monkeypatch.setattr(tokens, "_PATIENCE", 0.01)
    waited = threading.Event()
    with pytest.raises(InputError, match="no end after 0 s"):
        tokens.tokenise(lambda texts, **options: waited.wait(30), ["welder"])
    waited.set()


def test_the_place_of_a_model_is_checked_before_training_reads_data(folder):
    (folder / "model.safetensors").write_text(POINTER)
    with pytest.raises(InputError, match="pointer"):
        place_of(str(folder))
