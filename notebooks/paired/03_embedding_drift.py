# %% [markdown]
# # 3. How the embedding space moved
#
# **Question:** how did training change the embedding space: how far did texts move, and which neighbours did they keep?
#
# Reads the probe embeddings of a run (validation texts at every validation step) up to the model that was kept; writes
# `drift.csv` and `drift_parts.csv` into its folder.

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
from hr_search.data.languages import languages
from hr_search.drift import figures, interactive_map, measures, umap_layout
from hr_search.drift.probes import load_probes, until_kept
from hr_search.reports.parameters import check_parameters

show_log()
pd.options.display.max_colwidth = 220

# %% tags=["parameters"]
runid = ""  # the run to read; empty for the newest one
points = 500  # texts on the map, at most 5000
neighbours = 15  # texts whose closeness the map keeps
checkpoints = 4  # checkpoints on the map, first and last included
seed = 42  # of the map

# %%
check_parameters("03_embedding_drift")
run = experiment.open_or_smoke(runid)
texts, validated = load_probes(run.folder)
probes, kept = until_kept(validated, run.summary["best_step"])
chosen = umap_layout.thin(probes, checkpoints)
print(f"run {run.id}: {len(texts)} probe texts at {len(probes)} checkpoints")
print(kept)

# %% [markdown]
# ## Measured in the full space
#
# Everything is measured against the base model, for all texts, queries and documents. *displacement*: 1 minus the cosine
# of a text with itself before training; *jaccard@10*: the overlap of each text's ten nearest neighbours with those before
# training, which is what a user notices; *cka* stays 1 and *procrustes* 0 as long as the space is only rotated or scaled;
# *alignment*: squared distance of matching pairs, lower is better; *uniformity*: how evenly the sphere is used, lower is
# more even; *anisotropy*: mean cosine of two texts; *isoscore*: the share of the dimensions that is used evenly.
#
# The table shows the last of these checkpoints; the line above says which model was kept.

# %%
table = measures.drift_table(probes, texts["side"], texts["group"])
last = table[table["step"] == table["step"].max()]
display(last.pivot(index="measure", columns="side", values="value").round(3))

# %% [markdown]
# The same measures over the steps; the band around the displacement holds 80 % of the texts.

# %%
with section("the figure of the measures"):
    plots.show(figures.drift_over_steps(table), "Drift measures over the training steps, up to the last checkpoint")

# %% [markdown]
# ### By language and by group
#
# The same for parts of the texts. The language of a text is its script (Cyrillic or Latin) unless the data name it. A few texts always look like a rotated
# copy of themselves, so small groups have no *cka* and *procrustes*.

# %%
labels = {"language": languages(texts), "group": texts["group"]}
parts = measures.drift_by(chosen, labels, texts["side"], texts["group"])
ends = parts[parts["step"] == parts["step"].max()].set_index("part").rename_axis(None)
display(ends[ends["by"] == "language"].drop(columns=["by", "step"]).round(3).T.map("{:.6g}".format))

# %% [markdown]
# The ten largest groups; `drift_parts.csv` holds all of them, with every measure at each checkpoint of the map.

# %%
shown = ["texts", "displacement", "jaccard@10", "cka", "anisotropy", "alignment"]
display(ends.loc[ends["by"] == "group", shown].head(10).round(3))

# %% [markdown]
# ## The texts that moved most
#
# The nearest other texts before training and at the last of these checkpoints; ✓ marks texts of the same group.

# %%
with section("the table of the texts that moved most"):
    display(measures.movers(texts, probes, 10).round({"displacement": 3}))

# %% [markdown]
# How far all texts moved up to there: a narrow peak means that the space moved as a whole, a long tail that a few texts did.

# %%
steps = sorted(probes)
with section("the histogram"):
    moved = measures.displacement(probes[steps[0]], probes[steps[-1]])
    plots.show(
        figures.displacement_histogram(moved, texts["side"]),
        "Histogram of the cosine displacement of queries and documents between the first and the last checkpoint",
    )

# %% [markdown]
# ## The map, checkpoint by checkpoint
#
# An AlignedUMAP over the checkpoints: a point keeps its place unless its neighbourhood changed. **Aligned layouts pull
# the positions of one text together on purpose, so every picture below understates movement**; read distances from the
# numbers above. How far each picture can be trusted: *trustworthiness* is 1 where all neighbours on the map are true ones
# (chance: 0.5), *neighbours kept* is the share of true neighbours that the map shows.

# %%
placed = None
with section("the map"):
    placed = umap_layout.aligned_layout(chosen, seed, neighbours, points)
    display(umap_layout.quality(placed).round(3))
    print(f"{len(placed.rows)} texts are on the map; left out because they have no finite position: {placed.missing}")

# %% [markdown]
# The largest groups in colour, the others grey; where no group has five texts, colours separate queries from documents.
# Round dots are queries, triangles documents.

# %%
if placed:
    with section("the map of each checkpoint"):
        plots.show(figures.small_multiples(placed, texts), "The map of the texts at each checkpoint, side by side")

# %% [markdown]
# Where texts moved between the first and the last of these checkpoints; the longest paths are labelled.

# %%
if placed:
    with section("the map of paths"):
        plots.show(
            figures.drift_arrows(placed, texts),
            "Map of the probe texts, each with an arrow from its place at the first checkpoint to that at the last",
        )

# %% [markdown]
# ## The map to explore
#
# Hover for the title and the start of a text, slide through the checkpoints, search for words. In the notebook itself
# there is a picture; the exported page has the interactive map.

# %%
if placed:
    with section("the map to explore"):
        display(interactive_map.interactive_map(placed, texts))

# %%
write_csv(run.folder / "drift.csv", table)
write_csv(run.folder / "drift_parts.csv", parts)
print(f"written: drift.csv and drift_parts.csv in metrics/runs/{run.id}")
