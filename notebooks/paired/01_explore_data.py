# %% [markdown]
# # 1. What the data is
#
# **Question:** what do the tables hold, how were they split, is the test fair, and which wrong documents look right?
#
# Reads the tables of pairs; writes `metrics/data/<name>.csv`. Trains nothing; the base model encodes some rows for
# the last section. Texts are cut to 200 characters; `redact` also replaces e-mails, phones, links and handles.

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

from hr_search.base import paths, plots
from hr_search.base.files import write_csv
from hr_search.base.progress import show_log
from hr_search.data import exploration, loading
from hr_search.evaluation.hard_negatives import overview
from hr_search.experiment import encoder_for
from hr_search.reports.parameters import check_parameters
from hr_search.settings import Settings

show_log()
pd.options.display.max_colwidth = 200

# %% tags=["parameters"]
datapath = "sample_ru"  # table of pairs: a file, hf:OWNER/NAME, esco or sample_ru
validationpath = ""  # table for validation; empty for a part of datapath
testpath = ""  # table for the test; empty for a part of datapath
querycolumn = ""  # column with the query; empty for one found by name
positivecolumn = ""  # column with the matching document; empty for one found by name
negativecolumn = ""  # columns with wrong documents, separated by commas
groupcolumn = ""  # column whose equal values belong together; empty for the normalised query
validationshare = 0.1  # share of the groups held out for validation
testshare = 0.2  # share of the groups held out for the test
maxrows = 0  # at most this many train rows; zero for all
splitseed = 42  # of the split and of the rows shown
redact = False  # replace e-mails, phones, links and handles
keephtml = False  # leave HTML in texts as it is
encoding = ""  # of text files, such as cp1251; empty for a detected one
more = {}  # any other setting by its name, for example {"template": "{title} {skills}"}
examples = 5  # rows shown, and queries with hard negatives
mined = 100  # rows among which hard negatives are looked for; zero for none

# %% [markdown]
# ## Rows
#
# How many rows were read, dropped and given to each part. Groups are split as a whole: rows of one group (by default
# one normalised title) are relevant to each other, so a group is never on both sides of a split. Shares hold for groups
# and for rows as far as whole groups allow; the log above the table says where they do not, and which texts seem to
# stand for empty cells.

# %%
check_parameters("01_explore_data")
paths_given = {"datapath": datapath, "validationpath": validationpath, "testpath": testpath}
columns = {"querycolumn": querycolumn, "positivecolumn": positivecolumn, "negativecolumn": negativecolumn}
split = {"validationshare": validationshare, "testshare": testshare, "splitseed": splitseed, "maxrows": maxrows}
reading = {"groupcolumn": groupcolumn, "redact": redact, "keephtml": keephtml, "encoding": encoding}
settings = Settings.from_mapping(paths_given | columns | reading | split | more)
loaded = loading.load_data(settings)
display(exploration.counts_table(loaded))

# %% [markdown]
# ## Lengths
#
# What the encoder cuts away depends on `maxlength` (tokens; a Russian or English word is about 1.5 to 2 of them).

# %%
display(exploration.describe(loaded.train))
plots.show(
    plots.length_histogram(loaded.train["query"], loaded.train["positive"]),
    "Histogram of query and document lengths in words",
)

# %% [markdown]
# ## Groups and languages
#
# Groups with several documents give mixing and the metrics several relevant documents. The second table counts texts by
# script: *cyrillic* where at least half of the letters are Cyrillic, otherwise *latin*, and *other* without letters of either.

# %%
plots.show(plots.group_sizes(loaded.train["group"]), "How many groups have how many rows")
display(exploration.language_table(loaded))
display(exploration.frequent_titles(loaded.train))

# %% [markdown]
# ## Leaks
#
# A test document that is also in train makes every number too good. Exact copies in separate files stop a run; near
# copies (more than half of the 8-word shingles in one train document) are counted. Titles that occur in both are normal.

# %%
display(exploration.leak_table(loaded))

# %% [markdown]
# ## Examples

# %%
display(exploration.examples(loaded.train, examples, splitseed))

# %% [markdown]
# ## Hard negatives, to be read by eye
#
# The wrong documents that the base model finds nearest to a query, among some rows of train. One that is in fact relevant
# is an unmarked positive: if there are many, take `negatives: batch`, or keep `mineshare` below 1. *suspected* is the
# share of the inspected documents that score above the query's own.

# %%
if mined:
    encoder = encoder_for(settings, loaded.train)
    figures, hard = overview(loaded.train, encoder, mined, examples, seed=splitseed)
    display(figures.round(3), hard.round(3))

# %%
path = paths.metrics() / "data" / f"{loaded.name.split('.')[0]}.csv"
write_csv(path, exploration.counts_table(loaded).reset_index())
print(f"written: {path.relative_to(paths.root())}")
