# SPDX-License-Identifier: Apache-2.0
"""Upstream's own Triton kernels (sampler, block tables, input batch), ready before they are needed.

Upstream compiles them one after another when a worker warms up: 18 to 24 s of a cold start on the
H100 machine of docs/performance-log.md.

    kernels.json   which kernels, as they were specialised on that machine
    kernel.py      one of them, in Triton's terms
    background.py  at start: threads that make them ready while weights load
    pack.py        their machine code, made when the wheel was built, for Triton's cache
    make.py        makes that, with no GPU and without vLLM's dependencies
    record.py      writes kernels.json anew, on a GPU

What is missing, does not fit or fails is compiled by upstream, as ever.
"""
