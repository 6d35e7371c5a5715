# Everything from a fresh clone: `make demo`, `make test`. Each target creates .venv and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_QUIET ?= --quiet
PYTEST ?= -n 2 --dist worksteal

.PHONY: demo test lint docs bench clean

$(VENV)/.user: pyproject.toml constraints.txt
	@echo "… installing into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_QUIET) --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install $(PIP_QUIET) --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	@$(BIN)/python -m pip install $(PIP_QUIET) --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@$(BIN)/python -m pip install $(PIP_QUIET) --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(BIN)/python -m pip install $(PIP_QUIET) --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

demo: $(VENV)/.user  ## a real chest volume from 8 and 20 X-ray views: runs/demo/report.html
	@$(BIN)/unstir run medical/demo --out runs/demo

test: $(VENV)/.dev  ## every test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/.dev  ## style, types, walls
	@$(BIN)/ruff check core plugins pipelines data tests benchmarks
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(VENV)/.docs  ## the documentation, warnings as errors
	@$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.bench  ## measurements beside other libraries
	@$(BIN)/python benchmarks/solvers.py
	@$(BIN)/python benchmarks/gm4.py --markdown benchmarks/gm4.md
	@$(BIN)/python benchmarks/ct_operator.py
	@$(BIN)/python benchmarks/ct_baselines.py
	@$(BIN)/python benchmarks/ct_diffusion.py
	@$(BIN)/python benchmarks/timeseries_baselines.py load exchange traffic more
	@$(BIN)/python benchmarks/timeseries_published.py exchange --out runs/exchange

clean:
	rm -rf $(VENV) runs docs/_build
