# make demo and make test work on a machine that has only Python, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: install demo test test-fast durations full-test data-test slow-test wheel-test fuzz lint types docs clean

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

install: $(VENV)/installed

demo: install
	$(BIN)/python -m pae_zoo.main --flagfile=configs/vae/digits.cfg --workdir=$(DEMO)
	@echo
	@echo "A table: rows of breast_cancer, of which the benign ones were seen"
	$(BIN)/python docs/examples/odd_rows.py
	@echo
	@echo "Look at the pictures in $(CURDIR)/$(DEMO)/figures"

# Memory comes in large pages and stays with the process: taking it from the system anew is dear, on virtual machines
# above all. Each process has one thread: there is one for each core, and threads that wait for each other lose time.
TEST_ENV := MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=33554432 \
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONMALLOC=malloc TF_NUM_INTRAOP_THREADS=1 OMP_NUM_THREADS=1

# A process for each core, a file of tests each: most of the time goes into tracing, which takes one core.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTEST = $(TEST_ENV) $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

# ROOM=curvature: the tests of one room of the package alone.
TESTS = $(if $(ROOM),$(or $(wildcard tests/$(ROOM) tests/test_$(ROOM).py),$(error there are no tests of \
	ROOM=$(ROOM); the rooms are $(filter-out fixtures,$(notdir $(patsubst %/,%,$(wildcard tests/*/)))))),tests)

test: install
	$(PYTEST) $(TESTS)

# One test for each property and room, in a process of its own: under a minute. ROOM as above.
FAST = $(if $(ROOM),$(or $(shell grep -E '^tests/($(ROOM)/|test_$(ROOM)\.py)' tests/fast.txt),$(error there are no \
	fast tests of ROOM=$(ROOM))),@tests/fast.txt)
test-fast: install
	$(TEST_ENV) $(BIN)/python -m pytest -q $(foreach test,$(FAST),'$(test)')

# The slowest tests, the slowest first.
durations: install
	$(PYTEST) --durations=25 --durations-min=1 $(TESTS)

# The long tests too, and the others for every model, kind and size.
full-test: install
	$(PYTEST) -m "not slow and not data" $(TESTS)

# Needs PAE_ZOO_DATA: a folder with fashion_mnist/, mnist/, cifar10/, omniglot/.
data-test: install
	$(PYTEST) -m "data and not slow and not full" $(TESTS)

# Trains for minutes to hours; needs PAE_ZOO_DATA too.
slow-test: install
	$(TEST_ENV) $(BIN)/python -m pytest -q -m "slow or (data and full)" $(TESTS)

# Builds and installs the package, and runs it away from this folder.
wheel-test: install
	$(TEST_ENV) $(BIN)/python -m pytest -q -m "full or not full" tests/test_package.py

# Bad commands and files: all of those that are refused at once, and one in SHARE of those that end in a training;
# with FULL=1 all of them, in under ten minutes on two cores.
SHARE ?= 8
fuzz: install
	$(BIN)/python tools/fuzz/run.py --jobs=2 --share=$(if $(FULL),1,$(SHARE))

lint: install
	$(BIN)/ruff check .

# What the type checker finds, against tools/type_errors.txt: there may be less, and never more.
types: install
	$(BIN)/python tools/check_types.py

# The site, in site/; a warning is an error. Nothing but pip takes the network.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info
