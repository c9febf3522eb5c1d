# `make demo` and `make test` need Python 3.11+, pip and make; each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two stamps of one environment: what `virnuc` needs, and what tests and lint need besides.
DEMO := $(VENV)/.demo
DEV := $(VENV)/.installed
PYTEST := $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: demo up check test test-full torture screenshots lint

demo: $(DEMO)  ## the main job on a small real input
	$(BIN)/virnuc predict demo/demo.fasta --output demo-report

up: demo  ## the web UI, with the demo batch in it
	$(BIN)/virnuc up

check: lint  ## lint, types and the fast tests: about a minute
	$(PYTEST) -m fast

test: $(DEV)  ## the whole suite; with AREA=stages, that folder of tests/
	$(PYTEST) --durations=25 $(AREA:%=tests/%)

test-full: $(DEV)  ## with the tests that are marked `full`: more of what `make test` proves once
	VIRNUC_FULL=1 $(PYTEST) --durations=25

torture: $(DEV)  ## every fault at full size; resumable, takes an hour or more
	$(BIN)/python tests/torture/run.py .torture

screenshots: $(DEV)  ## the README's pictures, from the tests of the UI
	VIRNUC_REQUIRE_ALL=1 VIRNUC_SCREENSHOTS=docs/images $(BIN)/pytest -n 0 tests/ui/test_browser.py

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(DEMO): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(DEV): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(DEMO) $@
