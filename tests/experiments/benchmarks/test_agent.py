"""The training step's benchmark: its work counted two ways, its parts, and its verdict."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from experiments.benchmarks.agent import CLAIM, LEAST_SHARE
from experiments.benchmarks.free_env import FreeVectorEnv
from experiments.benchmarks.step.products import ALONE, MOVES, moves, products_alone
from experiments.benchmarks.step.step_work import (
    Product,
    all_flops,
    least_seconds,
    model_flops,
    parameter_passes,
    products_of_step,
)
from experiments.benchmarks.step.training_step import PARTS, QUICK, TrainingStep
from experiments.cli import main

CPU = torch.device("cpu")


def count_by_torch(network, learning, batch):
    """FLOPs of a rollout and of its update, as torch's own counter sees them."""
    env = FreeVectorEnv(
        batch,
        features=network.feature_size,
        resolutions=network.num_resolutions,
        classes=network.num_classes,
        num_glimpses=network.num_glimpses,
    )
    agent = ReinforceAgent(network, learning, device="cpu")
    with FlopCounterMode(display=False) as rollout:
        trajectory = collect(env, agent, grad=True)
    with FlopCounterMode(display=False) as update:
        agent.update(trajectory)
    return rollout.get_total_flops(), update.get_total_flops()


@pytest.mark.parametrize("mode", ["mix", "policy", "backprop"])
@pytest.mark.parametrize("glimpses", [1, 2, 3, 5])
@pytest.mark.parametrize("baseline", ["network", "none"])
def test_the_count_by_shapes_is_torchs(mode, glimpses, baseline):
    # Every width differs, so that no mistake can hide behind another.
    network = TwoDeckConfig(
        feature_size=11,
        num_resolutions=2,
        num_classes=7,
        num_glimpses=glimpses,
        hidden_size=13,
        image_width=17,
        location_width=5,
        glimpse_width=19,
    )
    learning = ReinforceConfig(location_gradient=mode, baseline=baseline)
    products = products_of_step(network, learning, batch=6)
    forward = sum(product.flops for product in products if product.kind == "forward")
    # Exactly equal: the rollout is the one forward pass, and the update does no second one.
    assert count_by_torch(network, learning, 6) == (forward, all_flops(products) - forward)
    assert (all_flops(products) > model_flops(products)) == (mode == "mix" and glimpses > 1)


def test_the_full_size_by_hand():
    products = products_of_step(TwoDeckConfig(), ReinforceConfig(), batch=128)
    by_layer = {(each.layer, each.kind): each for each in products}
    # The four 4,096 x 4,096 products of glimpses 2 and 3, and of 1 and 2 in the upper deck.
    for layer in ("core.lower.recurrent", "core.upper.input", "core.upper.recurrent"):
        assert by_layer[layer, "forward"].flops == 2 * (2 * 128 * 4096 * 4096)
    assert by_layer["glimpse.image", "weight"].flops == 3 * (2 * 128 * 3072 * 1024)
    assert ("glimpse.image", "input") not in by_layer
    # Six of those make most of 33.5 GFLOPs forward; a model's backward pass is twice its forward
    # one, less the gradients of the inputs, which nobody needs.
    forward = sum(each.flops for each in products if each.kind == "forward")
    assert forward / 1e9 == pytest.approx(33.5, abs=0.1)
    assert 2.8 < model_flops(products) / forward < 3.0


def test_other_networks_are_not_counted():
    for other in (
        TwoDeckConfig(core="lstm"),
        TwoDeckConfig(combine="multiply"),
        TwoDeckConfig(location_density="mixture"),
        TwoDeckConfig(choose_scale=True),
    ):
        with pytest.raises(ValueError, match="Only the paper's network"):
            products_of_step(other, ReinforceConfig(), 4)


