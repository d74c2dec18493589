# Each target is enough on a fresh machine with Python 3.10+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
AUDIT := .venv-audit
DOCS := .venv-docs
CLIENTS := .venv-clients
# Two processes, each with one thread: tests that compute in two would wait for one another.
SIDE_BY_SIDE := -n 2 --dist worksteal
# What failed is run once more, alone: a fault fails again, a test that a busy machine disturbed
# does not. Both runs are printed.
AGAIN := --last-failed --last-failed-no-failures none

.PHONY: install demo lint test test-all annotations test-browser test-lowest test-package test-clients test-cluster gpu gpu-wheels audit docs clean

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

# The fast tier, with the newest release of every dependency that pip finds; `test-lowest` is the
# other end.
test: install
	@$(BIN)/python .ci/versions.py installed
	$(BIN)/pytest -q $(SIDE_BY_SIDE) -m "not slow and not browser"

# Everything that runs without a browser, the slow tests too.
test-all: install lint annotations
	@$(BIN)/python .ci/versions.py installed
	$(BIN)/pytest -q $(SIDE_BY_SIDE) -m "not browser" || $(BIN)/pytest -q $(AGAIN) -m "not browser"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Once more where arrays pass through, with every annotated shape and type checked.
annotations: install
	$(BIN)/pytest -q -m "not bad_input" --jaxtyping-packages=encoders,agents,beartype.beartype \
		tests/agents/test_losses.py tests/agents/test_networks.py tests/agents/test_rollout.py \
		tests/encoders/bank/test_feature_bank.py tests/encoders/test_spec.py

# Pages in a real browser. Playwright comes from PyPI; Chromium is the system's, since a browser of
# Playwright's own would be a download from elsewhere. Where it cannot be had the tests are skipped,
# and that is said: a machine without a browser is no fault of the code.
test-browser: install
	$(BIN)/python -m pip install --quiet --editable ".[dev,browser]"
	@which chromium chromium-browser google-chrome | grep -q . || test -n "$$GLIMPSE_CHROMIUM" || \
		{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
			DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium >/dev/null; } || { \
		echo "test-browser: Chromium is absent, so its tests are skipped: install it as root" \
			"(apt-get install chromium), or name the browser in GLIMPSE_CHROMIUM" >&2; }
	$(BIN)/pytest -q -rs -m browser tests/browser || $(BIN)/pytest -q $(AGAIN) -m browser tests/browser

# The bounds of pyproject.toml: what is declared to be enough is.
$(LOWEST)/.installed: pyproject.toml .ci/versions.py | install
	$(PYTHON) -m venv $(LOWEST)
	$(BIN)/python .ci/versions.py lowest > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt \
		--editable . pytest pytest-xdist hypothesis beartype
	@touch $@

OLD_ENOUGH := tests/agents tests/encoders tests/glimpse_env \
	tests/experiments/test_cli.py $(addprefix tests/experiments/, attention/test_analyse.py \
	benchmarks/test_benchmarks.py benchmarks/test_command.py paper/test_figures.py \
	prepare/test_bank.py prepare/test_download.py pretrain/test_train.py \
	cluster/test_sweep.py train/test_trainer.py whole_image/test_train.py)

# Every dependency is in use in these: tyro by the commands, matplotlib by the figures, and so on.
test-lowest: $(LOWEST)/.installed
	@$(LOWEST)/bin/python .ci/versions.py installed
	$(LOWEST)/bin/pytest -q $(SIDE_BY_SIDE) -m "not slow" $(OLD_ENOUGH) || \
		$(LOWEST)/bin/pytest -q $(AGAIN) -m "not slow" $(OLD_ENOUGH)

# The wheel and the source distribution, built and run far from the checkout.
test-package: install
	$(BIN)/pytest -q .ci/test_package.py

# The site, at docs/_build/html/index.html; tutorials run, and a warning is an error. What `install`
# brought is borrowed: a second copy of torch would be gigabytes.
WHERE := import sysconfig; print(sysconfig.get_path("purelib"))
$(DOCS)/.installed: pyproject.toml | install
	$(PYTHON) -m venv $(DOCS)
	$(BIN)/python -c '$(WHERE)' > "$$($(DOCS)/bin/python -c '$(WHERE)')/borrowed.pth"
	$(DOCS)/bin/python -m pip install --quiet --editable ".[docs]"
	@touch $@

