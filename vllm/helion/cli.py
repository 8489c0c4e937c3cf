# SPDX-License-Identifier: Apache-2.0
"""`vllm helion status`: what would run here, and why. `vllm helion tune`: make it faster."""

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
        elif args.helion_command == "tune":
            tune(args)
        else:
            args.helion_help()

    def subparser_init(self, subparsers: argparse._SubParsersAction) -> "FlexibleArgumentParser":
        parser = subparsers.add_parser(
            self.name,
            help="Show which Helion kernels serve a model, and why; tune them.",
            description=DESCRIPTION,
            usage="vllm helion {status,tune} [options]",
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
        add.add_argument(
            "--format",
            choices=("per-token", "block"),
            default=None,
            help="FP8 format; default: the checkpoint's, or per-token",
        )
        add.add_argument("--tensor-parallel-size", "-tp", type=int, default=1, metavar="N")
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
        return parser


def cmd_init() -> list[CLISubcommand]:
    return [HelionSubcommand()]


def status(args: argparse.Namespace) -> None:
    """Print build, switches and the table of ops."""
    import torch

    import helion_kernels
    from helion_kernels import plan, qwen3
    from vllm.helion import build, report, served, stock
    from vllm.plugins import load_general_plugins
    from vllm.version import __version__

    load_general_plugins()
    info = build.info()
    print(f"vllm {__version__} ({info.get('variant', 'editable')}), configs {build.fingerprint()}")
    for name, value in switches.values().items():
        print(f"  {name}={value}  {switches.SWITCHES[name][1]}")
    try:
        name, sizes, block = _model(args.model)
        if args.format is not None:
            block = args.format == "block"
        calls = qwen3.calls(sizes, block, args.tensor_parallel_size)
    except (OSError, ValueError) as error:
        raise SystemExit(f"vllm helion status: {error}") from None

    refusal = served.switch_refusal()
    print(
        f"{name}, {'block' if block else 'per-token'} FP8, tp {args.tensor_parallel_size}: ", end=""
    )
    if refusal is not None:
        print(f"runs stock: {refusal}")
        return
    stock.register()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"on {torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu'}")
    plans = plan.dry_run(
        [(helion_kernels.OPS[op], dims) for op, dims in calls], args.max_num_batched_tokens, device
    )
    print(report.render(report.HEADER, report.rows(plans)))


def tune(args: argparse.Namespace) -> None:
    """Tune, with stock's kernels timed beside ours."""
    from helion_kernels import plan
    from helion_kernels.tune import cli
    from vllm.helion import stock
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    stock.register()
    raise SystemExit(cli.run(args, plan.stock(), _read))


def _model(model: str | None) -> "tuple[str, Sizes, bool]":
    """(name, sizes, block scales?) of a checkpoint; Qwen3-8B without one."""
    from helion_kernels.qwen3 import MODELS

    return ("Qwen3-8B", MODELS["8b"], False) if model is None else (model, *_read(model))


def _read(model: str) -> "tuple[Sizes, bool]":
    """Sizes and kind of scales of a checkpoint folder or of a model on the hub."""
    from helion_kernels import qwen3

    if Path(model).is_dir():
        return qwen3.read(model)
    from transformers.utils import cached_file

    return qwen3.read(Path(cached_file(model, "config.json")).parent)
