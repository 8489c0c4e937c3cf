# SPDX-License-Identifier: Apache-2.0
"""`vllm helion status`: what would run on this machine, for which model, and why.
`vllm helion tune`: find faster configs. `vllm helion pack`: compile them ahead of time."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vllm.entrypoints.cli.types import CLISubcommand
from vllm.helion import switches

if TYPE_CHECKING:
    from helion_kernels.qwen3 import Sizes
    from vllm.utils.argparse_utils import FlexibleArgumentParser

DESCRIPTION = "Kernels of vLLM-Helion on this machine."
EPILOG = """examples:
  vllm helion status                                the ops of Qwen3-8B, per-token FP8
  vllm helion status --format block                 ... of Qwen3-8B-FP8 (128 x 128 blocks)
  vllm helion status --model ./my-qwen3-fp8 -tp 2   ... of a checkpoint, one of two GPUs
  VLLM_HELION=0 vllm serve ...                      upstream's layers, nothing of ours
"""
PACK = """Compile every kernel that a model can need on one GPU architecture into one file, which
the engine then loads instead of compiling. Configs are those tuned for this GPU, yours too; without
a GPU, those for an H100. Takes about 4 s of a core for each kernel that was not compiled before."""
PACK_EPILOG = """examples:
  vllm helion pack --model Qwen/Qwen3-8B-FP8             into vLLM's cache folder: found there
  vllm helion pack --model ./my-qwen3-fp8 -tp 2 --out .  ./sm_90.pack, for one of two GPUs
  vllm helion status --model Qwen/Qwen3-8B-FP8           shows `pack` for what came from packs
A new pack of an architecture replaces the one in its folder: name all its models at once.
"""
TUNE_EPILOG = """examples:
  vllm helion tune --model Qwen/Qwen3-8B-FP8                  15 minutes
  vllm helion tune --model ./my-qwen3-fp8 -tp 2 --gpu-minutes 5
  vllm helion tune --model ./my-qwen3-fp8 -tp 2 --resume      go on where that stopped
  vllm helion tune --model 8b 32b --format block --dry-run    the cases in their order
