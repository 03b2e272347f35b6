"""Benchmarks of saves on this machine, against what it can do at most: `python -m mindckpt.bench`.

Not imported by the package; `python -m mindckpt.bench --help` lists the options, and
docs/benchmarks.md says how to read what is printed.
"""
