# Tamis. `make demo` needs nothing but Python 3.11 or newer and make; everything it installs goes into .venv.

VENV := .venv
BIN := $(VENV)/bin
# A Python to build .venv with, e.g. `make demo PYTHON=/opt/python3.12/bin/python3`. Found when not given.
PYTHON ?=
CANDIDATES := python3 python3.13 python3.12 python3.11 python
# Arguments for the demo or the benchmarks: `make demo ARGS="--target python"`
ARGS ?=

PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
IS_RECENT := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo serve test coverage lint format bench chaos evidence-ccs evidence-gais evidence-quad evidence-tarot docker-test clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed ## Select from real text with a running service and show what it chose
	@$(BIN)/python -m tamis.service.cli.demo $(ARGS)

serve: $(VENV)/.installed ## Run the service on http://127.0.0.1:8321
	@$(BIN)/tamis serve $(ARGS)

# A file of tests runs in one process, and as many at a time as there are processors.
test: lint ## Lint, type checks and all tests (what CI runs)
	$(PYTEST) --durations=20

# The interpreted pass runs kernels as plain Python, so that their bodies are seen; those on vector instructions (all that
# read text) have no plain Python to run.
coverage: $(VENV)/.installed-dev ## All tests, and which lines they run; half as long again
	@rm -f .coverage .coverage.*
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest tests/native/test_topk.py -q -k "not many_rows" --cov --cov-report=
	$(PYTEST) --cov --cov-append --cov-report=term:skip-covered

lint: $(VENV)/.installed-dev ## Style, types, import directions, drift of openapi.yaml and of the pages' tables
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tamis.service.api.openapi --check
	$(BIN)/python -m tamis.service.cli.reference --check
	@$(BIN)/numpydoc lint $$(find native selectors service -name '*.py' -not -path '*/versions/*')

format: $(VENV)/.installed-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

BENCH := $(BIN)/python tests/benchmarks/harness.py

bench: $(VENV)/.installed-dev ## Speed of DSIR beside the authors' package; ARGS="--list" shows all benchmarks
	@$(BENCH) $(ARGS)

chaos: $(VENV)/.installed-dev ## Ten times the crash test: a service whose processes are killed (CHAOS_KILLS=600 CHAOS_SEED=7)
	TAMIS_CHAOS_KILLS=$(or $(CHAOS_KILLS),600) TAMIS_CHAOS_SEED=$(or $(CHAOS_SEED),7) \
		$(BIN)/python -m pytest tests/acceptance/test_crashes.py --log-cli-level=INFO

evidence-ccs: $(VENV)/.installed-dev ## Does coverage pay? Coresets selected by the service, networks trained on them
	@$(BENCH) evidence.ccs $(ARGS)

evidence-gais: $(VENV)/.installed-dev ## Accuracy kept by GAIS, against other ways to select (hours)
	@$(BENCH) evidence.gais $(ARGS)

evidence-quad: $(VENV)/.installed-dev ## Accuracy of networks trained on what Quad selects, against influence or diversity alone
	@$(BENCH) evidence.quad $(ARGS)

evidence-tarot: $(VENV)/.installed-dev ## Accuracy of networks trained on what TAROT selects, against influence and random draws
	@$(BENCH) evidence.tarot $(ARGS)

docker-test: ## Build the image, start it with PostgreSQL, S3 and two workers, run a job (needs Docker with compose)
	docker/smoke.sh

# The state of a service (.tamis) is kept, the demo's apart: it may be somebody's work.
clean: ## Remove .venv, caches and the demo's output
	rm -rf $(VENV) .tamis/demo demo-out dist build .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache \
		.hypothesis .import_linter_cache
	find native selectors service tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@for candidate in $(or $(PYTHON),$(CANDIDATES)); do \
		if "$$candidate" -c "$(IS_RECENT)" 2>/dev/null; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Tamis needs Python 3.11 or newer with its venv module; none of these is: $(or $(PYTHON),$(CANDIDATES))." >&2; \
		echo "Install one (on Debian or Ubuntu: apt install python3 python3-venv), or name one: make demo PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Order-only on the interpreter: its time stamp says nothing. A change of what is to be installed installs again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Tamis into $(VENV) (once; a minute or so)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Tamis and its development tools into $(VENV) (once; a minute or so)"
	@$(PIP_INSTALL) -e ".[dev]"
	@touch $(VENV)/.installed $@
