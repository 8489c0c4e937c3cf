# SPDX-License-Identifier: Apache-2.0
"""Ahead of time: tuned config -> Triton source -> machine code, on a machine without a GPU."""
