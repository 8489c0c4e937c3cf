# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the reader of packs: any bytes are a valid Pack, or a PackError of one line.

    pip install atheris && python tests/aot/fuzz_pack.py -max_total_time=60

Arguments are libFuzzer's. The hash stops nearly every mutation, so each input is read twice: as it
is, and with its hash made right. test_fuzz.py runs the same in CI, on mutations of hypothesis's.
"""

import json
import lzma
import random
import struct
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import FunctionType
from typing import Any

if __name__ == "__main__":  # Of this checkout, installed or not.
    sys.path.insert(0, str(Path(__file__).parents[2]))

from helion_kernels import native
from helion_kernels.aot import expression, index, pack
from helion_kernels.aot.index import Argument, Assumption, Kernel, PackError, Parameter, Signature

START = 56
"""Of the index in a pack."""
TOKENS = ["size", 0, 0, "const", 15, "+", "const", 16, "//"]


def seed() -> bytes:
    """A pack with one of everything that an index may hold."""
    image = b"\x7fELF machine code"
    digest = sha256(image).hexdigest()
    tensor = Argument("out", "tensor", "bfloat16", ("num_tokens", 64), (False, True), wide=True)
    entries = Argument("slots", "tensor", "int64", ("<=num_tokens", None), (True, False))
    arguments = (tensor, entries, Argument("eps", "float"), Argument("residual", "none"))
    stride = ["stride", 0, 0, "const", 2, "*", "const", 7, "%"]
    kernel = Kernel(
        0, "{}", "0" * 64, digest, "kernel", 4, 1, 0, True,
        (
            Parameter("pointer", 0, stride), Parameter("i32", 0, TOKENS),
            Parameter("i64", 0, ["size", 0, 1]), Parameter("fp32", 2), Parameter("fp64", 2),
        ),
        (TOKENS, ["const", 1, "const", 2, "min"], ["const", 1, "size", 1, 1, "max"]),
        (
            Assumption("equal", -1, ["const", -1]), Assumption("divisible", 16, ["size", 0, 1]),
            Assumption("aligned", 16, stride, 1),
        ),
    )  # fmt: skip
    signature = Signature("op", (256, True), arguments)
    fingerprint, toolchain = pack.fingerprint(), {"triton": "3"}
    made = pack.Pack("sm_90", fingerprint, toolchain, [signature], [kernel], {digest: image})
    return pack.to_bytes(made)


def parts(data: bytes) -> tuple[bytes, bytes]:
    """What data stores for an index and for code, wherever its header says that one ends."""
    size = struct.unpack_from("<Q", data, 40)[0] if len(data) >= START else 0
    return data[START : START + size], data[START + size :]


def document_of(data: bytes) -> Any:
    """The index of data. Raises ValueError or RecursionError where it is none."""
    try:
        return json.loads(lzma.decompress(parts(data)[0]))
    except lzma.LZMAError as error:
        raise ValueError from error


def sealed(document: Any, code: bytes) -> bytes:
    """A pack of an index and code as stored."""
    return pack.seal(lzma.compress(json.dumps(document).encode()), code)


def check(data: bytes) -> None:
    """Read data as it is and with a right hash; raises whatever must not happen."""
    for content in (data, pack.seal(*parts(data))):
        found = outcome(pack.from_bytes, content)
        if found is not None:
            _usable(found)
            if found.target != "sm_90":
                assert outcome(_read_for_sm_90, content) is None


def outcome(read: Callable[[bytes], pack.Pack], content: bytes) -> pack.Pack | None:
    """What read returns; None for a PackError, found to be one printable line."""
    try:
        return read(content)
    except PackError as error:
        why = str(error)
    assert why and why.isprintable(), repr(why)
    return None


def _read_for_sm_90(content: bytes) -> pack.Pack:
    with tempfile.NamedTemporaryFile(suffix=".pack") as file:
        Path(file.name).write_bytes(content)
        return pack.read(file.name, "sm_90")


def _usable(found: pack.Pack) -> None:
    """Its records survive JSON, its expressions are integers, C++ can be given all of it."""
    signatures = found.signatures
    for signature in signatures:
        assert index.decode_signature(_again(signature), "") == signature
        _words(native.signature_words(signature))
        signature.op.encode()
    for kernel in found.kernels:
        assert index.decode_kernel(_again(kernel), "", signatures) == kernel
        _words(native.kernel_words(kernel, signatures[kernel.signature].arguments))
        kernel.symbol.encode()
        signature = signatures[kernel.signature]
        assert found.find(signature.op, signature.dims, kernel.config) is not None
        for size in (0, 3):
            sizes = [[size] * len(argument.sizes) for argument in signature.arguments]
            for words in _expressions(kernel):
                assert isinstance(expression.evaluate(words, sizes, sizes), int)


def _again(record: Signature | Kernel) -> Any:
    return json.loads(json.dumps(index.encode(record)))


def _words(words: list[int]) -> None:
    assert all(-(1 << 63) <= word < 1 << 63 for word in words)


def _expressions(kernel: Kernel) -> list[expression.Expression]:
    values = [record.value for record in (*kernel.parameters, *kernel.assumptions)]
    return [*kernel.grid, *filter(None, values)]


ODD: list[Any] = [
    None, True, False, 0, 1, -1, 64, 1 << 31, 1 << 62, 1 << 63, 1 << 64, -(1 << 63), 10**30, 0.5,
    float("inf"), "", "a\nb", "\ud800", "a,b", "size", "stride", "const", "//", "%", "tensor",
    "none", "num_tokens", [], {}, [[]],
]  # fmt: skip
"""Put in an index in place of what is there."""


def mutated(data: bytes, choose: random.Random) -> bytes:
    """data with something else somewhere in its index, sealed anew; as it is if that is no JSON."""
    try:
        document = document_of(data)
    except (ValueError, RecursionError):
        return data
    places = _places(document)
    if places:
        place, key = choose.choice(places)
        change = choose.randrange(8)
        if change == 0:
            del place[key]
        elif change == 1 and isinstance(place, list):
            place.insert(key, choose.choice(place))
        else:
            place[key] = choose.choice(ODD)
    return sealed(document, parts(data)[1])


def _places(document: Any) -> list[tuple[Any, Any]]:
    """(container, key) of all that a document holds."""
    found, rest = [], [document]
    for node in rest:
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            found += [(node, key) for key in keys]
            rest += [node[key] for key in keys]
    return found


def main() -> None:
    import atheris

    def mutate(data: bytes, most: int, number: int) -> bytes:
        choose = random.Random(number)
        changed = mutated(data, choose) if choose.random() < 0.8 else atheris.Mutate(data, most)
        return changed[:most]

    for owner in (pack, index, index._Reader, expression):
        for function in vars(owner).values():
            if isinstance(function, FunctionType) and function.__module__.startswith(
                pack.__package__
            ):
                atheris.instrument_func(function)
    with tempfile.TemporaryDirectory() as corpus:
        Path(corpus, "seed").write_bytes(seed())
        atheris.Setup([*sys.argv, corpus], check, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
