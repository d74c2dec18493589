"""Graphs of a network, on a stand-in for CUDA: what is captured, replayed and waited for."""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from encoders.inference import cuda_graphs
from encoders.inference.cuda_graphs import GraphedForward
from encoders.torch_defaults import torch_defaults

EVENTS: list[str] = []


class Stream:
    def __init__(self, device: Any = None) -> None:
        self.device = device

    def wait_stream(self, other: Stream) -> None:
        EVENTS.append("wait_stream")

    def wait_event(self, event: Event) -> None:
        EVENTS.append("wait_event")


class Event:
    def record(self, stream: Stream) -> None:
        EVENTS.append("record")


class Graph:
    """Replays by calling what was captured once more, into the same memory."""

    def __init__(self) -> None:
        self.work: Any = None

    def pool(self) -> str:
        return "pool"

    def replay(self) -> None:
        EVENTS.append("replay")
        self.work()


class Fake:
    """The part of `torch.cuda` that graphs use, with its signatures in torch 2.11."""

    CUDAGraph, Stream, Event = Graph, Stream, Event

    def __init__(self) -> None:
        self.pools: list[Any] = []
        self.modes: list[str] = []
        self.capturing: Graph | None = None

    @contextmanager
    def device(self, device: torch.device):
        yield

    @contextmanager
    def stream(self, stream: Stream):
        yield

    def current_stream(self, device: torch.device | None = None) -> Stream:
        return Stream(device)

    @contextmanager
    def graph(
        self,
        cuda_graph: Graph,
        pool: Any = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
    ):
        self.pools.append(pool)
        self.modes.append(capture_error_mode)
        self.capturing = cuda_graph
        yield
        self.capturing = None


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    found = Fake()
    EVENTS.clear()
    named = {name: getattr(torch, name) for name in ("Tensor", "device")}
    monkeypatch.setattr(cuda_graphs, "torch", SimpleNamespace(cuda=found, **named))
    return found


def doubling(fake: Fake, calls: list[int]):
    """A network that notes, while it is captured, how its graph computes again."""

    def forward(x: Tensor) -> Tensor:
        calls.append(len(x))
        result = 2 * x
        if fake.capturing is not None:
            fake.capturing.work = lambda: result.copy_(2 * x)
        return result

    return forward


def test_each_shape_is_captured_once_and_replayed_from_then_on(fake: Fake) -> None:
    calls: list[int] = []
    graphed = GraphedForward(doubling(fake, calls), torch.device("cuda"))
    first = graphed(torch.ones(2, 3))
    other = graphed(torch.full((4, 3), 5.0))
    again = graphed(torch.full((2, 3), 7.0))
    # What was returned is a copy: later replays leave it alone.
    assert first.eq(2).all() and other.eq(10).all() and again.eq(14).all()
    assert calls == [2] * 4 + [4] * 4  # three to warm up and the capture, for each shape
    assert fake.pools == [None, "pool"] and set(fake.modes) == {"thread_local"}


def test_a_replay_waits_for_the_one_before_it(fake: Fake) -> None:
    graphed = GraphedForward(doubling(fake, []), torch.device("cuda"))
    for _ in range(3):
        graphed(torch.ones(2, 3))
    found = [event for event in EVENTS if event != "wait_stream"]
    turn = ["wait_event", "replay", "record"]
    assert found == ["replay", "record", *turn, *turn]


def test_a_pickled_one_captures_its_own_graphs() -> None:
    graphed = GraphedForward(torch.relu, torch.device("cuda"))
    graphed._captured[(1,)] = None  # type: ignore[assignment]
    copy = pickle.loads(pickle.dumps(graphed))
    assert copy._captured == {} and copy.device == graphed.device and copy._done is None


def test_convolutions_on_cuda_are_not_in_tf32_meanwhile() -> None:
    before = torch.backends.cudnn.allow_tf32
    with torch_defaults("cuda"):
        assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cudnn.allow_tf32 is before
    with torch_defaults("cpu"):
        assert torch.backends.cudnn.allow_tf32 is before


@pytest.mark.cuda
def test_graphs_are_captured_and_replayed_on_cuda() -> None:
    weight = torch.randn(3, 5, device="cuda")
    with torch.inference_mode():
        graphed = GraphedForward(lambda x: x @ weight, torch.device("cuda"))
        inputs = [torch.randn(n, 3, device="cuda") for n in (2, 4, 2, 1, 4)]
        found = [graphed(x) for x in inputs]
        for x, got in zip(inputs, found, strict=True):
            torch.testing.assert_close(got, x @ weight)


@pytest.mark.cuda
def test_streams_share_a_graph_on_cuda() -> None:
    """Replays on two streams read and write the same buffers, one after the other."""
    weight = torch.randn(512, 512, device="cuda")
    with torch.inference_mode():
        graphed = GraphedForward(lambda x: (x @ weight).relu() @ weight, torch.device("cuda"))
        inputs = [torch.randn(512, 512, device="cuda") for _ in range(16)]
        wanted = [(x @ weight).relu() @ weight for x in inputs]
        streams = [torch.cuda.Stream() for _ in range(2)]
        torch.cuda.synchronize()
        found = []
        for number, x in enumerate(inputs):
            with torch.cuda.stream(streams[number % 2]):
                found.append(graphed(x))
        torch.cuda.synchronize()
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want)
