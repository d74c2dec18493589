# Each target is enough on a fresh machine with Python 3.10+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test clean

install: $(VENV)/.installed

# The stamp depends on pyproject.toml: a changed dependency installs again, nothing else does.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Python 3.10 or newer is needed; say which with: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: install
	$(BIN)/glimpse demo --out demo

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -q
	# Once more where arrays pass through, with every annotated shape and type checked.
	$(BIN)/pytest -q -m "not bad_input" --jaxtyping-packages=encoders,agents,beartype.beartype \
		tests/agents/test_losses.py tests/agents/test_networks.py tests/agents/test_rollout.py \
		tests/encoders/test_bank.py tests/encoders/test_spec.py

clean:
	rm -rf $(VENV) build dist *.egg-info