docs: $(DOCS)/.installed
	$(DOCS)/bin/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

# Other people's programs, beside what `install` brought. Each is installed by itself, so that one
# that cannot be had is named and the others still run.
$(CLIENTS)/.installed: pyproject.toml tests/clients/requirements.txt | install
	$(PYTHON) -m venv $(CLIENTS)
	$(BIN)/python -c '$(WHERE)' > "$$($(CLIENTS)/bin/python -c '$(WHERE)')/borrowed.pth"
	$(CLIENTS)/bin/python -m pip install --quiet --no-deps --editable .
	@grep -v '^#' tests/clients/requirements.txt | while read -r client; do \
		$(CLIENTS)/bin/python -m pip install --quiet "$$client" || \
		echo "test-clients: $$client cannot be installed here; its tests are skipped" >&2; done
	@touch $@

test-clients: $(CLIENTS)/.installed
	OMP_NUM_THREADS=1 $(CLIENTS)/bin/python -m pytest -q -rs tests/clients || \
		OMP_NUM_THREADS=1 $(CLIENTS)/bin/python -m pytest -q $(AGAIN) tests/clients

ON_CLUSTERS := tests/cluster tests/experiments/prepare/test_shares.py \
	tests/experiments/compare/test_tune.py

# Sweeps and banks on a real SLURM and a real Ray of two nodes each, which are started here and
# stopped; a node of each is killed. What cannot be had is named, and its tests are skipped.
test-cluster: install
	@for extra in slurm ray remote; do \
		$(BIN)/python -m pip install --quiet --editable ".[dev,$$extra]" || \
		echo "test-cluster: the extra $$extra cannot be installed here" >&2; done
	@which slurmctld >/dev/null || PATH="$$PATH:/usr/sbin" which slurmctld >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
			DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes slurm-wlm munge >/dev/null; } || \
		echo "test-cluster: no SLURM; as root: apt-get install slurm-wlm munge" >&2
	@for tool in 'moto[server]>=5' optuna-dashboard; do \
		$(BIN)/python -m pip install --quiet "$$tool" || \
		echo "test-cluster: $$tool cannot be installed here" >&2; done
	GLIMPSE_TEST_CLUSTER=1 $(BIN)/python -m pytest -q -rs $(ON_CLUSTERS) || \
		GLIMPSE_TEST_CLUSTER=1 $(BIN)/python -m pytest -q $(AGAIN) $(ON_CLUSTERS)

# All that wants an NVIDIA GPU, by the machine's own Python and torch: nothing is installed but the
# wheels in GPU_WHEELS, if there are some. Started again it goes on. GPU="--stage NAME" chooses.
GPU_PYTHON ?= python3
GPU_WHEELS ?= wheels/gpu
GPU ?=

gpu:
	$(GPU_PYTHON) -m experiments.gpu $(if $(wildcard $(GPU_WHEELS)/*.whl),--wheels $(GPU_WHEELS)) $(GPU)

# On a machine with a network: what an image with torch usually lacks, all of it pure Python, to be
# carried to one without.
gpu-wheels:
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
		--dest $(GPU_WHEELS) annotated-types beartype docstring-parser farama-notifications \
		gymnasium platformdirs sb3-contrib stable-baselines3 typeguard tyro

# Known vulnerabilities of what is installed. It asks an advisory service, so CI does not run it;
# --strict, since what the service does not know would else pass for safe.
audit: install
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && \
		$(AUDIT)/bin/python -m pip install --quiet pip-audit; }
	$(BIN)/python -m pip freeze --exclude-editable > $(AUDIT)/installed.txt
	$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps --requirement $(AUDIT)/installed.txt

clean:
	rm -rf $(VENV) $(LOWEST) $(AUDIT) $(DOCS) $(CLIENTS) docs/_build docs/generated build dist *.egg-info
