# SPDX-License-Identifier: Apache-2.0
"""The corpus: what is taken from packages, and packages that are not the pinned ones."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples/tiny_qwen3"))

import corpus  # noqa: E402

SOURCE = '''
"""Tools for things of many kinds."""

def sort(a):
    """Sort ``a`` as :func:`~numpy.lexsort` would do. It is stable.

    Parameters
    ----------
    a : array_like
        The array that is to be sorted
        in place.

    >>> sort([2, 1])
    """

def _private():
    """Nobody is to read this sentence."""

class Thing:
    """A thing that can be sorted."""

    def part(self):
        """Return a part of the thing, by name."""
'''


def make_wheel(folder: Path, source: str = SOURCE) -> Path:
    wheel = folder / "numpy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("numpy/things.py", source)
        archive.writestr("numpy/tests/test_things.py", '"""Not a text to be learned from."""')
    return wheel


def pin(sha256: str) -> str:
    return f"numpy==1.0 --hash=sha256:{sha256}\n"


def test_a_wrong_hash_is_refused_in_one_line(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    with pytest.raises(SystemExit) as error:
        corpus.fetch(pin("0" * 64), tmp_path)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert wheel.name in message and "sha256" in message and "delete it" in message


def test_the_right_hash_is_taken(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    assert corpus.fetch(pin(hashlib.sha256(wheel.read_bytes()).hexdigest()), tmp_path) == [wheel]


def test_a_package_that_cannot_be_had_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit) as error:
        corpus.fetch(pin("0" * 64), tmp_path)
    assert str(error.value).startswith("corpus.py: pip cannot fetch numpy==1.0: ")
    assert len(str(error.value).splitlines()) == 1


def test_every_line_of_packages_is_a_pin() -> None:
    pins = (corpus.HERE / "packages.txt").read_text("utf-8")
    lines = [line for line in pins.splitlines() if not line.startswith("#")]
    assert len(corpus.PIN.findall(pins)) == len(lines) == len(corpus.TITLES)


def test_prose_is_taken_without_markup_code_and_private_names(tmp_path: Path) -> None:
    found = {d.name: d.paragraphs for d in corpus.definitions(make_wheel(tmp_path))}
    assert found == {
        "numpy.things": ["Tools for things of many kinds."],
        "sort": [
            "Sort `a` as numpy.lexsort would do. It is stable.",
            "The array that is to be sorted in place.",
        ],
        "Thing": ["A thing that can be sorted."],
        "Thing.part": ["Return a part of the thing, by name."],
    }


def test_questions_are_answered_by_the_first_sentence(tmp_path: Path) -> None:
    train, held_out = corpus.texts([make_wheel(tmp_path)])
    chat = (
        "<|im_start|>user\nWhat does sort do in NumPy?<|im_end|>\n"
        "<|im_start|>assistant\nSort `a` as numpy.lexsort would do.<|im_end|>\n"
    )
    assert (chat in train) != any(text.startswith("NumPy: sort") for text in held_out)


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    source = "\n".join(
        f'def f{i}():\n    """Compute the number {i % 200} of all functions."""' for i in range(300)
    )
    train, held_out = corpus.texts([make_wheel(tmp_path, source)])
    assert held_out
    for document in held_out:
        sentence = document.split("\n\n")[1].strip()
        assert not any(sentence in text for text in train)


def test_syntax_that_this_python_does_not_know_is_refused_in_one_line(tmp_path: Path) -> None:
    """A file less would be another text."""
    with pytest.raises(SystemExit) as error:
        list(corpus.definitions(make_wheel(tmp_path, SOURCE + "\ntype type type")))
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert "numpy/things.py" in message and "3.12 can" in message


def test_all_paragraphs_are_seen(tmp_path: Path) -> None:
    seen: set[str] = set()
    train, held_out = corpus.texts([make_wheel(tmp_path)], seen)
    assert "A thing that can be sorted." in seen
    assert all(any(each in text for text in train + held_out) for each in seen)
