# `make report` and `make test` set everything up themselves; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_HOME := build/test-home
RECIPE ?= data/recipes/esco.yaml
# `make report THREADS=auto` leaves other programs their cores.
THREADED := $(if $(THREADS),--threads $(THREADS))
# Threads that wait long by spinning halve the speed as soon as another program wants a core; threads that do not
# spin at all wake up slowly, and a training step has thousands of short waits. This many turns are some microseconds.
export GOMP_SPINCOUNT ?= 20000

.DEFAULT_GOAL := help
.PHONY: help setup report train lab pair test test-lowest lint clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## create .venv with the pinned requirements (2 to 3 minutes)

$(VENV)/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hr_search needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "setting up $(VENV) (2 to 3 minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

report: setup ## explore, train, measure drift, analyse; prints the path of reports/index.html
	@$(BIN)/python -m hr_search report --recipe $(RECIPE) $(THREADED)

train: setup ## train and test a model, without the notebooks
	@$(BIN)/python train.py --recipe $(RECIPE) --outputpath data/models/trained $(THREADED)

lab: setup ## open the notebooks in JupyterLab
	@$(BIN)/python -m jupyterlab notebooks

pair: setup ## bring the notebooks and their text twins (notebooks/paired) into step; the newer one wins
	@cd notebooks && ../$(BIN)/python -m jupytext --quiet --sync *.ipynb

# The models of the unit tests are so small that a second thread waits more than it works; a second process does not.
test: setup ## unit tests, and every notebook with its defaults and with other parameters
	@rm -rf $(TEST_HOME)
	OMP_NUM_THREADS=1 HR_SEARCH_HOME="$(CURDIR)/$(TEST_HOME)" $(BIN)/python -m pytest tests -q -m "not slow" -n 2 --dist loadfile --durations=8
	HR_SEARCH_HOME="$(CURDIR)/$(TEST_HOME)" HR_SEARCH_HEADLESS=1 $(BIN)/python -m pytest notebooks -q -p no:python --nbval-lax --nbval-current-env --nbval-cell-timeout=600 --nbval-sanitize-with tests/nbval_sanitize.cfg

test-lowest: ## unit tests with the lowest versions that pyproject.toml allows (10 to 20 minutes)
	@$(PYTHON) -m venv build/lowest
	@build/lowest/bin/python -m pip install --quiet --disable-pip-version-check -r tests/lowest.txt
	@build/lowest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	OMP_NUM_THREADS=1 HR_SEARCH_HOME="$(CURDIR)/build/lowest-home" build/lowest/bin/python -m pytest tests -q -p no:cacheprovider

lint: setup ## check style, as the commit hook does
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean: ## remove caches, test leftovers and reports; keep models, runs and .venv
	rm -rf build data/cache .pytest_cache .ruff_cache reports/*/ reports/*.html
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
