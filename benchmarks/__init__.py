# SPDX-License-Identifier: Apache-2.0
"""Benchmarks. `python -m benchmarks.kernels --help`; results lie under `results/<gpu>/`."""
