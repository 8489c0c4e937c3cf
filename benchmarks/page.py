# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks.md: what results look like as Markdown, and where in the page they go."""

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks import breakdown, engine, floor, ratios, server, spread
from benchmarks.ratios import FEW, GEMM_SMALL, GEMM_TARGETS, INDUCTOR, MANY, TARGETS, Case

BEGIN, END = "<!-- begin: python -m benchmarks.report -->", "<!-- end -->"
TITLE = "# Benchmarks\n\n"
ORIGIN = (
    "Made by `python -m benchmarks.report` from [benchmarks/results](../benchmarks/results); do "
    "not edit between the markers."
)
KERNELS_METHOD = (
    "Method: each arm in one CUDA graph over rotating buffers that exceed L2 where the op's size "
    "allows it, arms interleaved, medians; ours checked against float64 first "
    "(`helion_kernels/timing.py`). Speed-up: stock's time over ours, more than 1 is faster; means "
    "are geometric, over sizes and numbers of tokens, unweighted. Where stock's kernel serves a "
    "bucket, the speed-up over it is 1. Floor: bytes or operations at the rates measured in the "
    "same run."
)
ENGINE_METHOD = (
    "Method: `python -m benchmarks.engine`, each arm in processes of its own, interleaved; medians "
    "over processes, in brackets their range where there are several. Speed-up: an arm's time over "
    "the first arm's. `tpot_ms@8`: time per output token in a batch of 8, `tpot_ms@8x32768`: behind"
    " prompts of 32768 tokens instead of 512."
)
STEPS_METHOD = (
    "Microseconds of a decode step, by kernel. With dependent launch kernels overlap: a kernel's "
    "time holds its wait for the one ahead, and the step takes less than their sum."
)
FLOOR_METHOD = (
    "Share of the floor: the bytes that a step must read (`benchmarks/floor.py`) at {:.2f} TB/s, "
    "which `benchmarks.kernels` measured on such a GPU."
)
SERVER_METHOD = (
    "Method: `python -m benchmarks.server`: `vllm serve` and `vllm bench serve`, random prompts of "
    "one length, servers of the arms in turns; medians over servers, in brackets their range where "
    "there are several. Speed-up: of the first arm over another. `tpot_ms_p90@8`: time per output "
    "token, 90th percentile over requests, 8 at a time."
)


def replace(text: str, generated: str) -> str:
    """The page with what is between the markers replaced, or with both added at its end.

    Raises ValueError where there is one marker without the other.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if bool(begin) != bool(end) or (not begin and END in text):
        raise ValueError(f"one of the markers is missing: {BEGIN} … {END}")
    if not begin:
        before, after = (text or TITLE), "\n"
    return f"{before}{BEGIN}\n{generated}{END}{after}"


def environment(document: dict[str, Any]) -> dict[str, Any]:
    """Of `helion_kernels.environment`; the first results had it in words."""
    found = document.get("environment")
    return found if isinstance(found, dict) else {"gpu": found, "date": document.get("date")}


def device(document: dict[str, Any]) -> str:
    """GPU, driver, versions and date, in words."""
    found = environment(document)
    words = [str(found.get("gpu"))]
    if found.get("driver_version"):
        words.append(f"driver {found['driver_version']}")
    versions = ("torch", "triton", "helion", "vllm")
    words += [f"{name} {found[name]}" for name in versions if found.get(name)]
    return ", ".join([*words, str(found.get("date"))])


def table(head: list[str], lines: Iterable[list[str]]) -> Iterator[str]:
    """A Markdown table; columns after the first are numbers."""
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for line in lines:
        yield "| " + " | ".join(line) + " |"


def mean(value: float | None, target: float | None = None) -> str:
    """A mean speed-up, and whether it reaches its target."""
    if value is None:
        return "-"
    if target is None:
        return f"{value:.2f}x"
    return f"{value:.2f}x, {'reaches' if value >= target else '**below**'} {target:g}"


def share(cases: list[Case]) -> str:
    value = ratios.mean(case.share() for case in cases)
    return "-" if value is None else f"{100 * value:.0f} %"


def op_line(op: str, cases: list[Case]) -> list[str]:
    """A line of a table of ops: means, the lowest ratio and where, shares of the floor."""
    if op in GEMM_TARGETS:
        small = [case for case in cases if case.num_tokens <= GEMM_SMALL]
        large = [case for case in cases if case.num_tokens > GEMM_SMALL]
        parts = zip((small, large), GEMM_TARGETS[op], strict=True)
        means = [mean(ratios.against_fastest(part), target) for part, target in parts]
    else:
        target = TARGETS.get(op, ratios.Target(None, None))
        means = [
            mean(ratios.against_fastest(cases), target.kernels),
            mean(ratios.against(cases, INDUCTOR), target.inductor),
        ]
    lowest = ratios.worst(cases)
    where = "-" if lowest is None else f"{lowest[0]:.2f}x {lowest[1]}: {lowest[2]}"
    few = [case for case in cases if case.num_tokens <= FEW]
    many = [case for case in cases if case.num_tokens >= MANY]
    return [op, *means, where, share(few), share(many)]


def kernels(gpu: str, cases: list[Case], documents: list[dict[str, Any]]) -> Iterator[str]:
    """The section of one GPU's `benchmarks.kernels`; documents: that the cases are from."""
    yield "### Kernels"
    yield ""
    if not cases:
        yield "No results of `python -m benchmarks.kernels` here yet."
        return
    devices = "; ".join(dict.fromkeys(map(device, documents)))
    yield f"`python -m benchmarks.kernels` on {devices}. {KERNELS_METHOD}"
    right = [case for case in cases if not case.problems]
    ops = list(dict.fromkeys(case.op for case in right))
    shares = [f"share of floor, M ≤ {FEW}", f"M ≥ {MANY}"]
    for gemm, first, second in (
        (False, "speed-up over stock's kernels", "over Inductor"),
        (True, f"speed-up over stock's fastest, M ≤ {GEMM_SMALL}", f"M > {GEMM_SMALL}"),
    ):
        chosen = [op for op in ops if (op in GEMM_TARGETS) == gemm]
        if chosen:
            head = ["GEMM" if gemm else "op", first, second, "lowest ratio", *shares]
            yield ""
            yield from table(
                head, [op_line(op, [case for case in right if case.op == op]) for op in chosen]
            )
    for case in cases:
        if case.problems:
            yield ""
            yield f"**Wrong, and left out**: {case.op} at {case}: {case.problems[0]}"
    for op in ops:
        yield ""
        yield f"![{op}: speed-up and share of the floor](plots/{gpu}/{op}.svg)"


