# Two commands for a newcomer: `make compare` and `make test`. Both set up .venv first, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
ACCEPTANCE := tests/challenges/test_learning_rate.py tests/training/test_what_comes_first.py tests/training/test_fit.py \
	tests/diagnose/test_diagnose.py tests/diagnose/test_tables.py tests/optim tests/program tests/scipy_suite \
	tests/second_order/test_every_rule.py tests/test_contest.py tests/test_convergence.py tests/test_docs.py
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := passive

.PHONY: compare test lint types unit acceptance frameworks clean

compare: .venv/ready
	$(BIN)/thalweg compare digits --out runs/digits

test: lint types unit acceptance

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

unit: .venv/ready
	$(BIN)/python -m pytest -q -n 2 $(ACCEPTANCE:%=--ignore=%) --cov --cov-report=

# What takes longer: torch's own acceptance configurations, convergence, whole programs. It ends with the coverage of both.
acceptance: .venv/ready
	$(BIN)/python -m pytest -q -n 2 $(ACCEPTANCE) --cov --cov-append --cov-report=term:skip-covered

# The optimizers inside other people's loops: it adds an extra to .venv, which the two commands do without.
frameworks: .venv/frameworks
	$(BIN)/python -m pytest -q -n 2 tests/frameworks

.venv/frameworks: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,frameworks]'
	touch $@

.venv/ready: pyproject.toml constraints.txt tests/oracle.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Thalweg needs Python 3.11 or newer; $(PYTHON) is older. Say which: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement tests/oracle.txt
	touch $@

clean:
	rm -rf .venv runs .coverage .pytest_cache .mypy_cache .ruff_cache
