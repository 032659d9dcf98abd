# make demo       plan, show and apply a small fleet; needs Python 3.11 and pip's package index, but not QEMU
# make test       lint and tests; installs missing tools (apt-get, as root or with sudo)
# make test-long  the same, with the slow tests
# make test-debian12, make test-debian13
#                 make demo and make test in a fresh Debian 12 or 13; needs root and 20 GiB
# make package    source archive, wheel and Debian package in dist/; installs missing tools as make test does
# make test-packages
#                 the Debian package in a fresh Debian 12 and 13: install, make demo's fleet, purge; needs root and 20 GiB
# make lint       rules, formatting, types, spelling and prose only
# make bench      batchdiff side by side with its peers; needs root, 32 GiB and an hour. BENCH="--quick" tries it out
# make bench-docs put the figures and the plot of the last `make bench` into docs/
# make docs       the documentation as a site in build/docs; fails if a link or an anchor leads nowhere
# make docs-pictures
#                 the pictures of the HTML report in docs/pictures, by Chromium, from the demo's images

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# One more than there are cores: a fifth of the time of a test it waits for the disk.
ON_ALL_CORES := -n $$(($(shell nproc) + 1)) --dist worksteal

# Tests start batchdiff thousands of times; compiling it each time would make them take half as long again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long test-debian12 test-debian13 package test-packages lint bench bench-docs docs docs-pictures \
	tools clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(RUN)/python tools/demo.py demo-images

test: tools lint
	$(RUN)/python -m pytest $(ON_ALL_CORES)

test-long: tools lint
	$(RUN)/python -m pytest $(ON_ALL_CORES) -m "long or not long"

test-debian12: SUITE := bookworm
test-debian13: SUITE := trixie
test-debian12 test-debian13:
	sh tools/debian-tree $(SUITE) sh -c 'make demo && make test'

package: $(VENV)/installed-for-packages
	rm -rf dist
	mkdir dist
	sh tools/make-packages $(RUN)/python dist debian
	cd dist && sha256sum *

test-packages: package
	CARRY=dist sh tools/debian-tree bookworm sh tools/try-packages
	CARRY=dist sh tools/debian-tree trixie sh tools/try-packages

lint: $(VENV)/installed-for-tests
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/codespell
	$(RUN)/python tools/prose.py

bench: $(VENV)/installed-for-bench
	sh tools/install-bench-tools
	PYTHONPATH=tools $(RUN)/python -m bench bench-images --output bench.json $(BENCH)

bench-docs: $(VENV)/installed-for-bench
	PYTHONPATH=tools $(RUN)/python -m bench.document bench.json docs/performance.md
	PYTHONPATH=tools $(RUN)/python -m bench.plot bench.json docs

docs: $(VENV)/installed-for-docs
	$(RUN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env -c tools/docsite . build/docs
	@echo "The site is in build/docs: open build/docs/docs/README.html"

docs-pictures: $(VENV)/installed-for-tests tools
	$(RUN)/python tools/docsite/pictures.py docs/pictures

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

$(VENV)/installed-for-docs: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@ $(VENV)/installed

$(VENV)/installed-for-bench: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@ $(VENV)/installed

$(VENV)/installed-for-packages: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[package]'
	touch $@ $(VENV)/installed

clean:
	rm -rf --one-file-system debian-trees
	rm -rf $(VENV) demo-images bench-images bench.json build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
