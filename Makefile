# SPDX-License-Identifier: LGPL-2.1-or-later
# make demo      set everything up from nothing and look at the bundled vmcore
# make test      set everything up from nothing and run the tests
# make test-page test the page of a fleet in a browser (needs Chromium)
# make lab       build, boot and dump the lab's kernels (QEMU and Debian packages: see tests/lab/README.md)
# make test-lab  compare with the answers of the kernels themselves
# make test-lab-all  the same with all kernels, machines that crashed, dump formats, and guests that run
#                    (an hour the first time)
# make bench     how fast it is, as ratios: docs/speed.md (BENCH=--quick for a look, BENCH=--help)
# make fuzz      damage whole dumps by seed: docs/reliability.md (SEED=0 COUNT=2000 JOBS=1, FUZZ=--help)
# make docs      the documents as a site in build/site, without network; a dead link is an error
# make package   the source archive and the wheel in dist/, checked, installed and tried
# make generated write the man pages, the completion and the JSON schemas anew from the code
# make mutants   what changes of unwind/ and verdict/ the tests do not notice (half an hour)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LAB_DUMPS ?= build/lab
LAB_GROUPS := kernels stock i386 crashes crashes-years crashes-stock crashes-i386 arm64 crashes-arm64 arm64-built formats formats-stock formats-i386 large live live-stock live-arm64 live-i386 livepatch hung
SEED ?= 0
COUNT ?= 2000
JOBS ?= 1
TESTS ?=

.PHONY: docs package generated demo test test-page lint lab test-lab lab-all test-lab-all bench fuzz golden mutants clean

demo: $(VENV)/.for-use
	@$(BIN)/drgn-tools demo

test: $(VENV)/.for-tests
	$(BIN)/python -m pytest $(TESTS)

# The page of a fleet in a real browser: Chromium of the system (DRGN_TOOLS_CHROMIUM names another).
test-page: $(VENV)/.for-pages
	DRGN_TOOLS_CHROMIUM=$${DRGN_TOOLS_CHROMIUM:-$$(command -v chromium)} \
		$(BIN)/python -m pytest tests/fleet/page

lint: $(VENV)/.for-development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lab: $(VENV)/.for-tests
	$(BIN)/python -m tests.lab dump -o $(LAB_DUMPS) --all

test-lab: lab
	DRGN_TOOLS_LAB_DUMPS=$(LAB_DUMPS) $(BIN)/python -m pytest -m lab -s

lab-all: $(VENV)/.for-tests
	$(BIN)/python -m tests.lab dump $(addprefix --group ,core $(LAB_GROUPS))
	$(BIN)/python -m tests.lab debuginfo stock-6.12
	$(BIN)/python -m tests.lab dump -o $(LAB_DUMPS) --all

test-lab-all: lab-all
	DRGN_TOOLS_LAB_DUMPS=$(LAB_DUMPS) DRGN_TOOLS_LAB_GROUPS="$(LAB_GROUPS)" \
		$(BIN)/python -m pytest -m lab -s

bench: $(VENV)/.for-tests
	$(BIN)/python -m tests.bench $(BENCH)

fuzz: $(VENV)/.for-tests
	$(BIN)/python -m tests.fuzz --seed $(SEED) --count $(COUNT) --jobs $(JOBS) $(FUZZ)

# Writes what the commands print now into tests/golden; read the diff before committing.
golden: $(VENV)/.for-tests
	DRGN_TOOLS_UPDATE_GOLDEN=1 $(BIN)/python -m pytest -q tests/commands/test_golden.py

# A warning is an error: a link, an anchor or a name in Python that does not exist.
docs: $(VENV)/.for-docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -c docs . build/site

# Man pages, completion and JSON schemas; read the diff before committing.
generated: $(VENV)/.for-tests
	$(BIN)/python scripts/generate.py

# The wheel is made from the source archive, and tried in an environment of its own.
package: $(VENV)/.for-packages
	rm -rf dist $(VENV)-wheel
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) scripts/bootstrap.py $(VENV)-wheel dist/*.whl
	cd / && $(CURDIR)/$(VENV)-wheel/bin/drgn-tools demo >/dev/null
	test -f $(VENV)-wheel/share/man/man1/drgn-tools-tasks.1
	$(VENV)-wheel/bin/drgn-tools completion bash >/dev/null

# From nothing each time: mutmut does not see that a test has changed. Each mutant is a process;
# with a cache they need not unpack the demo core again.
mutants: $(VENV)/.for-mutants
	rm -rf mutants
	XDG_CACHE_HOME=$(CURDIR)/build/mutants-cache $(BIN)/python -m mutmut run
	$(BIN)/python -m tests.mutants

$(VENV)/.for-use: pyproject.toml scripts/bootstrap.py
	@$(PYTHON) scripts/bootstrap.py $(VENV) -e .
	@touch $@

$(VENV)/.for-tests: pyproject.toml scripts/bootstrap.py
	@$(PYTHON) scripts/bootstrap.py $(VENV) -e .[test,fleet]
	@touch $@ $(VENV)/.for-use

$(VENV)/.for-development: pyproject.toml scripts/bootstrap.py
	@$(PYTHON) scripts/bootstrap.py $(VENV) -e .[dev]
	@touch $@ $(VENV)/.for-tests $(VENV)/.for-use

$(VENV)/.for-pages: pyproject.toml scripts/bootstrap.py
	@$(PYTHON) scripts/bootstrap.py $(VENV) -e .[page-test]
	@touch $@

$(VENV)/.for-docs: pyproject.toml scripts/bootstrap.py
	@$(PYTHON) scripts/bootstrap.py $(VENV) -e .[docs]
	@touch $@

$(VENV)/.for-packages: pyproject.toml scripts/bootstrap.py
	@$(PYTHON) scripts/bootstrap.py $(VENV) build twine
	@touch $@

$(VENV)/.for-mutants: pyproject.toml scripts/bootstrap.py
	@$(PYTHON) scripts/bootstrap.py $(VENV) -e .[mutation-test]
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-wheel docs/generated build dist mutants *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
