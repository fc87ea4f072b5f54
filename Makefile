# `make demo`, `make web` and `make test` need nothing but Python 3.10 or later; PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
RUN = .venv/bin/python
DEMO = ../.venv/bin/python ..
TINY = --img-size 96 --load-size 108 --batch-size 2 --val-fraction 0.15 --sample-every 10 --num-workers 1

.PHONY: demo web test clean

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-export.txt requirements-demo.txt
	$(RUN) -m pip install -r requirements-dev.txt
	touch $@

.venv/installed-demo: .venv/installed requirements-demo.txt
	$(RUN) -m pip install -r requirements-demo.txt
	touch $@

# Colors photographs with the default checkpoint; then the real scripts in order, in a folder of their own. All of it
# on crops of the photographs that scikit-image ships.
demo: .venv/installed
	rm -rf demo && mkdir demo
	$(RUN) -m utils.data.sample_set --output-dir demo/data/coco
	cd demo && $(DEMO)/infer_lab.py data/coco/val2017 --compare --output-dir outputs_default
	cd demo && $(DEMO)/infer_lab.py data/coco/val2017/000000000017.jpg --hints ../docs/hints.json --compare --output-dir outputs_hints
	cd demo && $(DEMO)/filter.py
	cd demo && $(DEMO)/cache_lab.py --load-size 108
	cd demo && $(DEMO)/cache_lab.py --load-size 108 --images-dir data/coco/train2017
	cd demo && $(DEMO)/train_lab.py $(TINY) --disc-width 32
	cd demo && $(DEMO)/train_lab_finetune.py $(TINY)
	cd demo && $(DEMO)/train_vgg.py $(TINY) --vgg-weights lite2 --lambda-vgg 2
	cd demo && $(DEMO)/infer_lab.py data/coco/val2017 --compare
	cd demo && $(DEMO)/calculate_metrics.py --inception-weights download-or-stand-in --lpips-weights download-or-stand-in
	@echo "The report is demo/evaluation/report.html, the comparison figure demo/evaluation/comparison.png."

web: .venv/installed-demo
	$(RUN) demo_lab.py

test: .venv/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

clean:
	rm -rf demo
