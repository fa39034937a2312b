# Commands, each with all of its own set-up in .venv (test-slicer: and in a second one):
#   make demo          make a breathing thorax, register it, write demo-output/report.html
#   make web           open the page in a browser, with the breathing thorax loaded
#   make quick         the fast half of the tests, for everyday work
#   make test          lint, documentation and all tests
#   make benchmark     what this commit costs against the last release, as a ratio
#   make docs          the documentation site, in build/site; dead links and missing pages are errors
#   make test-slicer   the module's tests on both generations of Slicer's core: 5.11 and 5.13
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := QT_QPA_PLATFORM=offscreen $(BIN)/python -m pytest
OPTIONS :=  # for pytest, such as -x, -k word, or -n 2 --dist loadfile

.PHONY: demo web quick benchmark test test-slicer lint format docs clean

demo: $(VENV)/engine.installed
	$(BIN)/progressive-registration demo -o demo-output

web: $(VENV)/web.installed
	$(BIN)/progressive-registration web --port 0 --example --open

quick: $(VENV)/everything.installed
	$(PYTEST) -m "not slow" $(OPTIONS)

BASE ?= $(shell git describe --tags --abbrev=0 2>/dev/null)

benchmark: $(VENV)/engine.installed
	$(BIN)/python Testing/benchmark/regression.py $(BASE)

test: lint
	$(PYTEST) $(OPTIONS)

# The newer core lies before the older one on the second environment's path and shares the rest with the first.
NEWER := 5.13
NEWER_CORE := slicer-core==5.13.31053.0 vtk==9.6.2
NEWER_VENV := .venv-slicer-$(NEWER)

test-slicer: $(VENV)/everything.installed $(NEWER_VENV)/slicer.installed
	QT_QPA_PLATFORM=offscreen $(BIN)/python -m pytest Testing/module
	QT_QPA_PLATFORM=offscreen $(NEWER_VENV)/bin/python -m pytest Testing/module

$(NEWER_VENV)/slicer.installed: Makefile $(VENV)/bin/python
	$(PYTHON) -m venv $(NEWER_VENV)
	$(NEWER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(NEWER_CORE)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > $$($(NEWER_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first.pth
	touch $@

lint: $(VENV)/everything.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

format: $(VENV)/everything.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/everything.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and by its exact version: a range may bring gigabytes of CUDA
$(VENV)/engine.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(PIP) --editable .
	touch $@

$(VENV)/web.installed: $(VENV)/engine.installed
	$(PIP) --editable '.[web]'
	touch $@

$(VENV)/everything.installed: $(VENV)/engine.installed
	$(PIP) --editable '.[batch,train,slicer-tests,web,web-tests,docs,lint,test]'
	touch $@

clean:
	rm -rf $(VENV) $(NEWER_VENV) demo-output
