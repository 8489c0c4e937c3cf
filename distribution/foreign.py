# SPDX-License-Identifier: Apache-2.0
"""Files of upstream's wheel that none of the architectures asked for can use; they are left out.

Each rule states why nothing can reach what it names; tests/distribution/test_real.py
looks at upstream's real wheel. For Hopper the files come to 8.7 MB of it.
"""

import posixpath
import re
from collections.abc import Iterator

from .progress import megabytes, step
from .tree import Tree

PICTURES = (".jpg", ".png")
"""Of documents; no code of upstream's opens one of its own."""
OPTIONAL = ("vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so", "vllm/_qutlass_C.abi3.so")
"""Libraries that upstream imports if they are there. Without device code they could but fail at
their first call; without the file upstream says at the start that it is not available."""
FOLDERS: dict[str, set[int]] = {
    # Sources that upstream compiles with nvcc for sm_100a and sm_103a only, and imports only after
    # is_device_capability_family(100).
    "vllm/third_party/fmha_sm100/": {10},
    # Imported only on GPUs of major version 10 or 11 (models/inkling/nvidia/ops).
    "vllm/third_party/tml_fa4/": {10, 11},
}
"""Folders, and the major versions of compute capability that have a use for them."""
TUNED = "device_name="
"""In the name of a file of tuned settings, which upstream looks up by the exact name of its GPU."""
DEVICES: dict[str, set[int]] = {
    "AMD_": set(),
    "Radeon": set(),
    "NVIDIA_A100": {8},
    "NVIDIA_A800": {8},
    "NVIDIA_L40S": {8},
    "NVIDIA_GeForce_RTX_4090": {8},
    "NVIDIA_B200": {10},
    "NVIDIA_B300": {10},
    "NVIDIA_GB200": {10},
    "NVIDIA_RTX_PRO_6000_Blackwell": {12},
}
"""Beginnings of such names, and the GPU's major version; files for any other name stay."""
HEADERS = "vllm/third_party/deep_gemm/include/"
"""What DeepGEMM compiles against. The code that it generates includes headers of its own alone,
<deep_gemm/…>; these include a quarter of the CUTLASS that lies beside them."""
_OWN = f"{HEADERS}deep_gemm/"
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]+(.*)", re.MULTILINE)
_NAMED = re.compile(r'[<"]([^">]+)[">]')
_STANDARD = "CUDA_STD_HEADER("  # CUTLASS's macro for a header of the C++ standard library
_SOURCE = (".cuh", ".h", ".hpp", ".inl")


def optional(name: str) -> bool:
    """Whether upstream does without the library ``name``."""
    return name in OPTIONAL


def leave_out(tree: Tree, numbers: set[int]) -> None:
    """Remove from ``tree`` what no GPU of the architectures ``numbers`` can use."""
    majors = {number // 10 for number in numbers}
    with step("foreign") as details:
        unused = [name for name in tree if any(map(name.startswith, _unused_folders(majors)))]
        unused += [name for name in tree if _tuned_for_others(name, majors)]
        unused += unreached(tree, majors)
        unused += [name for name in tree if name.endswith(PICTURES)]
        size = sum(tree[name].record()[1] for name in unused)
        for name in unused:
            del tree[name]
        details += [f"{len(unused)} files for other GPUs left out", megabytes(size)]


def _unused_folders(majors: set[int]) -> list[str]:
    return [folder for folder, users in FOLDERS.items() if not users & majors]


def _tuned_for_others(name: str, majors: set[int]) -> bool:
    _, _, device = posixpath.basename(name).partition(TUNED)
    return any(device.startswith(begin) and not of & majors for begin, of in DEVICES.items())


def unreached(tree: Tree, majors: set[int]) -> list[str]:
    """DeepGEMM's headers that no kernel for ``majors`` includes; none if that is not certain."""
    headers = {name for name in tree if name.startswith(HEADERS) and name.endswith(_SOURCE)}
    todo = [name for name in headers if name.startswith(_OWN) and _serves(name, majors)]
    reached = set(todo)
    while todo:
        name = todo.pop()
        for included in _includes(tree[name].read().decode("utf-8", "replace"), name):
            if included is None:
                return []
            if included in headers and included not in reached:
                reached.add(included)
                todo.append(included)
    return sorted(headers - reached)


def _serves(name: str, majors: set[int]) -> bool:
    """Whether a header of DeepGEMM's own is, by its name, for one of ``majors`` or for all."""
    arch = re.match(r"sm(\d+)\d(?:_|\.)", posixpath.basename(name))
    return not arch or int(arch[1]) in majors


def _includes(text: str, name: str) -> Iterator[str | None]:
    """Where the files may lie that the header ``name`` includes; None where that is not plain."""
    for line in _INCLUDE.findall(text):
        named = _NAMED.match(line)
        if named:
            yield HEADERS + named[1]
            yield posixpath.normpath(posixpath.join(posixpath.dirname(name), named[1]))
        elif not line.startswith(_STANDARD):
            yield None
