# `make demo` and `make test` work in a fresh clone: the first call installs everything into .venv, later ones start at once.

# cpu, gpu, or none (neither vLLM nor DeepSpeed).
ifndef EXTRA
EXTRA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
endif
# The stamp's name carries what the installation depends on, so a changed dependency installs again.
STAMP := .venv/.installed-$(EXTRA)-$(shell cat pyproject.toml .ci/install | cksum | cut -d' ' -f1)
DOCS_STAMP := .venv-docs/.installed-$(shell cat pyproject.toml .ci/docs | cksum | cut -d' ' -f1)
PY := .venv/bin/python
TEST_ARGS ?=
DEMO_ARGS ?=
WHEEL_ARGS ?=

.PHONY: help install demo test test-all test-long lint wheel-check docs docs-install generated ci clean
.DEFAULT_GOAL := help

help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  Settings: PYTHON=python3.12  EXTRA=cpu|gpu|none  TORCH_INDEX=url  DEMO_ARGS=...  TEST_ARGS=...  WHEEL_ARGS=--full"

$(STAMP):
	@.ci/install "$(EXTRA)" "$@"

install: $(STAMP) ## Make .venv ready: the package, vLLM for this machine, the test tools.

demo: $(STAMP) ## Train a tiny teacher and a tiny policy, run TGPO and GRPO, write an HTML report.
	$(PY) examples/demo/run.py $(DEMO_ARGS)

test: $(STAMP) ## Run the tests.
	$(PY) -m pytest $(TEST_ARGS)

test-all: $(STAMP) ## Run the tests, the slow ones too: an hour on 2 cores.
	$(PY) -m pytest -m "not long" $(TEST_ARGS)

test-long: $(STAMP) ## Run what takes hours: jobs on a cluster, deaths of processes, whole studies and examples.
	$(PY) -m pytest -m long $(TEST_ARGS)

lint: $(STAMP) ## ruff and pyright.
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

wheel-check: $(STAMP) ## Build a wheel and use it where nothing of the checkout is visible.
	$(PY) .ci/wheel_check.py $(WHEEL_ARGS)

$(DOCS_STAMP):
	@.ci/docs install "$@"

docs-install: $(DOCS_STAMP) ## Make .venv-docs ready: the tools of the docs site, nothing of the package.

docs: $(DOCS_STAMP) ## Build the docs site into site/; a dead link or a page outside the navigation fails.
	.ci/docs build

generated: $(STAMP) ## Write the parts of docs/ that follow from the code: the picture of the rooms, the tables of keys, options and metrics.
	$(PY) docs/draw_rooms.py
	$(PY) docs/generate_configuration.py
	$(PY) docs/generate_environments.py
	$(PY) docs/generate_metrics.py
	$(PY) docs/generate_cost_model.py
	$(PY) docs/generate_gpu.py

ci: ## What continuous integration runs.
	.ci/run

clean: ## Remove build outputs and caches; .venv, .venv-docs, runs and the demo's models stay.
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -path "./.venv*" -prune -o -name __pycache__ -type d -exec rm -rf {} +
