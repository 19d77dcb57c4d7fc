# %% [markdown]
# # 10. Which settings did a search find?
#
# **Question:** which trial of a search (`optuna:` in a grid file) was best in validation, which settings decide, and which
# trials were ended early?
#
# Reads the tables that `python -m hr_search grid FILE` writes into `metrics/grids/<study>/`. Without a study it first makes a
# tiny one of three trials.

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
from hr_search.grids import study_tables
from hr_search.reports.parameters import check_parameters

show_log()
pd.options.display.max_colwidth = 220

# %% tags=["parameters"]
study = ""  # the study to read; empty for the newest one

# %%
check_parameters("10_study")
name = study_tables.open_or_smoke(study)
table, curves, importance = study_tables.read_study(name)
best, goal = study_tables.best_trial(table), study_tables.goal_of(table)
print(f"study {name}, {study_tables.summed_up(table, goal)}")
failed = table.loc[table["status"] == "failed", ["trial", "run", "error", "notebook"]]
if len(failed):
    display(failed.reset_index(drop=True))

# %% [markdown]
# ## The best trial
#
# Trials are judged by the validation metric of the model that they keep. The test took no part in the choice, so its values for
# this one run are not those of a best of many; they come from one seed: repeat the run with others before you rely on them.

# %%
display(study_tables.ranking(table).head(1))
tested, command = study_tables.tested(best), study_tables.command_of(best)
if tested is None:
    print("its run has no test rows, or lies on another machine")
else:
    display(tested)
print(command)

# %% [markdown]
# ## History
#
# Up to the number of trials that the file calls `startup`, settings are drawn at random. A pruned trial stands at the value at
# which it was ended, which is no result.

# %%
plots.show(
    study_tables.history(table, goal),
    "The value of each trial and the best so far; pruned trials are marked",
)
if len(curves):
    plots.show(
        study_tables.curves(table, curves, goal),
        "The validation curves of all trials; those of pruned ones end in a cross",
    )

# %% [markdown]
# ## Which settings decide
#
# *Importance* is the share of a setting in what sets the best trials apart from the others (PED-ANOVA, over finished trials
# only); below some dozens of trials it is rough. A best value at the edge of its range asks for a wider range.

# %%
if len(importance):
    plots.show(study_tables.importances(importance), "Share of each setting in what sets the best trials apart")
else:
    print("too few finished trials for importances")
plots.show(study_tables.slices(table, goal), "The value of the trials over each setting that varies")

# %% [markdown]
# ## All trials
#
# Best first, then pruned and other ones. *validations* counts the one before training. A number that is missing belongs to a
# trial that was stopped, or failed, and has been drawn again.

# %%
display(study_tables.ranking(table))
