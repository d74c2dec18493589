"""CUDA graphs of a frozen network: one capture for each shape of input, replayed ever after.

GoogLeNet is some 150 small kernels; on a fast GPU launching them one by one takes longer than
running them. A graph launches all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class GraphedForward:
    """Replays `forward` from a graph; inputs of every shape are captured when first seen.

    Inputs and outputs live in buffers of the graph: what is returned is valid until the next call
    with an input of the same shape.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Take a function of one CUDA tensor that neither synchronises nor depends on values."""
        self.forward, self.device = forward, device
        self._captured: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool: Any = None

    def __call__(self, x: Tensor) -> Tensor:
        """The output of `forward`, in the graph's own buffer."""
        shape = tuple(x.shape)
        if shape not in self._captured:
            self._captured[shape] = self._capture(x)
        graph, given, result = self._captured[shape]
        given.copy_(x)
        graph.replay()
        return result

    def _capture(self, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = x.clone()
        # cuDNN chooses its algorithms, and the allocator its blocks, outside of the capture.
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.forward(given)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # One pool of memory for all shapes: they never run at the same time.
        with torch.cuda.graph(graph, pool=self._pool):
            result = self.forward(given)
        self._pool = self._pool or graph.pool()
        return graph, given, result
