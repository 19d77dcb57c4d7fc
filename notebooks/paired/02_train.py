# %% [markdown]
# # 2. Training
#
# **Question:** does training make search better on documents the model has not seen?
#
# Reads the tables of pairs and a base model; writes one run folder, `metrics/runs/<run id>/`, from which the next
# notebooks read everything. `python3 train.py` does the same in one call, `hr_search.experiment.run_experiment`.

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
from hr_search.base.progress import show_log
from hr_search.base.text import shortened
from hr_search.evaluation import comparison
from hr_search.reports.parameters import check_parameters
from hr_search.runs import provenance
from hr_search.settings import Settings

show_log()
pd.options.display.max_colwidth = 200

# %% tags=["parameters"]
datapath = "sample_ru"  # table of pairs: a file, hf:OWNER/NAME, esco or sample_ru
modelname = "embedded"  # embedded, a Hub name or a local folder
testshare = 0.2  # share of the groups held out for the test
maxlength = 48  # tokens a text is cut to
loss = "triplet"  # triplet, margin-ce or infonce
margin = 0.3  # cosine by which the right document must be nearer
mixing = "none"  # none, mean, weighted, rocchio, slerp, mochi or synco
learningrate = 5e-5  # peak learning rate of AdamW
batchsize = 16  # rows a step
epochs = 1  # passes over the train rows
maxsteps = 4  # stop after this many steps; zero for the epochs
seed = 42  # of order, dropout and sampling
outputpath = ""  # where the model goes; empty for nowhere
more = {}  # any other setting by its name, for example {"temperature": 0.02}
runid = ""  # name of the run; empty for a fresh one

# %%
check_parameters("02_train")
model = {"modelname": modelname, "maxlength": maxlength, "outputpath": outputpath}
objective = {"loss": loss, "margin": margin, "mixing": mixing}
steps = {"learningrate": learningrate, "batchsize": batchsize, "epochs": epochs, "maxsteps": maxsteps, "seed": seed}
settings = Settings.from_mapping({"datapath": datapath, "testshare": testshare} | model | objective | steps | more)

# %% [markdown]
# ## Load
#
# Train, validation and test rows, the base model, and the token tables of all texts. The vocabulary of the model is cut
# down to the tokens that occur; the saved model has all of it again.

# %%
prepared = experiment.prepare(settings, runid)
data, rows, encoder, run = prepared.data, prepared.rows, prepared.encoder, prepared.run
print(f"{len(rows)} train rows: {len(rows.queries)} distinct queries, {len(rows.documents)} distinct documents")
display(data.train.head(3)[["group", "query", "positive"]].apply(shortened))

# %% [markdown]
# ## Encode
#
# A few train pairs under the base model: each row is a query, each column a document, the diagonal the pairs that belong
# together.

# %%
queries = encoder.embed([prepared.tokens["query"][i] for i in rows.query[:5]])
documents = encoder.embed([prepared.tokens["document"][i] for i in rows.positive[:5]])
print(f"embeddings: {queries.shape}, {documents.shape}")
display(pd.DataFrame(queries @ documents.T, index=data.train["query"][:5]).round(3))

# %% [markdown]
# ## Test before training
#
# The test rows under BM25, TF-IDF and the base model.

# %%
before = experiment.test_before(prepared)

# %% [markdown]
# ## Fit
#
# One line per validation. Step 0 is the base model. The weights that stay in `encoder` are those of the last validation
# within one standard error of the best: between these, validation cannot tell which model is better.

# %%
progress = experiment.train_encoder(prepared)
print(f"{progress.step} steps in {progress.seconds:.0f} s, kept: step {progress.best_step}")

# %% [markdown]
# ### History
#
# Loss and validation metric; *active* is the share of rows whose positive is not yet nearer than the nearest negative by
# the margin; *spread* is 1 minus the mean cosine between documents: near 0 the embeddings have collapsed, and a warning
# follows below the table.

# %%
if run.has("history"):
    history = run.table("history")
    drawn = plots.history(history, settings.goal, kept=progress.best_step)
    plots.show(drawn, "Training loss and validation metric over the steps; a line marks the step that was kept")
    plots.show(plots.active_and_spread(history), "Share of active rows and spread of the embeddings over the steps")
    display(history[["step", "loss", "active", "spread", "rows_per_s", "tokens_per_s", "memory_gb", settings.goal]])
    print(provenance.collapse_sentence(history) or "No validation found the embeddings collapsed.")
else:
    print("nothing is trained in stage search, so there is no history")

# %% [markdown]
# ## Evaluate
#
# The same test rows under the trained model; then summary, ledger and model are written.
#
# 95 % intervals by bootstrap over groups of queries; ties count against the model. BM25 and TF-IDF show what a search
# without a neural network reaches: an encoder below them is not worth its cost. The second table lists what the numbers
# depend on: runs compare only on equal test rows, and to the last digit only on one machine with one number of threads.

# %%
experiment.test_after(prepared, before)
experiment.deliver(prepared, progress)
if run.has("metrics"):
    display(comparison.with_intervals(run.table("metrics"), settings.direction))
print(run.summary["verdict"])
display(provenance.origin(run))

# %% [markdown]
# ## Repeat this run

# %%
print(run.summary["command"])
print(f"written: metrics/runs/{run.id}/")