"""


class HelionSubcommand(CLISubcommand):
    """The `helion` subcommand for the vLLM CLI."""

    name = "helion"

    @staticmethod
    def cmd(args: argparse.Namespace) -> None:
        if args.helion_command == "status":
            status(args)
        elif args.helion_command == "pack":
            pack(args)
        elif args.helion_command == "tune":
            tune(args)
        else:
            args.helion_help()

    def subparser_init(self, subparsers: argparse._SubParsersAction) -> "FlexibleArgumentParser":
        parser = subparsers.add_parser(
            self.name,
            help="Show which Helion kernels serve a model, and why; tune and compile them.",
            description=DESCRIPTION,
            usage="vllm helion {status,tune,pack} [options]",
        )
        parser.set_defaults(helion_help=parser.print_help)
        commands = parser.add_subparsers(dest="helion_command")
        add = commands.add_parser(
            "status",
            help="List every op with its launcher, config source and reason.",
            description="List every op with its launcher, config source and reason. Compiles and "
            "loads nothing.",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage="vllm helion status [options]",
        )
        add.add_argument(
            "--model", default=None, help="checkpoint folder or hub id to read sizes of"
        )
        _add_common(add)
        add.add_argument("--max-num-batched-tokens", type=int, default=8192, metavar="N")

        add = commands.add_parser(
            "tune",
            help="Find the fastest configs for a model on this GPU, within a budget of minutes.",
            epilog=TUNE_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage="vllm helion tune --model MODEL [options]",
        )
        if "tune" in sys.argv:  # importing the kernels takes seconds: not for `vllm --help`
            from helion_kernels.tune import cli

            add.description = cli.DESCRIPTION
            cli.add_arguments(add, Path(switches.config_dir()))

        add = commands.add_parser(
            "pack",
            help="Compile a model's kernels ahead of time.",
            description=PACK,
            epilog=PACK_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage="vllm helion pack --model MODEL [--model MODEL ...] [options]",
        )
        add.add_argument(
            "--model",
            action="append",
            required=True,
            help="checkpoint folder or hub id; may be given several times",
        )
        _add_common(add)
        add.add_argument(
            "--lm-head", action="store_true", help="for VLLM_HELION_FP8_LM_HEAD=1, too"
        )
        add.add_argument(
            "--out", type=Path, default=None, metavar="DIR", help="default: where vLLM looks for it"
        )
        return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("per-token", "block"),
        default=None,
        help="FP8 format; default: the checkpoint's, or per-token",
    )
    parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1, metavar="N")
    parser.add_argument(
        "--num-speculative-tokens", type=int, default=0, metavar="N", help="guesses of a step; 0"
    )


def cmd_init() -> list[CLISubcommand]:
    return [HelionSubcommand()]


def status(args: argparse.Namespace) -> None:
    """Print build, switches and the table of ops."""
    import torch

    import helion_kernels
    from helion_kernels import plan, qwen3
    from vllm.helion import build, first_start, report, served, stock
    from vllm.plugins import load_general_plugins
    from vllm.version import __version__

    load_general_plugins()
    info = build.info()
    print(f"vllm {__version__} ({info.get('variant', 'editable')}), configs {build.fingerprint()}")
    for name, value in switches.values().items():
        print(f"  {name}={value}  {switches.SWITCHES[name][1]}")
    try:
        name, sizes, block = _model(args.model, args.format)
        tp = args.tensor_parallel_size
        attends = switches.attention() and not switches.batch_invariant()
        calls = qwen3.calls(sizes, block, tp, args.num_speculative_tokens, attends)
        if switches.fp8_lm_head():
            calls += qwen3.lm_head_calls(sizes, tp)
    except (OSError, ValueError) as error:
        raise SystemExit(f"vllm helion status: {error}") from None

    refusal = served.switch_refusal()
    print(f"{name}, {'block' if block else 'per-token'} FP8, tp {tp}: ", end="")
    if refusal is not None:
        print(f"runs stock: {refusal}")
        return
    stock.register()
    plan.use_batch_invariance(switches.batch_invariant())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else ""
    print(f"on {gpu or 'cpu'}")
    wanted = [(helion_kernels.OPS[op], dims) for op, dims in calls]
    folders = [switches.cache_folder()]
    if gpu:
        folders.append(first_start.folder_of(wanted, gpu))
    plans = plan.dry_run(wanted, args.max_num_batched_tokens, device, folders)
    print(report.render(report.HEADER, report.rows(plans)))


def pack(args: argparse.Namespace) -> None:
    """Compile the kernels of models into the pack of this machine's GPU, or of an H100."""
    import torch

    from helion_kernels import qwen3
    from helion_kernels.aot import deep_gemm
    from helion_kernels.aot.make import make
    from helion_kernels.aot.target import TARGETS
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    target, gpu = "sm_90", None
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        target, gpu = f"sm_{major}{minor}", torch.cuda.get_device_name()
    try:
        if target not in TARGETS:
            raise ValueError(f"{gpu} is {target}; packs are made for {', '.join(TARGETS)}")
        tp = args.tensor_parallel_size
        guesses = args.num_speculative_tokens
        models = [_model(model, args.format) for model in args.model]
        wanted = [
            call for _, sizes, block in models for call in qwen3.calls(sizes, block, tp, guesses)
        ]
        if args.lm_head:
            wanted += [call for _, sizes, _ in models for call in qwen3.lm_head_calls(sizes, tp)]
        if any(block for _, _, block in models) and (lack := deep_gemm.missing()):
            print(f"without DeepGEMM's kernels: {lack}", file=sys.stderr)
        out = args.out or switches.cache_folder()
        make(wanted, target, out, gpu=gpu, headers=deep_gemm.headers())
    except (OSError, ValueError) as error:
        raise SystemExit(f"vllm helion pack: {error}") from None


def tune(args: argparse.Namespace) -> None:
    """Tune, with stock's kernels timed beside ours."""
    from helion_kernels import plan
    from helion_kernels.tune import cli
    from vllm.helion import stock
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    stock.register()
    raise SystemExit(cli.run(args, plan.stock(), _read))


def _model(model: str | None, format: str | None) -> "tuple[str, Sizes, bool]":
    """(name, sizes, block scales?) of a checkpoint, or in format; Qwen3-8B without one."""
    from helion_kernels.qwen3 import MODELS

    sizes, block = (MODELS["8b"], False) if model is None else _read(model)
    name = model or "Qwen3-8B"
    return name, sizes, format == "block" if format else block


def _read(model: str) -> "tuple[Sizes, bool]":
    """Sizes and kind of scales of a checkpoint folder or of a model on the hub."""
    from helion_kernels import qwen3

    if Path(model).is_dir():
        return qwen3.read(model)
    from transformers.utils import cached_file

    return qwen3.read(Path(cached_file(model, "config.json")).parent)
