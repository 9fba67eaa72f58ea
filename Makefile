# make demo   install, then train on the charged-particle task (about two minutes on two cores after the install)
# make test   install with the test extras, lint, and run the whole suite

PYTHON ?= python3
VENV ?= .venv
INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(VENV)/bin/ponita fit --config nbody/quick

test: lint
	$(VENV)/bin/python -m pytest -m "not slow"

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/.installed: constraints.txt pyproject.toml | $(VENV)/bin/python
	$(INSTALL) -e ".[tasks]"
	@touch $@

$(VENV)/.installed-test: constraints.txt pyproject.toml | $(VENV)/bin/python
	$(INSTALL) -e ".[tasks,test]"
	@touch $@ $(VENV)/.installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("ponita needs Python >= 3.10, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info
