# make paper     install, then regenerate the quick tier's tables and figures on the simulated benchmark
# make test      install, then run all tests
# `make help` lists the rest. ARGS go to the command: make paper ARGS="--data utd-mhad --root DIR"

PYTHON ?= python3
ARGS ?=
# what the installation needs at its peak, in gigabytes
DISK_GB ?= 12
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
POSE := .venv-pose
export OMP_NUM_THREADS ?= 1

.PHONY: help install pose-env browser paper test test-notebooks test-python coverage mutants docs lab hooks weights readme clean distclean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## .venv with the exact versions of requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@v=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2], int(sys.version_info >= (3, 11)))' 2>/dev/null || echo missing 0); \
	[ "$${v#* }" = 1 ] || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is $${v% *}. Name another one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@free=$$(df -Pk . | awk 'NR==2 {print int($$4/1048576)}'); [ -d $(VENV) ] || [ $$free -ge $(DISK_GB) ] || { \
	  echo "The installation needs about $(DISK_GB) GB of disk, and $$free GB are free here. Make room, or set DISK_GB if you know better." >&2; exit 2; }
	@echo "Installing $$(grep -c == requirements.lock) pinned packages into $(VENV) (about 7 GB, a few minutes; pip says nothing meanwhile) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment (on Debian: apt install python3-venv)." >&2; exit 2; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Installed."

pose-env: $(POSE)/.installed ## .venv-pose for `mgr-paper extract`: MediaPipe and what it needs (430 MB)

$(POSE)/.installed: requirements-pose.lock
	@v=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2], int((3, 11) <= sys.version_info[:2] <= (3, 12)))' 2>/dev/null || echo missing 0); \
	[ "$${v#* }" = 1 ] || { \
	  echo "MediaPipe 0.10.21 needs Python 3.11 or 3.12; '$(PYTHON)' is $${v% *}. Name another one: make PYTHON=python3.12 pose-env" >&2; exit 2; }
	@echo "Installing $$(grep -c == $<) pinned packages into $(POSE) (430 MB) ..."
	@$(PYTHON) -m venv --clear $(POSE) || { echo "$(PYTHON) cannot make a virtual environment (on Debian: apt install python3-venv)." >&2; exit 2; }
	@$(POSE)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r $<
	@$(POSE)/bin/python -c 'import cv2, mediapipe; mediapipe.solutions.holistic.Holistic'
	@touch $@
	@echo "Installed."

browser: $(STAMP) ## Chromium for the tests that open the docs site and JupyterLab; does nothing where there is one
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get install -y -qq chromium >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }; \
	  else $(BIN)/playwright install chromium; fi; }

paper: $(STAMP) ## tables and figures of the quick tier (half an hour on two cores)
	@$(BIN)/mgr-paper reproduce --tier quick $(ARGS)

test: test-notebooks test-python ## all tests: library notebooks, then tests/

test-notebooks: $(STAMP)
	@echo "== library notebooks"; s=$$(date +%s); \
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev-test --n-workers 2 --skip-folder-re '^([_.].*|ablations|tutorials|benchmarks)$$' || exit 1; \
	echo "== library notebooks passed in $$(($$(date +%s)-s)) s"

test-python: $(STAMP)
	@echo "== tests/ and a smoke run of every ablation notebook"; s=$$(date +%s); \
	PATH="$(CURDIR)/$(BIN):$$PATH" pytest -q -n 2 --dist loadfile --durations=12 $(ARGS) || exit 1; \
	echo "== tests/ passed in $$(($$(date +%s)-s)) s"

coverage: $(STAMP) ## which lines notebooks and tests run: figures/benchmarks/coverage.md (half an hour)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/measure_coverage.py $(ARGS)

mutants: $(STAMP) ## small faults planted in the numeric core, found or not: figures/benchmarks/mutants.md (quarter of an hour)
	@$(BIN)/python scripts/mutants.py $(ARGS)

docs: $(STAMP) ## the docs site in _docs: notebooks, API, all tables and figures, bibliography
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/docs.py $(ARGS)

lab: $(STAMP) ## read and rerun the notebooks in JupyterLab
	@echo "JupyterLab opens nbs/index.ipynb in your browser; Ctrl-C here ends it."
	@JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" $(BIN)/jupyter lab nbs/index.ipynb $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

hooks: $(STAMP) ## once per clone, before the first change: notebooks are cleaned on save and merge cell by cell
	@PATH="$(CURDIR)/$(BIN):$$PATH" nbdev-install-hooks

weights: $(STAMP) ## mgr_paper/weights from the bench tier's networks and records (mgr-paper reproduce --tier bench makes them)
	@$(BIN)/python scripts/weights.py $(ARGS)

readme: $(STAMP) ## README.md, the sidebar and the bibliography, from the notebooks
	@$(BIN)/python scripts/references.py
	@$(BIN)/python scripts/readme.py

clean: ## remove caches, built docs and the quick and smoke figures; keeps .venv and runs/
	rm -rf _proc _docs build dist .pytest_cache .hypothesis figures/quick figures/smoke
	find . -name __pycache__ -not -path './$(VENV)*' -prune -exec rm -rf {} +

distclean: clean ## remove both environments, runs/ and the graph's memory too
	rm -rf $(VENV) $(POSE) runs .snakemake *.egg-info
