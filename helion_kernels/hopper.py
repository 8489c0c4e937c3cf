# SPDX-License-Identifier: Apache-2.0
"""What an H100 has, and so have H200, H800 and GH200."""

MULTIPROCESSORS = 132
SHARED = 227 * 1024
"""Bytes of shared memory that a block may have."""
