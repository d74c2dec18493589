"""Recurrent policies for sb3-contrib's RecurrentPPO: the hybrid one, and LSTMs run in one call.

sb3-contrib steps its LSTM through a batch in a Python loop as soon as an episode starts in it, and
in training one starts in nearly every batch. Episodes of glimpses are short (T + 1 steps) and many:
here each becomes a row of its own, and the LSTM runs once over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from sb3_contrib.common.recurrent.policies import RecurrentMultiInputActorCriticPolicy
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from agents.sb3.policies import HybridActions

LSTMStates = tuple[Tensor, Tensor]
"""Hidden and cell state, each `[layers, n_seq, hidden]`."""


def run_lstm(
    features: Float[Tensor, "M X"],
    states: LSTMStates,
    episode_starts: Float[Tensor, " M"],
    lstm: nn.LSTM,
) -> tuple[Float[Tensor, "M N"], LSTMStates]:
    """Run an LSTM over sequences in which episodes may start anywhere, in one call.

    Same outputs, final states and gradients as `RecurrentActorCriticPolicy._process_sequence`, to
    rounding. Where an episode starts, the state before it is forgotten, so what follows can be
    computed beside what came before instead of after it.

    Args:
        features: The sequences one after another, all of one length: M steps together.
        states: State before each sequence's first step, `[layers, n_seq, hidden]`.
        episode_starts: 1 where a step is an episode's first, else 0.
        lstm: Not bidirectional, and time-major, as sb3-contrib builds it.

    Returns:
        Outputs in the order of the features, and the state after each sequence's last step.
    """
    n_seq = states[0].shape[1]
    sequences = features.reshape(n_seq, -1, lstm.input_size)
    starts = episode_starts.reshape(n_seq, -1) != 0
    going_on = (~starts[:, 0]).to(states[0].dtype).view(1, n_seq, 1)
    hidden, cell = (going_on * states[0], going_on * states[1])
    with _plain_products() if features.device.type == "cpu" else nullcontext():
        if bool(starts[:, 1:].any()):
            return _run_rows(sequences.flatten(0, 1), (hidden, cell), starts, lstm)
        outputs, after = lstm(sequences.transpose(0, 1), (hidden, cell))
    return outputs.transpose(0, 1).flatten(0, 1), after


def _run_rows(
    steps: Tensor, states: LSTMStates, starts: Tensor, lstm: nn.LSTM
) -> tuple[Tensor, LSTMStates]:
    """Cut sequences at their starts, and run the pieces as rows of one packed batch."""
    n_seq, length = starts.shape
    cuts = starts.clone()
    cuts[:, 0] = True
    row = cuts.flatten().cumsum(0) - 1
    begins = cuts.flatten().nonzero().squeeze(1)
    place = torch.arange(steps.shape[0], device=steps.device) - begins[row]
    # Packed form: rows by falling length, and of all of them first the first steps, then the
    # second ones, and so on. No step is padding.
    lengths = torch.bincount(row)
    by_length = lengths.argsort(descending=True, stable=True)
    rank = by_length.argsort()
    order = (place * lengths.shape[0] + rank[row]).argsort()
    packed = PackedSequence(steps[order], torch.bincount(place).cpu())
    # A row that is its sequence's first goes on from the given state, others from zeros.
    first, last = row.view(n_seq, length)[:, 0], row.view(n_seq, length)[:, -1]
    before = tuple(
        part.new_zeros(part.shape[0], lengths.shape[0], part.shape[2]).index_copy(
            1, rank[first], part
        )
        for part in states
    )
    outputs, (hidden, cell) = lstm(packed, before)
    return outputs.data[order.argsort()], (hidden[:, rank[last]], cell[:, rank[last]])


@contextmanager
def _plain_products() -> Iterator[None]:
    """Let the LSTM use plain matrix products instead of oneDNN's kernel, made for long sequences.

    Forwards and backwards, over our few steps and wide features, that one took twice the time.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


class FastSequences:
    """Mixin for any of sb3-contrib's recurrent policies: put it first among the bases."""

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: LSTMStates, episode_starts: Tensor, lstm: nn.LSTM
    ) -> tuple[Tensor, LSTMStates]:
        return run_lstm(features, lstm_states, episode_starts, lstm)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # sb3-contrib leaves these out, so that a policy saved by itself comes back 256 wide.
        return super()._get_constructor_parameters() | {  # type: ignore[misc]
            "lstm_hidden_size": self.lstm_actor.hidden_size,  # type: ignore[attr-defined]
            "n_lstm_layers": self.lstm_actor.num_layers,  # type: ignore[attr-defined]
            "shared_lstm": self.shared_lstm,  # type: ignore[attr-defined]
            "enable_critic_lstm": self.enable_critic_lstm,  # type: ignore[attr-defined]
            "lstm_kwargs": self.lstm_kwargs,  # type: ignore[attr-defined]
        }


class FastRecurrentMultiInputPolicy(FastSequences, RecurrentMultiInputActorCriticPolicy):
    """`MultiInputLstmPolicy` with the same weights, outputs and updates, in fewer calls.

    RecurrentPPO(FastRecurrentMultiInputPolicy, SB3VecEnv(env))
    """


class HybridRecurrentPolicy(HybridActions, FastSequences, RecurrentMultiInputActorCriticPolicy):
    """Gaussian fixation and categorical label behind an LSTM, for RecurrentPPO.

    RecurrentPPO(HybridRecurrentPolicy, SB3VecEnv(VectorFlatAction(envs)))
    """
