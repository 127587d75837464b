# Everything sets itself up: Python 3.11 or newer and make are all a fresh machine needs.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Whether the environment can be used: the Python that made it may be gone since.
WORKS := $(BIN)/python -c 'import pip, sqlite3, ssl, zlib' >/dev/null 2>&1

.PHONY: help demo test lint bench clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo "  PYTHON=python3.12 chooses the interpreter of a new .venv, ARGS=\"-k prune\" goes to pytest"

demo: $(INSTALLED) ## build an image from this machine and show the cache at work
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

test: $(INSTALLED) ## run the tests
	@$(BIN)/python -m pytest -n auto $(ARGS)

lint: $(INSTALLED) ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples/build_image.py
	$(BIN)/mypy examples/check_proof.py
	$(BIN)/mypy examples/hello.py
	$(BIN)/mypy examples/receive_events.py
	$(BIN)/mypy benchmarks
	$(BIN)/mypy fuzz
	$(BIN)/lint-imports --no-logo

bench: $(INSTALLED) ## measure the speed against the floors and msb (ARGS="--only list" measures one work)
	@$(BIN)/python benchmarks/bench.py .cache/bench $(ARGS)

clean: ## delete everything that was built, the environment included
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made once, and anew if its Python does not run; pip runs again only after pyproject.toml has
# changed.
$(INSTALLED): pyproject.toml $(shell $(WORKS) || echo broken)
	@set -e; \
	if ! $(WORKS); then \
	  pythons=$$(.ci/pythons $(if $(PYTHON),"$(PYTHON)")); \
	  python=$$(printf '%s\n' "$$pythons" | sed -n '1s/^[^ ]* //p'); \
	  echo "Making $(VENV) with $$python and installing the project into it"; \
	  rm -rf $(VENV); \
	  "$$python" -m venv $(VENV); \
	fi; \
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[dev]'; \
	touch $@

.PHONY: broken
