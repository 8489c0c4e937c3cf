# SPDX-License-Identifier: Apache-2.0
"""Leave out what other GPUs alone can use: VLLM_HELION_CUDA_ARCH_LIST="9.0a" and the like.

Of device code (fatbin.py), pruning moves the entries that stay to the front of their container,
sets the container's length to what is left, and zeroes the rest, which then compresses to nothing.
No address in the file changes, and neither the driver nor cuobjdump meets a trace of what went.

Of the cubins, those stay that a GPU of the architectures asked for would run. PTX stays only where
no such cubin is and it is for that very architecture; with "+PTX" ("9.0a+PTX") also PTX for older
ones, which upstream's FlashAttention 2 and Marlin kernels need on Hopper.

Such a wheel is meant to be small, so the rest of it is made so too: cubins compressed (recode.py),
symbol tables cut (strip.py), files for other GPUs left out (foreign.py).
"""

import os
import re
from dataclasses import dataclass

from . import fatbin, foreign, recode, strip
from .errors import BuildError
from .fatbin import CUBIN, PTX, Entry
from .progress import megabytes, say, step
from .tree import Data, Tree

# Code for one architecture alone (sm_90a), or for one family (sm_100f): the driver prefers it.
_ARCH_SPECIFIC, _FAMILY_SPECIFIC = 0x100000, 0x200000


@dataclass(frozen=True)
class Arch:
    """One architecture asked for: 90 for "9.0" or "9.0a", and whether older PTX may stay."""

    number: int
    ptx: bool = False


def wanted() -> list[str]:
    """The architectures that VLLM_HELION_CUDA_ARCH_LIST names; none means all of upstream's."""
    names = re.split(r"[\s,;]+", os.environ.get("VLLM_HELION_CUDA_ARCH_LIST", "").strip())
    names = sorted({name for name in names if name})
    for name in names:
        parse(name)
    return names


def parse(name: str) -> Arch:
    """Read one architecture: "9.0", "9.0a", "9.0a+PTX". The letter makes no difference: what
    runs on a GPU stays, and every GPU of compute capability 9.0 runs sm_90a."""
    match = re.fullmatch(r"(\d+)\.(\d)[af]?(\+PTX)?", name)
    if not match:
        raise BuildError(
            f"VLLM_HELION_CUDA_ARCH_LIST names {name!r}; write it like 9.0a or 9.0a+PTX"
        )
    return Arch(int(match[1]) * 10 + int(match[2]), bool(match[3]))


def kept(entries: list[Entry], arches: list[Arch]) -> list[Entry]:
    """The entries that stay, in their order."""
    stay = [entry for arch in arches for entry in _kept_for(entries, arch)]
    return [entry for entry in entries if entry in stay]


def _kept_for(entries: list[Entry], arch: Arch) -> list[Entry]:
    """What a GPU of ``arch`` would take: per sort of cubin the newest that it can run."""
    newest: dict[int, list[Entry]] = {}
    for entry in entries:
        sort = entry.flags & (_ARCH_SPECIFIC | _FAMILY_SPECIFIC)
        runs = arch.number // 10 * 10 <= entry.arch <= arch.number
        if entry.kind != CUBIN or not runs or (sort & _ARCH_SPECIFIC and entry.arch != arch.number):
            continue
        best = newest.setdefault(sort, [])
        if not best or entry.arch >= best[0].arch:
            newest[sort] = [e for e in best if e.arch == entry.arch] + [entry]
    if newest:
        return [entry for best in newest.values() for entry in best]
    ptx = [e for e in entries if e.kind == PTX and e.arch <= arch.number]
    best_ptx = max((e.arch for e in ptx), default=0)
    if not arch.ptx and best_ptx != arch.number:
        return []
    return [e for e in ptx if e.arch == best_ptx]


@dataclass
class Report:
    """What pruning did to one file: bytes of device code (``stored``: those kept, once they are
    compressed), and containers left with none."""

    kept: int = 0
    dropped: int = 0
    stored: int = 0
    containers: int = 0
    emptied: int = 0


def prune(data: bytes, arches: list[Arch], name: str) -> tuple[bytes, Report]:
    """``data`` with the device code of other architectures left out, and what that came to."""
    result, report = bytearray(data), Report()
    for container in fatbin.containers(data, name):
        stay = kept(container.entries, arches)
        size = fatbin.refill(result, container, [data[e.start : e.end] for e in stay])
        report.kept += size
        report.dropped += container.end - container.body - size
        report.containers += 1
        report.emptied += not stay
    return bytes(result), report


def prune_tree(tree: Tree, names: list[str]) -> None:
    """Make ``tree`` one for the architectures ``names`` alone, and say what went."""
    arches = [parse(name) for name in names]
    with step("prune") as details:
        total = Report()
        for name in sorted(name for name in tree if name.endswith((".so", *strip.PROGRAMS))):
            data, report = prune(tree[name].read(), arches, name)
            data = recode.recode(data, name)
            report.stored = sum(c.end - c.body for c in fatbin.containers(data, name))
            if report.containers:
                say("prune", f"{name}: {_told(report)}")
            total.kept += report.kept
            total.dropped += report.dropped
            total.stored += report.stored
            if report.containers and report.containers == report.emptied and foreign.optional(name):
                del tree[name]
                continue
            tree[name] = Data(strip.strip(data, name), tree[name].executable)
        details += [" ".join(names), _told(total)]
    foreign.leave_out(tree, {arch.number for arch in arches})


def _told(report: Report) -> str:
    text = f"dropped {megabytes(report.dropped)}, kept {megabytes(report.kept)}"
    if report.stored < report.kept:
        text = f"{text}, compressed to {megabytes(report.stored)}"
    if report.emptied:
        text += f"; {report.emptied} of {report.containers} kernel files have no code left"
    return text