def test_bytes_and_the_roofline():
    product = Product("layer", "weight", rows=2, inputs=3, outputs=5, count=4)
    assert product.flops == 2 * 2 * 3 * 5 * 4
    assert product.bytes == 4 * (3 * 5 + 2 * 3 + 2 * 5) * 4
    once = Product("other", "weight", rows=2, inputs=3, outputs=5, count=1)
    # Bound by arithmetic where the bandwidth has no end, by memory where the peak has none.
    assert least_seconds((product, once), 10.0, math.inf) == (240 + 60) / 10
    assert least_seconds((product, once), math.inf, 8.0) == (496 + 124) / 8
    moved = parameter_passes((product, once), 100, ReinforceConfig())
    assert moved == {"sums": 4 * 3 * 3 * 15, "clip": 4 * 3 * 100, "optimiser": 4 * 5 * 100}
    adam = ReinforceConfig(optimizer="adam", max_gradient_norm=None)
    moved = parameter_passes((once,), 100, adam)
    assert moved == {"sums": 0, "clip": 4 * 100, "optimiser": 4 * 7 * 100}


def test_the_step_in_parts_is_the_step():
    whole, parts = (TrainingStep(8, QUICK, CPU) for _ in range(2))
    start = {name: value.clone() for name, value in whole.agent.network.state_dict().items()}
    for _ in range(3):
        whole.whole()
        parts.in_parts()
    for name, value in whole.agent.network.state_dict().items():
        assert torch.equal(value, parts.agent.network.state_dict()[name]), name
    assert not torch.equal(value, start[name])  # both have learned
    assert list(parts.seconds) == list(PARTS)
    assert all(len(spent) == 3 and min(spent) > 0 for spent in parts.seconds.values())


def test_no_part_of_a_step_goes_from_environment_to_environment():
    few, many = (TrainingStep(8, QUICK, CPU, batch).calls() for batch in (4, 64))
    assert few == many
    assert 100 < few["operators"] < few["functions"]


def test_calls_of_a_loop_are_seen():
    step = TrainingStep(8, QUICK, CPU, 4)
    plain = step.calls()
    act = step.agent.act

    def act_row_by_row(observation, *rest, **named):
        for row in observation["remaining"]:
            row.abs()
        return act(observation, *rest, **named)

    step.agent.act = act_row_by_row  # pyright: ignore[reportAttributeAccessIssue]
    looped = step.calls()
    assert looped["operators"] >= plain["operators"] + 4 * 4  # T + 1 turns, 4 environments
    assert looped["functions"] >= plain["functions"] + 4 * 4


def test_the_products_alone_are_all_of_the_steps():
    step = TrainingStep(8, QUICK, CPU)
    done = {}
    for contender in products_alone("8", step.products, CPU):
        with FlopCounterMode(display=False) as counter:
            done[contender.name.removeprefix("8: products, ")] = contender.work()
        assert counter.get_total_flops() == contender.work()
    assert set(done) == set(ALONE)
    assert done["all"] == done["all, new memory"] == all_flops(step.products)
    assert done["all"] == done["forward"] + done["input"] + done["weight"]


def test_what_moves_memory_is_counted_in_bytes():
    copy, scale, add = moves(10, CPU)
    # Two matrices of float32 pass by, or the same twice; adding reads both and writes one.
    assert (copy.work(), scale.work(), add.work()) == (80, 80, 120)


def test_the_agent_benchmark_runs(tmp_path, capsys):
    assert main(["benchmark", "agent", "--quick", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "benchmark-agent.json").read_text())
    table = capsys.readouterr().out
    assert record["quick"] is True and CLAIM in table
    step = record["steps"]["8"]
    rates = record["rates"]
    # The verdict is what the numbers say, whatever they are.
    assert record["holds"] == (min(step["share_of_peak"].values()) >= LEAST_SHARE)
    peak = max(rates[f"{side} x {side} float32"]["clock"]["median"] for side in QUICK.squares)
    episodes = rates["8 units: step"]["clock"]["median"]
    achieved = step["flops"]["model"] * episodes / QUICK.batch
    assert step["share_of_peak"]["clock"] == pytest.approx(achieved / peak, rel=1e-3, abs=6e-5)
    assert rates["8 units: step"]["units"] % QUICK.batch == 0
    assert step["flops"]["collect"] + step["flops"]["update"] == step["flops"]["all"]
    assert set(step["milliseconds"]) == set(PARTS)
    assert all(len(rates[name]["clock"]["windows"]) == 2 for name in MOVES)
    one, other = record["calls_a_step"].values()
    assert one == other
