# SPDX-License-Identifier: Apache-2.0
"""What a build compiles: when, with what, and what is said where it cannot."""

import sys
from pathlib import Path

import pytest
from miniature import ROOT, World

from distribution import backend, native, packs
from distribution.errors import BuildError


@pytest.mark.parametrize(
    ("device", "switch", "needed"), [("cuda", "1", True), ("cuda", "0", False), ("cpu", "1", False)]
)
def test_only_a_wheel_with_packs_needs_pytorch(
    device: str, switch: str, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_TARGET_DEVICE", device)
    monkeypatch.setenv(packs.SWITCH, switch)
    monkeypatch.setattr(backend.build_meta, "get_requires_for_build_wheel", lambda _: [])
    requires = backend.get_requires_for_build_wheel()
    assert any(requirement.startswith("torch==") for requirement in requires) == needed


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cmake", "ninja", "ziglang"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BuildError, match="cmake is not installed; pip install"):
        native.library(ROOT)


def test_code_that_does_not_compile_is_one_line(world: World, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    (world.root / "csrc").mkdir()
    (world.root / "csrc/CMakeLists.txt").write_text('message(FATAL_ERROR "not this way")')
    with pytest.raises(BuildError, match=r"csrc/ does not compile: .*not this way"):
        native.library(world.root)


def test_packs_are_made_for_the_architectures_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (world.root / "helion_kernels/aot").mkdir()
    (world.root / "helion_kernels/aot/__main__.py").write_text(
        "import sys; open(sys.argv[4] + '/sm_90.pack', 'w').write(sys.argv[2])"
    )
    name = "helion_kernels/packs/sm_90.pack"
    for arches in ([], ["9.0a"], ["9.0a+PTX", "10.0"]):
        made = packs.make(world.root, arches)
        assert {path: member.read() for path, member in made.items()} == {name: b"sm_90"}
    assert "none for sm_100" in capfd.readouterr().err
    assert packs.make(world.root, ["10.0"]) == {}
    (world.root / "helion_kernels/aot/__main__.py").write_text("raise SystemExit('a reason')")
    with pytest.raises(BuildError, match=f"sm_90 do not compile.*{packs.SWITCH}=0"):
        packs.make(world.root, [])
    monkeypatch.setenv(packs.SWITCH, "0")
    assert packs.make(world.root, []) == {}
