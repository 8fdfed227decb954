# `make lab` opens the course, `make test` passes its tests; `make` alone explains the rest.
# Every path is relative, so that the folder may have any name.

PYTHON ?= python3
python := .venv/bin/python
stamp := .venv/.installed

.PHONY: help setup lab test chapters assignments grade lint

help:
	@echo "make lab        open the course in JupyterLab        ARGS=\"--no-browser --port 8899\" is passed on"
	@echo "make test       run every test and every chapter     ARGS=\"-k contrastive -x\" is passed on"
	@echo "make chapters   run the chapters whose source changed and save them as notebooks; FORCE=1 takes them all"
	@echo "make assignments   make what students get, in chapters/assignments/release/"
	@echo "make grade      grade what they hand in: make grade SUBMISSIONS=folder   (chapters/assignments/README.md)"
	@echo "make lint       check the style of the code"
	@echo "make setup      make .venv and install the course; every other command does it when it is needed"
	@echo "                PYTHON=python3.12 chooses the Python (3.11 or newer) that .venv is made with"

setup: $(stamp)
	@echo "The course is installed in .venv"

lab: $(stamp)
	@echo "Opening JupyterLab on chapters/ (Ctrl-C, twice, ends it)"
	@$(python) -m jupyterlab chapters $(ARGS)

test: $(stamp)
	@echo "Running the tests, and every chapter again to compare its outputs with the saved ones"
	@OMP_NUM_THREADS=1 $(python) -m pytest --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg \
		-n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

chapters: $(stamp)
	@echo "Building the notebooks in chapters/ from chapters/source/"
	@$(python) chapters/build.py $(if $(FORCE),--force) $(ARGS)

assignments: $(stamp)
	@echo "Making what students get, in chapters/assignments/release/"
	@$(python) chapters/assignments/release.py $(ARGS)

grade: $(stamp)
	@test -n "$(SUBMISSIONS)" || { echo "Name the folder that holds a folder for each student: make grade SUBMISSIONS=folder"; exit 1; }
	@echo "Grading $(SUBMISSIONS), which runs the code in it"
	@$(python) chapters/assignments/grade.py "$(SUBMISSIONS)" $(ARGS)

lint: $(stamp)
	@echo "Checking the style of the code"
	@$(python) -m ruff check . $(ARGS)

# The stamp is written last and holds the name of this folder: a set-up that was interrupted, a pyproject.toml that
# changed and a folder that was moved or renamed all lead to a new set-up. What is installed already is kept.
ifneq ($(shell cat $(stamp) 2>/dev/null),$(CURDIR))
.PHONY: $(stamp)
endif

$(stamp): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "The course needs Python 3.11 or newer, and '$(PYTHON)' is not. Name one: make setup PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "'$(PYTHON)' cannot make a virtual environment. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@rm -f $(stamp)
	@$(python) -m pip --version >/dev/null 2>&1 || { echo "Making .venv"; "$(PYTHON)" -m venv --clear .venv; }
	@echo "Installing the course into .venv (the first time: some minutes, several GB)"
	@$(python) -m pip install --disable-pip-version-check --quiet -e ".[test,classroom]"
	@pwd -P | tr -d '\n' > $(stamp)
