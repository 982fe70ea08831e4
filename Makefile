# One command for each job. Every target sets up what it needs in $(VENV) first; nothing else is presupposed
# than Python 3.11 or newer, make and a network for the first run.

PYTHON ?= python3
VENV   ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS  ?=
# What test-integration runs: SELECT=servers leaves the long proofs out.
SELECT ?= servers or proof
# How many tests run at the same time: most of them wait for processes. WORKERS=0 for a debugger, or to see what is printed.
# Each storage server is used by one worker only; the proofs need the machine for themselves.
WORKERS ?= 2
IN_TURNS := -n $(WORKERS) --dist worksteal
BY_SERVER := -n $(if $(filter-out servers,$(SELECT)),0,$(WORKERS)) --dist loadgroup
FUZZ_RUNS   ?= 1000000

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# A caller's own paths must not reach into this environment.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

BIN := $(abspath $(VENV))/bin
# Installed once for this content of the packaging files at this place: times of files say nothing after a clone,
# and an environment that moved with its checkout would go on importing from the old place.
# One environment for everything: what mypy finds depends on what is installed. The compiled modules are installed again
# when any of them has changed. COMPILED=no leaves them as they are, for work on one of them or without a C compiler.
COMPILED ?= must
MODULES := $(shell sed -n '/^\[compiled\]/,$$s/^    clipperfs\.//p' setup.cfg | tr . /)
SOURCES := $(foreach module,$(MODULES),$(firstword $(wildcard $(module).py clipperfs/$(module).py)))
FINGERPRINT := $(shell { pwd; echo $(COMPILED); cat setup.cfg setup.py pyproject.toml constraints.txt $(SOURCES); } | sha256sum | cut -c1-16)
INSTALLED := $(VENV)/.installed-$(FINGERPRINT)
# clipperfs/ with its siblings inside it, as an installed package has them. mypy and import-linter follow folders,
# not the import hook of an editable install.
TREE := $(VENV)/tree

.PHONY: help demo test test-integration check lint bench bench-peers clean fuzz tree format

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED)  ## Run the main job: publish, serve, switch under load, refuse, roll back.
	$(BIN)/clipperfs demo

test: $(INSTALLED)  ## Run all tests: unit, property, spec, integration, e2e. About a quarter of an hour on two cores.
	$(BIN)/python -m pytest $(IN_TURNS) $(PYTEST_ARGS) tests

test-integration: $(INSTALLED)  ## Run the tests that start real storage servers (Ceph from Debian's packages, HDFS) and the long proofs; what cannot start is counted.
	@$(BIN)/python -c 'import moto' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[test,servers]' --constraint constraints.txt
	@scripts/install-test-servers.sh
	$(BIN)/python -m pytest $(BY_SERVER) $(PYTEST_ARGS) -m '$(SELECT)' tests

check: lint  ## Run what a change must pass before it is shown: lint, then unit, property and spec tests. Under two minutes.
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/unit tests/property tests/spec

lint: $(INSTALLED) tree  ## Check format, lint rules, types and the directions of imports.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=$(TREE):. $(BIN)/mypy -p clipperfs -p benchmarks -p tests
	cd $(TREE) && $(BIN)/lint-imports --no-logo --config $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.import_linter_cache

format: $(INSTALLED)  ## Put the code into the house format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## Measure predict, switch, publish and poll beside their references (BENCH_ARGS=--quick).
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

bench-peers: $(INSTALLED)  ## Measure clipperfs beside other model servers, each installed apart in the user's cache (BENCH_ARGS=--quick).
	$(BIN)/python -m benchmarks.peers $(BENCH_ARGS)

fuzz: $(INSTALLED)  ## Try FUZZ_RUNS=1000000 inputs each on the HTTP side and on predict bodies, a tenth on documents: ten minutes.
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --editable '.[test,fuzz]' --constraint constraints.txt || \
		echo "atheris cannot be installed here: going on without what it knows of branches" >&2
	$(BIN)/python -m tests.fuzz.fuzz_http --runs $(FUZZ_RUNS)
	$(BIN)/python -m tests.fuzz.fuzz_query --runs $(FUZZ_RUNS)
	$(BIN)/python -m tests.fuzz.fuzz_documents --runs $$(( $(FUZZ_RUNS) / 10 ))

clean:  ## Remove the environment and everything that was generated.
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .demo .fuzz
	find . -name '*.so' -not -path './.*' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

tree: $(INSTALLED)
	@rm -rf $(TREE) && mkdir -p $(TREE)/clipperfs
	@ln -s $(CURDIR)/clipperfs/* $(CURDIR)/serverd $(CURDIR)/wrappers $(CURDIR)/hooks $(TREE)/clipperfs/

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "clipperfs needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Say which: make PYTHON=python3.12 …" >&2; exit 1; }
	@{ grep -qF "$(abspath $(VENV))" $(VENV)/bin/activate && $(BIN)/python -c ''; } 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo "making $(VENV) failed. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing clipperfs[test,lint] into $(VENV) …"
	@CLIPPERFS_COMPILED=$(COMPILED) $(BIN)/python -m pip install --quiet --editable '.[test,lint]' --constraint constraints.txt
	@rm -f $(VENV)/.installed-* && touch $@
