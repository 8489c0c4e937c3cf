# SPDX-License-Identifier: Apache-2.0
"""What this build is: version, patches, configs, GPU architectures."""

import hashlib
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@cache
def info() -> dict[str, Any]:
    """`_build.json`, written by the wheel build: variant, versions, patch set, architectures."""
    path = Path(__file__).with_name("_build.json")
    return json.loads(path.read_text()) if path.exists() else {}


@cache
def fingerprint() -> str:
    """Hash of the patch set and of every line of our code and configs; part of vLLM's cache keys.

    vLLM's own keys hold `vllm.__version__`; this covers editable installs and the user's configs.
    """
    import os

    digest = hashlib.sha256(json.dumps(info(), sort_keys=True).encode())
    spec = find_spec("helion_kernels")
    roots = [Path(__file__).parent, *map(Path, (spec and spec.submodule_search_locations) or [])]
    if user := os.environ.get("HELION_KERNELS_CONFIG_DIR"):
        roots.append(Path(user))
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".json"):
                digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def check_architecture() -> None:
    """Refuse a GPU whose code was left out of this wheel, before anything fails inside a kernel."""
    kept = info().get("cuda_architectures")
    if not kept:
        return
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return
    capability = current_platform.get_device_capability()
    if capability is None:
        return
    have = f"{capability.major}.{capability.minor}"
    if have not in {arch.removesuffix("+PTX").rstrip("af") for arch in kept}:
        raise RuntimeError(
            f"this vllm wheel was built for compute capability {', '.join(kept)} only and this GPU "
            f"is {have}: install a wheel built for it (VLLM_HELION_CUDA_ARCH_LIST={have}, or unset)"
        )
