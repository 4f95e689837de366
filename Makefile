# `make run` and `make test` work on a fresh machine with Python 3.10 or newer and a network.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODELS_VENV := .venv-models
LOWEST_VENV := .venv-lowest

.PHONY: bench-models run test test-all test-campaigns test-chaos test-lowest test-models lint bench dashboards docs kubernetes release clean

run: $(VENV)/run.stamp ## Translate the sample sequences on every CPU core or GPU
	$(BIN)/virnucpro-exporter run examples --output results --linger 0

test: $(VENV)/test.stamp ## Set up and pass the tests
	sh tests/install_programs.sh
	$(BIN)/python -m pytest --numprocesses 4 --dist loadgroup -m "not campaign"

test-all: test test-campaigns test-chaos test-models test-lowest ## Pass all tests, those that take long as well

test-campaigns: $(VENV)/test.stamp ## Seek mistakes that no test would notice, and so on: what takes long
	sh tests/install_programs.sh
	$(BIN)/python -m pytest --numprocesses 4 --dist loadgroup -m campaign

test-chaos: $(VENV)/test.stamp ## Live through 200 random histories of kills, stops and pauses
	CHAOS_HISTORIES=200 $(BIN)/python -m pytest -s tests/integration/test_chaos.py

test-models: $(MODELS_VENV)/stamp ## Pass the tests that need PyTorch, in a virtual environment of their own
	$(MODELS_VENV)/bin/python -m pytest tests/models

test-lowest: $(LOWEST_VENV)/stamp ## Pass the unit tests with the lowest versions that pyproject.toml allows
	$(LOWEST_VENV)/bin/python -m pytest --numprocesses 4 tests/unit -m "not campaign"

lint: $(VENV)/dev.stamp ## Style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/bench.stamp ## Measure, beside the peers
	$(BIN)/python benchmarks/core.py
	$(BIN)/python benchmarks/balance.py
	$(BIN)/python benchmarks/parts.py
	$(BIN)/python -m benchmarks.one_file
	$(BIN)/python -m benchmarks.range_reading
	$(BIN)/python -m benchmarks.eta
	$(BIN)/python -m benchmarks.dispatch
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.processes
	$(BIN)/python -m benchmarks.cluster
	sh tests/install_programs.sh
	$(BIN)/python -m benchmarks.scrape
	$(BIN)/python -m benchmarks.runs
	$(BIN)/python -m benchmarks.strangers
	$(BIN)/python benchmarks/counting.py
	$(BIN)/python -m benchmarks.sampler
	$(BIN)/python -m benchmarks.scale

bench-models: $(MODELS_VENV)/stamp ## Measure ESM-2 on a CPU against VirNucPro's way
	$(MODELS_VENV)/bin/python -m benchmarks.virnucpro

dashboards: $(VENV)/dev.stamp ## Write grafana/dashboards anew; needs Python 3.11
	$(BIN)/python -m grafana.build

docs: $(VENV)/docs.stamp ## Build the documentation as a site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

kubernetes: $(VENV)/test.stamp ## Write deploy/kubernetes/exporter.yaml anew
	sh tests/install_programs.sh
	sed '/^---$$/Q' deploy/kubernetes/exporter.yaml > build.tmp
	$(BIN)/helm template virnucpro-exporter deploy/helm/virnucpro-exporter --namespace monitoring \
	    --set image.repository=registry.example.org/virnucpro-exporter,podMonitor.enabled=true >> build.tmp
	mv build.tmp deploy/kubernetes/exporter.yaml

release: $(VENV)/test.stamp $(VENV)/docs.stamp ## Make the files of a release: package, Helm chart, rules with dashboards, manual
	sh tests/install_programs.sh
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist
	$(BIN)/helm package deploy/helm/virnucpro-exporter --destination dist
	tar --create --gzip --owner=0 --group=0 --file dist/virnucpro-mixin-$$($(BIN)/python -m hatchling version).tar.gz \
	    prometheus/rules prometheus/tests prometheus/alertmanager.yml grafana/dashboards grafana/README.md \
	    docs/alerting.md docs/runbook.md LICENSE
	mkdir dist/man
	$(BIN)/python -c 'from click_man.core import write_man_pages; from virnucpro_exporter import __version__; \
	    from virnucpro_exporter.cli import cli; \
	    write_man_pages("virnucpro-exporter", cli, version=__version__, target_dir="dist/man")'

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(MODELS_VENV) $(LOWEST_VENV) results dist site

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	@echo "installing virnucpro-exporter into $(VENV)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/%.stamp: pyproject.toml | $(BIN)/python
	@echo "installing the Python packages of the extra '$*' into $(VENV)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(MODELS_VENV)/stamp: pyproject.toml
	@echo "installing PyTorch and transformers into $(MODELS_VENV)"
	$(PYTHON) -m venv $(MODELS_VENV)
	$(MODELS_VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[test-models]'
	touch $@

$(LOWEST_VENV)/stamp: pyproject.toml
	@echo "installing the lowest versions of what pyproject.toml names into $(LOWEST_VENV)"
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/pip install --quiet --disable-pip-version-check uv
	$(LOWEST_VENV)/bin/uv pip compile --quiet --no-deps --extra dask --extra storage --resolution lowest-direct pyproject.toml \
	    --python $(LOWEST_VENV)/bin/python --output-file $(LOWEST_VENV)/lowest.txt
	echo "check-jsonschema<0.34" >> $(LOWEST_VENV)/lowest.txt # later ones need a later click
	$(LOWEST_VENV)/bin/pip install --quiet --disable-pip-version-check \
	    --constraint $(LOWEST_VENV)/lowest.txt --editable '.[test]'
	touch $@
