# Every target makes .venv and installs what it needs by itself; the second call costs nothing.
# A machine needs python3 (3.11 or later, with venv) and make. Another interpreter: `make PYTHON=python3.12 test`

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
SCENARIO ?= scenarios/quickstart.toml
OPTIONS ?=
PYTEST_OPTIONS ?= -n auto

BIN := .venv/bin
PIP = $(BIN)/python -m pip install --constraint constraints.txt
READY := .venv/ready
READY_TEST := .venv/ready-test
READY_DOCS := .venv/ready-docs
PRETRAINED := memory_truth skip_feedback
BENCHMARKS := $(filter-out __init__ study study_pictures page $(PRETRAINED),$(basename $(notdir $(wildcard benchmarks/*.py))))

.PHONY: help simulate live devices test lint check docs bench pretrained results results-full soak tracking clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo '  SCENARIO=scenarios/stragglers.toml chooses another run, OPTIONS="--seed 7" adds to its command line.'

simulate: $(READY) ## train twenty clients in virtual time, on one thread
	$(BIN)/hosfl simulate $(SCENARIO) $(OPTIONS)

live: $(READY) ## the same agents over a real MQTT broker, which it starts by itself
	$(BIN)/hosfl live $(SCENARIO) $(OPTIONS)

devices: $(READY) ## a whole deployment on this machine: mosquitto with TLS, every agent a process (needs mosquitto)
	$(BIN)/hosfl devices $(OPTIONS)

test: $(READY_DOCS) ## the test-suite, without the long campaigns
	$(BIN)/python -m pytest -m "not soak" $(PYTEST_OPTIONS)

lint: $(READY_TEST) ## format, lint, types and import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## lint and test: what a change must pass

docs: $(READY_DOCS) ## the documentation site, into site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(READY_TEST) ## the figures that the documents quote; OPTIONS=--small only shows that they come
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(OPTIONS); done

pretrained: $(READY_TEST) ## the figures on pretrained models: fetches some 200 MB first, takes an hour or more
	$(BIN)/hosfl data fetch snippets minilm smollm2 efficientnet_lite0
	@for name in $(PRETRAINED); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(OPTIONS); done

results: $(READY_TEST) ## the tables of docs/results.md that take minutes, asked again
	$(BIN)/hosfl data fetch fashion_mnist watch
	$(BIN)/python -m benchmarks.study --size small -j 2
	$(BIN)/python -m benchmarks.study_pictures

results-full: $(READY_TEST) ## and all the rest of that page, which takes a day: fetches pretrained models first
	$(BIN)/hosfl data fetch fashion_mnist watch snippets minilm smollm2 efficientnet_lite0
	$(BIN)/python -m benchmarks.study --size full -j 2
	$(BIN)/python -m benchmarks.study_pictures
	$(BIN)/python -m benchmarks.page

soak: $(READY_DOCS) ## long campaigns: many more examples, schedules and planted bugs
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest $(PYTEST_OPTIONS)

tracking: $(READY) ## runs written into TensorBoard, MLflow and Weights & Biases, and read back: installs the extras first
	$(PIP) --quiet --no-build-isolation --editable '.[test,mlflow,wandb]'
	$(BIN)/python -m pytest tests/tracking

clean: ## remove .venv and every cache (never runs/)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .cache site

# What a run needs, and no more: whoever tries it out waits for nothing else.
# The build backend comes first and from the same pins, so that the build of this package fetches nothing unpinned.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or later is needed, %s is %s: make PYTHON=python3.12 ..." % (sys.executable, sys.version.split()[0]))'
	@echo "Installing into .venv (once; torch is large)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --quiet hatchling editables
	@$(PIP) --no-build-isolation --editable '.[devices]' \
		| { grep --line-buffered -E '^ *(Downloading|Using cached|Installing|ERROR)' || true; } \
		| sed -u -E 's/^(Installing) collected packages.*/\1 them/'
	@touch $@

$(READY_TEST): $(READY)
	@echo "Installing what tests and checks need (once)"
	@$(PIP) --quiet --no-build-isolation --editable '.[test,dev]'
	@touch $@

$(READY_DOCS): $(READY_TEST)
	@echo "Installing what builds the documents (once)"
	@$(PIP) --quiet --no-build-isolation --editable '.[docs]'
	@touch $@
