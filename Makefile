# Everything runs in .venv with the versions of constraints.txt; PYTHON makes the environment.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo
DATA := data/emoji
GALLERY := $(RUN)/gallery
QUERY := $(DATA)/images/twemoji/1f43c.png

.PHONY: demo test lint format benchmarks constraints clean

demo: $(RUN)/evaluation.json $(RUN)/.indexed
	$(BIN)/sfsc search $(RUN) $(QUERY) --width 0.25 --gallery $(GALLERY) --top 10 --picture $(RUN)/search.png
	$(BIN)/sfsc report $(RUN)

test: .venv/.installed
	$(BIN)/pytest

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# ONLY="forward step" runs some of them.
benchmarks: .venv/.installed
	$(BIN)/python benchmarks/all.py $(ONLY)

# torch first and by itself: the version named there comes as a CPU build where there is one.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Resolve again within pyproject.toml's ranges and pin what came out.
constraints:
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	build/constraints/bin/python -m pip install --quiet '.[dev]'
	build/constraints/bin/python -m pip freeze --exclude sfsc | sed 's/+cpu$$//' > constraints.txt

$(DATA)/emoji.csv: | .venv/.installed
	$(BIN)/sfsc data emoji --out $(DATA)

$(RUN)/family.json: $(DATA)/emoji.csv recipes/demo.yaml | .venv/.installed
	$(BIN)/sfsc train --config recipes/demo.yaml --out $(RUN) --resume

$(RUN)/evaluation.json: $(RUN)/family.json
	$(BIN)/sfsc evaluate $(RUN)

$(RUN)/.indexed: $(RUN)/family.json
	$(BIN)/sfsc index $(RUN) emoji:$(DATA) --width 1.0 --gallery $(GALLERY)
	touch $@

clean:
	rm -rf build runs/demo
