# SPDX-License-Identifier: Apache-2.0
"""The build of vLLM-Helion out of upstream's published wheel.

One module per step, in the order of a build: ``fetch`` (verify) → ``variant`` → ``patch`` →
``overlay`` → ``prune`` → ``wheel``. Between the steps travels a ``Tree`` (``tree.py``): a mapping
from path to member, whose unchanged members stay compressed in upstream's wheel.
Imports neither vllm nor helion_kernels.
"""
