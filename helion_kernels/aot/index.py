# SPDX-License-Identifier: Apache-2.0
"""What a pack says of its kernels: plain data, valid by construction, whoever wrote it.

A `Signature` states how an op is called at certain static dims; a `Kernel` states how one call of
it becomes one launch of machine code.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from helion_kernels.aot import expression
from helion_kernels.aot.expression import Expression

DTYPES = ("bfloat16", "float16", "float32", "float8_e4m3fn", "int32", "int64", "uint8")
"""Of tensors; csrc/torch_op.cpp has them in the same order."""

FORMS = ("pointer", "i32", "i64", "fp32", "fp64", "tensor_map")
SWIZZLES = (0, 32, 64, 128)
RULES = ("equal", "divisible", "aligned")
NUM_TOKENS, AT_MOST_NUM_TOKENS = "num_tokens", "<=num_tokens"

MOST_ARGUMENTS, MOST_DIMENSIONS, MOST_PARAMETERS = 16, 8, 96


class PackError(ValueError):
    """A pack cannot be used. One line: which, and why."""


@dataclass(frozen=True)
class Argument:
    name: str
    kind: str
    """tensor, float, or none: an optional tensor that is not given."""
    dtype: str = ""
    sizes: tuple[int | str | None, ...] = ()
    """A number, num_tokens, <=num_tokens, or None: any."""
    unit_strides: tuple[bool, ...] = ()
    """Where the stride must be 1."""
    wide: bool = False
    """May span 2^31 elements or more."""


@dataclass(frozen=True)
class Signature:
    op: str
    dims: tuple[Any, ...]
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class TensorTile:
    """What Hopper's copy engine moves of a matrix at once (CUtensorMap)."""

    inner: int
    """The dimension of unit stride."""
    box: tuple[int, int]
    """Elements, along the inner dimension first."""
    swizzle: int
    """Bytes, or 0."""


@dataclass(frozen=True)
class Parameter:
    """A kernel parameter: a pointer at an offset in bytes, an integer, a float, a tensor map."""

    form: str
    argument: int = 0
    """Of all but integers."""
    value: Expression | None = None
    """Of integers; a pointer's offset."""
    tile: TensorTile | None = None
    """Of tensor maps."""


@dataclass(frozen=True)
class Assumption:
    """What the compiler took for granted of every call."""

    rule: str
    number: int
    value: Expression
    argument: int = 0
    """Of `aligned`: the pointer to which value is added."""


@dataclass(frozen=True)
class Kernel:
    signature: int
    """Index into the pack's signatures."""
    config: str
    """`select.Choice.key` of the config that it was compiled from."""
    source: str
    """sha256 of Triton source, config and toolchain."""
    cubin: str
    """sha256 of the machine code."""
    symbol: str
    warps: int
    ctas: int
    shared: int
    """Bytes of dynamic shared memory."""
    pdl: bool
    """It waits for its predecessor before it reads what that writes."""
    parameters: tuple[Parameter, ...]
    grid: tuple[Expression, ...]
    assumptions: tuple[Assumption, ...]


def encode(record: Signature | Kernel) -> dict[str, Any]:
    return asdict(record)


class _Reader:
    """Takes fields out of JSON objects; whatever is not as it must be is a PackError."""

    def __init__(self, data: Any, what: str) -> None:
        self.data, self.what = data, what
        self.require(isinstance(data, dict), "is no object")

    def require(self, truth: bool, why: str) -> None:
        if not truth:
            raise PackError(f"{self.what} {why}")

    def get(self, key: str, kind: type, test: Callable[[Any], bool] = lambda value: True) -> Any:
        value = self.data.get(key)
        # bool is an int to Python, not to us.
        right = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        self.require(right and test(value), f"has a bad {key}")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        return self.get(key, int, lambda value: low <= value <= high)

    def each(self, key: str, most: int) -> Iterable["_Reader"]:
        items = self.get(key, list, lambda value: len(value) <= most)
        return [_Reader(item, f"{self.what}, {key} {i}") for i, item in enumerate(items)]


def decode_signature(data: Any, what: str) -> Signature:
    read = _Reader(data, what)
    dims = read.get("dims", list, lambda v: all(isinstance(x, int) for x in v))
    arguments = tuple(_argument(item) for item in read.each("arguments", MOST_ARGUMENTS))
    read.require(bool(arguments) and bool(arguments[0].sizes), "has no tensor first")
    return Signature(read.get("op", str, str.isidentifier), tuple(dims), arguments)


