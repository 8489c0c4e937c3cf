# SPDX-License-Identifier: Apache-2.0
"""Make more text that the model was not trained on, for `benchmarks.quality --text`."""

import argparse
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from corpus import HELD_OUT_LENGTH, HERE, Definition, definitions, document, encode, fetch, texts
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

EPILOG = """\
writes:
  data/wheels/                   the packages of packages.txt and held_out_packages.txt (158 MB)
  data/heldout-more.safetensors  the rows of model/heldout.safetensors, then those after them

Then: python -m benchmarks.quality --text examples/tiny_qwen3/data/heldout-more.safetensors
The packages' code is read, not run. The same packages give the same bytes.
"""

TITLES = {
    "astropy": "Astropy",
    "dask": "Dask",
    "jax": "JAX",
    "mne": "MNE",
    "nltk": "NLTK",
    "sqlalchemy": "SQLAlchemy",
    "twisted": "Twisted",
}


def words(paragraph: str) -> str:
    """What two copies of a paragraph have in common, whatever their markup."""
    return " ".join(re.findall(r"\w+", paragraph.lower()))


def unseen(found: Iterable[Definition], seen: Iterable[str]) -> Iterator[str]:
    """Documents of the paragraphs that are neither in ``seen`` nor copies of an earlier one."""
    known = set(map(words, seen))
    for package, name, _, paragraphs in found:
        new = []
        for paragraph in paragraphs:
            if (key := words(paragraph)) not in known:
                known.add(key)
                new.append(paragraph)
        if new:
            yield document(package, name, new)


def held_out(trained: list[Path], others: list[Path], titles: dict[str, str] = TITLES) -> list[str]:
    """The part of ``trained`` that is not trained on, then ``others`` without what is in those.

    The others are shuffled, by their hashes, so that the first rows are a sample of all packages.
    """
    seen: set[str] = set()
    _, first = texts(trained, seen)
    found = (definition for wheel in others for definition in definitions(wheel, titles))
    more = unseen(found, seen)
    return first + sorted(more, key=lambda text: hashlib.sha256(text.encode()).digest())


def rows(tokenizer: Tokenizer, documents: list[str], length: int = HELD_OUT_LENGTH) -> torch.Tensor:
    """uint16 [rows, length]: the documents one after another, without the last incomplete row."""
    tokens = encode(tokenizer, documents)
    return tokens[: len(tokens) // length * length].view(-1, length)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=HERE / "data", metavar="DIR")
    options = parser.parse_args()
    trained, others = (
        fetch((HERE / name).read_text("utf-8"), options.data / "wheels")
        for name in ("packages.txt", "held_out_packages.txt")
    )
    vocabulary = HERE / "model/tokenizer.json"
    tokens = rows(Tokenizer.from_file(str(vocabulary)), held_out(trained, others))
    published = load_file(HERE / "model/heldout.safetensors")["tokens"]
    if not torch.equal(tokens[: len(published)], published):
        sys.exit("more_text.py: model/ was made from other packages than packages.txt has")
    out = options.data / "heldout-more.safetensors"
    digest = hashlib.sha256(vocabulary.read_bytes()).hexdigest()
    save_file({"tokens": tokens}, out, {"tokenizer": digest})
    print(f"{out}: {len(tokens):,} rows, {tokens.numel():,} tokens")
    print(f"sha256 {hashlib.sha256(out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
