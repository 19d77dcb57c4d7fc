"""The settings of a run: one frozen dataclass whose names, types, bounds and help texts serve the
command line, YAML recipes and notebook parameters alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from hr_search.base.choices import (
    DIRECTIONS,
    HARDNESS,
    LOSSES,
    METRICS,
    MIXINGS,
    NEGATIVES,
    PRECISIONS,
    SAMPLINGS,
    SCALINGS,
    SEARCH_MIXINGS,
    STAGES,
    STRATEGIES,
    TRACKERS,
    WORDS,
)
from hr_search.base.conversions import converted
from hr_search.base.errors import InputError, quoted, shown, suggestion
from hr_search.base.yaml_files import read_yaml
from hr_search.sources import one_text, sources

MANY = 10**12  # more than any count of rows or steps, and small enough for all arithmetic


def _setting(
    default: Any, help: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what a training run does; two runs with equal settings and data are equal.

    Names, types, bounds and help texts of the fields are those of flags, recipes and notebook parameters.

    Raises:
        InputError: a value of another type, out of bounds or not among the choices.

    Example:
        >>> settings = Settings.from_mapping({"learning-rate": "3e-5", "loss": "infonce"})
        >>> settings.learningrate, settings.replace(batchsize=64).batchsize
        (3e-05, 64)
    """

    # Data
    datapath: str = _setting(
        "esco",
        "table of pairs or triplets: a file (.csv, .tsv, .jsonl, .json, .parquet, .pkl, .xlsx), hf:OWNER/NAME, "
        "esco or esco_skills (bundled, English) or sample_ru (bundled, Russian); several tables: give the flag several "
        "times, in a recipe a list of paths, or of mappings with path, share and columns of their own",
    )
    validationpath: str = _setting("", "table for validation; empty = part of datapath, whole groups")
    testpath: str = _setting("", "table for the final test; empty = part of datapath, whole groups")
    querycolumn: str = _setting("", "column with the query; empty = found by name")
    positivecolumn: str = _setting("", "column with the matching document; empty = found by name")
    negativecolumn: str = _setting("", "column(s) with negatives, separated by commas; empty = found by name")
    groupcolumn: str = _setting(
        "", "rows with equal values in this column are relevant to each other; empty = the normalised query"
    )
    template: str = _setting("", 'builds the query from several columns, such as "{title}. Skills: {skills}"')
    documenttemplate: str = _setting("", 'builds the matching document likewise, such as "{text} {requirements}"')
    gradecolumn: str = _setting(
        "", "column with a weight of each pair in the loss, above 0 and at most 1 (infonce only); empty = all 1"
    )
    softgroupcolumn: str = _setting(
        "",
        "rows with equal values in this column, such as the start of an ISCO code, match in part if their groups "
        "differ (infonce only); empty = no partial matches",
    )
    softweight: float = _setting(
        0.3, "weight of a partial match in the target, beside 1 of a full one; 0 = it is left out", 0.0, 1.0
    )
    condense: int = _setting(
        0,
        "characters kept of a long document: the sentences whose words predict the query, learnt from the train rows; "
        "0 = all; about 4 per token of maxlength is a good value",
        0,
        MANY,
    )
    redact: bool = _setting(False, "replace e-mails, phones, links and handles in all texts as they are read")
    keephtml: bool = _setting(False, "keep HTML in texts; by default tags are removed and entities decoded")
    identity: bool = _setting(
        False,
        "keep name, birth, gender, place, contacts and links of CVs that are given in fields; by default they are left "
        "out",
    )
    encoding: str = _setting("", "encoding of text files, such as cp1251; empty = detected")
    trustfile: bool = _setting(False, "read tables that unpack to more memory than the limit")
    relevantfrom: float = _setting(
        0.0,
        "in folders of judged queries, the grade from which a document counts as relevant for all metrics but nDCG, "
        "whose gains are the grades; 0 = any grade above 0",
        0.0,
        MANY,
    )
    validationshare: float = _setting(0.1, "share of the groups, and of the rows, held out for validation", 0.0, 0.8)
    testshare: float = _setting(0.1, "share of the groups, and of the rows, held out for the test", 0.0, 0.8)
    splitseed: int = _setting(
        42, "seed of the split of datapath; --seed does not change the held-out rows", 0, 2**31 - 1
    )
    maxrows: int = _setting(0, "train on at most this many rows; 0 = all", 0, MANY)
    allowleaks: bool = _setting(False, "continue although validation or test texts occur in train")

    # Model
    modelname: str = _setting("embedded", "embedded (multilingual-e5-small, no download), a Hub name or a local folder")
    maxlength: int = _setting(128, "tokens a text is truncated to, special tokens included", 8, 8192)
    trainlength: int = _setting(
        0,
        "tokens a text is truncated to in training, condensed in proportion; validation, test and search use "
        "maxlength; 0 = maxlength",
        0,
        8192,
    )
    queryprompt: str = _setting("", "text put before every query; empty = the model's own")
    documentprompt: str = _setting("", "text put before every document; empty = the model's own")
    dropout: float = _setting(0.0, "dropout while training; -1 = the model's own", -1.0, 0.9)
    precision: str = _setting(
        "auto", "auto = bf16 if the hardware is fast at it, else fp32; int8 trains nothing", choices=PRECISIONS
    )

    # Loss
    loss: str = _setting("triplet", "training loss", choices=LOSSES)
    margin: float = _setting(0.3, "cosine margin of triplet and margin-ce", 0.0, 2.0)
    temperature: float = _setting(
        0.05, "temperature of margin-ce and infonce, and of the cosines beside a teacher", 0.001, 10.0
    )
    symmetric: bool = _setting(
        True, "margin-ce and infonce also rank the queries of the batch for each document, whatever --negatives"
    )
    negatives: str = _setting(
        "batch",
        "given = those in the table; random = one random document of the batch; batch = in-batch negatives and given "
        "ones; mined = batch plus hard negatives mined from train",
        choices=NEGATIVES,
    )
    hardness: str = _setting(
        "hardest",
        "which negative a triplet loss takes: hardest = the nearest; semi-hard = the nearest that is further away than "
        "the positive; all = the mean over all that violate the margin",
        choices=HARDNESS,
    )

    dimensions: str = _setting(
        "",
        "leading sizes of the embedding that are trained, too (Matryoshka), such as 256,128,64: the loss is the mean "
        "over these and the whole embedding; empty = the whole only",
    )

    # Mining: with negatives = mined
    minepool: int = _setting(10, "hard negatives mined per query (or per document, see mineside)", 1, 1000)
    minecount: int = _setting(1, "of these, how many join the batch with each row, drawn anew at every step", 1, 100)
    mineside: str = _setting(
        "document",
        "document = mine negative documents for each query; query = negative queries for each document, which infonce "
        "and margin-ce use in their second direction: cheap if queries are short",
        choices=("document", "query"),
    )
    mineevery: int = _setting(0, "steps between minings; 0 = mine at the start of each epoch", 0, MANY)
    minestart: int = _setting(0, "first rank taken, from 0; skipping the nearest avoids unmarked positives", 0, MANY)
    minestop: int = _setting(0, "rank after the last one taken; 0 = 100, or the end of the band", 0, MANY)
    minebandlow: float = _setting(0.0, "take ranks from this share of the corpus (ConFit v2: 0.03)", 0.0, 1.0)
    minebandhigh: float = _setting(0.0, "up to this share of the corpus (ConFit v2: 0.04); 0 = no band", 0.0, 1.0)
    mineshare: float = _setting(
        0.95, "a negative may score at most this share of the positive's score (NV-Retriever); 0 = off", 0.0, 1.0
    )
    minesampling: str = _setting(
        "top", "top = the nearest of those that remain; random = any of them", choices=SAMPLINGS
    )

    # Teacher: soft targets
    teacher: str = _setting("", "folder of a second stage (cross-encoder) whose scores are learnt, too; empty = none")
    teacherweight: float = _setting(
        1.0, "weight of KL(teacher || student), over the texts scored for a row, beside the loss", 0.0, 1e6
    )
    teachertemperature: float = _setting(1.0, "divides the teacher's scores; above 1 it is less sure", 0.01, 1000.0)
    teachercandidates: int = _setting(
        8, "wrong texts the teacher scores for each text searched with: the nearest by the base model", 1, 1000
    )
    teacherdrawn: int = _setting(
        0,
        "of these, how many join the batch with each row, drawn anew each step; 0 = all in d2q, 2 in q2d",
        0,
        1000,
    )

    # Second stage: with stage = rerank
    stage: str = _setting(
        "encode",
        "encode = train an encoder; rerank = train a cross-encoder for a second stage; search = train nothing and test "
        "the stages of a search with modelname, a finished encoder",
        choices=STAGES,
    )
    retriever: str = _setting(
        "",
        "encoder whose near wrong texts are learnt from and whose first texts are ranked again; empty = modelname",
    )
    candidates: int = _setting(8, "texts of a list: the right one, and wrong ones drawn from minepool", 2, 101)
    reranktop: int = _setting(20, "first texts of the retriever that are ranked again in validation and test", 2, 1000)

    # Stages of a search: with stage = search; the memory is the train rows
    centre: bool = _setting(False, "subtract each side's mean embedding, learnt from the memory")
    searchmixing: str = _setting(
        "none",
        "mix documents (what is searched), queries or both with the partners of their nearest neighbours in the memory",
        choices=SEARCH_MIXINGS,
    )
    searchstrategy: str = _setting("weighted", "how they are mixed", choices=STRATEGIES)
    searchk: int = _setting(10, "neighbours in the memory", 1, 1000)
    searchtemperature: float = _setting(0.05, "temperature of the softmax over their cosines", 0.001, 10.0)
    searchweight: float = _setting(0.5, "weight of their partners; for slerp: share of the way to them", 0.0, 1.0)
    fusion: float = _setting(0.0, "weight of word scores in the sum with the cosines; 0 = no words", 0.0, 1.0)
    words: str = _setting("tfidf", "word scores: tfidf (character n-grams) or bm25", choices=WORDS)
    scaling: str = _setting("zscore", "of both kinds of scores, by query, before they are summed", choices=SCALINGS)
    rerank: str = _setting("", "folder of a second stage that ranks the first reranktop texts again; empty = none")
    rerankweight: float = _setting(1.0, "weight of its scores in the sum with those of the first stage", 0.0, 1.0)

    # Mixing: training only
    mixing: str = _setting(
        "none",
        "mix the query's embedding with those of its nearest positives and negatives (mean, weighted, rocchio, slerp), "
        "or make synthetic negatives (mochi, synco)",
        choices=MIXINGS,
    )
    mixk: int = _setting(1, "neighbours of each kind that are mixed in", 1, 64)
    mixquery: float = _setting(0.8, "weight of the query itself", 0.0, 1.0)
    mixpositive: float = _setting(
        0.2, "weight of its nearest positives; for slerp: share of the way to them", -1.0, 1.0
    )
    mixnegative: float = _setting(-0.1, "weight of its nearest negatives", -1.0, 1.0)
    mixcount: int = _setting(4, "synthetic negatives of each kind that mochi and synco make per row", 1, 1000)
    mixstart: float = _setting(0.0, "share of the steps before mixing begins", 0.0, 1.0)
    mixprobability: float = _setting(1.0, "share of the rows that are mixed", 0.0, 1.0)
    mixown: bool = _setting(False, "a row's own positive may be mixed in; this alone lowers the loss")
    mixdetach: bool = _setting(True, "no gradient flows into the neighbours that are mixed in")
    bank: int = _setting(0, "recent documents kept as further neighbours for mixing; 0 = the batch only", 0, 1_000_000)

    # Optimisation
    learningrate: float = _setting(5e-5, "peak learning rate of AdamW", 1e-9, 1.0)
    batchsize: int = _setting(32, "rows per step; more rows mean more in-batch negatives and more memory", 1, 65536)
    epochs: int = _setting(1, "passes over the train rows", 1, 10000)
    maxsteps: int = _setting(0, "stop after this many steps; 0 = when the epochs are over", 0, MANY)
    warmup: float = _setting(0.1, "share of the steps in which the learning rate rises", 0.0, 0.9)
    weightdecay: float = _setting(0.0, "AdamW weight decay (never on embeddings, biases and norms)", 0.0, 1.0)
    clip: float = _setting(1.0, "largest gradient norm; 0 = no clipping", 0.0)
    baseshare: float = _setting(
        0.0,
        "share of the base model's weights in the model that is validated, tested and kept (WiSE-FT); 0 = none",
        0.0,
        0.9,
    )
    chunktokens: int = _setting(0, "padded tokens encoded at a time; 0 = chosen for the device", 0, MANY)
    gradcache: bool = _setting(
        False, "encode each batch twice, in parts of chunktokens: the memory of one part, a third more time, equal loss"
    )
    seed: int = _setting(42, "seed of row order, dropout and sampling", 0, 2**31 - 1)

    # Evaluation and stopping
    evalsteps: int = _setting(0, "also validate every this many steps; 0 = only after each epoch", 0, MANY)
    goal: str = _setting("mrr", "validation metric that picks the best model", choices=METRICS)
    direction: str = _setting(
        "q2d", "search direction of the goal: q2d = query to document, d2q = document to query", choices=DIRECTIONS
    )
    patience: int = _setting(3, "stop after this many validations without a new best; 0 = never", 0, MANY)
    target: float = _setting(0.0, "stop once the goal reaches this value; 0 = never", 0.0, 1.0)
    probes: int = _setting(
        1000, "validation texts per side whose embeddings are kept at each validation, to measure drift", 0, 5000
    )

    # Output
    projectname: str = _setting("hr-search", "name of the run, and of the project in a tracker")
    outputpath: str = _setting(
        "", "where the model is saved: a folder, or FILE.pt for the weights and a folder beside it"
    )
    checkpointpath: str = _setting("", "file for checkpoints, also to resume from; empty = none")
    checkpointsteps: int = _setting(1000, "steps between checkpoints", 1, MANY)
    resume: bool = _setting(False, "go on from checkpointpath where it exists")
    tracker: str = _setting("none", "also log to an experiment tracker (extra: track)", choices=TRACKERS)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field.name, getattr(self, field.name)))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str = "the settings") -> Settings:
        """The settings with `values` laid over the defaults.

        Args:
            values: names (any case, `-` and `_` ignored) to values; texts are converted to the setting's type.
            source: how to name the place in an error, such as a file.

        Raises:
            InputError: an unknown name, a wrong type, a value out of bounds, a name given twice.
        """
        known: dict[str, Any] = {}
        for name, value in values.items():
            key = canonical(str(name), source)
            if key in known:
                raise InputError(f"{source} gives {key} twice; keep one of the two.")
            known[key] = checked(key, value, source)
        return cls(**known)

    def replace(self, **changes: Any) -> Settings:
        """A copy with some settings changed, checked like any others."""
        return dataclasses.replace(self, **changes)

    def tables(self) -> list[Settings]:
        """The settings by which each table of `datapath` is read: its path, with its own columns over these."""
        return [self.replace(datapath=source.path, **source.columns) for source in sources(self.datapath)]

    def to_dict(self) -> dict[str, Any]:
        """All settings as a JSON-ready mapping."""
        return dataclasses.asdict(self)


