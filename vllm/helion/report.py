# SPDX-License-Identifier: Apache-2.0
"""What runs and why, as a table: at start-up, and in `vllm helion status`."""

from typing import TYPE_CHECKING

from vllm.helion import build
from vllm.logger import init_logger

if TYPE_CHECKING:
    from helion_kernels.plan import Plan
    from vllm.helion.layer import HelionDecoderLayer

logger = init_logger(__name__)

HEADER = ("op", "dims", "num_tokens", "launcher", "config source", "reason")


def rows(plans: "list[Plan]") -> list[tuple[str, ...]]:
    """One row per op, dims and bucket of num_tokens."""
    table = []
    for plan in plans:
        lower = 1
        for choice, launcher in zip(plan.choices, plan.kinds, strict=True):
            last = choice is plan.choices[-1]
            dims = ", ".join(
                f"{name}={value}"
                for name, value in zip(plan.op.dims._fields, plan.dims, strict=True)  # type: ignore[attr-defined]
            )
            tokens = f"{lower}+" if last else f"{lower}-{choice.upto}"
            table.append((plan.op.name, dims, tokens, launcher, choice.source, choice.reason))
            lower = choice.upto + 1
    return table


def render(header: tuple[str, ...], table: list[tuple[str, ...]]) -> str:
    """A plain-text table; cells equal to the one above are left empty in the first two columns."""
    widths = [max(map(len, column)) for column in zip(header, *table, strict=True)]
    lines = [header, tuple("-" * width for width in widths)]
    previous: tuple[str, ...] = ()
    for row in table:
        same = row[:2] == previous[:2]
        lines.append(("", "", *row[2:]) if same else row)
        previous = row
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def log(
    layers: "list[HelionDecoderLayer]",
    refusals: dict[str, list[str]],
    model: str,
    tp: int,
    num_speculative_tokens: int,
) -> None:
    """The start-up table. Never silent: without a served layer the log says so, and why."""
    for reason, prefixes in refusals.items():
        others = f" and {len(prefixes) - 1} more" if len(prefixes) > 1 else ""
        logger.info("Helion: %s%s run stock: %s", prefixes[0], others, reason)
    if not layers:
        return
    from helion_kernels.plan import PLANS

    logger.info(
        "Helion: serving %d decoder layer(s), %s, KV cache written by %s, "
        "attention of decode steps by %s, configs %s\n%s",
        len(layers),
        layers[0].format.name,
        "fused_qk_norm_rope_kv_write" if layers[0].writes_kv else "upstream",
        "fused_qk_norm_rope_paged_attention" if layers[0].attends else "upstream",
        build.fingerprint(),
        render(HEADER, rows(PLANS)),
    )
    sizes = f" -tp {tp}" if tp > 1 else ""
    if num_speculative_tokens:
        sizes += f" --num-speculative-tokens {num_speculative_tokens}"
    sources = {choice.source for plan in PLANS for choice in plan.choices}
    if sources & {"default", "nearest", "related"}:
        logger.info(
            "Helion: some ops are not tuned for this GPU and these sizes; to tune them: "
            "vllm helion tune --model %s%s",
            model,
            sizes,
        )
    compiled = sum(kind == "compiled" for plan in PLANS for kind in plan.kinds)
    if compiled:
        logger.info(
            "Helion: %d kernels were in no pack and were compiled now; for the next start to find "
            "them%s: vllm helion pack --model %s%s",
            compiled,
            ", and DeepGEMM's for large batches" if _lacks_deep_gemm(PLANS) else "",
            model,
            sizes,
        )


def _lacks_deep_gemm(plans: "list[Plan]") -> bool:
    """Whether products run other kernels than DeepGEMM's only as no pack has those."""
    import torch

    from helion_kernels import deep_gemm

    if torch.cuda.get_device_capability() != (9, 0):
        return False
    return any(plan.op.name == deep_gemm.OP and "compiled" in plan.kinds for plan in plans)
