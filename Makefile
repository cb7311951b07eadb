# Entry point for people and CI: `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
BOOTSTRAPPED := .venv/.stamp-bootstrap
INSTALLED := .venv/.stamp-install
DOCS := .venv/.stamp-docs
COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 $(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format docs notebooks bench faults soak cluster-lab lock wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(INSTALLED)  ## install the locked dependencies and this checkout into .venv

demo: $(INSTALLED)  ## a small sweep on the built-in dataset (a few minutes): leaderboard and what to run next
	$(BIN)/orchestrator sweep digits --trials 12 --epochs 8 \
		--set method.warmup_epochs=2 --set data.num_train=600 --set data.num_val=200 --set data.num_test=200

paper-digits: $(INSTALLED)  ## IGNORE and its rivals on digits, each tuned as hard (about an hour on two cores; it can be stopped and continued)
	$(BIN)/orchestrator benchmark digits

# The tests start hundreds of processes, and each would compile our modules again if none may keep them.
test test-all: export PYTHONDONTWRITEBYTECODE =
test: $(INSTALLED)  ## run the tests (about a quarter of an hour on two cores)
	$(BIN)/python -m pytest -n 3 --no-loadscope-reorder -m "not long"

test-all: $(INSTALLED)  ## the tests in random order, and the fault-injection suites (hours)
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m "not long" -p randomly
	$(BIN)/python -m pytest -m long
	$(MAKE) faults soak

check: $(INSTALLED)  ## lint, format, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED)  ## fix what ruff can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(DOCS)  ## build the documentation site into site/; warnings are errors, no network is needed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: $(DOCS)  ## run the notebooks of docs/notebooks again and keep their output (a few minutes)
	$(BIN)/python -m docs.run_notebooks docs/notebooks/*.ipynb

bench: $(INSTALLED)  ## run the benchmarks behind the documented figures (more than an hour)
	$(BIN)/python -m benchmarks.cost overhead
	$(BIN)/python -m benchmarks.cost scale
	$(BIN)/python -m benchmarks.digits
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.cost metrics

faults: $(INSTALLED)  ## every kind of failure on a cluster, and drivers killed twice, many times over (more than an hour)
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.faults.driver_kills
	$(BIN)/python -m benchmarks.faults.corruption
	NUM_SWEEPS=20 $(BIN)/python -m pytest -q tests/integration/test_train_trials.py -k placement_group

soak: $(INSTALLED)  ## fifty trials with a kill every ten seconds (half an hour)
	$(BIN)/python -m benchmarks.faults.soak

cluster-lab: $(INSTALLED)  ## Slurm and SSH clusters in namespaces of this machine, used and broken (root, half an hour)
	$(BIN)/python -m benchmarks.lab

lock: $(BOOTSTRAPPED)  ## rebuild requirements/*.txt from pyproject.toml (UPGRADE=1: newest versions)
	$(COMPILE) pyproject.toml --group build --output-file requirements/run.txt
	$(COMPILE) pyproject.toml --group dev --constraint requirements/run.txt --output-file requirements/dev.txt
	$(COMPILE) --group pyproject.toml:docs --constraint requirements/dev.txt --output-file requirements/docs.txt
	$(COMPILE) --group pyproject.toml:bootstrap --constraint requirements/dev.txt --output-file requirements/bootstrap.txt

wheel: $(INSTALLED)  ## build dist/*.whl
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python

clean:  ## remove .venv, caches and built files (results stay)
	rm -rf .venv dist build site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps, so that a second `make` installs nothing and a changed lock installs what changed.
$(INSTALLED): requirements/dev.txt pyproject.toml hatch_build.py $(BOOTSTRAPPED)
	@# Compiled once here, because every worker process of Ray would compile for itself: importing everything then takes 9 s instead of 19.
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(DOCS): requirements/docs.txt $(INSTALLED)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/docs.txt
	@touch $@

$(BOOTSTRAPPED): requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python must be 3.11 or newer, but got $$($(PYTHON) --version 2>&1). Name another one: PYTHON=python3.12 make" >&2; exit 2; }
	@echo "Setting up .venv; the first time this downloads about 3 GB of packages"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $@
