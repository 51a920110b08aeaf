# `make demo` and `make test` do all the set-up on a fresh machine: a virtual environment, the packages, the run.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test check install clean

demo: $(VENV)/.installed
	$(BIN)/spikeloom demo

test: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/frameworks
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

check: test

install: $(VENV)/.installed

# torch comes by the exact pin of constraints.txt; see the note there
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Spikeloom needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[train,figures,search,cluster,dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
