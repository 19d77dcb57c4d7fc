# %% [markdown]
# # 8. A search to play with
#
# **Question:** what do training, mixing with known pairs and words change for a single search?
#
# Searches a small corpus with the base model and the trained one, side by side. Corpus and known pairs are encoded once;
# then every change of a slider ranks again. The defaults are small, so that everything is there after half a minute:
# 120 texts, 100 known pairs. Writes nothing.

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
from hr_search import experiment
from hr_search.base import paths
from hr_search.base.progress import show_log
from hr_search.encoder import load_encoder
from hr_search.reports.parameters import check_parameters
from hr_search.search import playground, run_stages, views

show_log()

# %% tags=["parameters"]
runid = ""  # the run whose models search; empty for the newest one
model = ""  # folder of the trained model; empty for the one that the run saved
corpus = ""  # what to search in: a table of pairs, esco, sample_ru or a .txt file; empty for the run's test rows
direction = "q2d"  # q2d for query to document, d2q for document to query
queries = []  # what to search with; empty for three texts that belong to the corpus
top = 5  # texts shown in each column
texts = 120  # texts of the corpus at most, evenly spaced
pairs = 100  # known pairs at most, from the train rows
knobs = {}  # where the sliders begin, such as {"weight": 0.3, "fusion": 0.1}; empty for what `tune` chose

# %% [markdown]
# ## Models, corpus and memory
#
# The memory is a sample of the run's train rows, never of its test rows. Knobs that `tune` has kept in the model's
# `search.json` are where the sliders begin.

# %%
check_parameters("08_search_playground")
run = experiment.open_or_smoke(runid)
settings, data = run_stages.data_of(run)
folder = paths.resolve(model) if model else run_stages.kept_model(run)
encoders = {"base": experiment.encoder_for(settings, data.train)}
if folder:
    encoders["trained"] = load_encoder(str(folder), precision=settings.precision)
else:
    print(f"{run.id} has kept no model (outputpath), so only its base model searches")

# %%
test = data.tasks("test")
if corpus or not test:
    searched = playground.read_corpus(corpus or "sample_ru", direction, texts)
else:
    searched = playground.corpus_of(test[direction], texts)
known = data.train.iloc[run_stages.spread(len(data.train), pairs)]
policy = playground.beginning(folder, direction, knobs)
play = playground.Playground(encoders, searched, known, policy)
print(f"{len(searched.documents)} texts to search in, {len(known)} known pairs of {data.name}")
print(f"mixing: {policy.mixing}, weight {policy.weight:g}, k {policy.k}; words: weight {policy.fusion:g}")

# %% [markdown]
# ## Three searches
#
# The first columns rank by the plain cosine, the next ones add mixing and words to the last model. ✓ marks relevant texts,
# where they are known. ▲2 and ▼1 say how far a text moved against the column to its left, *new* that it was not among the
# first there. A text's own pairs are left out of mixing, as if the text were new.

# %%
examples = queries or searched.examples(3)
for query in examples:
    views.show_results(play, query, top=top)
if not examples:
    print("nothing is known of this corpus: give texts to search with as `queries`")

# %% [markdown]
# ## Search yourself
#
# Type a query, or choose one of the list, and press Enter. *mixing weight* is the share of the known partners in an
# embedding, *neighbours k* how many known texts give theirs, *weight of words* the share of character TF-IDF in the
# score.

# %%
views.show_board(play, examples[0] if examples else "", top)
