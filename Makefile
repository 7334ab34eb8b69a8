# Each command sets up what it needs, in a virtual environment in this folder.
# PYTHON picks the interpreter, VENV the folder.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
DRAWS ?= 1000
STEPS ?= all
IMAGES ?= digits
MARKS ?= not (hardware or clients or networks)
# Without drawn cases; of the ways to shard, `shard_map` and `jit` alone.
FAST := tests/checks tests/core tests/functions tests/house \
  -m "not (hardware or processes)" -k "not (test_properties or pmap or vmap or unchecked)"

.DEFAULT_GOAL := help
.PHONY: help demo lab docs build-docs test test-fast compare flax-suite run-flax-suite clients run-clients networks run-networks measure fuzz check-hardware compile-for-hardware lint format clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.experiments ## train on real digits, with and without batch norm; two minutes
	@$(BIN)/python -m experiments demo

lab: $(VENV)/.experiments ## put every claim about batch norm to the test; twenty minutes
	@$(BIN)/python -m experiments lab --images $(IMAGES)

test: $(VENV)/.dev ## the whole suite
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "$(MARKS)"

test-fast: $(VENV)/.dev ## the behaviour of the core; two minutes
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(FAST)

compare: $(VENV)/.compare ## jaxbn, flax, haiku, equinox, keras and torch on the same cases
	@$(BIN)/python -m tests.comparison
	@$(BIN)/python -m tests.comparison.torchvision_networks
	@$(BIN)/python -m tests.comparison.folding

flax-suite: ## Flax's own tests of batch norm, on Flax and on jaxbn; two minutes
	@$(MAKE) --no-print-directory VENV=$(VENV)-flax-suite run-flax-suite

# In an environment of its own: other packages bring plugins and warnings to pytest, and
# Flax's tests take a warning for an error.
run-flax-suite: $(VENV)/.flax-suite
	@$(BIN)/python -m tests.flax_suite

docs: ## the documentation as a site, in docs/_build; a minute
	@$(MAKE) --no-print-directory VENV=$(VENV)-docs build-docs

# In an environment of its own: what builds the site is not needed for anything else.
build-docs: $(VENV)/.docs
	@$(BIN)/python -m sphinx -q -W -n --keep-going -b html docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

check-hardware: ## compile for TPU and GPU, without either; STEPS=small takes two minutes
	@$(MAKE) --no-print-directory VENV=$(VENV)-hardware compile-for-hardware

# In an environment of its own: where libtpu is installed, JAX looks for a TPU.
compile-for-hardware: $(VENV)/.check-hardware
	TPU_SKIP_MDS_QUERY=1 JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 \
	  XLA_FLAGS=--xla_gpu_autotune_level=0 \
	  $(BIN)/python -m pytest -m hardware tests/hardware
	TPU_SKIP_MDS_QUERY=1 JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 \
	  XLA_FLAGS=--xla_gpu_autotune_level=0 JAX_PLATFORMS=cpu \
	  $(BIN)/python -m tests.hardware.budgets $(STEPS)

clients: ## real programs with their own norm and with jaxbn's; six minutes
	@$(MAKE) --no-print-directory VENV=$(VENV)-clients run-clients

# In an environment of its own: these programs bring TensorFlow and PyTorch.
run-clients: $(VENV)/.clients
	$(BIN)/python -m pytest -m clients tests/clients

networks: ## convert other libraries' networks, and train on; three minutes
	@$(MAKE) --no-print-directory VENV=$(VENV)-networks run-networks

# In an environment of its own: it brings PyTorch, Keras, Haiku and Equinox.
run-networks: $(VENV)/.networks
	$(BIN)/python -m pytest -m networks tests/networks

measure: $(VENV)/.dev $(VENV)/.compare ## what configs cost and reach, into docs/measured; needs an idle machine
	@$(BIN)/python -m tests.measure

fuzz: $(VENV)/.dev ## draw batches cut in any way; DRAWS=1000 of each kind
	DRAWS=$(DRAWS) $(BIN)/python -m pytest -n $(JOBS) tests/core/test_properties.py --hypothesis-profile fuzz

lint: $(VENV)/.dev ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright --pythonpath $(BIN)/python -p .ci/pyright_strict.json

format: $(VENV)/.dev ## fix the style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove environments, caches and runs
	rm -rf .venv .venv-* runs .pytest_cache .ruff_cache .hypothesis

# The stamp says which extra is installed; a change of pyproject.toml installs again.
# The shell holds the lock on the folder: it ends with all that the shell has started.
$(VENV)/.%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jaxbn needs Python 3.11 or newer; say which with PYTHON=..." >&2; exit 1; }
	@mkdir -p $(VENV); exec 9<$(VENV); \
	lock() { $(PYTHON) -c "import fcntl; fcntl.flock(9, fcntl.LOCK_EX$$1)" 2>/dev/null; }; \
	lock ' | fcntl.LOCK_NB' || { \
	  echo "Another make sets up $(VENV); this one waits for it"; \
	  lock || exit 1; \
	  if [ $@ -nt pyproject.toml ]; then exit; fi; \
	}; \
	echo "Setting up $(VENV) for '$*' (once, a minute or two)"; \
	if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python -e '.[$*]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[$*]'; \
	fi && touch $@
