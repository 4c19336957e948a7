# What can be done here. Bare `make` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ONLY ?=
DB ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types format bench drill up down lock clean

help: ## list these targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## make the environment (.venv); done already, it does nothing

# torch first and alone (docs/adr/0003), then the lock with its hashes, then this project.
$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## record a simulated venue, retrain on it, judge, and write a report
	$(BIN)/tickwalk demo

# Compiled modules are kept, whatever the environment says: each program that a test starts would compile its own.
test: setup ## run every test
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup ## check style, formatting and dead code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vulture

types: setup ## check types, strictly
	$(BIN)/mypy

format: setup ## put code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

drill: setup ## run the long forms of drills and property tests, and check speeds
	DRILL=1 $(BIN)/python -m pytest -m "drill or timed or hypothesis"

bench: setup ## measure against peers and limits; ONLY=name runs one
	$(BIN)/python -m tests.benchmarks $(ONLY)

up: setup ## start Airflow on 127.0.0.1:8080, without Docker; DB=postgres keeps its records in Postgres
	$(if $(DB),TICKWALK_AIRFLOW_DATABASE=$(DB)) $(BIN)/tickwalk airflow up

down: setup ## stop everything that `make up` started
	$(BIN)/tickwalk airflow down

lock: setup ## resolve the dependencies anew, into requirements*.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11.2 --generate-hashes --no-emit-package torch \
	  --custom-compile-command 'make lock' pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11.2 --generate-hashes --no-emit-package torch \
	  --custom-compile-command 'make lock' --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11.2 --generate-hashes \
	  --custom-compile-command 'make lock' docker/build-backend.in -o docker/build-backend.lock

clean: ## remove the environment and caches; data in var/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