def engines(
    documents: dict[str, dict[str, Any]], kernels: Iterable[dict[str, Any]] = ()
) -> Iterator[str]:
    """The section of one GPU's `benchmarks.engine`, by file name without suffix.

    kernels: its documents of `benchmarks.kernels`, for the rate of its memory."""
    yield from _section("Engine", "engine", ENGINE_METHOD, documents)
    rates = [each["ceilings"]["read_bytes_per_us"] for each in kernels if each.get("ceilings")]
    for name, document in documents.items():
        yield from _comparison(name, document, spread.summary(document["runs"], engine.cells))
        steps = spread.summary(document["runs"], breakdown.cells)
        if steps:
            yield ""
            yield STEPS_METHOD
            yield ""
            yield from arms(steps)
        if rates and (found := floor.shares(document, max(rates))):
            yield ""
            yield FLOOR_METHOD.format(max(rates) / 1e6)
            yield ""
            yield from table(["", *found], floor.lines(found))


def headline(documents: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Speed-ups over the baseline, a line per arm of the `benchmarks.engine` documents."""
    yield from table(
        ["", "GPU", "start-up", "time per output token, batch", "prefill, batch"],
        [line for document in documents for line in _headlines(document)],
    )


def _headlines(document: dict[str, Any]) -> Iterator[list[str]]:
    found = spread.summary(document["runs"], engine.cells)
    base = found.pop(document["agreement_with"])
    gpu = str(environment(document).get("gpu")).removeprefix("NVIDIA ")
    environments = document.get("arms", {})
    for arm, values in found.items():
        settings = (f"{name}={value}" for name, value in environments.get(arm, {}).items())
        yield [", ".join([str(document.get("model")), *settings]), gpu, *_ratios(values, base)]


def _ratios(values: dict[str, Any], base: dict[str, Any]) -> list[str]:
    cells = {cell: spread.ratio(cell, values[cell], base.get(cell)) for cell in values}
    line = [cells.pop("startup_s") or "-"]
    for kind in ("tpot_ms@", "prefill_ms@"):
        wanted = [cell for cell in cells if cell.startswith(kind) and cells[cell]]
        batches = " / ".join(cell.removeprefix(kind) for cell in wanted)
        line.append(f"{' / '.join(cells[cell] for cell in wanted)} at {batches}" if wanted else "-")
    return line


def servers(documents: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The section of one GPU's `benchmarks.server`, by file name without suffix."""
    yield from _section("Server", "server", SERVER_METHOD, documents)
    for name, document in documents.items():
        yield from _comparison(name, document, spread.summary(document["runs"], server.cells))


def _section(
    title: str, command: str, method: str, documents: dict[str, dict[str, Any]]
) -> Iterator[str]:
    yield f"### {title}"
    yield ""
    yield method if documents else f"No results of `python -m benchmarks.{command}` here yet."


def _comparison(name: str, document: dict[str, Any], found: spread.Table) -> Iterator[str]:
    processes = [f"{arm} {len(runs)}" for arm, runs in document["runs"].items()]
    yield ""
    yield f"**{document.get('model', name)}** (`{name}.json`)"
    yield ""
    yield f"{device(document)}. Processes: {', '.join(processes)}."
    if document.get("note"):
        yield f"Note: {document['note']}"
    yield ""
    yield from arms(found)


def arms(found: spread.Table) -> Iterator[str]:
    """A line per cell: the first arm, each other one, and the first one's speed-up over it."""
    first, *others = found
    head = ["", first, *(title for other in others for title in (other, "speed-up"))]
    lines = []
    for cell in spread.rows(found):
        ours = found[first].get(cell)
        line = [cell, "-" if ours is None else str(ours)]
        for other in others:
            theirs = found[other].get(cell)
            line.append("-" if theirs is None else str(theirs))
            line.append(spread.ratio(cell, ours, theirs) or "-")
        lines.append(line)
    yield from table(head, lines)
