# Two commands do everything: `make compare` (set-up, then the main comparison) and `make test`.
PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= results
BIN = $(VENV)/bin
export OMP_NUM_THREADS ?= 2
# Of 18,000 installed modules a quarter is ever imported: they are compiled then, not by pip.
export PYTHONDONTWRITEBYTECODE =

.PHONY: compare test lint clean

compare: $(VENV)/ready
	$(BIN)/python cli.py compare --config configs/compare/shapes.yaml --output $(OUTPUT) --jobs 2

test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) results runs
