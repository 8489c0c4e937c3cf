# SPDX-License-Identifier: Apache-2.0
"""Our hand-written declarations against NVIDIA's cuda.h and against Triton's own launcher."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
import triton.backends.nvidia.driver as triton_driver
from calls import call, choices_of, planned, signature_of
from samples import SMALL, arguments

from helion_kernels import OPS, launch, select
from helion_kernels.aot.target import TARGETS, pretend

ROOT = Path(__file__).parents[2]
CUDA = Path(triton_driver.dirname) / "include"

CUDA_ASSERTIONS = """
#include <cstddef>
#include <cuda.h>
#include "driver.h"
using namespace helion_kernels::cuda;
static_assert(sizeof(LaunchConfig) == sizeof(CUlaunchConfig));
static_assert(offsetof(LaunchConfig, block_x) == offsetof(CUlaunchConfig, blockDimX));
static_assert(offsetof(LaunchConfig, shared_bytes) == offsetof(CUlaunchConfig, sharedMemBytes));
static_assert(offsetof(LaunchConfig, stream) == offsetof(CUlaunchConfig, hStream));
static_assert(offsetof(LaunchConfig, attributes) == offsetof(CUlaunchConfig, attrs));
static_assert(offsetof(LaunchConfig, num_attributes) == offsetof(CUlaunchConfig, numAttrs));
static_assert(sizeof(Attribute) == sizeof(CUlaunchAttribute));
static_assert(offsetof(Attribute, value) == offsetof(CUlaunchAttribute, value));
static_assert(kClusterDimension == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
static_assert(kProgrammaticStreamSerialization ==
              CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
static_assert(kMaxDynamicSharedSizeBytes == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(kCachePreferShared == CU_FUNC_CACHE_PREFER_SHARED);
static_assert(kComputeCapabilityMajor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
static_assert(alignof(TensorMap) == alignof(CUtensorMap));
static_assert(int(TensorMapType::kUint8) == CU_TENSOR_MAP_DATA_TYPE_UINT8);
static_assert(int(TensorMapType::kInt32) == CU_TENSOR_MAP_DATA_TYPE_INT32);
static_assert(int(TensorMapType::kInt64) == CU_TENSOR_MAP_DATA_TYPE_INT64);
static_assert(int(TensorMapType::kFloat16) == CU_TENSOR_MAP_DATA_TYPE_FLOAT16);
static_assert(int(TensorMapType::kFloat32) == CU_TENSOR_MAP_DATA_TYPE_FLOAT32);
static_assert(int(TensorMapType::kBfloat16) == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
static_assert(int(Interleave::kNone) == CU_TENSOR_MAP_INTERLEAVE_NONE);
static_assert(int(Swizzle::k32Bytes) == CU_TENSOR_MAP_SWIZZLE_32B);
static_assert(int(Swizzle::k64Bytes) == CU_TENSOR_MAP_SWIZZLE_64B);
static_assert(int(Swizzle::k128Bytes) == CU_TENSOR_MAP_SWIZZLE_128B);
static_assert(int(Promotion::k256Bytes) == CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
static_assert(int(Fill::kZeros) == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
static_assert(kComputeCapabilityMinor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
"""


TORCH_ASSERTION = "static_assert(std::is_same_v<decltype(Torch::{}), decltype(&aoti_torch_{})>);"


def compile_alone(source, include):
    compiler = os.environ.get("CXX", "").split() or [
        next(filter(None, map(shutil.which, ("c++", "clang++"))))
    ]
    includes = ["-isystem", str(include), f"-I{ROOT / 'csrc'}"]
    done = subprocess.run(
        [*compiler, "-std=c++17", "-fsyntax-only", *includes, str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_declarations_are_those_of_pytorchs_shim_h(built, tmp_path):
    code = (ROOT / "csrc/torch.cpp").read_text()
    found = re.findall(r'"aoti_torch_(\w+)", (\w+)\)', code)
    assert len(found) == code.count('"aoti_torch_') == 23
    shim = "torch/csrc/inductor/aoti_torch/c/shim.h"
    lines = [
        "#define USE_CUDA",
        f"#include <{shim}>",
        "#include <type_traits>",
        '#include "torch.h"',
    ]
    lines += ["using helion_kernels::Torch;"]
    lines += [TORCH_ASSERTION.format(ours, theirs) for theirs, ours in found]
    source = tmp_path / "torch_assertions.cpp"
    source.write_text("\n".join(lines))
    compile_alone(source, Path(torch.__path__[0]) / "include")


@pytest.mark.skipif(not (CUDA / "cuda.h").exists(), reason="Triton comes without cuda.h")
def test_declarations_are_those_of_cuda_h(built, tmp_path):
    source = tmp_path / "assertions.cpp"
    source.write_text(CUDA_ASSERTIONS)
    compile_alone(source, CUDA)


@pytest.mark.skipif(
    not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="Triton's launcher is C code that needs Python.h",
)
@pytest.mark.parametrize("name", SMALL)
def test_parameters_are_those_of_tritons_own_launcher(name, built, kernels, mock, tmp_path):
    """The launcher that Triton compiles for the kernel, run against the same mock."""
    op, dims = OPS[name], OPS[name].dims(*SMALL[name])
    config = select.choose(op, dims, 16384, "NVIDIA H100", frozenset(OPS))
    config = next(choice.config for choice in config if choice.key == choices_of(name)[0][0])
    with pretend(TARGETS["sm_90"]):
        specialised = launch.generate(op, dims, config)
        compiled = specialised.compile()
    source = triton_driver.make_launcher(
        compiled.src.constants, compiled.src.signature, compiled.metadata.tensordesc_meta
    )
    (tmp_path / "libcuda.so.1").symlink_to(built / "mock_cuda.so")
    module = triton_driver.compile_module_from_src(
        src=source,
        name="__triton_launcher",
        library_dirs=[str(tmp_path)],
        include_dirs=[str(CUDA)],
        libraries=["libcuda.so.1"],
    )
    number, found, _ = planned(kernels, name)
    args = arguments(signature_of(kernels, found[0]), 3, 2, "cpu")
    call(name, args, number)
    ours = mock.last()

    function = mock.function(compiled.asm["cubin"], compiled.metadata.name)

    def launcher(kernel, grid, *values, **options):
        triple = ([*grid, 1, 1])[:3]
        pointers = [v.data_ptr() if isinstance(v, torch.Tensor) else v for v in values]
        packed = (compiled.metadata.num_warps, 1, compiled.metadata.shared)
        module.launch(
            *triple, ours.stream, function, False, False, None, None,
            packed, None, None, None, *pointers,
        )  # fmt: skip

    specialised.function(*op.kernel_args(*args), _launcher=launcher)
    theirs = mock.last()
    assert list(ours.grid) == list(theirs.grid)
    assert list(ours.block) == list(theirs.block)
    assert (ours.shared, ours.stream) == (theirs.shared, theirs.stream)
    assert ours.size == theirs.size
    assert bytes(ours.bytes) == bytes(theirs.bytes)
