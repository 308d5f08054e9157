# From a fresh clone: `make report`. Needs GNU make and Python 3.11.4 or newer, nothing else.

# The first of these that is Python 3.11.4 or newer and can make environments. Another: make PYTHON=/path/to/python
PYTHON ?= $(shell for candidate in python3.13 python3.12 python3.11 python3 python; do \
	"$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null \
	&& { echo "$$candidate"; break; }; done)
VENV ?= .venv
RUN = "$(VENV)/bin/python"

# What `make report` takes. `=`, not `?=`: variables of these names in your environment mean something else.
DATA =
BACKBONE =
DATABASE =
WORK =
FIGURES =
REPORTS =
ARGS =

.DEFAULT_GOAL := help
.PHONY: help report test quick lab paint bench check clean FORCE

help:
	@echo 'make report   run the course headless and leave reports/index.html (installs into $(VENV) the first time)'
	@echo 'make test     ruff, mypy, the import rules and every test, the notebooks on a small museum included'
	@echo 'make quick    the same without the slow tests: under a minute once installed'
	@echo 'make check    ruff, mypy and the import rules alone'
	@echo 'make lab      open the notebooks in JupyterLab'
	@echo 'make bench    how fast it is, and how much memory: figures/benchmarks.csv (some ten minutes)'
	@echo 'make paint    paint the synthetic museum, data/synthetic, alone'
	@echo 'make clean    remove reports/ and work/, the descriptors and trained networks in it included'
	@echo
	@echo 'make report takes'
	@echo '  DATA=folder       a museum in the Met layout      (default: the synthetic museum, painted by code)'
	@echo '  BACKBONE=name     a recipe, timm name or file     (default: EfficientNet-Lite0, which pip installs)'
	@echo '  DATABASE=mini     full or mini                    (default: full)'
	@echo '  WORK=folder       descriptors, kept between runs  (default: work)'
	@echo '  REPORTS=folder    the report                      (default: reports)'
	@echo '  FIGURES=folder    pictures and tables             (default: figures for the default run, else REPORTS/figures)'
	@echo '  ARGS="..."        more for metlib report: --only 00,02, --jobs 1, -p NAME=VALUE, --seed 1'
	@echo 'every goal takes PYTHON=program (3.11.4 or newer) and VENV=folder (default: .venv)'

# Handed over as environment variables, so that spaces and quotes in a path survive the shell.
report: export METLIB_DATA = $(DATA)
report: export METLIB_BACKBONE = $(BACKBONE)
report: export METLIB_DATABASE = $(DATABASE)
report: export METLIB_WORK = $(WORK)
report: export METLIB_FIGURES = $(FIGURES)
report: export METLIB_REPORTS = $(REPORTS)
report: $(VENV)/installed
	@$(RUN) -m metlib report \
	  $${METLIB_DATA:+--data "$$METLIB_DATA"} $${METLIB_BACKBONE:+--backbone "$$METLIB_BACKBONE"} \
	  $${METLIB_DATABASE:+--database "$$METLIB_DATABASE"} $${METLIB_WORK:+--work "$$METLIB_WORK"} \
	  $${METLIB_FIGURES:+--figures "$$METLIB_FIGURES"} $${METLIB_REPORTS:+--reports "$$METLIB_REPORTS"} $(ARGS)

test: check
	@$(RUN) -m pytest $(ARGS)

quick: check
	@$(RUN) -m pytest -m 'not slow' $(ARGS)

check: $(VENV)/installed-dev
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check --quiet metlib tests benchmarks
	@$(RUN) -m mypy
	@"$(VENV)/bin/lint-imports" --no-logo

# The kernel of this environment, not one of the same name in your home.
lab: export JUPYTER_PREFER_ENV_PATH = 1
lab: paint
	@$(RUN) -m jupyterlab notebooks

paint: $(VENV)/installed
	@$(RUN) -m metlib paint

# The names of single benchmarks: make bench ARGS="--only search-mini whitening"
bench: $(VENV)/installed
	@$(RUN) -m benchmarks $(ARGS)

clean:
	@rm -rf reports work
	@echo 'removed reports/ and work/; data/, figures/ and $(VENV) are untouched'

# Stamps: written last, so that an interrupted installation leaves none; remade when pyproject.toml changes, or when
# the environment's Python has gone.
GONE := $(if $(wildcard $(VENV)/bin/python),,FORCE)
FORCE:

$(VENV)/installed: pyproject.toml $(GONE)
	@test -n '$(PYTHON)' || { echo 'error: found no Python 3.11.4 or newer that can make an environment' \
	  '(Debian, Ubuntu: apt install python3-venv). Name one: make report PYTHON=/path/to/python' >&2; exit 2; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || \
	  '$(PYTHON)' -m venv $(if $(wildcard $(VENV)/pyvenv.cfg),--clear) '$(VENV)'
	@echo 'installing metlib and what it needs into $(VENV) (once; some minutes) ...'
	@$(RUN) -m pip install -qq --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo 'installing the test tools into $(VENV) (once) ...'
	@$(RUN) -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@
