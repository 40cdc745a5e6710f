# `make` alone lists the verbs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-from-lock
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet

.PHONY: help
help: ## List the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.PHONY: venv
venv: $(INSTALLED)

.PHONY: lint
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

.PHONY: check
check: lint ## Lint, types, unit and property tests, under a minute
	$(BIN)/pytest -q tests/unit tests/property tests/repo

.PHONY: format
format: $(INSTALLED) ## Format the code and sort the imports
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(INSTALLED) ## Take the newest versions that pyproject.toml allows into the locks
	$(COMPILE) --upgrade --all-extras --group dev pyproject.toml -o requirements-dev.lock
	$(COMPILE) --constraint requirements-dev.lock --all-extras pyproject.toml -o requirements.lock
	$(COMPILE) --constraint requirements-dev.lock --group build -o requirements-build.lock
