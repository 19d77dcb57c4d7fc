# %% [markdown]
# # 5. Which settings matter?
#
# **Question:** which arm of a grid is best, by how much, is the difference real over queries and seeds, and what does it
# cost?
#
# Reads the finished cells of a grid (`python -m hr_search grid FILE`) and their runs; writes `effects.csv` beside
# `metrics/grids/<grid>/cells.csv`, or a file of its own for another direction or metric than that of the runs, or another
# baseline. Without a grid it first runs a tiny one of two cells.

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
from hr_search.base.files import write_csv
from hr_search.base.progress import show_log
from hr_search.grids import figures, grid_file, runner
from hr_search.grids.arms import arm_table, direction_of
from hr_search.grids.effects import best_sentence, effect_table, marginal, settings_of
from hr_search.reports.parameters import check_parameters

show_log()
pd.options.display.max_colwidth = 220

# %% tags=["parameters"]
grid = ""  # the grid to read; empty for the newest one
direction = ""  # q2d for query to document, d2q for document to query; empty for that of the grid's runs
goal = "mrr"  # metric of all comparisons
baseline = ""  # arm that the others are compared with; empty for the first
across = ""  # setting across the heat map; empty for the first that varies
down = ""  # setting down the heat map; empty for the next one

# %%
check_parameters("05_ablations")
name = runner.open_or_smoke(grid)
cells = runner.read_cells(name)
arms = arm_table(name)
counts = ", ".join(f"{count} {status}" for status, count in cells["status"].value_counts().items())
print(f"grid {name}: {counts}; data {arms['data'][0]}")
failed = cells.loc[cells["status"] == "failed", ["run", "error", "notebook"]]
if len(failed):
    display(failed.reset_index(drop=True))

# %% [markdown]
# ## Arms
#
# An arm is a combination of settings, over all its seeds. *value* is the mean over seeds and test queries, its 95 %
# interval draws both anew; *base* is the same before training (in stage search under the plain cosine), *best_step* the
# step that was kept (mean over the seeds; 0 where validation liked no trained model better); *rows* and *seconds* are
# those of one training. An arm whose *budget* is not the same saw more or fewer rows than the baseline, so that its
# difference is not one of its settings alone.

# %%
direction = direction or direction_of(arms)
print(f"tested in the direction {direction}")
effects = effect_table(arms, direction, goal, baseline)
settings = settings_of(effects)
shown = ["arm", "seeds", "value", "value_low", "value_high", "base", "best_step", "rows", "seconds", "budget"]
display(effects[shown].round(3))
print(best_sentence(effects, goal))

# %% [markdown]
# ## Effects
#
# Paired by query and seed against the baseline: difference with its interval over seeds and groups of queries,
# randomisation test over these groups with Holm's correction over the arms, effect in standard deviations.

# %%
display(effects[["arm", "difference", "low", "high", "p", "p_holm", "effect"]].dropna().round(4).reset_index(drop=True))
if effects["difference"].notna().any():
    plots.show(
        figures.effect_sizes(effects, goal),
        "Difference of each arm from the baseline with its 95 % interval; real ones are coloured",
    )
print("\n".join(effects["verdict"]))

# %% [markdown]
# ## One setting at a time
#
# The mean over all arms with a value, and the best of them: a value whose mean is high does well whatever the others are.

# %%
for setting in settings:
    display(marginal(effects, setting).round({"mean": 3, "best": 3}))

# %% [markdown]
# ## All settings at once

# %%
if settings:
    plots.show(
        figures.parallel_coordinates(effects, settings, goal),
        "Each arm as a line through its settings to its value, the best one thick",
    )
if len(settings) > 1:
    first = across or next(setting for setting in settings if setting != down)
    second = down or next(setting for setting in settings if setting != first)
    plots.show(
        figures.heat_map(effects, first, second, goal),
        f"Mean of the metric over {first} and {second}, in colours and numbers",
    )

# %% [markdown]
# ## What mixing does
#
# One query in the plane with its own document, others of its group and wrong ones; cosines are angles. Strategies of the
# query side turn the query, those of the document side make further negatives.

# %%
plots.show(
    figures.mixing_strategies(),
    "A query on a circle under each mixing strategy: where it turns, or which negatives are made",
)

# %%
own = (direction, goal, baseline) == (direction_of(arms), "mrr", "")
file = "effects.csv" if own else f"effects_{direction}_{goal}{'_baseline' * bool(baseline)}.csv"
write_csv(grid_file.grid_folder(name) / file, effects)
print(f"written: metrics/grids/{name}/{file}")
