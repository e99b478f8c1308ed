# `make demo` and `make test` need only Python 3.10 to 3.13 and make.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo
FLINK := .build/flink
TORCH := .build/torch

.DELETE_ON_ERROR:
.PHONY: demo test test-data test-training test-slow test-flink test-torch lint lock clean

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

# Two halves side by side: much of each runs on one core.
test: .venv/stamp
	@$(MAKE) --no-print-directory --jobs=2 test-data test-training

test-data: .venv/stamp
	$(BIN)/pytest -q tests/benchmarks tests/model tests/pipeline

test-training: .venv/stamp
	$(BIN)/pytest -q tests/test_walls.py tests/trainer

test-slow: .venv/stamp
	$(BIN)/pytest -q -m slow

# Needs Java and Maven as well. What cannot be had is named by the tests, which are then skipped.
test-flink: .venv/stamp
	-@$(MAKE) --no-print-directory --keep-going $(FLINK)/lib $(FLINK)/job-server/job-server.jar
	$(BIN)/pytest -q -m flink

$(FLINK)/lib: tests/flink/requirements.txt
	@echo "Fetching Apache Flink (230 MB) ..."
	@rm -rf $@ $(FLINK)/download
	@$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --require-hashes --requirement $< --dest $(FLINK)/download
	@tar -xzf $(FLINK)/download/*.tar.gz -C $(FLINK) --strip-components=2
	@rm -rf $(FLINK)/download
	@touch $@

$(FLINK)/job-server/job-server.jar: tests/flink/pom.xml
	@echo "Putting Beam's Flink job server together (150 MB) ..."
	@mvn --batch-mode --quiet --strict-checksums --file $< package

# Where PyTorch cannot be had, the tests say so and are skipped.
test-torch: .venv/stamp
	-@$(MAKE) --no-print-directory $(TORCH)/stamp
	PYTHONPATH="$(CURDIR)/$(TORCH)" $(BIN)/pytest -q -m torch

# Without what the environment holds already, which must not be hidden.
$(TORCH)/stamp: tests/torch/requirements.txt
	@echo "Fetching PyTorch (2 GB with the CUDA libraries it needs on Linux, 4 GB unpacked) ..."
	@rm -rf $(TORCH)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  --only-binary :all: --target $(TORCH) --requirement $<
	@touch $@

lint: .venv/stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lock:
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header \
	  --extra pipeline --extra trainer --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv .build $(DEMO) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
