"""Whole runs of Milvault beside what one would otherwise use, as ratios within one run.

`make bench`, or `python -m benches.compare --help`. Each measurement is a process of its own: `measure.py` runs one,
`run.py` lines them up, `table.py` prints what came out.
"""
