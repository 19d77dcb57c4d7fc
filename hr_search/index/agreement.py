"""Whether an index fits what is searched with: the model, the knobs, the corpus it was built from."""

from __future__ import annotations

from hr_search.base.errors import InputError, quoted, shown
from hr_search.encoder import Encoder
from hr_search.index.folder import Index, model_entries
from hr_search.search import identity
from hr_search.search.policy import SearchPolicy

_WORDS = {"dimension": "the dimension", "prompts": "the prompts", "maxlength": "maxlength", "condenser": "condenser"}


def require_model(index: Index, encoder: Encoder, proven: bool = False) -> None:
    """Checks that an encoder is the one that made an index.

    Args:
        index: the index.
        encoder: the model to search with.
        proven: whether its files are known to be the same (`proof.open_proven`).

    Raises:
        InputError: another dimension, prompt, length, condenser or other weights, or only one of both encodes in int8.
    """
    made, asked = index.manifest["precision"] == "int8", encoder.precision == "int8"
    if made != asked:
        raise InputError(
            f"the index {index.folder} was built {'with' if made else 'without'} --precision int8; search it "
            f"{'with' if made else 'without'} that, or build it again."
        )
    entries = model_entries(encoder)
    for name, words in _WORDS.items():
        if index.manifest[name] != entries[name]:
            raise InputError(
                f"the index {index.folder} was built with {words} {shown(quoted(index.manifest[name]))}, and the model "
                f"{encoder.name} has {shown(quoted(entries[name]))}; build the index again, or search with its model."
            )
    if not proven and index.manifest["fingerprint"] != identity.fingerprint(encoder):
        raise InputError(
            f"the index {index.folder} was built with another model than {encoder.name} is now; build it again, or "
            "search with its model."
        )


def require_knobs(index: Index, policy: SearchPolicy) -> None:
    """Checks that the embeddings of an index are those that a policy wants.

    Raises:
        InputError: naming the first knob that differs.
    """
    stored, wanted = index.policy.embedding, policy.embedding
    stored["mixing"], wanted["mixing"] = index.policy.mixes("documents"), policy.mixes("documents")
    for name in dict.fromkeys([*stored, *wanted]):
        if stored.get(name) != wanted.get(name):
            there, asked = getattr(index.policy, name), getattr(policy, name)
            as_built = "search it with the same stages" if index.policy.staged else "search it with --plain"
            raise InputError(
                f"the index {index.folder} was built with {name} {there}, and this search wants {asked}; build it "
                f"again, or {as_built}."
            )


def require_corpus(index: Index, file: str, found: str) -> None:
    """Checks that a corpus file is one that the index was built from.

    Args:
        index: the index.
        file: the file, for the sentence.
        found: its digest now, as `texts.file_digest` gives it.

    Raises:
        InputError: it is not, or has changed since.
    """
    if found not in [entry["digest"] for entry in index.manifest["corpora"] if entry["digest"]]:
        raise InputError(
            f"{file} is not what the index {index.folder} was built from, or has changed since; build the index again, "
            "or add new texts with `index --append`."
        )
