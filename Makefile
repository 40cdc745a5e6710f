# `make` alone lists the verbs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet
SUPPORT := PYTHONPATH=tests/support
RING ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= wesher:$(VERSION)
BUILD_FLAGS ?=
RELEASE ?=
DESTDIR ?=

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Both start with the machine's own Python: the first mesh is up before an environment could be made.
.PHONY: demo
demo: ## Show a mesh of three hosts in a minute, then one in Kubernetes; KEEP=1 leaves that up
	@$(SUPPORT) "$$(scripts/find-python)" -m wesher_testing.run.demo

.PHONY: demo-machines
demo-machines: ## Show only the mesh of three hosts; KEEP=1 leaves it up
	@$(SUPPORT) "$$(scripts/find-python)" -m wesher_testing.run.demo machines

.PHONY: cluster
cluster: $(INSTALLED) ## Start a cluster of NODES=3 real kubelets and install the image and the chart
	@$(SUPPORT) $(BIN)/python -m wesher_testing.run.system_packages cluster
	@$(SUPPORT) $(BIN)/python -m wesher_testing.cluster up

.PHONY: cluster-down
cluster-down: $(INSTALLED) ## Remove that cluster
	@$(SUPPORT) $(BIN)/python -m wesher_testing.cluster down

.PHONY: test
test: known-rings $(INSTALLED) ## Run all rings of tests, or some of them: RING="check agent"
	@$(SUPPORT) $(BIN)/python -m wesher_testing.run $(RING)

# Comes before anything is installed, so it runs with the machine's own Python.
.PHONY: known-rings
known-rings:
	@$(SUPPORT) PYTHONDONTWRITEBYTECODE=1 "$$(scripts/find-python)" -m wesher_testing.run.rings $(RING)

.PHONY: check
check: $(INSTALLED) ## Check style, types and import rules, run unit and property tests: about 2 minutes
	@$(SUPPORT) $(BIN)/python -m wesher_testing.run check

.PHONY: dist
dist: $(INSTALLED) ## Build the wheel into dist/
	@$(BIN)/python -m hatchling build --target wheel --directory dist

.PHONY: install
install: ## Install the wheel from dist/ and its systemd service on this machine, or into DESTDIR=dir
	@scripts/install "$(DESTDIR)"

.PHONY: image
image: ## Build the images IMAGE=wesher:0.1.0 and wesher-operator:0.1.0 with buildah, podman or docker and the flags BUILD_FLAGS=
	@scripts/build-image $(if $(RELEASE),--release) "$(IMAGE)" $(BUILD_FLAGS)

.PHONY: release
release: $(INSTALLED) ## Build all that is published into dist/; BUILD_FLAGS= name the base images by digest
	@$(BIN)/python tools/release.py -- $(BUILD_FLAGS)

.PHONY: changelog
changelog: $(INSTALLED) ## Move the fragments of changelog.d/ into CHANGELOG.md
	@$(BIN)/towncrier build --yes --version "$(VERSION)"

.PHONY: bench
bench: $(INSTALLED) ## Measure the operator with 1000 nodes on a real API server, and as root a carried TCP stream: about 8 minutes
	@$(SUPPORT) $(BIN)/python -m wesher_testing.run.operator_bench
	@$(SUPPORT) $(BIN)/python -m wesher_testing.run.carried_bench

.PHONY: soak
soak: $(INSTALLED) ## Run simulations, cuts and kills, fuzzing and attacks in their long form: hours
	WESHER_SOAK=1 $(SUPPORT) $(BIN)/python -m pytest -q tests/sim tests/reliability tests/fuzz tests/agent/test_hostile.py \
		tests/cluster/test_on_top.py tests/cluster/test_readiness.py
	$(BIN)/python tests/sabotage.py

# The variable silences a notice on every build; pyproject.toml says what it is about.
.PHONY: docs
docs: $(INSTALLED) ## Build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

.PHONY: generate
generate: $(INSTALLED) ## Write the CRDs, the chart's schema, deploy/wesher.yaml, the manual page and docs/reference from their sources
	@for file in crds chart_schema plain_manifests chart_values_page conditions_page custom_resources_page exit_codes_page json_output_page cli_reference man_page; do $(SUPPORT) $(BIN)/python tools/$$file.py || exit; done

.PHONY: format
format: $(INSTALLED) ## Format the code and sort the imports
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(INSTALLED) ## Update the locks to the newest versions that pyproject.toml allows
	$(COMPILE) --upgrade --all-extras --group dev pyproject.toml -o requirements-dev.lock
	$(COMPILE) --constraint requirements-dev.lock --all-extras pyproject.toml -o requirements.lock
	$(COMPILE) --constraint requirements.lock --extra agent pyproject.toml -o requirements-agent.lock
	$(COMPILE) --constraint requirements.lock --extra operator pyproject.toml -o requirements-operator.lock
	$(COMPILE) --constraint requirements-dev.lock --group build -o requirements-build.lock

.PHONY: venv
venv: $(INSTALLED)

# Each stamp comes last, so an environment that was left half made is made again.
$(VENV)/.locked: requirements-dev.lock scripts/make-venv
	@scripts/make-venv $(VENV)
	@touch $@

$(INSTALLED): $(VENV)/.locked pyproject.toml
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
