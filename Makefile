# `make demo` and `make test` need nothing but Python 3.10 or later; PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
RUN = .venv/bin/python
DEMO = demo
TINY = --img-size 96 --load-size 108 --batch-size 8 --val-fraction 0.15 --num-workers 1 --cache-dir $(DEMO)/lab_cache

.PHONY: demo test clean

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(RUN) -m pip install -r requirements-dev.txt
	touch $@

demo: .venv/installed
	$(RUN) -m utils.sample_data --output-dir $(DEMO)/coco
	$(RUN) filter.py --data-root $(DEMO)/coco --output-dir $(DEMO)/coco_subset_colorization
	$(RUN) cache_lab.py --images-dir $(DEMO)/coco_subset_colorization --cache-dir $(DEMO)/lab_cache --load-size 108
	$(RUN) cache_lab.py --images-dir $(DEMO)/coco/train2017 --cache-dir $(DEMO)/lab_cache --load-size 108

test: .venv/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest

clean:
	rm -rf $(DEMO)
