# make demo       a small fleet planned, shown and applied; needs Python 3.11 and pip's package index, not QEMU
# make test       lint, types and tests; installs what is missing (apt-get, with root or sudo)
# make test-long  the same with the slow tests
# make lint       lint and types only
# make bench      batchdiff against its peers, side by side; 20 GiB of space, root, half an hour. BENCH="--quick" tries it out
# make bench-docs the figures and the plot of the last `make bench`, put into docs/

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
ON_ALL_CORES := -n $(shell nproc) --dist worksteal

.PHONY: demo test test-long lint bench bench-docs tools clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(RUN)/python tools/demo.py demo-images

test: tools lint
	$(RUN)/python -m pytest $(ON_ALL_CORES)

test-long: tools lint
	$(RUN)/python -m pytest $(ON_ALL_CORES) -m "long or not long"

lint: $(VENV)/installed-for-tests
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

bench: $(VENV)/installed-for-bench
	sh tools/install-bench-tools
	PYTHONPATH=tools $(RUN)/python -m bench bench-images --output bench.json $(BENCH)

bench-docs: $(VENV)/installed-for-bench
	PYTHONPATH=tools $(RUN)/python -m bench.document bench.json docs/performance.md
	PYTHONPATH=tools $(RUN)/python -m bench.plot bench.json docs

tools:
	sh tools/install-test-tools

$(VENV)/bin/python:
	sh tools/make-venv $(PYTHON) $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-for-tests: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(VENV)/installed

$(VENV)/installed-for-bench: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) demo-images bench-images bench.json build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
