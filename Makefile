# Everything sets itself up: Python 3.11 or newer and make are all a fresh machine needs.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test lint bench clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo "  PYTHON=python3.12 chooses the interpreter, ARGS=\"-k prune\" goes to pytest"

demo: $(INSTALLED) ## build an image from this machine and show the cache at work
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

test: $(INSTALLED) ## run the tests
	@$(BIN)/python -m pytest -n auto $(ARGS)

lint: $(INSTALLED) ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples/build_image.py
	$(BIN)/mypy benchmarks
	$(BIN)/mypy fuzz
	$(BIN)/lint-imports --no-logo

bench: $(INSTALLED) ## measure the speed against the floors and msb (ARGS="--only list" measures one work)
	@$(BIN)/python benchmarks/bench.py .cache/bench $(ARGS)

clean: ## delete everything that was built, the environment included
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made once; pip runs again only after pyproject.toml has changed.
$(INSTALLED): pyproject.toml
	@set -e; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	  found=; \
	  for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      found=$$candidate; break; \
	    fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "No Python 3.11 or newer was found: install one, or name it with make PYTHON=/path/to/python3." >&2; \
	    exit 1; \
	  fi; \
	  if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$found has no venv module: install it (python3-venv on Debian and Ubuntu) and run make again." >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$found and installing the project into it"; \
	  rm -rf $(VENV); \
	  "$$found" -m venv $(VENV); \
	fi; \
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[dev]'; \
	touch $@
