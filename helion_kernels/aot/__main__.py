# SPDX-License-Identifier: Apache-2.0
"""Make a pack: python -m helion_kernels.aot --models 8b --target sm_90 --out DIR"""

import argparse
import json
import sys
from pathlib import Path

from helion_kernels.aot.deep_gemm import INCLUDE
from helion_kernels.aot.make import cache_folder, make, tuned
from helion_kernels.aot.target import TARGETS
from helion_kernels.qwen3 import MODELS, Call, calls, lm_head_calls
from helion_kernels.registry import OPS
from helion_kernels.select import ConfigError

GUESSES = (0, 3)
"""Tokens that speculative decoding guesses: three are usual for EAGLE3."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m helion_kernels.aot", description=__doc__)
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, help="default: those with tuned configs"
    )
    parser.add_argument("--tp", nargs="+", type=int, default=[1], help="tensor parallel sizes")
    parser.add_argument(
        "--num-speculative-tokens",
        nargs="+",
        type=int,
        default=GUESSES,
        help="guesses of a step, for whose attention there are kernels; 0 and 3",
    )
    parser.add_argument(
        "--calls", metavar="JSON", help="instead of models: a list of [op, [dims]], as plans have"
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help="whose tuned configs; default: those of all with such code"
    )
    parser.add_argument("--target", choices=TARGETS, default="sm_90")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for TARGET.pack")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder(), help="folder of compiled kernels"
    )
    parser.add_argument(
        "--deep-gemm",
        type=Path,
        metavar="DIR",
        help=f"headers of DeepGEMM and CUTLASS, {INCLUDE} of upstream: the pack gets its kernels",
    )
    parser.add_argument("--jobs", type=int, help="processes; default: one for each core")
    options = parser.parse_args(arguments)

    try:
        make(
            _given(options.calls) if options.calls else _of_models(options),
            *(options.target, options.out, options.cache, options.jobs, options.gpu),
            headers=options.deep_gemm,
        )
    except (ConfigError, OSError, ValueError) as error:
        parser.error(str(error))
    return 0


def _of_models(options: argparse.Namespace) -> list[Call]:
    return [
        call
        for model in options.models or tuned(options.target)
        for tp in options.tp
        for block in (False, True)
        for guesses in options.num_speculative_tokens
        for call in calls(MODELS[model], block, tp, guesses) + lm_head_calls(MODELS[model], tp)
    ]


def _given(text: str) -> list[Call]:
    try:
        found = [(name, tuple(OPS[name].dims(*dims))) for name, dims in json.loads(text)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"--calls is no list of ops and dims: {error!r}") from None
    return found


if __name__ == "__main__":
    sys.exit(main())
