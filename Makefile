# `make demo` and `make test` need Python 3.11+, pip and make; each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo up test torture screenshots lint

demo: $(STAMP)  ## the main job on a small real input
	$(BIN)/virnuc predict demo/demo.fasta --output demo-report

up: demo  ## the web UI, with the demo batch in it
	$(BIN)/virnuc up

test: $(STAMP)  ## the whole suite
	$(BIN)/pytest -n 3 --dist worksteal

torture: $(STAMP)  ## every fault at full size; resumable, takes an hour or more
	$(BIN)/python tests/torture/run.py .torture

screenshots: $(STAMP)  ## the README's pictures, from the tests of the UI
	VIRNUC_REQUIRE_ALL=1 VIRNUC_SCREENSHOTS=docs/images $(BIN)/pytest -n 0 tests/ui/test_browser.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
