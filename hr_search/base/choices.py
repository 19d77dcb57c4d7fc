"""The values that settings, losses, mixing, mining and tables accept; each list stands here and nowhere else."""

from __future__ import annotations

LOSSES = ("triplet", "margin-ce", "infonce")
QUERY_MIXINGS = ("mean", "weighted", "rocchio", "slerp")  # move the query's embedding
DOCUMENT_MIXINGS = ("mochi", "synco")  # make synthetic negatives
MIXINGS = ("none", *QUERY_MIXINGS, *DOCUMENT_MIXINGS)
NEGATIVES = ("given", "random", "batch", "mined")
HARDNESS = ("hardest", "semi-hard", "all")
SAMPLINGS = ("top", "random")
PRECISIONS = ("auto", "fp32", "bf16", "int8")
TRACKERS = ("none", "wandb", "trackio", "tensorboard", "mlflow")
PRUNERS = ("median", "halving", "none")  # what ends a trial of a search early
STAGES = ("encode", "rerank", "search")  # what is trained, or tested
SEARCH_MIXINGS = ("none", "documents", "queries", "both")  # what is mixed at search time, and
STRATEGIES = ("weighted", "slerp")  # how
WORDS = ("tfidf", "bm25")  # the lexical scores that a search may add
SCALINGS = ("zscore", "minmax")  # of scores before they are summed
SIDES = ("query", "document")  # of a pair
DIRECTIONS = ("q2d", "d2q")  # query to document, document to query
METRICS = ("mrr", "pass@1", "pass@5", "recall@10", "ndcg@10", "map")
COLLAPSED = 0.02  # a spread (1 - mean cosine of documents) below this means that the embeddings have collapsed
CONTACTS = ("emails", "phones", "links", "handles")  # what redaction finds and counts
BUNDLED = ("esco", "esco_skills", "sample_ru")  # data sets that come with the package


def is_table_file(datapath: str) -> bool:
    """Whether a `datapath` is a file or folder, not empty, a bundled data set or `hf:OWNER/NAME`."""
    return bool(datapath) and datapath not in BUNDLED and not datapath.startswith("hf:")
