# `make demo` and `make test` need nothing but Python 3.10+ and pip; PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
