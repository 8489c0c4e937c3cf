# SPDX-License-Identifier: Apache-2.0
"""``python -m distribution``: what a maintainer of this distribution does by hand."""

import argparse
from collections.abc import Callable
from pathlib import Path

from . import inplace, overlay, patch
from .build import ROOT, build_wheel, configured
from .editable import place
from .errors import one_line
from .port import port
from .variant import VARIANTS
from .wheel import without_dist_info

EPILOG = """\
environment:
  VLLM_TARGET_DEVICE=cuda|cpu      the variant; default: cuda where an NVIDIA driver is
  VLLM_HELION_CUDA_ARCH_LIST=9.0a  keep device code for these architectures only
                                   (several: 9.0a;10.0); 9.0a+PTX also keeps older PTX where
                                   nothing else would run
  VLLM_HELION_PACK_MODELS=8b,32b   models whose kernels the cuda wheel has as machine code;
                                   default: all that are tuned, with ..._ARCH_LIST Qwen3-8B
  VLLM_HELION_PACKS=0              no machine code for our kernels, nor for upstream's Triton
                                   kernels, in the cuda wheel: they are compiled when the engine
                                   starts, the build needs no PyTorch
  PIP_INDEX_URL, PIP_FIND_LINKS …  where pip fetches upstream's wheels from
  XDG_CACHE_HOME                   vllm-helion/ in it keeps the fetched wheels

examples:
  pip install .                          build and install, for this machine's device
  pip install -e .                       the same with our files linked, for development
  python -m distribution check           before a commit that touches patches/ or vllm/
  python -m distribution port 0.27.0     before a move to another release of upstream
"""


def check(options: argparse.Namespace) -> int:
    """Demand that patches have their headers and fit exactly, and that our files shadow nothing."""
    build = configured(device="cuda")
    tree = without_dist_info(build.foundation())
    patches = patch.read_series(ROOT / "patches")
    patch.apply(patches, tree)
    overlay.lay(ROOT, tree)
    for item in patches:
        print(f"{item.name}: fits; {item.headers['Why']}")
    print(f"{len(patches)} patches of {patch.LIMIT} fit vLLM {build.upstream.version} exactly")
    return 0


def try_port(options: argparse.Namespace) -> int:
    """Try the patches on another release, hunk by hunk, and change nothing; 1 if one fails."""
    patches = patch.read_series(ROOT / "patches")
    hunks = port(patches, options.version)
    for hunk in hunks:
        print(hunk)
    failed = sum(hunk.state == "fails" for hunk in hunks)
    print(f"vLLM {options.version}: {len(hunks)} hunks, {failed} fail")
    return 1 if failed else 0


def overlay_tree(options: argparse.Namespace) -> int:
    """Turn a site folder that holds stock vLLM (vllm/ and its dist-info) into ours, in place."""
    inplace.apply(configured(device=options.variant), options.tree)
    return 0


def compile_here(options: argparse.Namespace) -> int:
    """Compile the dispatcher and, for cuda, packs of our kernels and of upstream's into this
    checkout, where an editable installation and ``overlay`` find them."""
    build = configured(device=options.variant)
    place(ROOT, build.compiled(build.foundation()))
    return 0


def wheel(options: argparse.Namespace) -> int:
    """Build the wheel as pip would, without its isolated environment."""
    print(build_wheel(configured(), options.out))
    return 0


def version(options: argparse.Namespace) -> int:
    """Print the version that a build would get."""
    print(configured().version)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m distribution",
        description="Build vLLM-Helion from upstream's wheel, and look after its patches.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[..., int]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(run=function)
        return sub

    command("check", check)
    command("port", try_port).add_argument("version", metavar="VERSION", help="such as 0.27.0")
    in_place = command("overlay", overlay_tree)
    in_place.add_argument("--tree", type=Path, required=True, metavar="DIR", help="the site folder")
    in_place.add_argument("--variant", choices=VARIANTS, default="cuda", help="default: cuda")
    compiling = command("compile", compile_here)
    compiling.add_argument("--variant", choices=VARIANTS, default="cuda", help="default: cuda")
    command("wheel", wheel).add_argument(
        "--out", type=Path, default=Path("dist"), metavar="DIR", help="default: dist"
    )
    command("version", version)
    return parser


if __name__ == "__main__":
    with one_line():
        options = _parser().parse_args()
        raise SystemExit(options.run(options))
