"""The README of an exported folder: what it is and the few lines that use it."""

from __future__ import annotations

from typing import Any

_ONNX = """```python
import json
import numpy as np, onnxruntime
from tokenizers import Tokenizer

prompts = json.load(open("export.json", encoding="utf-8"))["prompts"]
tokenizer = Tokenizer.from_file("tokenizer.json")  # cuts and pads by itself
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])

def encode(texts, side="document"):
    rows = tokenizer.encode_batch([prompts[side] + text for text in texts])
    ids, mask = (np.array([getattr(row, name) for row in rows], np.int64) for name in ("ids", "attention_mask"))
    return session.run(["sentence_embedding"], {{"input_ids": ids, "attention_mask": mask}})[0]
```"""
_OPENVINO = """```python
import json
import numpy as np, openvino
from tokenizers import Tokenizer

prompts = json.load(open("export.json", encoding="utf-8"))["prompts"]
tokenizer = Tokenizer.from_file("tokenizer.json")  # cuts and pads by itself
model = openvino.Core().compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})

def encode(texts, side="document"):
    rows = tokenizer.encode_batch([prompts[side] + text for text in texts])
    ids, mask = (np.array([getattr(row, name) for row in rows], np.int64) for name in ("ids", "attention_mask"))
    return model({{"input_ids": ids, "attention_mask": mask}})["sentence_embedding"]
```"""
_STATIC = """```python
from sentence_transformers import SentenceTransformer  # 6 or later

model = SentenceTransformer(".")
titles, vacancies = model.encode(["welder"]), model.encode(["joins metal parts with an electric arc"])
print(model.similarity(titles, vacancies))
```

There are no prompts, and no text is too long."""
_GRAPH_USE = """In this folder, {runtime} and tokenizers are enough:

{code}

Job titles are queries, vacancies and CVs are documents, in both directions of search. Prompts before the texts:
{prompts}. Texts are cut to {maxlength} tokens. Pooling, further layers and normalisation are inside the graph (opset
{opset}; `input_ids` and `attention_mask`, int64, of any number of texts and tokens).

Or with `sentence-transformers[{backend}]`: `SentenceTransformer(".", backend="{backend}")`, then `encode_query` and
`encode_document`.

{accuracy}"""
_EXACT = "On a few test texts its numbers differ from the original's by at most {deviation:.1g}."
_NEAR = """On a few test texts its embeddings have a cosine of {cosine_mean:.4f} (least {cosine_least:.4f}) with the
original's. Integer products are fast where the processor has VNNI; one without may also round more."""
_CONDENSING = """Documents of more than {condense} characters were condensed in training; condense yours, too, with
hr_search:

```python
import json
from hr_search.models.condenser import Condenser

condense = Condenser.from_dict(json.load(open("condenser.json", encoding="utf-8")))
documents = encode([condense(text) for text in texts])
```"""
_WHAT = {
    "onnx": "as one ONNX graph",
    "int8": "as one ONNX graph with int8 weights",
    "openvino": "as one OpenVINO graph",
    "static": "as a static table: one vector for each token, and a text is the mean of its tokens",
}


def card(manifest: dict[str, Any], compared: bool) -> str:
    """The README of an exported folder.

    Args:
        manifest: what `export.json` holds.
        compared: whether there is a table `export.csv`.
    """
    form = manifest["format"]
    parts = [
        f"# {manifest['model']}, {form}",
        f"The search encoder `{manifest['model']}` {_WHAT[form]}, exported with hr_search {manifest['hr_search']}. "
        f"Embeddings have {manifest['dimensions']} numbers{_shortened(manifest)} and are L2-normalised, so their dot "
        "product is the cosine.",
        _STATIC if form == "static" else _graph_use(manifest),
    ]
    if manifest["condense"]:
        parts.append(_CONDENSING.format(**manifest))
    if compared:
        parts.append(
            "`export.csv` compares it with the original: megabytes, bytes of a stored embedding, milliseconds a text, "
            "MRR with its 95 % interval and the paired test."
        )
    return "\n\n".join(parts) + "\n"


def _shortened(manifest: dict[str, Any]) -> str:
    if manifest["reduction"] == "leading":
        return " (the leading ones of the model)"
    return " (principal directions of train texts)" if manifest["reduction"] == "pca" else ""


def _graph_use(manifest: dict[str, Any]) -> str:
    backend = "openvino" if manifest["format"] == "openvino" else "onnx"
    prompts = ", ".join(f"{side} `{text}`" for side, text in manifest["prompts"].items() if text)
    values = manifest | {
        "runtime": "openvino" if backend == "openvino" else "onnxruntime",
        "code": (_OPENVINO if backend == "openvino" else _ONNX).format(file=manifest["file"]),
        "prompts": prompts or "none",
        "backend": backend,
        "accuracy": (_NEAR if manifest["format"] == "int8" else _EXACT).format(**manifest),
    }
    return _GRAPH_USE.format(**values)
