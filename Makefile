# Two commands, each with all of its own set-up in .venv:
#   make demo   make a breathing thorax, register it, write demo-output/report.html
#   make test   lint, formatting and all tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint format clean

demo: $(VENV)/engine.installed
	$(BIN)/progressive-registration demo -o demo-output

test: $(VENV)/everything.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	QT_QPA_PLATFORM=offscreen $(BIN)/python -m pytest

lint: $(VENV)/everything.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/everything.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and by its exact version: a range may bring gigabytes of CUDA
$(VENV)/engine.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(PIP) --editable .
	touch $@

$(VENV)/everything.installed: $(VENV)/engine.installed
	$(PIP) --editable '.[batch,train,slicer-tests,test]'
	touch $@

clean:
	rm -rf $(VENV) demo-output
