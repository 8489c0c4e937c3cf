# SPDX-License-Identifier: Apache-2.0
"""A pruned wheel on a GPU that it holds no code for: one line that says so and names the mend.

The overlay's file is read from where it lies, with a platform of our making in vLLM's place."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
from miniature import ROOT


def check(monkeypatch: pytest.MonkeyPatch, kept: list[str] | None, gpu: str | None) -> None:
    capability = None
    if gpu:
        capability = SimpleNamespace(major=int(gpu.split(".")[0]), minor=int(gpu.split(".")[1]))
    platform = SimpleNamespace(
        is_cuda=lambda: True,
        get_device_capability=lambda: capability,
    )
    for name in ("vllm", "vllm.platforms"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vllm.platforms"].current_platform = platform
    spec = importlib.util.spec_from_file_location("_build_info", ROOT / "vllm/helion/build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.info = lambda: {"cuda_architectures": kept}
    module.check_architecture()


@pytest.mark.parametrize(
    ("kept", "gpu"),
    [
        (["9.0a"], "9.0"),
        (["9.0a+PTX"], "9.0"),
        (["10.0f", "9.0"], "10.0"),
        (None, "7.5"),
        (["9.0a"], None),
    ],
)
def test_served(monkeypatch: pytest.MonkeyPatch, kept: list[str] | None, gpu: str | None) -> None:
    check(monkeypatch, kept, gpu)


@pytest.mark.parametrize(
    ("kept", "gpu"), [(["9.0a"], "10.0"), (["9.0a+PTX"], "8.9"), (["10.0", "9.0a"], "12.0")]
)
def test_refused(monkeypatch: pytest.MonkeyPatch, kept: list[str], gpu: str) -> None:
    with pytest.raises(RuntimeError, match=r"^this vllm wheel was built for [^\n]+$") as error:
        check(monkeypatch, kept, gpu)
    for word in (*kept, gpu, f"VLLM_HELION_CUDA_ARCH_LIST={gpu}"):
        assert word in str(error.value)
