# Everything runs in .venv with the files whose hashes are in requirements/; PYTHON makes the environment.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo
DATA := data/emoji
GALLERY := $(RUN)/gallery
QUERY := $(DATA)/images/twemoji/1f43c.png

.PHONY: demo test test-matrix test-oldest lint format benchmarks docs lock clean

demo: $(RUN)/evaluation.json $(RUN)/.indexed
	$(BIN)/sfsc search $(RUN) $(QUERY) --width 0.25 --gallery $(GALLERY) --top 10 --picture $(RUN)/search.png
	$(BIN)/sfsc report $(RUN)

# The fast tests, or others: make test OPTIONS="-m slow". Each file's tests run in one process, one for each core.
OPTIONS :=
test: .venv/.installed
	$(BIN)/python -m pytest -n auto --dist loadfile $(OPTIONS)

# Each Python that is claimed, in an environment of its own, and the oldest packages of the base install.
# A Python that is missing is an error that names it, after the others were tested.
PYTHONS := 3.11 3.12
MATRIX := build/matrix
test-matrix:
	@failed=; for version in $(PYTHONS); do \
	  if python$$version -c '' 2>/dev/null; then $(MAKE) $(MATRIX)/$$version || failed="$$failed $$version"; \
	  else failed="$$failed $$version(missing)"; echo "python$$version is not on this machine" >&2; fi; done; \
	$(MAKE) test-oldest || failed="$$failed oldest"; \
	if [ -n "$$failed" ]; then echo "test-matrix: failed:$$failed" >&2; exit 1; fi

.PHONY: $(addprefix $(MATRIX)/,$(PYTHONS))
$(addprefix $(MATRIX)/,$(PYTHONS)):
	python$(@F) -m venv --clear $@
	$(LOCKED:$(BIN)/%=$@/bin/%) requirements/cpu.txt || $(LOCKED:$(BIN)/%=$@/bin/%) requirements/torch.txt
	$(LOCKED:$(BIN)/%=$@/bin/%) requirements/dev.txt
	$@/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$@/bin/pytest

# The oldest versions that pyproject.toml allows, of the base install alone.
OLDEST := $(MATRIX)/oldest
test-oldest:
	python3.11 -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv==0.13.9
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct .
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python pytest
	PYTHONPATH=src $(OLDEST)/bin/python -m pytest tests/test_base.py

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

# Only files whose hashes are in requirements/ are installed, and none is built. torch comes as its CPU build
# where pip finds that, else as on PyPI, with the packages for CUDA that it needs on Linux.
LOCKED := $(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: --no-deps --requirement

.venv/.installed: pyproject.toml requirements/cpu.txt requirements/torch.txt requirements/dev.txt
	$(PYTHON) -m venv .venv
	$(LOCKED) requirements/cpu.txt || $(LOCKED) requirements/torch.txt
	$(LOCKED) requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# The site has an environment of its own: it reads the sources and imports nothing. build/docs leads to what the
# site is made of, as it lies here, so that links between documents are the same on the site and in a checkout.
DOCS := build/docs-env/bin
docs: build/docs-env/.installed
	mkdir -p build/docs
	ln -sfn $(addprefix ../../,README.md CONTRIBUTING.md CHANGELOG.md docs examples) build/docs
	PATH="$(CURDIR)/$(DOCS):$$PATH" NO_MKDOCS_2_WARNING=1 $(DOCS)/mkdocs build --strict
	@echo 'the site: build/site/index.html'

build/docs-env/.installed: requirements/docs.txt
	$(PYTHON) -m venv --clear build/docs-env
	$(DOCS)/python -m pip install --quiet --require-hashes --only-binary :all: --no-deps --requirement $<
	touch $@

# Resolve again within pyproject.toml's ranges for all platforms, and write the versions to constraints.txt and
# the hashes to requirements/. torch keeps its version; run this where pip finds the CPU build of it.
TORCH := $(shell grep '^torch==' constraints.txt)
LOCK := build/lock/bin/python -m
RESOLVE := $(LOCK) uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate
DOCS_EXTRA := import tomllib; \
  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	$(LOCK) pip install --quiet uv==0.13.9
	echo '$(TORCH)' > build/lock/torch.txt
	$(RESOLVE) --extra dev --upgrade --constraint build/lock/torch.txt --output-file constraints.txt pyproject.toml
	$(RESOLVE) --extra dev --generate-hashes --constraint constraints.txt --output-file build/lock/all.txt pyproject.toml
	awk '/^[a-z]/ { out = "requirements/" (/^(nvidia|cuda)-|^(torch|triton)==/ ? "torch" : "dev") ".txt" } \
	  { print > out }' build/lock/all.txt
	$(LOCK) pip download --quiet --no-deps --dest build/lock '$(TORCH)+cpu'
	echo "$(TORCH)+cpu $$($(LOCK) pip hash build/lock/torch-*.whl | tail -1)" > requirements/cpu.txt
	$(PYTHON) -c '$(DOCS_EXTRA)' | $(RESOLVE) --upgrade --generate-hashes --output-file requirements/docs.txt -

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