def _argument(read: _Reader) -> Argument:
    kind = read.get("kind", str, ("tensor", "float", "none").__contains__)
    name = read.get("name", str, str.isidentifier)
    if kind != "tensor":
        return Argument(name, kind)
    sizes = read.get("sizes", list, lambda v: len(v) <= MOST_DIMENSIONS and all(map(_is_size, v)))
    units = read.get("unit_strides", list, lambda v: all(isinstance(x, bool) for x in v))
    read.require(len(units) == len(sizes), "has unequal sizes and strides")
    dtype = read.get("dtype", str, DTYPES.__contains__)
    return Argument(name, kind, dtype, tuple(sizes), tuple(units), read.get("wide", bool))


def _is_size(value: Any) -> bool:
    if value is None or value in (NUM_TOKENS, AT_MOST_NUM_TOKENS):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def decode_kernel(data: Any, what: str, signatures: list[Signature]) -> Kernel:
    read = _Reader(data, what)
    number = read.integer("signature", 0, len(signatures) - 1)
    arguments = signatures[number].arguments

    def words(reader: _Reader, value: Any) -> Expression:
        reader.require(_is_expression(value, arguments), "has a bad expression")
        return value

    def parameter(reader: _Reader) -> Parameter:
        form = reader.get("form", str, FORMS.__contains__)
        argument = reader.integer("argument", 0, len(arguments) - 1)
        if form in ("fp32", "fp64"):
            reader.require(arguments[argument].kind == "float", "is no float")
            return Parameter(form, argument)
        if form == "pointer":
            reader.require(arguments[argument].kind == "tensor", "is no tensor")
        if form == "tensor_map":
            return Parameter(form, argument, tile=_tile(reader, arguments[argument]))
        return Parameter(form, argument, words(reader, reader.data.get("value")))

    def assumption(reader: _Reader) -> Assumption:
        rule = reader.get("rule", str, RULES.__contains__)
        argument = reader.integer("argument", 0, len(arguments) - 1)
        if rule == "aligned":
            reader.require(arguments[argument].kind == "tensor", "is no tensor")
        number = reader.integer("number", -(1 << 62) if rule == "equal" else 1, 1 << 62)
        return Assumption(rule, number, words(reader, reader.data.get("value")), argument)

    grid = read.get("grid", list, lambda v: len(v) == 3)
    return Kernel(
        signature=number,
        config=read.get("config", str),
        source=read.get("source", str),
        cubin=read.get("cubin", str),
        symbol=read.get("symbol", str, str.isidentifier),
        warps=read.integer("warps", 1, 32),
        ctas=read.integer("ctas", 1, 16),
        shared=read.integer("shared", 0, 1 << 20),
        pdl=read.get("pdl", bool),
        parameters=tuple(map(parameter, read.each("parameters", MOST_PARAMETERS))),
        grid=tuple(words(read, value) for value in grid),
        assumptions=tuple(map(assumption, read.each("assumptions", 4 * MOST_PARAMETERS))),
    )


def _tile(parameter: _Reader, matrix: Argument) -> TensorTile:
    parameter.require(len(matrix.sizes) == 2, "is no matrix")
    read = _Reader(parameter.data.get("tile"), f"{parameter.what}, tile")
    inner = read.integer("inner", 0, 1)
    read.require(matrix.unit_strides[inner], "has elements apart")
    width, height = read.get("box", list, lambda v: len(v) == 2 and all(map(_is_extent, v)))
    return TensorTile(inner, (width, height), read.get("swizzle", int, SWIZZLES.__contains__))


def _is_extent(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 256


def _is_expression(words: Any, arguments: tuple[Argument, ...]) -> bool:
    """Whether words name what is there and leave one value."""
    if not isinstance(words, list) or not 0 < len(words) <= expression.MOST_WORDS:
        return False
    depth, rest = 0, iter(words)
    for word in rest:
        if not isinstance(word, str):
            return False
        if word in expression.LEAVES:
            operands: list[Any] = [next(rest, None) for _ in range(expression.LEAVES[word])]
            if not all(isinstance(x, int) and not isinstance(x, bool) for x in operands):
                return False
            if word == "const":
                if not -(1 << 62) <= operands[0] <= 1 << 62:
                    return False
            elif not (
                0 <= operands[0] < len(arguments)
                and 0 <= operands[1] < len(arguments[operands[0]].sizes)
            ):
                return False
            depth += 1
        elif word in expression.OPERATORS:
            depth -= 1
        else:
            return False
        if not 1 <= depth <= 16:
            return False
    return depth == 1
