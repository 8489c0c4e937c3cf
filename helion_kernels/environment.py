# SPDX-License-Identifier: Apache-2.0
"""What a result depends on besides the code."""

import datetime
import importlib.metadata
import subprocess
from typing import Any

import torch

_QUERY = (
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "temperature.gpu",
)


def today() -> str:
    """The caller's date."""
    return datetime.datetime.now().astimezone().date().isoformat()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, Any]:
    """Date and software."""
    packages = {name: version(name) for name in ("torch", "triton", "helion", "vllm")}
    return {"date": today(), "cuda": torch.version.cuda, **packages}


def describe() -> dict[str, Any]:
    """GPU, driver, clocks as they are now, versions and date."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gpu": gpu, **versions(), **_nvidia_smi()}


def _nvidia_smi() -> dict[str, str]:
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = done.stdout.strip().split(", ")
    return dict(zip(_QUERY, values, strict=False))
