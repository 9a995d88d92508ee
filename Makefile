.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

export MLFLOW_UV_AUTO_DETECT := false
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: help setup demo test soak cover long check audit services format bench mutate clean browser postgres

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(READY) ## make .venv with the pinned dependencies and the command `cascadeguard`

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@if $(BIN)/python -m pip install --quiet uv; then \
	  echo "$(BIN)/uv pip install -r requirements.lock"; \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock && \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .; \
	else \
	  echo "uv is not to be had, falling back to pip"; \
	  $(BIN)/python -m pip install --quiet -r requirements.lock && $(BIN)/python -m pip install --quiet --no-deps --editable .; \
	fi
	@touch $@

demo: $(READY) ## simulate a venue, train, score, guard and write the report
	$(BIN)/cascadeguard demo

test: $(READY) browser postgres ## run every test that can run here and say what was skipped; three at a time, for many wait for servers; threads of three learners would only wait for each other
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -q --ignore=tests/soak $(ARGS)

soak: $(READY) ## a schedule with faults thrown in, against an undisturbed one: the short form of `python -m tests.soak.soak`
	$(BIN)/python -m pytest tests/soak -q $(ARGS)

cover: $(READY) browser postgres ## the same tests with the share of lines they reach; a fifth slower
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered -q $(ARGS)

long: $(READY) ## the properties of the guardrails on 10,000 examples each; hours. HYPOTHESIS_LONG_EXAMPLES for fewer
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests/guardrails -m hypothesis -n 2 --timeout=0 --durations=0 -q $(ARGS)

browser: # the page tests need Chromium; without it they are skipped with that reason
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing chromium for the page tests" && \
	  apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
	echo "no chromium here: page tests will be skipped"

postgres: # the tests of the model registry start PostgreSQL 15 themselves; without it they are skipped with that reason
	@test -x /usr/lib/postgresql/15/bin/initdb || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing postgresql for the tests of the model registry" && \
	  apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql-common >/dev/null && \
	  sed -i 's/^#* *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql-15 >/dev/null; } || \
	echo "no PostgreSQL 15 here: tests of the model registry on a server will be skipped"

check: $(READY) ## format, lint, types, import contracts, declared dependencies
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry . --no-ansi

audit: $(READY) ## known weaknesses of the pinned dependencies; asks an advisory service, so it needs the network
	$(BIN)/uv tool run pip-audit --requirement requirements.lock --no-deps --disable-pip

services: $(READY) browser postgres ## start PostgreSQL, an MLflow server on it and Chromium, run the tests that need them, stop them
	$(BIN)/python -m pytest -m service -n 2 --dist loadfile -q $(ARGS)

format: $(READY) ## rewrite the code in house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## events to bars, cascades, features, models, evaluation and guardrails beside the obvious alternatives; ARGS=--full for 5 x the rows and accounts
	$(BIN)/python -m tests.bench.bench_bars $(ARGS)
	$(BIN)/python -m tests.bench.bench_cascade $(ARGS)
	$(BIN)/python -m tests.bench.bench_features $(ARGS)
	$(BIN)/python -m tests.bench.bench_models $(ARGS)
	$(BIN)/python -m tests.bench.bench_evaluate $(ARGS)
	$(BIN)/python -m tests.bench.bench_guardrails $(ARGS)

mutate: $(READY) ## make small mistakes in guardrails/, see that a test fails; hours of CPU; ARGS="--sample 300" for less
	POLARS_MAX_THREADS=1 nice -n 15 $(BIN)/python -m tests.mutation.guardrails $(ARGS)

clean: ## remove the environment, caches and demo output
	rm -rf .venv .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .benchmarks .coverage .mutation htmlcov demo-lake
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
