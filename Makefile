# make demo       a small fleet planned, shown and applied; needs Python 3.11 and pip's package index, not QEMU
# make test       lint, types and tests; installs what is missing (apt-get, with root or sudo)
# make test-long  the same with the slow tests
# make lint       lint and types only
# make bench      batchdiff against its peers, side by side; 40 GiB of space, root, half an hour

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test test-long lint bench tools clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(RUN)/python tools/demo.py demo-images

test: tools lint
	$(RUN)/python -m pytest

test-long: tools lint
	$(RUN)/python -m pytest -m "long or not long"

lint: $(VENV)/installed-for-tests
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

bench: $(VENV)/installed-for-tests tools
	PYTHONPATH=tools $(RUN)/python -m bench bench-images --output bench.json

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

clean:
	rm -rf $(VENV) demo-images bench-images bench.json build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
