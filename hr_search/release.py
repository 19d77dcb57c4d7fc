"""What leaves a run: the model's folder and weights, its card, and the command that makes it again."""

from __future__ import annotations

import logging
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from hr_search.base import files, load
from hr_search.base.choices import METRICS
from hr_search.base.errors import InputError, one_line
from hr_search.dimensions import leading_sizes
from hr_search.encoder import Encoder
from hr_search.settings import FIELDS, Settings

log = logging.getLogger(__name__)

_DEFAULTS = Settings()


def model_folder(outputpath: str) -> Path:
    """The model's folder for an `outputpath`: itself, or for FILE.pt the folder beside it."""
    target = Path(outputpath)
    return target.with_suffix("") if target.suffix == ".pt" else target


def require_place(path: Path) -> None:
    """Checks that a file or folder can be made at `path`, so that no training is wasted.

    Raises:
        InputError: its folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({one_line(error)}); choose a place with room and permission."
        ) from error


def require_output(outputpath: str) -> None:
    """Checks that the model may be written to `outputpath`: a new place, an empty folder or an older model.

    Raises:
        InputError: other files are there, or the place cannot be written to.
    """
    target, folder = Path(outputpath), model_folder(outputpath)
    try:
        if target != folder and target.is_dir():
            raise InputError(f"outputpath {target} is a folder; give a folder without .pt, or the name of a file.")
        if folder.is_file():
            raise InputError(f"outputpath {folder} is a file; give a folder or a name that ends in .pt.")
        if folder.is_dir() and any(folder.iterdir()) and not is_model(folder):
            raise InputError(
                f"the folder {folder} holds files that are no model and would be overwritten; give another outputpath."
            )
    except OSError as error:  # a folder that may not even be looked into
        raise InputError(
            f"outputpath {target} cannot be used ({one_line(error)}); choose a place with permission."
        ) from error
    require_place(folder.absolute())


def is_model(folder: Path) -> bool:
    """Whether a folder is an encoder's, or a second stage's, which has no modules.json."""
    return (folder / "modules.json").is_file() or all((folder / name).is_file() for name in _CROSS_ENCODER)


_CROSS_ENCODER = ("config.json", "model.safetensors", "tokenizer_config.json")


def command(settings: Settings, processes: int = 1) -> str:
    """The shell line that repeats a run: every setting that is not the default, to the last digit."""
    words = ["python3", "train.py"] if processes == 1 else ["accelerate", "launch", "--num_processes", str(processes)]
    words += ["train.py"] * (processes > 1)
    for name, value in settings.to_dict().items():
        if value == getattr(_DEFAULTS, name) or name == "resume":
            continue
        # With =, a negative value is not taken for a flag.
        words.append(f"--{name}" if value is True else f"--{name}={value}")
    if load.choice():  # the number, not auto, gives the same digits again
        words.append(f"--threads={torch.get_num_threads()}")
    return shlex.join(words)


def save_model(encoder: Encoder | Any, outputpath: str, card: str) -> Path:
    """Writes the model: a sentence-transformers folder, and for FILE.pt also the weights as a state dict.

    Args:
        encoder: an encoder or a second stage, whatever has `save(folder, card)` and a `model`.
        outputpath: a folder or FILE.pt.
        card: the text of the model card.

    Returns:
        The folder.
    """
    target, folder = Path(outputpath), model_folder(outputpath)
    encoder.save(folder, card)
    if target.suffix == ".pt":
        with files.whole_file(target, "wb") as file:
            torch.save(encoder.model.state_dict(), file)
    log.info("model saved: %s%s", folder, f" and its weights {target}" if folder != target else "")
    return folder


_CONDENSED = {
    "encode": """Documents of more than {2} characters were condensed in training and test; condense yours too:

```python
import json
{0}from hr_search.models.condenser import Condenser

condense = Condenser.from_dict(json.load(open({1}, encoding="utf-8")))
documents = model.encode_document([condense(text) for text in texts])
```

