"""The fields of `Settings` in groups: each with its type, default, bounds and help text."""

from __future__ import annotations

import dataclasses
from typing import Any

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

MANY = 10**12  # more than any count of rows or steps, and small enough for all arithmetic


def setting(
    default: Any, help: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """A field with its default, its help text, and its bounds or choices."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


@dataclasses.dataclass(frozen=True)
class DataFields:
    """The tables: how they are read, grouped and split."""

    datapath: str = setting(
        "esco",
        "table of pairs or triplets: a file (.csv, .tsv, .jsonl, .json, .parquet, .pkl, .xlsx), hf:OWNER/NAME, "
        "esco or esco_skills (bundled, English) or sample_ru (bundled, Russian); several tables: give the flag several "
        "times, in a recipe a list of paths, or of mappings with path, share and settings of their own",
    )
    validationpath: str = setting("", "table for validation; empty = part of datapath, whole groups")
    testpath: str = setting("", "table for the final test; empty = part of datapath, whole groups")
    querycolumn: str = setting("", "column with the query; empty = found by name")
    positivecolumn: str = setting("", "column with the matching document; empty = found by name")
    negativecolumn: str = setting("", "column(s) with negatives, separated by commas; empty = found by name")
    groupcolumn: str = setting(
        "", "rows with equal values in this column are relevant to each other; empty = the normalised query"
    )
    template: str = setting("", 'builds the query from several columns, such as "{title}. Skills: {skills}"')
    documenttemplate: str = setting("", 'builds the matching document likewise, such as "{text} {requirements}"')
    gradecolumn: str = setting(
        "", "column with a weight of each pair in the loss, above 0 and at most 1 (infonce only); empty = all 1"
    )
    softgroupcolumn: str = setting(
        "",
        "rows with equal values in this column, such as the start of an ISCO code, match in part if their groups "
        "differ (infonce only); empty = no partial matches",
    )
    softweight: float = setting(
        0.3, "weight of a partial match in the target, beside 1 of a full one; 0 = it is left out", 0.0, 1.0
    )
    condense: int = setting(
        0,
        "characters kept of a long document: the sentences whose words predict the query, learnt from the train rows; "
        "0 = all; about 4 per token of maxlength is a good value",
        0,
        MANY,
    )
    redact: bool = setting(False, "replace e-mails, phones, links and handles in all texts as they are read")
    keephtml: bool = setting(False, "keep HTML in texts; by default tags are removed and entities decoded")
    identity: bool = setting(
        False,
        "keep name, birth, gender, place, contacts and links of CVs that are given in fields; by default they are left "
        "out",
    )
    encoding: str = setting("", "encoding of text files, such as cp1251; empty = detected")
    trustfile: bool = setting(False, "read tables that unpack to more memory than the limit")
    relevantfrom: float = setting(
        0.0,
        "in folders of judged queries, the grade from which a document counts as relevant for all metrics but nDCG, "
        "whose gains are the grades; 0 = any grade above 0",
        0.0,
        MANY,
    )
    validationshare: float = setting(0.1, "share of the groups, and of the rows, held out for validation", 0.0, 0.8)
    testshare: float = setting(0.1, "share of the groups, and of the rows, held out for the test", 0.0, 0.8)
    splitseed: int = setting(
        42, "seed of the split of datapath; --seed does not change the held-out rows", 0, 2**31 - 1
    )
    maxrows: int = setting(0, "train on at most this many rows; 0 = all", 0, MANY)
    stream: bool = setting(
        False,
        "read datapath (.jsonl or .parquet) in blocks and keep its texts in files, for tables larger than memory; "
        "parts are drawn by a hash of the group, at most 20,000 rows each",
    )
    allowleaks: bool = setting(False, "continue although validation or test texts occur in train")


@dataclasses.dataclass(frozen=True)
class ModelFields:
    """The encoder and what it reads of a text."""

    modelname: str = setting("embedded", "embedded (multilingual-e5-small, no download), a Hub name or a local folder")
    maxlength: int = setting(128, "tokens a text is truncated to, special tokens included", 8, 8192)
    trainlength: int = setting(
        0,
        "tokens a text is truncated to in training, condensed in proportion; validation, test and search use "
        "maxlength; 0 = maxlength",
        0,
        8192,
    )
    queryprompt: str = setting("", "text put before every query; empty = the model's own")
    documentprompt: str = setting("", "text put before every document; empty = the model's own")
    dropout: float = setting(0.0, "dropout while training; -1 = the model's own", -1.0, 0.9)
    precision: str = setting(
        "auto", "auto = bf16 if the hardware is fast at it, else fp32; int8 trains nothing", choices=PRECISIONS
    )


@dataclasses.dataclass(frozen=True)
class LossFields:
    """The loss and the negatives it sees."""

    loss: str = setting("triplet", "training loss", choices=LOSSES)
    margin: float = setting(0.3, "cosine margin of triplet and margin-ce", 0.0, 2.0)
    temperature: float = setting(
        0.05, "temperature of margin-ce and infonce, and of the cosines beside a teacher", 0.001, 10.0
    )
    symmetric: bool = setting(
        True, "margin-ce and infonce also rank the queries of the batch for each document, whatever --negatives"
    )
    negatives: str = setting(
        "batch",
        "given = those in the table; random = one random document of the batch; batch = in-batch negatives and given "
        "ones; mined = batch plus hard negatives mined from train",
        choices=NEGATIVES,
    )
    hardness: str = setting(
        "hardest",
        "which negative a triplet loss takes: hardest = the nearest; semi-hard = the nearest that is further away than "
        "the positive; all = the mean over all that violate the margin",
        choices=HARDNESS,
    )
    dimensions: str = setting(
        "",
        "leading sizes of the embedding that are trained, too (Matryoshka), such as 256,128,64: the loss is the mean "
        "over these and the whole embedding; empty = the whole only",
    )


@dataclasses.dataclass(frozen=True)
class MiningFields:
    """Hard negatives, with negatives = mined."""

    minepool: int = setting(10, "hard negatives mined per query (or per document, see mineside)", 1, 1000)
    minecount: int = setting(1, "of these, how many join the batch with each row, drawn anew at every step", 1, 100)
    mineside: str = setting(
        "document",
        "document = mine negative documents for each query; query = negative queries for each document, which infonce "
        "and margin-ce use in their second direction: cheap if queries are short",
        choices=("document", "query"),
    )
    mineevery: int = setting(0, "steps between minings; 0 = mine at the start of each epoch", 0, MANY)
    minestart: int = setting(0, "first rank taken, from 0; skipping the nearest avoids unmarked positives", 0, MANY)
    minestop: int = setting(0, "rank after the last one taken; 0 = 100, or the end of the band", 0, MANY)
    minebandlow: float = setting(0.0, "take ranks from this share of the corpus (ConFit v2: 0.03)", 0.0, 1.0)
    minebandhigh: float = setting(0.0, "up to this share of the corpus (ConFit v2: 0.04); 0 = no band", 0.0, 1.0)
    mineshare: float = setting(
        0.95, "a negative may score at most this share of the positive's score (NV-Retriever); 0 = off", 0.0, 1.0
    )
    minesampling: str = setting(
        "top", "top = the nearest of those that remain; random = any of them", choices=SAMPLINGS
    )


@dataclasses.dataclass(frozen=True)
class TeacherFields:
    """A teacher's scores as soft targets."""

    teacher: str = setting("", "folder of a second stage (cross-encoder) whose scores are learnt, too; empty = none")
    teacherweight: float = setting(
        1.0, "weight of KL(teacher || student), over the texts scored for a row, beside the loss", 0.0, 1e6
    )
    teachertemperature: float = setting(1.0, "divides the teacher's scores; above 1 it is less sure", 0.01, 1000.0)
    teachercandidates: int = setting(
        8, "wrong texts the teacher scores for each text searched with: the nearest by the base model", 1, 1000
    )
    teacherdrawn: int = setting(
        0,
        "of these, how many join the batch with each row, drawn anew each step; 0 = all in d2q, 2 in q2d",
        0,
        1000,
    )


@dataclasses.dataclass(frozen=True)
class RerankingFields:
    """The second stage, with stage = rerank."""

    stage: str = setting(
        "encode",
        "encode = train an encoder; rerank = train a cross-encoder for a second stage; search = train nothing and test "
        "the stages of a search with modelname, a finished encoder",
        choices=STAGES,
    )
    retriever: str = setting(
        "",
        "encoder whose near wrong texts are learnt from and whose first texts are ranked again; empty = modelname",
    )
    candidates: int = setting(8, "texts of a list: the right one, and wrong ones drawn from minepool", 2, 101)
    reranktop: int = setting(20, "first texts of the retriever that are ranked again in validation and test", 2, 1000)


@dataclasses.dataclass(frozen=True)
class SearchFields:
    """The stages of a search, with stage = search; the memory is the train rows."""

    centre: bool = setting(False, "subtract each side's mean embedding, learnt from the memory")
    searchmixing: str = setting(
        "none",
        "mix documents (what is searched), queries or both with the partners of their nearest neighbours in the memory",
        choices=SEARCH_MIXINGS,
    )
    searchstrategy: str = setting("weighted", "how they are mixed", choices=STRATEGIES)
    searchk: int = setting(10, "neighbours in the memory", 1, 1000)
    searchtemperature: float = setting(0.05, "temperature of the softmax over their cosines", 0.001, 10.0)
    searchweight: float = setting(0.5, "weight of their partners; for slerp: share of the way to them", 0.0, 1.0)
    fusion: float = setting(0.0, "weight of word scores in the sum with the cosines; 0 = no words", 0.0, 1.0)
    words: str = setting("tfidf", "word scores: tfidf (character n-grams) or bm25", choices=WORDS)
    scaling: str = setting("zscore", "of both kinds of scores, by query, before they are summed", choices=SCALINGS)
    rerank: str = setting("", "folder of a second stage that ranks the first reranktop texts again; empty = none")
    rerankweight: float = setting(1.0, "weight of its scores in the sum with those of the first stage", 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class MixingFields:
    """Embedding mixing, in training only."""

    mixing: str = setting(
        "none",
        "mix the query's embedding with those of its nearest positives and negatives (mean, weighted, rocchio, slerp), "
        "or make synthetic negatives (mochi, synco)",
        choices=MIXINGS,
    )
    mixk: int = setting(1, "neighbours of each kind that are mixed in", 1, 64)
    mixquery: float = setting(0.8, "weight of the query itself", 0.0, 1.0)
    mixpositive: float = setting(0.2, "weight of its nearest positives; for slerp: share of the way to them", -1.0, 1.0)
    mixnegative: float = setting(-0.1, "weight of its nearest negatives", -1.0, 1.0)
    mixcount: int = setting(4, "synthetic negatives of each kind that mochi and synco make per row", 1, 1000)
    mixstart: float = setting(0.0, "share of the steps before mixing begins", 0.0, 1.0)
    mixprobability: float = setting(1.0, "share of the rows that are mixed", 0.0, 1.0)
    mixown: bool = setting(False, "a row's own positive may be mixed in; this alone lowers the loss")
    mixdetach: bool = setting(True, "no gradient flows into the neighbours that are mixed in")
    bank: int = setting(0, "recent documents kept as further neighbours for mixing; 0 = the batch only", 0, 1_000_000)


@dataclasses.dataclass(frozen=True)
class OptimisationFields:
    """Optimiser, schedule and size of the steps."""

    learningrate: float = setting(5e-5, "peak learning rate of AdamW", 1e-9, 1.0)
    batchsize: int = setting(32, "rows per step; more rows mean more in-batch negatives and more memory", 1, 65536)
    epochs: int = setting(1, "passes over the train rows", 1, 10000)
    maxsteps: int = setting(0, "stop after this many steps; 0 = when the epochs are over", 0, MANY)
    warmup: float = setting(0.1, "share of the steps in which the learning rate rises", 0.0, 0.9)
    weightdecay: float = setting(0.0, "AdamW weight decay (never on embeddings, biases and norms)", 0.0, 1.0)
    clip: float = setting(1.0, "largest gradient norm; 0 = no clipping", 0.0)
    lora: int = setting(
        0,
        "rank of adapters on the linear layers, trained instead of the model and merged into it at the end (extra: "
        "lora), for models of a billion parameters; wants a learningrate ten times as high; 0 = the whole model",
        0,
        1024,
    )
    baseshare: float = setting(
        0.0,
        "share of the base model's weights in the model that is validated, tested and kept (WiSE-FT); 0 = none",
        0.0,
        0.9,
    )
    chunktokens: int = setting(0, "padded tokens encoded at a time; 0 = chosen for the device", 0, MANY)
    gradcache: bool = setting(
        False, "encode each batch twice, in parts of chunktokens: the memory of one part, a third more time, equal loss"
    )
    seed: int = setting(42, "seed of row order, dropout and sampling", 0, 2**31 - 1)


@dataclasses.dataclass(frozen=True)
class EvaluationFields:
    """Validation and early stopping."""

    evalsteps: int = setting(0, "also validate every this many steps; 0 = only after each epoch", 0, MANY)
    goal: str = setting("mrr", "validation metric that picks the best model", choices=METRICS)
    direction: str = setting(
        "q2d", "search direction of the goal: q2d = query to document, d2q = document to query", choices=DIRECTIONS
    )
    patience: int = setting(3, "stop after this many validations without a new best; 0 = never", 0, MANY)
    target: float = setting(0.0, "stop once the goal reaches this value; 0 = never", 0.0, 1.0)
    probes: int = setting(
        1000, "validation texts per side whose embeddings are kept at each validation, to measure drift", 0, 5000
    )


@dataclasses.dataclass(frozen=True)
class OutputFields:
    """What a run leaves behind."""

    projectname: str = setting("hr-search", "name of the run, and of the project in a tracker")
    outputpath: str = setting(
        "", "where the model is saved: a folder, or FILE.pt for the weights and a folder beside it"
    )
    checkpointpath: str = setting(
        "", "file for checkpoints, outside of the model's folder, also to resume from; empty = none"
    )
    checkpointsteps: int = setting(1000, "steps between checkpoints", 1, MANY)
    resume: bool = setting(False, "go on from checkpointpath where it exists")
    tracker: str = setting("none", "also log to an experiment tracker (extra: track)", choices=TRACKERS)
