# SPDX-License-Identifier: Apache-2.0
"""vLLM's paged KV cache: [num_blocks, num_kv_heads, block_size, 2 head_dim], any strides.

A token's key and value lie side by side in the last dimension. Kernels compute offsets by
themselves, in int64, for a cache can exceed 2^31 elements.
"""

import torch


def flatten(kv_cache: torch.Tensor) -> torch.Tensor:
    """All that a cache spans, as one dimension of stride 1."""
    sizes = zip(kv_cache.shape, kv_cache.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in sizes)
    return kv_cache.as_strided((extent,), (1,))
