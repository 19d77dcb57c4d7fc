# %% [markdown]
# # 6. How fast is it?
#
# **Question:** how many times as fast as the installed sentence-transformers are training, evaluation and mining on this
# machine, and how close do they come to what the machine allows?
#
# Reads `metrics/speed.csv`, which `python -m hr_search benchmark` writes; then measures one small case and writes it to
# `metrics/speed_smoke.csv`.

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
from IPython.display import display

from hr_search.base import paths, plots
from hr_search.base.progress import show_log
from hr_search.bench import figures
from hr_search.bench.speeds import smoke_case
from hr_search.bench.table import read_table
from hr_search.reports.parameters import check_parameters

show_log()

# %% tags=["parameters"]
demanded = 2.0  # ratio to the peer's speed to reach, a line in the figure
hardware = ""  # the machine whose rows are drawn; empty for that of the last row
runs = 1  # of each contender in the case measured here
steps = 4  # training steps measured here, after one that is not
batchsize = 8  # rows per step measured here
maxlength = 32  # tokens after which a text is cut in the case measured here
threads = 0  # of the processor; zero for torch's choice

# %% [markdown]
# ## The table
#
# Medians of alternating runs, each in a process of its own, with the slowest and the fastest run. `limit` is the speed that
# the rate of this machine's matrix products would allow, in the same unit.

# %%
check_parameters("06_speed")
table = read_table(paths.metrics() / "speed.csv")
if table.empty:
    print("nothing measured yet: run `python -m hr_search benchmark`")
else:
    display(table.drop(columns=["versions", "commit"]).round(3))
    print(table["versions"].iloc[-1], "at", table["commit"].iloc[-1])

# %% [markdown]
# ## How many times as fast
#
# A whisker goes from our slowest run over the peer's fastest to our fastest over the peer's slowest.

# %%
if len(table):
    plots.show(
        figures.ratios(table, demanded, hardware),
        "Horizontal bars: our speed over the peer's speed for each case, with whiskers for the spread of the runs "
        "and a dashed line at the demanded ratio",
    )

# %% [markdown]
# ## How close to the limit
#
# Padding, dropout, attention, the optimiser and the reading of texts all count against both contenders here.

# %%
if len(table):
    plots.show(
        figures.limit_shares(table, hardware),
        "Horizontal bars: the share of the compute limit that we and the peer reach in each case",
    )

# %% [markdown]
# ## Measured now
#
# The training of a small model with random weights: too small for a verdict, enough to see that both contenders run.

# %%
path = paths.metrics() / "speed_smoke.csv"
small = smoke_case(path, runs, steps, batchsize, maxlength, threads)
display(small[["case", "unit", "ours", "peer", "ratio", "limit"]].round(2))

# %%
assert (read_table(path)[["ours", "peer"]] > 0).all(axis=None)
print(f"written: {path.relative_to(paths.root())}")
