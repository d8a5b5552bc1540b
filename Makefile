# make test: lint, format and import checks, tests.   make demo: the whole path on MNIST.
# make test-all: the same, then tests that need other simulators, NeuroBench or a notebook, and the pages as a site.
# make results: evaluate the committed checkpoints, with DATASET=FOLDER (CIFAR-10 as JPEG) those of natural images, too.
# make docs: the pages of docs/ as a site, site/index.html.
# Each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: test test-all demo results docs lint

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto -m "not others"

test-all: test .venv/others
	$(BIN)/python -m pytest -n auto -m others
	$(BIN)/mkdocs build --strict

lint: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/lint-imports

results: .venv/ready
	$(BIN)/python -m studies.results $(if $(DATASET),--dataset $(DATASET))

demo: .venv/ready
	$(BIN)/wfeedback demo

docs: .venv/others
	$(BIN)/mkdocs build --strict

.venv/ready: requirements.txt setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@echo "setting up .venv, once: some minutes, mostly the download of PyTorch"
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/pip install -q -e '.$(EXTRAS)'
	echo '$(EXTRAS)' > .venv/extras
	$(BIN)/python -m wfeedback.event || { $(BIN)/pip install -q ziglang && $(BIN)/python -m wfeedback.event; }
	touch $@

# EXTRAS is that of .venv/ready, too, where that is made for this: one installation in place of two
.venv/dev: EXTRAS = [dev]
.venv/dev: .venv/ready
	grep -q dev .venv/extras || $(BIN)/pip install -q -e '.[dev]'
	touch $@

.venv/others: .venv/dev
	@echo "installing other simulators, NeuroBench and what the site needs, once: minutes"
	$(BIN)/pip install -q -e '.[dev,others]'
# sinabs 3.1 asks for nir 1.0.4 or older, in which the exporters of snnTorch and SpikingJelly fail;
# it works with newer ones, and needs pbr to say its version
	$(BIN)/pip install -q --no-deps sinabs pbr
	touch $@
