# SPDX-License-Identifier: Apache-2.0
"""More held-out text: nothing in it was trained on, and it begins with what is published."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples/tiny_qwen3"))

import corpus  # noqa: E402
import more_text  # noqa: E402

TITLES = {"astropy": "Astropy", "dask": "Dask"}
TRAINED = "\n".join(
    f'def f{i}():\n    """Compute the number {i} of all functions here."""' for i in range(200)
)
COPIES = '''
def copied():
    """Compute the number 7 of all functions here."""

def marked_up():
    """Compute the number ``7`` of *all* functions, here.

    A sentence that nobody else has written.
    """

def again():
    """A sentence that nobody else has written."""
'''


def make_wheel(folder: Path, package: str, source: str) -> Path:
    wheel = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{package}/things.py", source)
    return wheel


@pytest.fixture
def trained(tmp_path: Path) -> list[Path]:
    return [make_wheel(tmp_path, "numpy", TRAINED)]


def numbered(word: str) -> str:
    return "\n".join(
        f'def f{i}():\n    """Return {word} number {i} of a hundred."""' for i in range(100)
    )


def test_every_line_is_a_pin_of_a_package_that_is_not_learned() -> None:
    pins, learned = (
        (more_text.HERE / name).read_text("utf-8")
        for name in ("held_out_packages.txt", "packages.txt")
    )
    lines = [line for line in pins.splitlines() if not line.startswith("#")]
    names = {name for name, *_ in corpus.PIN.findall(pins)}
    assert len(names) == len(lines)
    assert names == set(more_text.TITLES)
    assert not names & {name for name, *_ in corpus.PIN.findall(learned)}


def test_copies_of_other_text_are_left_out(trained: list[Path], tmp_path: Path) -> None:
    """Of what is trained on and of each other, whatever their markup."""
    others = [make_wheel(tmp_path, "dask", COPIES)]
    _, first = corpus.texts(trained)
    found = more_text.held_out(trained, others, TITLES)
    assert found[: len(first)] == first
    assert found[len(first) :] == [
        "Dask: marked_up\n\nA sentence that nobody else has written.\n",
    ]


def test_any_part_samples_all_packages_and_the_same_in_each_run(
    trained: list[Path], tmp_path: Path
) -> None:
    others = [make_wheel(tmp_path, name, numbered(name)) for name in TITLES]
    _, first = corpus.texts(trained)
    found = more_text.held_out(trained, others, TITLES)
    more = found[len(first) :]
    assert len(more) == 200
    half = [text.split(":")[0] for text in more[:100]]
    assert 30 < half.count("Dask") < 70
    assert found == more_text.held_out(trained, others[::-1], TITLES)


def test_rows_are_the_documents_without_an_incomplete_one() -> None:
    tokenizer = Tokenizer.from_file(str(more_text.HERE / "model/tokenizer.json"))
    documents = ["Dask: f\n\nReturn a thing.\n", "Dask: g\n\nReturn another of these.\n"]
    tokens = more_text.rows(tokenizer, documents, length=4)
    assert tokens.dtype == torch.uint16
    text = tokenizer.decode(tokens.flatten().tolist(), skip_special_tokens=False)
    whole = "".join(document + "<|endoftext|>" for document in documents)
    assert whole.startswith(text)
    assert len(tokenizer.encode(whole).ids) - tokens.numel() in range(4)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, trained: list[Path], tmp_path: Path) -> Path:
    """A folder in the place of the example's, with packages that are not the pinned ones."""
    others = [make_wheel(tmp_path, name, numbered(name)) for name in TITLES]
    (tmp_path / "packages.txt").write_text("trained")
    (tmp_path / "held_out_packages.txt").write_text("others")
    (tmp_path / "data").mkdir()
    (tmp_path / "model").mkdir()
    vocabulary = more_text.HERE / "model/tokenizer.json"
    (tmp_path / "model/tokenizer.json").write_bytes(vocabulary.read_bytes())
    tokens = more_text.rows(
        Tokenizer.from_file(str(vocabulary)), more_text.held_out(trained, others), 512
    )
    save_file({"tokens": tokens[:1]}, tmp_path / "model/heldout.safetensors")
    monkeypatch.setattr(more_text, "HERE", tmp_path)
    monkeypatch.setattr(more_text, "fetch", lambda pins, _: {"trained": trained}.get(pins, others))
    monkeypatch.setattr(sys, "argv", ["more_text.py", "--data", str(tmp_path / "data")])
    return tmp_path


def test_the_file_continues_the_published_one(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more_text.main()
    file = small / "data/heldout-more.safetensors"
    tokens = load_file(file)["tokens"]
    assert len(tokens) > 1
    assert torch.equal(tokens[:1], load_file(small / "model/heldout.safetensors")["tokens"])
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {
            "tokenizer": hashlib.sha256((small / "model/tokenizer.json").read_bytes()).hexdigest()
        }
    said = capsys.readouterr().out
    assert f"{len(tokens):,} rows, {tokens.numel():,} tokens" in said
    assert hashlib.sha256(file.read_bytes()).hexdigest() in said


def test_text_that_does_not_begin_with_the_published_rows_is_refused(small: Path) -> None:
    published = small / "model/heldout.safetensors"
    other = torch.zeros_like(load_file(published)["tokens"])
    save_file({"tokens": other}, published)
    with pytest.raises(SystemExit) as error:
        more_text.main()
    assert len(str(error.value).splitlines()) == 1
    assert not (small / "data/heldout-more.safetensors").exists()