FIELDS: dict[str, dataclasses.Field] = {field.name: field for field in dataclasses.fields(Settings)}
TYPES: dict[str, type] = get_type_hints(Settings)


def canonical(name: str, source: str = "the settings") -> str:
    """The setting's name for any spelling of it: `--learning_rate`, `learning-rate`, `learningRate`.

    Raises:
        InputError: no setting has that name; the sentence gives the nearest one.
    """
    key = name.strip().lstrip("-").replace("-", "").replace("_", "").lower()
    if key not in FIELDS:
        raise InputError(f'{source} has no setting "{shown(name)}"; {suggestion(key, FIELDS)}')
    return key


def checked(name: str, value: Any, source: str = "the settings") -> Any:
    """`value` in the type of the setting `name`.

    Raises:
        InputError: it cannot be read as that type, is out of bounds or is not one of the choices.
    """
    field, kind = FIELDS[name], TYPES[name]
    value = converted(name, one_text(value, source) if name == "datapath" else value, kind, source)
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices and value not in choices:
        raise InputError(f"{source}: {name} is {quoted(value)}; {suggestion(value, choices)}")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise InputError(f"{source}: {name} is {value:g}; it must be {bounds}.")
    return value


def read_recipe(path: Path | str) -> Settings:
    """The settings a recipe file (YAML) holds.

    Raises:
        InputError: as `read_yaml` and `Settings.from_mapping`, naming the file.
    """
    return Settings.from_mapping(read_yaml(path), str(path))
