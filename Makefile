# make demo and make test work on a machine that has only Python, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: install demo test data-test slow-test lint clean

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

install: $(VENV)/installed

demo: install
	$(BIN)/python -m pae_zoo.main --flagfile=configs/vae/digits.cfg --workdir=$(DEMO)
	@echo
	@echo "Look at the pictures in $(CURDIR)/$(DEMO)/figures"

# Two processes, a file of tests each: most of the time goes into tracing, which takes one core.
test: install
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests

# Needs PAE_ZOO_DATA: a folder with fashion_mnist/, mnist/, cifar10/, omniglot/.
data-test: install
	$(BIN)/python -m pytest -q -m "data and not slow" tests

slow-test: install
	$(BIN)/python -m pytest -q -m slow tests

lint: install
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info
