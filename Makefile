# `make` lists the targets. `make repro` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup data repro movies tiny test lint format ui report grid transfer paper clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install the pinned packages

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seedtalk needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	touch $(STAMP)

data: setup ## fetch the quickstart's data and models (pinned by hash)
	seedtalk fetch quickstart

repro: data mlflow.db ## run the pipeline: from reviews to an evaluated, registered recommender
	dvc repro
	@seedtalk show

mlflow.db: | $(STAMP)
	@seedtalk sync  # made once, here: parallel experiments would race to migrate a new store

movies: data mlflow.db ## evaluate on ReDial and INSPIRED; FROM=<folder> takes local copies of the sets
	seedtalk fetch movies $(if $(FROM),--from "$(FROM)")
	dvc exp run $$(seedtalk overrides profiles/movies.yaml) \
	  $(if $(FROM),,-S 'ingest.parts=[movielens,imdb,redial,inspired]')
	@seedtalk show

tiny: setup ## run the whole pipeline on a made-up toy corpus, as a DVC experiment
	python tests/toy.py corpora/toy
	dvc exp run --temp --copy-paths corpora/toy $$(seedtalk overrides profiles/tiny.yaml)

test: setup ## run the tests
	python -m pytest

lint: setup ## check style and types
	ruff check .
	ruff format --check .
	mypy

format: setup ## mend style
	ruff check --fix .
	ruff format .

ui: setup ## open the MLflow UI on the runs and the registry
	seedtalk ui

report: setup ## write results/report.html from what has run
	dvc repro report

grid: data mlflow.db ## run the ablation of the selection, about 3 hours on two cores; resumable
	seedtalk study run ablation-data
	seedtalk study run ablation

transfer: data mlflow.db corpora/books/items.jsonl ## books to films and back; FROM=<folder> holds the book sets
	for method in fisher random; do \
	  dvc exp remove books-$$method films-$$method >/dev/null 2>&1; \
	  dvc exp run --temp --name books-$$method --copy-paths corpora/books \
	    $$(seedtalk overrides profiles/books.yaml) -S select.method=$$method -S select.budget=330 curate && \
	  dvc exp run --temp --name films-$$method -S select.method=$$method curate || exit 1; \
	  for domain in books films; do \
	    dvc get . artifacts/dialogues/train.jsonl --rev $$domain-$$method --force \
	      --out corpora/transfer/$$domain-$$method.jsonl || exit 1; \
	  done; \
	done
	seedtalk study run transfer-films
	seedtalk study run transfer-books

corpora/books/items.jsonl: | $(STAMP)
	python examples/books.py --from "$(FROM)" --out corpora/books

paper: setup ## write paper/ from the studies' collected results: page, figures, tables
	seedtalk paper

clean: ## remove what a run makes; keeps data, .venv, DVC's cache and the paid answers in .cache
	rm -rf artifacts models mlruns mlartifacts mlflow.db dvc_plots
	find results -mindepth 1 ! -name metrics.json -delete 2>/dev/null || true
