# SPDX-License-Identifier: Apache-2.0
"""Tuning: the fastest config of every op that a model calls, found within a budget of GPU minutes.

cases.py    what is to be tuned, what weighs most first
seeds.py    where a search starts
search.py   the search of one case
merge.py    neighbouring numbers of tokens that one config serves
journal.py  what was measured, line by line: the memory of --resume
entries.py  the config files that `helion_kernels.select` reads
run.py      the loop over the cases, and its budget
device.py   what the search needs of a device; gpu.py is the real one
cli.py      `python -m helion_kernels.tune`
"""
