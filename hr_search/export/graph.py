"""The ONNX graph of an encoder: token ids and their mask in, the L2-normalised embedding of each text out.

The graph also gives the hidden states under the name that sentence-transformers asks for, so that one file serves
both: plain onnxruntime takes `sentence_embedding`, `SentenceTransformer(folder, backend="onnx")` takes
`last_hidden_state` and goes through the modules of the folder. A runtime computes only what it is asked for.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hr_search.base.errors import InputError, one_line
from hr_search.base.progress import quiet
from hr_search.encoder import Encoder
from hr_search.models.fidelity import TEXTS

OPSET = 17  # the first with LayerNormalization as one operator
INPUTS = ("input_ids", "attention_mask")
EMBEDDING, HIDDEN = "sentence_embedding", "last_hidden_state"


class SentenceGraph(nn.Module):
    """The modules of an encoder as one function of two tensors."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.transformer = encoder.transformer
        self.rest = nn.ModuleList(list(encoder.model)[1:])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, D), L2-normalised, and hidden states (B, L, H) of ids and mask (B, L), int64."""
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)[0]
        features = {"token_embeddings": hidden, "attention_mask": attention_mask}
        for module in self.rest:
            features = module(features)
        return nn.functional.normalize(features["sentence_embedding"], dim=-1), hidden


def write_graph(encoder: Encoder, path: Path) -> None:
    """Writes the graph of an encoder, with any number of texts and tokens.

    Args:
        encoder: on the CPU; it is left in evaluation mode.
        path: the file.

    Raises:
        InputError: the model does something that has no ONNX operator, or exceeds the 2 GB of one file.
    """
    encoder.eval()
    names = {0: "texts", 1: "tokens"}
    axes = dict.fromkeys((*INPUTS, HIDDEN), names) | {EMBEDDING: {0: "texts"}}
    try:
        with warnings.catch_warnings(), quiet(), torch.no_grad():
            # The tracer warns of comparisons of shapes in Python; what it may get wrong, the equality check finds.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                SentenceGraph(encoder),
                _example(encoder),
                str(path),
                input_names=list(INPUTS),
                output_names=[EMBEDDING, HIDDEN],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,  # the other exporter needs three more packages and ten times as long
            )
    except Exception as error:  # tracing runs the model's own code
        if isinstance(error, OSError):
            raise
        raise InputError(
            f"the model {encoder.name} cannot be written as an ONNX graph ({one_line(error, 200)}); try --format "
            "static, or another model."
        ) from error


def _example(encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Ids and mask of a few texts of different lengths, padded."""
    rows = encoder.token_ids(list(encoder.tokens(TEXTS, "document", cached=False)))
    ids = np.full((len(rows), max(map(len, rows))), encoder.model.tokenizer.pad_token_id or 0, np.int64)
    mask = np.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)], mask[at, : len(row)] = row, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
