# Each command sets up what it needs, in a virtual environment in this folder.
# PYTHON picks the interpreter, VENV the folder.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
DRAWS ?= 1000

.DEFAULT_GOAL := help
.PHONY: help demo lab test compare fuzz lint format clean

help: ## what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.experiments ## train on real digits, with and without batch norm; two minutes
	@$(BIN)/python -m experiments demo

lab: $(VENV)/.experiments ## put every claim about batch norm to the test; about eleven minutes
	@$(BIN)/python -m experiments lab

test: $(VENV)/.dev ## the whole suite
	$(BIN)/python -m pytest -n $(JOBS)

compare: $(VENV)/.compare ## jaxbn, flax, haiku, equinox, keras and torch on the same cases
	@$(BIN)/python -m tests.comparison
	@$(BIN)/python -m tests.comparison.torchvision_networks

fuzz: $(VENV)/.dev ## batches cut in any way against the oracle; DRAWS=1000 of each kind
	DRAWS=$(DRAWS) $(BIN)/python -m pytest -n $(JOBS) tests/core/test_properties.py --hypothesis-profile fuzz

lint: $(VENV)/.dev ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright --pythonpath $(BIN)/python -p .ci/pyright_strict.json

format: $(VENV)/.dev ## mend the style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove environments, caches and runs
	rm -rf .venv .venv-* runs .pytest_cache .ruff_cache .hypothesis

# The stamp says which extra is installed; a change of pyproject.toml installs again.
$(VENV)/.%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "jaxbn needs Python 3.11 to 3.13; say which with PYTHON=..." >&2; exit 1; }
	@echo "Setting up $(VENV) for '$*' (once, a minute or two)"
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python -e '.[$*]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'; \
	fi
	@touch $@
