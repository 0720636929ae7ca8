# `make demo` and `make test` need only make and Python 3.11 or newer; both install into .venv, once.
#
#   PYTHON=python3.12           the Python that .venv is made of (otherwise the newest one found)
#   TORCH_ARGS="--index-url …"  handed to pip for torch and torchvision alone, for instance to take a CPU build
#   ARGS="…"                    handed on to the command: make test ARGS="-k episode -n 2"

export PYTHON TORCH_ARGS
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip
# Any Python 3 can run the script that chooses the right one and says what is missing.
SETUP = for p in python3 python3.14 python3.13 python3.12 python3.11 python $(PYTHON); do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1 && exec "$$p" tools/setup_venv.py $(VENV); \
	done; echo "graphfsl: Python 3.11 or newer is needed, but none was found" >&2; exit 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # one pip at a time, even under -j
.PHONY: demo test coverage lint docs tables bench clean help

demo: $(VENV)/.core ## train and compare on embedded data, on any laptop
	$(VENV)/bin/graphfsl demo $(ARGS)

test: $(VENV)/.test ## run the tests on all cores (one: ARGS="-n 0"; long trainings: ARGS="-m slow")
	@echo "tests run on all cores; ARGS=\"-n 0\" runs them in one process"
	$(PY) -m pytest -n auto --dist worksteal $(ARGS)

coverage: $(VENV)/.test ## run the tests and print which lines they reach
	$(PY) -m pytest -n auto --dist worksteal -q --cov=graphfsl --cov-report=term:skip-covered $(ARGS)

lint: $(VENV)/.dev ## ruff, mypy and the import contracts
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

docs: $(VENV)/.docs ## build docs/_build/html/index.html; a warning is an error
	$(PY) -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html $(ARGS)

tables: $(VENV)/.core ## fill the tables of README.md and docs/ from the committed results
	$(PY) tools/fill_tables.py

bench: $(VENV)/.bench ## time graphfsl beside its peers
	$(PY) -m benchmarks $(if $(DEVICE),--device $(DEVICE)) $(ARGS)

clean: ## remove build output and caches (.venv, runs/ and data/ stay)
	rm -rf build dist docs/_build docs/generated *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# A stamp is touched last, when its install is complete: after a failure or an interruption, run make again.
$(VENV)/.core: pyproject.toml setup.py
	@$(SETUP)
	$(PIP) install $(TORCH_ARGS) torch torchvision
	$(PIP) install -e .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) install -e ".[test]"
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP) install -e ".[bench]"
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install -e ".[dev]"
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) install -e ".[docs]"
	@touch $@
