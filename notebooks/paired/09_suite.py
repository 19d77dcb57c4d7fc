# %% [markdown]
# # 9. Which model is best for which HR task?
#
# **Question:** how well does each model search on each task of a suite, which differences are real, and what does it cost?
#
# Reads the tables that `python -m hr_search suite FILE` has written into `metrics/suites/<suite>/`. Without any it first
# runs a tiny suite.

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

from hr_search.base import plots
from hr_search.base.progress import show_log
from hr_search.reports.parameters import check_parameters
from hr_search.suite import figures, names, runner, summary

show_log()
pd.options.display.max_colwidth = 220

# %% tags=["parameters"]
suite = ""  # the results to read; empty for the newest ones

# %%
check_parameters("09_suite")
name = runner.open_or_tiny(suite)
tables = summary.read_tables(runner.suite_folder(name))
cells = tables.cells
finished = cells[cells["status"] == "finished"]
print(f"suite {name}, {summary.counted_tasks(cells)}")

# %% [markdown]
# ## The table
#
# Each cell is the mean of the task's metric over its queries with its 95 % bootstrap interval. *bm25* and *tfidf* are lexical
# floors: what search by letters achieves. *q2d* searches documents with queries, *d2q* the other way round. Values of
# different tasks cannot be compared with each other: a task among 200 documents is easier than one among 5,000.

# %%
display(summary.wide(cells).replace(", ", ",\u00a0", regex=True))  # an interval stays on one line
sizes = finished.drop_duplicates(["task", "direction"]).astype({"queries": int, "documents": int})
display(sizes[["task", "family", "direction", "queries", "documents", "licence"]].reset_index(drop=True))

# %%
if len(finished):
    plots.show(figures.dots_and_intervals(cells), figures.words_of(cells))

# %% [markdown]
# ## Means over families
#
# Directions are averaged within a task, tasks within a family, families among themselves; only tasks that all systems have
# finished count. The intervals come from drawing the queries of each task anew: they say nothing of other tasks.

# %%
if len(tables.families):
    display(summary.wide_families(tables.families).replace(", ", ",\u00a0", regex=True))
gained = summary.gains(tables.families)
if len(gained):
    print("Each further model minus the first, paired by query:")
    display(gained.round(3))

# %% [markdown]
# ## What is really different
#
# Each model against the floors and the models before it: paired randomisation test over groups of queries, Holm's
# correction over all tasks and directions of a pair, and a paired interval. A difference counts as real where p is below
# .05 and the interval leaves out zero.

# %%
display(summary.counted_differences(tables.comparison))
models = set(finished.loc[finished["kind"] == "model", "system"])
between = tables.comparison[tables.comparison["a"].isin(models)]
shown = ["task", "direction", "metric", "a", "b", "difference", "low", "high", "p_holm", "effect"]
if len(between):
    display(between[shown].round(4).reset_index(drop=True))
    print("\n".join(f"{row.task} {row.direction}: {row.verdict}" for row in between.itertuples()))

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Against the floors

# %%
against = tables.comparison[~tables.comparison["a"].isin(models)]
display(against[shown].round(4).reset_index(drop=True))

# %% [markdown]
# ## What is missing
#
# Tasks whose data are not here, with the way to get them, and what failed. Put the data at their path and start the suite
# again: only the missing cells are measured.

# %%
skipped = cells[cells["status"] == "skipped"]
failed = cells[cells["status"] == "failed"].drop_duplicates(["task", "system"])
print(f"{len(skipped)} tasks skipped, {len(failed)} cells failed")
for part, columns in ((skipped, ["task", "get", "licence"]), (failed, ["task", "system", "error"])):
    if len(part):
        display(part[columns].reset_index(drop=True))

# %% [markdown]
# ## Names
#
# With `--audit names`, half of the CVs that have a name get one of another origin or gender, then the other half. *overlap* is
# the rank-biased overlap of the rankings before and after (1 = the same), *lowest* that of the query with the greatest change,
# *movement* the most ranks that any CV moved. With the identity *left out*, as in all tables above, nothing may move.

# %%
audit = names.read_names(runner.suite_folder(name))
if len(audit):
    display(names.summed_names(audit).round(4))
    display(audit[audit["identity"] == "kept"].round(4).reset_index(drop=True))
else:
    print("not asked for: --audit names, with a task that has cvs: true")

# %% [markdown]
# ## Costs
#
# Seconds to tokenise, embed and rank a task in all its directions, and the peak memory of the process meanwhile (of the GPU,
# where there is one): the model, the data of all tasks and the libraries included.

# %%
cost = finished.drop_duplicates(["task", "system"])
display(cost.pivot(index="task", columns="system", values="seconds").loc[cost["task"].unique()].round(1))
total = cost.groupby("system", sort=False).agg(seconds=("seconds", "sum"), peak_gb=("memory_gb", "max"))
display(total.round(1))
