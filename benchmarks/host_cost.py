# SPDX-License-Identifier: Apache-2.0
"""What a call costs the host, from Python to the driver's return, by each way of launching.

    python -m benchmarks.host_cost --out host_cost.json        (a GPU, a pack for it)

Arms of an op, all at num_tokens = 1 and Qwen3-8B's sizes:
  native      torch.ops.helion_kernels_native.<op>: C++ launches what the pack holds
  python+pack torch.ops.helion_kernels.<op>, whose Python finds the bucket and calls the former
  python+jit  the same with launchers compiled by Helion and Triton
  csrc        vLLM's op of the same kind in torch.ops._C
  driver      cuLaunchKernel of the pack's kernel through ctypes, parameters packed beforehand
  ctypes      cuDriverGetVersion through ctypes: of `driver`, what is not the driver's
"""

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import stock
from helion_kernels import OPS, environment, packs, plan
from helion_kernels.aot import expression
from helion_kernels.aot.index import Kernel
from helion_kernels.op import Op
from helion_kernels.sample import Random

DEVICE = torch.device("cuda", 0)
CALLS = 200
"""In a row: the driver queues some thousand launches before it makes the host wait."""
ROUNDS = 50
CASES: dict[str, tuple[Any, ...]] = {
    "dynamic_per_token_scaled_fp8_quant": (4096,),
    "rms_norm_dynamic_per_token_quant": (4096, True),
    "per_token_group_fp8_quant": (4096,),
    "rms_norm_per_block_quant": (4096, True),
    "silu_and_mul_per_block_quant": (12288,),
    "scaled_mm": (6144, 4096),
    "fused_qk_norm_rope_kv_write": (32, 8, 128),
}
_FORMS = {
    "pointer": ctypes.c_uint64,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "fp32": ctypes.c_float,
    "fp64": ctypes.c_double,
}


def cost(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds of a call, arms interleaved, after a round that does not count."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(ROUNDS + 1):
        for name, call in calls.items():
            torch.cuda.synchronize()
            start = time.perf_counter_ns()
            for _ in range(CALLS):
                call()
            spent = time.perf_counter_ns() - start
            if round_:
                samples[name].append(spent / CALLS / 1000)
    return {name: round(statistics.median(each), 2) for name, each in samples.items()}


def arms(op: Op, args: tuple[Any, ...], packed: int, compiled: int) -> dict[str, Any]:
    """The ways to call op; packed and compiled: plan ids."""
    ours = getattr(torch.ops.helion_kernels, op.name).default
    found: dict[str, Callable[[], object]] = {
        "python+pack": lambda: ours(*args, packed),
        "python+jit": lambda: ours(*args, compiled),
    }
    operator, number = plan.entry(packed)
    if plan.PLANS[packed].native is not None:
        found["native"] = lambda: operator(*args, number)
    for name, arm in stock.arms(op.name, plan.PLANS[packed].dims).items():
        found[name] = arm(*args)
    return found


def driver_arms(kernel: Kernel, cubin: bytes, args: Sequence[Any]) -> dict[str, Any]:
    """cuLaunchKernel of the kernel for args, on the current stream."""
    cuda = ctypes.CDLL("libcuda.so.1")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(cuda.cuModuleLoadData(ctypes.byref(module), cubin))
    _check(cuda.cuModuleGetFunction(ctypes.byref(function), module, kernel.symbol.encode()))
    _check(cuda.cuFuncSetAttribute(function, 8, kernel.shared))
    sizes = [a.shape if isinstance(a, torch.Tensor) else None for a in args]
    strides = [a.stride() if isinstance(a, torch.Tensor) else None for a in args]
    values: list[Any] = []
    for parameter in kernel.parameters:
        value = args[parameter.argument]
        if parameter.value is not None:
            number = expression.evaluate(parameter.value, sizes, strides)
            value = value.data_ptr() + number if parameter.form == "pointer" else number
        values.append(_FORMS[parameter.form](value))
    values += [ctypes.c_uint64(0), ctypes.c_uint64(0)]  # Triton's scratch, not used
    packed = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    grid = [expression.evaluate(extent, sizes, strides) for extent in kernel.grid]
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    launch, block = cuda.cuLaunchKernel, 32 * kernel.warps
    _check(launch(function, *grid, block, 1, 1, kernel.shared, stream, packed, None))
    version, where = ctypes.c_int(), cuda.cuDriverGetVersion
    # values: kept alive, for packed points to them.
    return {
        "driver": lambda values=values: launch(
            function, *grid, block, 1, 1, kernel.shared, stream, packed, None
        ),
        "ctypes": lambda: where(ctypes.byref(version)),
    }


def _check(result: int) -> None:
    if result:
        raise RuntimeError(f"CUDA driver: error {result}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packs", type=Path, nargs="*", default=[], help="folders of packs")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device")
    folders = options.packs
    if not packs.usable(0, tuple(folders)):
        parser.error("no pack for this GPU: python -m distribution compile, or --packs DIR")
    if (missing := stock.load()) is not None:
        print(missing)
    for op in OPS.values():
        plan.register_stock(op.name, lambda *_: None)
    wanted = [(OPS[name], dims) for name, dims in CASES.items()]
    packed = plan.prepare(wanted, 8192, DEVICE, pack_folders=folders)
    plan._ids.clear()
    with mock.patch.object(packs, "usable", return_value=[]):
        compiled = plan.prepare(wanted, 8192, DEVICE)
    results = []
    for (op, dims), pack_id, jit_id in zip(wanted, packed, compiled, strict=True):
        args = op.sample(op.dims(*dims), 1, Random(DEVICE, 0))
        calls = arms(op, args, pack_id, jit_id)
        choice = plan.PLANS[pack_id].choices[plan.PLANS[pack_id].bucket_of[1]]
        for pack in packs.usable(0, tuple(folders)):
            kernel = pack.pack.find(op.name, op.dims(*dims), choice.key)
            if kernel is not None:
                calls |= driver_arms(kernel, pack.pack.cubins[kernel.cubin], args)
                break
        results.append({"op": op.name, "dims": dims, "us": cost(calls)})
        print(op.name, dims, results[-1]["us"], flush=True)
    document = {"environment": environment.describe(), "calls": CALLS, "rounds": ROUNDS}
    options.out.write_text(json.dumps(document | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
