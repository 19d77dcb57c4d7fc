# %% [markdown]
# # 7. Inside a training step
#
# **Question:** what happens between a table of pairs and a gradient?
#
# Takes one batch of the data and goes through a step by hand: pairs, batch, embeddings, mixing, loss, gradients. Nothing
# is trained and nothing is written. A real batch is drawn at random; this one takes several rows of a few groups, so that
# mixing finds positives beside a row's own.

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
import numpy as np
from IPython.display import display

from hr_search import losses
from hr_search.base import plots
from hr_search.base.devices import to_device
from hr_search.base.text import shortened
from hr_search.batches import index_rows, make_batch, negative_mask
from hr_search.data.loading import load_data
from hr_search.experiment import encoder_for
from hr_search.mixing import mix
from hr_search.policies import loss_policy, mixing_policy
from hr_search.reports import parameters, step_figures
from hr_search.settings import Settings
from hr_search.step import Context, batch_loss

# %% tags=["parameters"]
datapath = "sample_ru"  # table of pairs: a file, hf:OWNER/NAME, esco or sample_ru
modelname = "embedded"  # embedded, a Hub name or a local folder
maxlength = 48  # tokens a text is cut to
loss = "infonce"  # triplet, margin-ce or infonce
negatives = "batch"  # batch, given or random
mixing = "weighted"  # none, mean, weighted, rocchio, slerp, mochi or synco
mixk = 2  # neighbours of each kind that are mixed in
groups = 4  # groups in the batch
each = 3  # rows of each group
seed = 42  # of draws
more = {}  # any other setting by its name, for example {"mixquery": 0.5}

# %% [markdown]
# ## Pairs

# %%
parameters.check_parameters("07_inside_a_step")
chosen_settings = {"datapath": datapath, "modelname": modelname, "maxlength": maxlength, "loss": loss, "seed": seed}
knobs = {"negatives": negatives, "mixing": mixing, "mixk": mixk}
settings = Settings.from_mapping(chosen_settings | knobs | more)
train = load_data(settings).train
largest = train["group"].value_counts().index[:groups]
chosen = train[train["group"].isin(largest)].groupby("group").head(each).index.to_numpy()
display(train.loc[chosen, ["group", "query", "positive"]].apply(shortened))

# %% [markdown]
# ## Batch: which documents are negatives?
#
# Every distinct text of the batch is encoded once. Documents of a row's own group are positives, whichever row brought
# them; all others are its in-batch negatives.

# %%
rows = index_rows(train)
batch = make_batch(rows, chosen)
wrong = negative_mask(batch, settings.negatives, np.random.default_rng(seed))
queries_of_rows = [rows.queries[i] for i in batch.queries[batch.query]]
plots.show(
    step_figures.role_matrix(batch, wrong, queries_of_rows),
    "Table of the batch: rows are pairs, columns documents, colours mark own positive, other positives and negatives",
)

# %% [markdown]
# ## Embeddings
#
# One forward pass for queries and documents together; all embeddings have length 1, so a dot product is a cosine.

# %%
encoder = encoder_for(settings, train)
tokens = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
texts = [tokens["query"][i] for i in batch.queries] + [tokens["document"][i] for i in batch.documents]
encoder.train()
embeddings = encoder(texts)  # (Q + M, D)
queries, documents = embeddings[: len(batch.queries)][batch.query], embeddings[len(batch.queries) :]
print(f"queries {tuple(queries.shape)}, documents {tuple(documents.shape)}")

# %%
cosines = (queries @ documents.T).detach().cpu().numpy()
plots.show(
    step_figures.cosine_matrix(cosines, batch, queries_of_rows),
    "Cosines of the batch's queries and documents, the own positive of each row framed",
)

# %% [markdown]
# ## Mixing
#
# The loss may see queries that are moved towards their nearest positives and away from their nearest negatives (or, with
# `mochi` and `synco`, further negatives). Neighbours enter without gradient.

# %%
place = {name: to_device(getattr(batch, name), embeddings.device) for name in ("positive", "relevant", "same")}
draw = np.random.default_rng([seed, 1, 0])
seen = mix(queries, documents, place["positive"], place["relevant"], ~place["relevant"], mixing_policy(settings), draw)
plots.show(
    step_figures.mixing_plane(*(part.detach().cpu().numpy() for part in (queries, seen.queries, documents))),
    "Queries before and after mixing and the documents of the batch on their first two principal components",
)

# %% [markdown]
# ## Loss
#
# By hand, and as a training step computes it: the two must agree.

# %%
negative, own = to_device(wrong, embeddings.device), place["positive"]
if settings.loss == "triplet":
    by_hand = losses.triplet(seen.queries, documents, own, negative, settings.margin, synthetic=seen.synthetic)
else:
    margin = settings.margin if settings.loss == "margin-ce" else 0.0
    pair = (seen.queries, documents, own, negative, place["same"], settings.temperature, margin)
    by_hand = losses.infonce(*pair, symmetric=settings.symmetric, synthetic=seen.synthetic)
context = Context(rows, tokens, loss_policy(settings), mixing_policy(settings), seed, total=1)
in_training, figures = batch_loss(embeddings, batch, context, step=0)
print(f"loss {by_hand:.4f} by hand, {in_training:.4f} in a training step")
print(f"active rows {figures[1]:.0%}, spread of the documents {figures[2]:.3f}")

# %% [markdown]
# ## Gradients
#
# How strongly each part of the encoder is asked to change. A step clips the norm of the whole gradient and lets AdamW
# divide it by its own recent size, so a large norm here does not mean a large step.

# %%
encoder.zero_grad()
in_training.backward()
norms = step_figures.gradient_norms(encoder.named_parameters())
plots.show(
    step_figures.gradient_bars(norms), "Bars: the norm of the gradient of each layer's attention and feed-forward"
)

# %%
assert np.isclose(by_hand.item(), in_training.item()) and norms["norm"].gt(0).any()
print(f"one step of {len(chosen)} rows, {sum(map(len, texts))} tokens")
