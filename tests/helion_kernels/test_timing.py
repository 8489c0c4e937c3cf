# SPDX-License-Identifier: Apache-2.0
"""What is timed, without a GPU: graphs keep what they write."""

import gc
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import torch

from helion_kernels import timing


def test_a_graph_keeps_what_its_arm_owns(monkeypatch):
    """A buffer between two kernels belongs to the closure alone, and a replay writes it."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, fake in (
        ("Stream", lambda: stream),
        ("current_stream", lambda: stream),
        ("stream", nullcontext),
        ("CUDAGraph", object),
        ("graph", nullcontext),
    ):
        monkeypatch.setattr(torch.cuda, name, fake)

    def arm():
        between = torch.zeros(3)
        owned.append(weakref.ref(between))
        return lambda: between.add_(1)

    owned: list[weakref.ref[torch.Tensor]] = []
    graph = timing.Graph([arm(), arm()], 4)
    gc.collect()
    assert [float(tensor().sum()) for tensor in owned] == [9.0, 6.0]  # once to warm up
    del graph
    gc.collect()
    assert [tensor() for tensor in owned] == [None, None]
