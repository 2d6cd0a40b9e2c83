# Two commands do all: `make demo` sets up and runs the main job, `make test` sets up and runs the tests.
# Both create .venv from constraints.txt (the exact versions that were tested); what is done is not done again.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal

.PHONY: setup demo test coverage lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "medae needs Python 3.11 or newer: make setup PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/medae demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(PYTEST)

# Apart from the tests: counting statements makes them take about half as long again.
coverage: $(STAMP)
	$(PYTEST) --cov=medae --cov=pipelines --cov-report=term:skip-covered

clean:
	rm -rf $(VENV) build dist
