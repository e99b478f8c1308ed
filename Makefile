# `make demo` and `make test` need only Python 3.10 to 3.13 and make.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo
SPLITS := $(DEMO)/pairs/train $(DEMO)/pairs/val

.PHONY: demo test lint lock clean

# The stamp is renewed, and with it the environment, when the lock or the package's metadata change.
.venv/stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13) and \
	  "error: Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0] + \
	  "; name another one with PYTHON=python3.12")'
	$(PYTHON) -m venv --clear .venv
	@echo "Installing the locked packages (about 900 MB on the first time) ..."
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/stamp
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh demo.sh "$(DEMO)"

test: .venv/stamp
	$(BIN)/pytest -q

lint: .venv/stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lock:
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header \
	  --extra pipeline --extra trainer --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv $(DEMO) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
