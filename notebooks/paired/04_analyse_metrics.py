# %% [markdown]
# # 4. Is it better, and for whom?
#
# **Question:** is the trained model better than the base model, than plain word search and than the previous run; which
# queries got worse, where does it still fail, and above which cosine can its first answer be trusted?
#
# Reads the tables of a run, and its data and model for the stages of the search; writes `changes.csv`, `breakdown.csv`,
# `stages.csv` and `thresholds.csv` into its folder.

# %% jupyter={"source_hidden": true} tags=["setup"]
# Installs hr_search where it is missing, as on Colab; does nothing elsewhere.
import importlib.util
import subprocess
import sys
from pathlib import Path

repository = ""  # its address for git, where this notebook was opened without the others
if getattr(importlib.util.find_spec("hr_search"), "origin", None) is None:
    folder = Path.cwd().parent if Path("02_train.ipynb").exists() else Path("hr_search").resolve()
    if not folder.exists():
        assert repository, "write the address of the repository into this cell"
        subprocess.run(["git", "clone", "--depth", "1", repository, folder], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", f"{folder}[bundled]"], check=True)
    sys.path.insert(0, str(folder))  # this kernel does not see yet what pip has installed

# %%
import pandas as pd
from IPython.display import display

from hr_search import experiment
from hr_search.base import plots
from hr_search.base.files import write_csv
from hr_search.base.progress import show_log
from hr_search.base.sections import section
from hr_search.evaluation import calibration, figures, subgroups
from hr_search.evaluation import comparison as analysis
from hr_search.reports.parameters import check_parameters

show_log()
pd.options.display.max_colwidth = 220
pd.options.display.max_rows = 1000

# %% tags=["parameters"]
runid = ""  # the run to read; empty for the newest one
otherid = ""  # a run to compare with; empty for the newest other one on the same test rows
direction = "q2d"  # q2d for query to document, d2q for document to query
goal = "mrr"  # metric of comparisons
examples = 8  # queries shown of each kind
worst = 20  # queries in the gallery of failures

# %%
check_parameters("04_analyse_metrics")
run = experiment.open_or_smoke(runid)
print(run.summary["verdict"])
environment = run.environment
print(f"{run.id}: {environment['hardware']}, {environment['precision']}, data {environment['data']['fingerprint']}")

# %% [markdown]
# ## Metrics with intervals
#
# Means over the test queries with 95 % bootstrap intervals over their groups, both directions: *q2d* searches documents
# with a query (title to description), *d2q* the other way round.

# %%
for name, words in {"q2d": "query to document", "d2q": "document to query"}.items():
    print(f"{name}: {words}")
    display(analysis.with_intervals(run.table("metrics"), name))
with section("the figure of the metrics"):
    plots.show(
        plots.metric_bars(run.table("metrics"), direction),
        "Metrics of BM25, TF-IDF, the base model and the trained model with 95 % intervals",
    )

# %% [markdown]
# ## Is the difference real?
#
# Paired randomisation test over groups of queries with Holm's correction over the systems, and a paired bootstrap
# interval.

# %%
comparison = run.table("comparison")
shown = comparison[(comparison["direction"] == direction) & (comparison["metric"] == goal)]
display(shown.drop(columns=["direction", "metric"]).round(4).reset_index(drop=True))

# %% [markdown]
# ## Against another run
#
# The newest other run on the same test rows, or the one named in `otherid`. Change one parameter, run the report again,
# and this section says whether the difference is real.

# %%
with section("the comparison with another run"):
    other = analysis.find_other(run, otherid)
    if other is None:
        print("no other run on the same test rows yet")
    else:
        display(analysis.setting_differences(other, run))
        compared = analysis.compare_runs([other, run], direction, goal)
        display(compared.drop(columns="verdict").round(4))
        print(compared["verdict"][0])

# %% [markdown]
# ## Queries won and lost
#
# The reciprocal rank of each test query before and after training.

# %%
changes = analysis.changes(run, direction)
display(analysis.outcomes(changes).round(3))
with section("the figure of gains and losses"):
    plots.show(
        figures.sorted_gains(changes),
        "Change of the reciprocal rank of each test query, sorted from the largest gain to the largest loss",
    )

# %% [markdown]
# ### Largest gains

# %%
display(analysis.extremes(changes, "won", examples))

# %% [markdown]
# ### Largest losses

# %%
display(analysis.extremes(changes, "lost", examples))

# %% [markdown]
# ## For whom is it better?
#
# The metric over subgroups of the test queries. *Query* is what is searched with, *document* what is searched for;
# lengths are in words, and where a query has several relevant documents their median counts. *Right documents* is how
# many relevant documents a query has. *Title* says whether the normalised job title also occurs in train. Many subgroups
# are compared here: a single one that stands out may do so by chance. A kind with one subgroup only is in the table only.

# %%
after = analysis.per_query(run, "trained", direction)
labels = subgroups.parts(after, analysis.documents(run, direction))
before = analysis.per_query(run, "base", direction)
parts = subgroups.compare_parts(labels, before[goal], after[goal], groups=after["group"])
with section("the figure of the parts"):
    plots.show(
        figures.part_intervals(parts, goal),
        "The metric of the base and the trained model with 95 % intervals for parts of the test queries",
    )
display(subgroups.readable(parts))
if len(labels.columns) < 5:
    print("an older version made this run, so lengths or seen titles are unknown")

# %% [markdown]
# ## Where it still fails
#
# The queries whose relevant document ranks lowest: first that document (of several the first), then the five that the
# trained model ranked highest; relevant ones are marked with ✓. *rank* is that of the best relevant document. Look for
# unmarked positives before blaming the model.

# %%
gallery = analysis.failures(run, direction, count=worst)
display(gallery.set_index(["rank", "query", "place"]) if len(gallery) else "no query failed")

# %% [markdown]
# ## Stages of the search
#
# What a search can add to the cosine: *centring* subtracts each side's mean embedding; *mixing* moves a text towards the
# partners of the train texts nearest to it; *words* adds character TF-IDF or BM25 scores; the *second stage* reads the first
# texts again, query and document together. Each row has all stages above it. The gain is paired, over the plain cosine, with
# Holm's correction over the stages; the time is that of the stages, without encoding the query.

# %%
from hr_search.encoder import load_encoder
from hr_search.reranking.scorer import load_reranker
from hr_search.search import run_stages, stage_figures

# %%
staged = None
with section("the section on the stages of the search"):
    settings, data = run_stages.data_of(run)
    kept = run_stages.kept_model(run)
    if kept:
        encoder = load_encoder(str(kept), precision=settings.precision)
    else:
        encoder = experiment.encoder_for(settings, data.train)
        print(f"{run.id} has kept no model (outputpath); these are the stages of its base model")
    staged = run_stages.examine(run, encoder, data, direction, goal, load_reranker)
    print(staged.origin)
    display(run_stages.readable(staged.table, goal))
    write_csv(run.folder / "stages.csv", staged.table.assign(direction=direction, metric=goal))

# %%
if staged:
    plots.show(
        stage_figures.stage_intervals(staged.table, goal),
        "The metric after each stage of the search with its 95 % interval, gain over the cosine and time a query",
    )

# %% [markdown]
# What was tried on the validation rows. A stage is taken only if it gains more than the standard error *se* of its gain;
# `python -m hr_search tune` does the same with all train rows in the memory and keeps the result beside the model.

# %%
if staged and staged.fitted is not None:
    display(run_stages.steps_shown(staged.fitted))

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## What a cosine says
#
# For readers who want to accept or reject single answers by their cosine; a second stage's scores are none, so a run of
# `--stage rerank` has only the base's here. The cosines of queries with a relevant document, a
# random irrelevant one and the nearest irrelevant one. *Overlap* is the area that both distributions share; *AUC* is how
# often a relevant document scores above an irrelevant one. The nearest irrelevant document is the best of all of them, so
# an AUC below 0.5 against it is not an error.

# %%
first = {}
with section("what a cosine says"):
    scores = analysis.cosines(run, direction)
    display(calibration.separation(scores).round(3))
    plots.show(
        figures.score_distributions(scores),
        "Distributions of the cosines of right, random wrong and nearest wrong documents for each system",
    )

# %% [markdown]
# ### Above which cosine can the first answer be trusted?
#
# The top-ranked document is accepted if its cosine is above a threshold. Each fifth of the groups is tested with the
# threshold that the other four suggest (five-fold cross-fitting by group), so no query tests a threshold that it helped to
# choose; the threshold printed is that of all test queries together. *Precision* is the share of accepted documents that
# are relevant, *recall* the share of all queries whose accepted document is relevant.

# %%
with section("the threshold of a cosine"):
    scores = analysis.cosines(run, direction)
    systems = {name: scores.query("system == @name") for name in ("base", "trained")}
    first = {name: calibration.first_found(part, after["group"]) for name, part in systems.items()}
    points = {name: calibration.operating_points(part) for name, part in first.items()}
    for line in points["trained"].apply(calibration.sentence, axis=1):
        print(line)
    plots.show(
        figures.acceptance(first["trained"], points["trained"]),
        "Precision and recall of the top-ranked document over the cosine above which it is accepted",
    )
    thresholds = pd.concat(points, names=["system"]).reset_index(level=0)
    display(thresholds.set_index("system").round(3))
    write_csv(run.folder / "thresholds.csv", thresholds)

# %% [markdown]
# ### Is a high cosine a safe one?
#
# The share of relevant top-ranked documents from low to high cosines, beside a forecast that rises with the cosine
# (isotonic regression) and is learnt on the other groups. Where the two agree, the cosine can be read as a probability.

# %%
if first:
    with section("the forecast from a cosine"):
        table = calibration.reliability(first["trained"])
        plots.show(
            figures.reliability(table),
            "Share of relevant documents among the top-ranked ones, from low to high cosines, beside its forecast",
        )
        display(table.round(3))

# %% [markdown]
# ## Speed and all runs

# %%
with section("the table of waiting times"):
    display(run.table("timing").round(2))
with section("the table of all runs"):
    display(analysis.leaderboard(direction=direction, metric=goal).head(20).round(3))

# %%
write_csv(run.folder / "changes.csv", changes)
write_csv(run.folder / "breakdown.csv", parts)
names = ("changes.csv", "breakdown.csv", "stages.csv", "thresholds.csv")
written = [name for name in names if (run.folder / name).is_file()]
print(f"written into metrics/runs/{run.id}: {', '.join(written)}")
