# SPDX-License-Identifier: Apache-2.0
"""The command line of the tuner, shared by `python -m helion_kernels.tune` and vLLM's."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from helion_kernels import OPS, deep_gemm, launch, qwen3
from helion_kernels.tune.cases import TOKENS, Case, cases
from helion_kernels.tune.device import DeviceLostError
from helion_kernels.tune.run import Outcome, Tuning

DESCRIPTION = """Find the fastest config of every op that a model calls, on this GPU.

Results are written as each case ends; stop with Ctrl-C at any time and go on with --resume. What
matters most for decoding comes first, so a short budget loses little."""

Read = Callable[[str], tuple[qwen3.Sizes, bool]]


def add_arguments(parser: argparse.ArgumentParser, out: Path | None) -> None:
    """out: the default folder of configs; None: it must be named."""
    add = parser.add_argument
    add("--model", nargs="+", required=True, metavar="MODEL", help="checkpoint folders, or names: "
        + ", ".join(qwen3.MODELS))  # fmt: skip
    add("--format", choices=("per-token", "block"), help="FP8 format of named models; both")
    add("--tensor-parallel-size", "-tp", nargs="+", type=int, default=[1], metavar="N",
        help="sizes whose shards are tuned; 1")  # fmt: skip
    add("--tokens", nargs="+", type=int, default=list(TOKENS), metavar="N",
        help=f"numbers of tokens; {TOKENS[0]}, 2, 4 ... {TOKENS[-1]}")  # fmt: skip
    add("--ops", nargs="+", choices=list(OPS), metavar="OP", help="ops; all that the model calls")
    add("--lm-head", action="store_true", help="the lm_head in FP8 too")
    add("--num-speculative-tokens", type=int, default=0, metavar="N",
        help="attention for steps that check so many guesses; 0")  # fmt: skip
    add("--gpu-minutes", type=float, default=15.0, metavar="N", help="budget in minutes; 15")
    add("--resume", action="store_true", help="go on where the last run into --out stopped")
    add("--out", type=Path, default=out, required=out is None, metavar="DIR",
        help=f"folder of config folders, one for each GPU{f'; {out}' if out else ''}")  # fmt: skip
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
        help="compiler processes; one for each core")  # fmt: skip
    add("--dry-run", action="store_true", help="list the cases in their order; needs no GPU")


def run(
    options: argparse.Namespace, stock: Mapping[str, launch.Launcher], read: Read = qwen3.read
) -> int:
    """Tune as options say. Returns the exit status: 0, 1 for an error, 130 after Ctrl-C.

    stock: op name -> upstream's function under the op's signature, to be timed too. read: the sizes
    of a model that is no name of ours.
    """
    try:
        todo = _cases(options, read)
        if not options.dry_run and not torch.cuda.is_available():
            raise ValueError("a GPU is needed, and PyTorch sees none (--dry-run lists the cases)")
        outcome = None if options.dry_run else _tune(todo, options, stock)
    except (OSError, ValueError, DeviceLostError) as error:
        print(f"tune: {error}")
        return 1
    if outcome is None:
        print("\n".join(f"{case.weight:.4f}  {case}" for case in todo))
        return 0
    print(_summary(outcome, options.out))
    return 130 if outcome.interrupted else 0


def _tune(
    todo: list[Case], options: argparse.Namespace, stock: Mapping[str, launch.Launcher]
) -> Outcome:
    from tqdm import tqdm

    from helion_kernels.tune.gpu import Gpu

    layout = "{percentage:3.0f}%|{bar:30}| {n_fmt}/{total_fmt} cases, {postfix}"
    with Gpu(stock, options.workers) as device, tqdm(total=len(todo), bar_format=layout) as bar:

        def report(done: int, total: int, left_s: float, note: str) -> None:
            if note:
                bar.write(note)
            bar.n = done
            bar.set_postfix_str(f"{left_s / 60:.1f} minutes left")

        if any(case.op.name == deep_gemm.OP for case in todo) and (lack := device.lacks_deep_gemm):
            bar.write(f"without DeepGEMM's kernels: {lack}")
        return Tuning(todo, device, options.out, options.gpu_minutes, options.resume, report).run()


def _cases(options: argparse.Namespace, read: Read) -> list[Case]:
    if not options.gpu_minutes > 0:
        raise ValueError(f"--gpu-minutes {options.gpu_minutes:g}: must be positive")
    if min(options.tokens) < 1:
        raise ValueError(f"--tokens {min(options.tokens)}: must be positive")
    calls: list[qwen3.Call] = []
    replaced: dict[qwen3.Call, int] = {}
    for model in options.model:
        if model in qwen3.MODELS:
            sizes = qwen3.MODELS[model]
            formats = [False, True] if options.format is None else [options.format == "block"]
        else:
            sizes, block = read(model)
            formats = [block]
        for tp in options.tensor_parallel_size:
            for block in formats:
                made = qwen3.calls(sizes, block, tp, options.num_speculative_tokens)
                spared = qwen3.replaced(sizes, block, tp, options.num_speculative_tokens)
                for call in made:  # What one model does without another may make.
                    least = spared.get(call, 0)
                    replaced[call] = min(replaced.get(call, least), least)
                calls += made
            calls += qwen3.lm_head_calls(sizes, tp) if options.lm_head else []
    todo = cases(
        [call for call in calls if options.ops is None or call[0] in options.ops],
        options.tokens,
        replaced,
    )
    if not todo:
        raise ValueError(f"the model calls none of: {', '.join(options.ops)}")
    return todo


def _summary(outcome: Outcome, out: Path) -> str:
    lines = [f"{outcome.tuned} of {outcome.total} cases tuned; configs in {out}"]
    if outcome.stale:
        lines.append(f"{outcome.stale} earlier ones measured again: kernels or tools have changed")
    if outcome.interrupted:
        lines.append("stopped by Ctrl-C")
    if outcome.tuned < outcome.total:
        lines.append("the rest: run it again with --resume")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m helion_kernels.tune",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m helion_kernels.tune --model 8b --out configs\n"
        "  python -m helion_kernels.tune --model ./my-qwen3 -tp 2 --gpu-minutes 5 --out configs",
    )
    own = os.environ.get("HELION_KERNELS_CONFIG_DIR")
    add_arguments(parser, Path(own) if own else None)
    return run(parser.parse_args(arguments), {})
