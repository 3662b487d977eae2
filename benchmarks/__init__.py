"""Benchmarks: one file a question. `make bench`, or `python -m pytest benchmarks/start__run_true.py`."""