`hr_search search` and `hr_search evaluate` do so by themselves.

""",
    "rerank": """Vacancies of more than {2} characters were condensed in training and test by `condenser.json`;
`hr_search.reranking.scorer.load_reranker` does so by itself.

""",
}
_SHORTENED = """The first numbers of an embedding were trained, too ({1}), and are embeddings of their own:

```python
model = SentenceTransformer("{0}", truncate_dim={2})
```

"""
FRONT = {  # what the Hub reads in a card
    "encode": {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "hr", "job-search"],
    },
    "rerank": {
        "library_name": "sentence-transformers",
        "pipeline_tag": "text-ranking",
        "tags": ["sentence-transformers", "cross-encoder", "reranker", "hr", "job-search"],
    },
}
_OPENING = {
    "encode": """# {name}

A search encoder for vacancies and job titles, trained with hr_search from `{base}`.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{place}")
queries = model.encode_query(["welder"])
documents = model.encode_document(["joins metal parts with an electric arc ..."])
scores = model.similarity(queries, documents)
```

It needs sentence-transformers 5 or later, or 6 if `modules.json` names classes outside `sentence_transformers.models`.

{shortened}{condensed}""",
    "rerank": """# {name}

A second stage for the search of vacancies and job titles, trained with hr_search from `{base}`: it reads a title and a
vacancy together. In the figures below, *base* is the first stage alone and *trained* has its first {top} texts ranked
again. The title comes first, in both directions of search.

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("{place}")
scores = model.predict([("welder", "joins metal parts with an electric arc ...")])
```

{condensed}""",
}


def model_card(settings: Settings, summary: dict) -> str:
    """The README of a saved model: what it is, how to use it, its figures and how it was made."""
    front = yaml.safe_dump(FRONT[settings.stage], sort_keys=False, default_flow_style=None, width=200)
    return f"---\n{front}---\n{card_text(settings.to_dict(), summary)}"


def card_text(values: Mapping[str, Any], summary: dict, repository: str = "") -> str:
    """The README of a model without what stands between the `---`.

    Args:
        values: the settings of its run.
        summary: of its run.
        repository: on the Hub, from which the examples load the model; empty = from this folder.
    """
    stage, sizes = values["stage"], leading_sizes(values["dimensions"])
    place = repository or "path/to/this/folder"
    download = ("from huggingface_hub import hf_hub_download\n", f'hf_hub_download("{repository}", "condenser.json")')
    opened = download if repository else ("", f'"{place}/condenser.json"')
    rows = [
        f"| {system} | {direction} | " + " | ".join(map(_with_interval, (metrics[name] for name in METRICS))) + " |"
        for system, directions in summary["metrics"].items()
        for direction, metrics in directions.items()
    ]
    table = "\n".join([f"| system | direction | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 2) + "|", *rows])
    lines = "\n".join(f"- {name}: {value}" for name, value in values.items() if value != "" and name in FIELDS)
    return (
        _OPENING[stage].format(
            name=values["projectname"],
            base=values["modelname"],
            place=place,
            shortened=_SHORTENED.format(place, values["dimensions"], min(sizes)) if sizes else "",
            condensed=_CONDENSED[stage].format(*opened, values["condense"]) if values["condense"] else "",
            top=values["reranktop"],
        )
        + f"""## Test results

{summary["data"]["test"]} test rows of `{summary["data"]["name"]}` ({summary["data"]["fingerprint"]}); q2d = query to
document, d2q = document to query; in brackets 95 % intervals over groups of queries; ties count against the model.
{summary["verdict"]}

{table if rows else "No test rows."}

## Training

{summary["data"]["train"]} rows, {summary["steps"]} steps, kept: step {summary["best_step"]}. To repeat:

```
{summary["command"]}
```

{lines}
"""
    )


def _with_interval(triple: Sequence[float]) -> str:
    """A mean and its 95 % interval, as a summary holds them."""
    return "{:.3f} [{:.3f}, {:.3f}]".format(*triple)
