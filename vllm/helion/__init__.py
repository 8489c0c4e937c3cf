# SPDX-License-Identifier: Apache-2.0
"""vLLM-Helion: Qwen3's FP8 layers call Helion kernels directly.

    activate.py   what happens in every process: defaults, the cpu block-FP8 kernel, checks
    model_info.py what upstream asks a model before it loads it
    served.py     which models and layers we serve, and the reason where we do not
    layer.py      the decoder layer as eight to ten calls
    graphs.py     CUDA graphs of decode steps, in which attention is ours
    fp8.py        the two FP8 formats: what a linear layer and an activation are in each
    sampling.py   sampling parameters in device memory, where kernels read them
    steps.py      what steps share instead of making it anew
    prepare.py    after loading: a launcher for everything that the model can call
    report.py     the start-up table
    upstream/     upstream's own Triton kernels, made ready while weights load
    cli.py        `vllm helion status`, `vllm helion tune` and `vllm helion pack`

The patches call six names: `serve` (Qwen3DecoderLayer), `prepare` (Worker.load_model) and the
modules `graphs` (CudaGraphManager, FlashAttention's metadata), `steps` (GPUModelRunner, Sampler),
`sampling` (SamplingStates) and `cli`. Imports are lazy: this
package is imported in every process, the API server's too.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from vllm.helion.layer import HelionDecoderLayer
    from vllm.v1.worker.gpu_worker import Worker


def activate() -> None:
    """Entry point in `vllm.general_plugins`: runs once in every process."""
    from vllm.helion.activate import activate

    activate()


def serve(layer: "nn.Module", prefix: str) -> "HelionDecoderLayer | None":
    """The Helion form of a Qwen3DecoderLayer, or None: it runs stock, and the log says why."""
    from vllm.helion.served import serve

    return serve(layer, prefix)


def prepare(worker: "Worker") -> None:
    """Make every launcher that worker's model can need. After loading, before profiling."""
    from vllm.helion.prepare import prepare

    prepare(worker)
