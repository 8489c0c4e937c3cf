# SPDX-License-Identifier: Apache-2.0
"""What a build compiles: when, with what, and what is said where it cannot."""

import sys
from pathlib import Path

import pytest
from miniature import ROOT, World

from distribution import backend, native, packs, upstream_kernels
from distribution.errors import BuildError
from distribution.tree import Data


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
        "import sys; target, folder = sys.argv[2], sys.argv[4]\n"
        "open(folder + '/sm_90.pack', 'w').write(' '.join([target, *sys.argv[5:]]))"
    )
    name = "helion_kernels/packs/sm_90.pack"

    def made(arches: list[str]) -> str:
        ((path, member),) = packs.make(world.root, {}, arches).items()
        assert path == name
        return member.read().decode()

    monkeypatch.delenv(packs.MODELS, raising=False)
    assert made([]) == "sm_90"
    small = "--num-speculative-tokens 0"
    assert made(["9.0a"]) == made(["9.0a+PTX", "10.0"]) == f"sm_90 --models 8b {small}"
    monkeypatch.setenv(packs.MODELS, "14b, 32b")
    assert made([]) == "sm_90 --models 14b 32b"
    assert made(["9.0a"]) == f"sm_90 --models 14b 32b {small}"
    assert "none for sm_100" in capfd.readouterr().err
    assert packs.make(world.root, {}, ["10.0"]) == {}
    (world.root / "helion_kernels/aot/__main__.py").write_text("raise SystemExit('a reason')")
    with pytest.raises(BuildError, match=f"sm_90 do not compile.*{packs.SWITCH}=0"):
        packs.make(world.root, {}, [])
    monkeypatch.setenv(packs.SWITCH, "0")
    assert packs.make(world.root, {}, []) == {}


def test_packs_get_the_headers_of_upstream_s_deep_gemm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.root / "helion_kernels/aot").mkdir()
    (world.root / "helion_kernels/aot/__main__.py").write_text(
        "import sys; from pathlib import Path; folder = sys.argv[4]\n"
        "headers = Path(sys.argv[sys.argv.index('--deep-gemm') + 1])\n"
        "text = ' '.join(f'{p.relative_to(headers)}' for p in headers.rglob('*.cuh'))\n"
        "Path(folder, 'sm_90.pack').write_text(text)"
    )
    monkeypatch.delenv(packs.SWITCH, raising=False)
    upstream = {
        "vllm/third_party/deep_gemm/include/deep_gemm/a.cuh": Data(b"a"),
        "vllm/third_party/deep_gemm/other.cuh": Data(b"other"),
    }
    (made,) = packs.make(world.root, upstream, []).values()
    assert made.read() == b"deep_gemm/a.cuh"


MAKER = """
import sys; from pathlib import Path
_, _, tree, _, target, _, out, *logits = sys.argv
files = (p.read_text() for p in Path(tree).rglob("*.py"))
Path(out).write_text(" ".join([target, *logits, *files]))
"""


def test_upstream_s_kernels_are_made_of_upstream_s_files(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = {"vllm/a.py": Data(b"a"), "vllm/other.py": Data(b"other")}
    assert upstream_kernels.make(world.root, upstream, []) == {}
    folder = world.root / upstream_kernels.FOLDER
    folder.mkdir()
    (folder / "kernels.json").write_text(
        '{"kernels": [{"function": "vllm.a.f"}, {"function": "vllm.gone.g"}]}'
    )
    (folder / "make.py").write_text(MAKER)
    made = upstream_kernels.make(world.root, upstream, ["9.0a", "10.0"])
    name = "vllm/helion/upstream/sm_90.tar.xz"
    assert {path: member.read() for path, member in made.items()} == {
        name: b"sm_90 --logits fp32 a"
    }
    assert upstream_kernels.make(world.root, upstream, [])[name].read() == b"sm_90 a"
    assert upstream_kernels.make(world.root, upstream, ["10.0"]) == {}
    (folder / "make.py").write_text("raise SystemExit('a reason')")
    with pytest.raises(BuildError, match=f"sm_90 do not compile.*{packs.SWITCH}=0"):
        upstream_kernels.make(world.root, upstream, [])
    monkeypatch.setenv(packs.SWITCH, "0")
    assert upstream_kernels.make(world.root, upstream, []) == {}


def test_no_patch_touches_a_file_with_kernels() -> None:
    """The build compiles them as upstream has them."""
    patched = "".join(path.read_text() for path in (ROOT / "patches").glob("*.patch"))
    assert "+++ b/vllm/v1/worker/gpu_worker.py" in patched
    assert not [name for name in upstream_kernels.modules(ROOT) if f"+++ b/{name}" in patched]
