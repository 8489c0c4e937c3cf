# SPDX-License-Identifier: Apache-2.0
"""Files for other GPUs: what nothing can reach goes, and nothing where that is not sure."""

import pytest

from distribution import foreign
from distribution.tree import Data, Tree

DEEP_GEMM = {
    "deep_gemm/impls/sm90_gemm.cuh": "#include <cute/a.hpp>\n#include <deep_gemm/common/sm90.cuh>",
    "deep_gemm/impls/sm100_gemm.cuh": "#include <cute/blackwell.hpp>",
    "deep_gemm/impls/sm120_gemm.cuh": "  #  include <cute/consumer.hpp>",
    "deep_gemm/common/sm90.cuh": '#include "../../cutlass/b.h"\n#include <cuda.h>',
    "deep_gemm/common/all.cuh": "#include CUDA_STD_HEADER(utility)",
    "cute/a.hpp": '#include "near.hpp"',
    "cute/near.hpp": "// #include <cute/comment.hpp>",
    "cute/comment.hpp": "",
    "cute/blackwell.hpp": "",
    "cute/consumer.hpp": "",
    "cutlass/b.h": "",
    "cutlass/unused.h": "#include <cute/a.hpp>",
    "cutlass/LICENSE.txt": "",
}
HERE = foreign.HEADERS


def tree(files: dict[str, str], folder: str = HERE) -> Tree:
    return {folder + name: Data(text.encode()) for name, text in files.items()}


def left_out(files: Tree, numbers: set[int]) -> set[str]:
    left = dict(files)
    foreign.leave_out(left, numbers)
    assert left.items() <= files.items()
    return {name.removeprefix(HERE) for name in files.keys() - left.keys()}


def test_headers_that_no_kernel_includes() -> None:
    files = tree(DEEP_GEMM)
    blackwell = {"deep_gemm/impls/sm100_gemm.cuh", "cute/blackwell.hpp"}
    consumer = {"deep_gemm/impls/sm120_gemm.cuh", "cute/consumer.hpp"}
    never = {"cutlass/unused.h", "cute/comment.hpp"}
    assert left_out(files, {90}) == blackwell | consumer | never
    assert left_out(files, {90, 100}) == consumer | never
    assert left_out(files, {103, 120, 90}) == never


def test_an_include_by_macro_keeps_all() -> None:
    files = tree(DEEP_GEMM | {"cute/near.hpp": "#include WHATEVER"})
    assert left_out(files, {90}) == set()


def test_pictures_of_documents() -> None:
    files = tree({"a.jpg": "", "docs/b.png": "", "c.md": "", "jpg.py": ""}, "vllm/")
    assert left_out(files, {90}) == {"vllm/a.jpg", "vllm/docs/b.png"}


def test_folders_for_other_generations() -> None:
    files = tree({f"{folder}a.py": "" for folder in foreign.FOLDERS} | {"vllm/b.py": ""}, "")
    assert left_out(files, {90, 80}) == {f"{folder}a.py" for folder in foreign.FOLDERS}
    assert left_out(files, {90, 103}) == set()
    assert left_out(files, {110}) == {"vllm/third_party/fmha_sm100/a.py"}


@pytest.mark.parametrize(
    ("device", "numbers", "goes"),
    [
        ("NVIDIA_H100_80GB_HBM3", {90}, False),
        ("NVIDIA_H20", {90}, False),
        ("NVIDIA_L20Y", {90}, False),
        ("NVIDIA_Unheard_Of", {90}, False),
        ("NVIDIA_B200", {90}, True),
        ("NVIDIA_B200", {90, 100}, False),
        ("NVIDIA_A100-SXM4-80GB", {90}, True),
        ("NVIDIA_A100-SXM4-80GB", {80}, False),
        ("AMD_Instinct_MI300X", {80, 90, 100, 120}, True),
    ],
)
def test_settings_tuned_for_other_gpus(device: str, numbers: set[int], goes: bool) -> None:
    files = tree({f"E=8,N=64,device_name={device}.json": "{}"}, "vllm/configs/")
    assert bool(left_out(files, numbers)) is goes
