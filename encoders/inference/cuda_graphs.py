"""CUDA graphs of a frozen network: one capture for each shape of input, replayed ever after.

GoogLeNet is some 150 small kernels; on a fast GPU launching them one by one takes longer than
running them. A graph launches all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from torch import Tensor


class GraphedForward:
    """Replays `forward` from a graph; inputs of every shape are captured when first seen.

    Inputs and outputs live in buffers of the graphs; what is returned is a copy.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Take a function of one CUDA tensor that neither synchronises nor depends on values."""
        self.forward, self.device = forward, device
        self._captured: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool: Any = None
        self._done: torch.cuda.Event | None = None
        self._lock = Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """The output of `forward`."""
        shape = tuple(x.shape)
        # Environments of one process share an encoder, and may step in threads of their own.
        with self._lock, torch.cuda.device(self.device):
            if shape not in self._captured:
                self._captured[shape] = self._capture(x)
            graph, given, result = self._captured[shape]
            stream = torch.cuda.current_stream(self.device)
            # Graphs share memory: on another stream the replay before this one may still run.
            if self._done is None:
                self._done = torch.cuda.Event()
            else:
                stream.wait_event(self._done)
            given.copy_(x)
            graph.replay()
            found = result.clone()
            self._done.record(stream)
            return found

    def __getstate__(self) -> dict[str, Any]:
        """Without the graphs, which belong to this process; a copy captures its own."""
        return {"forward": self.forward, "device": self.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without a graph."""
        self.__init__(state["forward"], state["device"])

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
        # One pool of memory for all shapes: they never run at the same time. What other threads
        # allocate meanwhile is no part of the capture, and must not end it.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            result = self.forward(given)
        self._pool = self._pool or graph.pool()
        return graph, given, result
