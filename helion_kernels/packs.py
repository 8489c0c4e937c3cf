# SPDX-License-Identifier: Apache-2.0
"""Which packs serve a device: `sm_90.pack` and the like, the user's first, then the package's own.

A pack that cannot be used costs time and no result: the log says why, once, and its kernels are
compiled instead.
"""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from helion_kernels import native
from helion_kernels.aot.index import PackError
from helion_kernels.op import Op
from helion_kernels.select import Choice

SHIPPED = Path(__file__).parent / "packs"

logger = logging.getLogger(__name__)


@cache
def usable(device: int, folders: tuple[Path, ...]) -> list[native.Pack]:
    """The packs for a CUDA device in folders and in the package, in that order, verified."""
    from helion_kernels.registry import OPS

    major, minor = torch.cuda.get_device_capability(device)
    paths = [folder / f"sm_{major}{minor}.pack" for folder in (*folders, SHIPPED)]
    found = []
    for path in filter(Path.exists, paths):
        try:
            native.load(OPS.values())
            found.append(native.Pack.open(path, device))
        except native.Unavailable as error:
            _refuse(path, error, "install the wheel again, or build csrc/ as its README says")
        except PackError as error:
            _refuse(path, error, "make it again with `python -m helion_kernels.aot`, or remove it")
    return found


def load(
    packs: list[native.Pack],
    op: Op,
    dims: tuple[Any, ...],
    choices: Sequence[Choice],
    device: torch.device,
) -> int | None:
    """A plan of the dispatcher for choices, loaded on device; None unless one pack has them all.

    A pack whose code does not load is taken out of packs.
    """
    for pack in list(packs):
        try:
            number = pack.plan(op.name, dims, [(choice.key, choice.upto) for choice in choices])
            if number is not None:
                native.prepare(number, device.index)
                return number
        except native.Unavailable as error:
            packs.remove(pack)
            _refuse(pack.path, error, "update the driver, or remove the pack")
    return None


def _refuse(path: Path, why: Exception, mend: str) -> None:
    reason = str(why).removeprefix(f"{path}: ")
    logger.warning("%s is not used, its kernels are compiled instead: %s; %s", path, reason, mend)
