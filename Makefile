# Any target can be the first one on a fresh clone: each sets up what it needs.
# setup: .venv with the pinned packages and kdc itself.   demo: the whole job on the built-in data.
# test: the fast tests.   check: format, lint, types, who imports whom, the tests but the slow ones.   test-all: every test.
# clean: all of the above away; runs/ stays.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready
# uv trusts the certificates of the machine, as pip and git do: behind a proxy its own list is not enough.
export UV_SYSTEM_CERTS ?= 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: setup demo test check test-all lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdc needs Python 3.11 or newer; name one: make PYTHON=/path/to/python")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --compile-bytecode requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --no-deps --editable .
	@mkdir -p .venv/types && ln -sfn ../.. .venv/types/kdc
	@touch $@
	@echo "ready: source .venv/bin/activate && kdc --help"

demo: $(READY)
	$(BIN)/kdc demo

# which tests: with no more said, those that carry neither `process` nor `slow`. Many start Python anew: it finds its files compiled
TESTS = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test: $(READY)
	$(TESTS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(TESTS) -m 'not slow'

test-all: $(READY)
	$(TESTS) -m ''

# Pins anew what pyproject.toml asks for, for Linux and macOS and every Python that kdc runs on.
lock: $(READY)
	VIRTUAL_ENV=.venv $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --custom-compile-command "make lock" \
	    --extra cpu --extra trt-rtx --extra openvino --extra dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
