# SPDX-License-Identifier: Apache-2.0
"""Patches: exact or not at all; and their trial on another release."""

import subprocess
from pathlib import Path

import pytest
from miniature import MODEL, MODEL_TEXT, PATCH, World

from distribution import patch
from distribution.errors import BuildError
from distribution.port import trial
from distribution.tree import Data, Tree

SECOND = PATCH.replace("@@ -9,6 +9,7 @@", "@@ -20,6 +20,7 @@")
for old, new in zip(range(14, 8, -1), range(25, 19, -1), strict=True):
    SECOND = SECOND.replace(f" line {old}\n", f" line {new}\n")


def series(folder: Path, **patches: str) -> list[patch.Patch]:
    folder.mkdir(exist_ok=True)
    for name, text in patches.items():
        (folder / f"{name}.patch").write_text(text)
    (folder / "series").write_text("".join(f"{name}.patch\n" for name in patches))
    return patch.read_series(folder)


def stock(text: str = MODEL_TEXT) -> Tree:
    return {MODEL: Data(text.encode())}


def failure(folder: Path, **patches: str) -> str:
    with pytest.raises(BuildError) as caught:
        patch.apply(series(folder, **patches), stock())
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_two_patches_of_one_file(tmp_path: Path) -> None:
    tree = stock()
    second = SECOND.replace("+20,7", "+21,7").replace("-20,6", "-21,6")
    patch.apply(series(tmp_path, a=PATCH, b=second), tree)
    assert tree[MODEL].read().decode().count("hook\n") == 2


def test_git_settings_and_repository_around_do_not_matter(tmp_path: Path, monkeypatch) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    tree = stock()
    patch.apply(series(tmp_path / "patches", a=PATCH), tree)
    assert b"hook\n" in tree[MODEL].read()


def test_offset_is_refused(tmp_path: Path) -> None:
    message = failure(tmp_path, a=PATCH.replace("-9,6 +9,7", "-7,6 +7,7"))
    assert "patches/a.patch" in message and "2 lines" in message


def test_changed_context_is_refused(tmp_path: Path) -> None:
    message = failure(tmp_path, a=PATCH.replace(" line 12", " line twelve"))
    assert "patches/a.patch" in message and "vllm/model.py:9" in message


def test_patch_edited_by_hand(tmp_path: Path) -> None:
    message = failure(tmp_path, a=PATCH.replace("+hook\n", "+hook\n+another\n"))
    assert "patches/a.patch" in message and "git diff" in message


def test_file_that_upstream_does_not_have(tmp_path: Path) -> None:
    assert "vllm/gone.py" in failure(tmp_path, a=PATCH.replace("model.py", "gone.py"))


def test_new_file_belongs_into_the_overlay(tmp_path: Path) -> None:
    header = PATCH.partition("diff --git")[0]
    text = header + (
        "diff --git a/vllm/new.py b/vllm/new.py\nnew file mode 100644\n--- /dev/null\n"
        "+++ b/vllm/new.py\n@@ -0,0 +1 @@\n+x\n"
    )
    assert "overlay" in failure(tmp_path, a=text)


@pytest.mark.parametrize("header", patch.HEADERS)
def test_every_header_is_demanded(tmp_path: Path, header: str) -> None:
    lines = [line for line in PATCH.splitlines(True) if not line.startswith(f"{header}:")]
    assert f"'{header}: " in failure(tmp_path, a="".join(lines))


def test_series_and_files_agree(tmp_path: Path) -> None:
    series(tmp_path, a=PATCH)
    (tmp_path / "b.patch").write_text(PATCH)
    with pytest.raises(BuildError, match=r"b\.patch is not in"):
        patch.read_series(tmp_path)
    (tmp_path / "series").write_text("a.patch\nb.patch\nc.patch\n")
    with pytest.raises(BuildError, match=r"lists c\.patch"):
        patch.read_series(tmp_path)
    (tmp_path / "series").write_text("a.patch\nb.patch\na.patch\n")
    with pytest.raises(BuildError, match="twice"):
        patch.read_series(tmp_path)


def test_fewer_than_six(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="6 patches"):
        series(tmp_path, **{f"p{number}": PATCH for number in range(6)})


def test_a_build_says_it_in_one_line_and_leaves_nothing(world: World) -> None:
    world.add_patch(PATCH.replace(" line 12", " line twelve"))
    error = world.error(world.run("bdist_wheel", "--dist-dir", "dist"))
    assert "patches/hook.patch" in error
    assert not (world.root / "dist").exists()


def test_trial_tells_clean_moved_and_failed_hunks(tmp_path: Path) -> None:
    both = PATCH + SECOND.partition("+++ b/vllm/model.py\n")[2].replace("+20,7", "+21,7")
    moved = MODEL_TEXT.replace("line 16\n", "line 16\nnew\nnew\n")
    failed = MODEL_TEXT.replace("line 22\n", "line twenty-two\n")
    patches = series(tmp_path, a=both)
    for text, states in [
        (MODEL_TEXT, ["clean", "clean"]),
        (moved, ["clean", "moved"]),
        (failed, ["clean", "fails"]),
    ]:
        hunks = trial(patches, stock(text))
        assert [hunk.state for hunk in hunks] == states
    assert "2 lines" in str(trial(patches, stock(moved))[1])
    assert "around 20" in str(trial(patches, stock(failed))[1])
    assert [hunk.state for hunk in trial(patches, {})] == ["fails", "fails"]


def test_commands(world: World) -> None:
    world.add_patch()
    result = world.python("-m", "distribution", "check")
    assert result.returncode == 0 and "hook.patch: fits; a hook" in result.stdout
    result = world.python("-m", "distribution", "port", "9.9.0")
    assert result.returncode == 0 and "clean  patches/hook.patch" in result.stdout
    world.add_patch(PATCH.replace("line 12", "line twelve"), "bad.patch")
    assert "bad.patch" in world.error(world.python("-m", "distribution", "check"))
    result = world.python("-m", "distribution", "port", "9.9.0")
    assert result.returncode == 1 and "fails  patches/bad.patch" in result.stdout
    assert "1.2.3" in world.error(world.python("-m", "distribution", "port", "1.2.3"))
    told = world.python("-m", "distribution", "--help").stdout
    for command in ("check", "port", "overlay", "wheel", "version"):
        assert f"\n    {command}" in told
