"""Benchmarks: fair turns, honest statistics, records that can be read back, free environments."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecEnv

from agents.configs import TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from experiments import benchmarks
from experiments.benchmarks.command import BenchmarkConfig, benchmark
from experiments.benchmarks.free_env import FreeVecEnv, FreeVectorEnv
from experiments.benchmarks.timing import Contender, Rate, Result, interleave, machine_record
from experiments.cli import main

SIZES = {"features": 6, "resolutions": 2, "classes": 3, "num_glimpses": 2}


def sleeper(name, seconds, units, calls):
    def work():
        calls.append(name)
        time.sleep(seconds)
        return units

    return Contender(name, work)


def test_rates_are_units_over_time():
    calls: list[str] = []
    fast, slow = sleeper("fast", 0.005, 10, calls), sleeper("slow", 0.02, 10, calls)
    rates = interleave([fast, slow], windows=5, seconds=0.03)
    # A sleep lasts at least its time: the rate cannot exceed units / time, and is near it unless
    # the machine is very busy.
    clock = {name: np.median(rate.clock) for name, rate in rates.items()}
    assert 200 < clock["fast"] <= 2000
    assert 50 < clock["slow"] <= 500
    assert rates["fast"].over(rates["slow"])[1] == clock["fast"] / clock["slow"] > 1.5
    assert len(rates["fast"].clock) == len(rates["fast"].processor) == 5
    assert rates["fast"].units == 10 * (calls.count("fast") - 1)  # one to warm up


def test_waiting_takes_no_processor_time_and_computing_does():
    def compute():
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return 10

    rates = interleave(
        [sleeper("wait", 0.02, 10, []), Contender("compute", compute)], windows=3, seconds=0.0
    )
    assert 350 < np.median(rates["compute"].processor) <= 500
    assert np.median(rates["wait"].processor) > 3 * np.median(rates["wait"].clock)


def test_turns_alternate_and_warm_up_comes_first():
    calls: list[str] = []
    interleave([sleeper(n, 0.0, 1, calls) for n in "abc"], windows=3, seconds=0.0, warm_up=2)
    assert "".join(calls) == "aabbcc" + "abc" + "cba" + "abc"


def test_names_differ_and_there_is_a_window():
    same = [sleeper("a", 0.0, 1, []), sleeper("a", 0.0, 1, [])]
    with pytest.raises(ValueError, match="different names"):
        interleave(same, windows=1, seconds=0.0)
    with pytest.raises(ValueError, match="at least one window"):
        interleave(same[:1], windows=0, seconds=0.0)


def test_medians_quartiles_and_ratios():
    rate = Rate(clock=(4.0, 1.0, 3.0, 2.0, 100.0), processor=(8.0, 6.0, 4.0, 2.0, 200.0), units=7)
    assert rate.record() == {
        "clock": {"median": 3.0, "quartiles": [2.0, 4.0], "windows": [4.0, 1.0, 3.0, 2.0, 100.0]},
        "processor": {
            "median": 6.0,
            "quartiles": [4.0, 8.0],
            "windows": [8.0, 6.0, 4.0, 2.0, 200.0],
        },
        "units": 7,
    }
    assert rate.cell() == "6 (4 to 8), clock 3"
    assert rate.over(Rate((1.5,), (12.0,), 1)) == (0.5, 2.0)


def test_a_result_as_markdown():
    result = Result("Fast.", False, ("agent", "rate"), (("a", "1"), ("b", "2")), ("Noted.",), {})
    assert result.markdown().splitlines() == [
        "**Fast.** It does not hold here.",
        "",
        "| agent | rate |",
        "|---|---:|",
        "| a | 1 |",
        "| b | 2 |",
        "",
        "- Noted.",
    ]
    assert "It holds here." in replace(result, holds=True).markdown()
    assert result.record()["table"] == [["agent", "rate"], ["a", "1"], ["b", "2"]]


def test_the_machine_is_told():
    record = machine_record(("stable-baselines3", "no-such-package"))
    assert record["versions"]["torch"] == version("torch")
    assert record["versions"]["no-such-package"] == "not installed"
    assert record["machine"]["threads"] == torch.get_num_threads()
    assert record["machine"]["cores"] >= 1
    json.dumps(record)


def test_every_module_with_a_run_is_listed(capsys):
    folder = Path(benchmarks.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if "\ndef run(" in path.read_text()}
    assert found == set(benchmarks.BENCHMARKS)
    assert main(["benchmark"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in found)


def test_an_unknown_benchmark_is_refused(capsys):
    try:
        status = main(["benchmark", "nonsense"])
    except SystemExit as end:  # how newer releases of tyro end, with the options beside it
        status = end.code
    assert status in (1, 2)
    assert "There is no benchmark nonsense" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"choose from .*recurrent.*, or all"):
        BenchmarkConfig(("nonsense",))


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "experiments.benchmarks.recurrent", raising=False)
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    monkeypatch.delitem(sys.modules, "agents.sb3.recurrent", raising=False)
    with pytest.raises(ValueError, match="pip install sb3-contrib"):
        benchmark(BenchmarkConfig(("recurrent",)))


def test_the_two_free_environments_are_one_game():
    ours, theirs = FreeVectorEnv(3, **SIZES), FreeVecEnv(3, **SIZES)
    assert isinstance(theirs, VecEnv)
    first, _ = ours.reset()
    assert ours.observation_space.contains(first)
    for key, value in theirs.reset().items():
        np.testing.assert_array_equal(first[key], value)
    for step in range(1, 7):
        observation, reward, terminated, truncated, _ = ours.step(None)
        other, rewards, dones, infos = theirs.step(np.zeros((3, 5), np.float32))
        for key, value in other.items():
            np.testing.assert_array_equal(observation[key], value)
        np.testing.assert_array_equal(reward, rewards)
        np.testing.assert_array_equal(terminated, dones)
        assert terminated.all() == (step % 3 == 0) and not truncated.any()
        assert len(infos) == 3
    assert 0 < theirs.game.success.sum() < 3


def test_our_agent_plays_the_free_game_as_it_plays_others():
    env = FreeVectorEnv(4, **SIZES)
    agent = ReinforceAgent.from_spaces(
        env.single_observation_space,
        env.single_action_space,
        network=TwoDeckConfig(num_glimpses=2, hidden_size=4, image_width=4, glimpse_width=4),
        device="cpu",
    )
    before = {key: value.copy() for key, value in env.game.observations[1].items()}
    trajectory = collect(env, agent, grad=True)
    agent.update(trajectory)
    assert trajectory.returns.tolist() == env.game.success.astype(float).tolist()
    assert trajectory.next_observation is env.game.observations[0]
    for key, value in before.items():
        np.testing.assert_array_equal(env.game.observations[1][key], value)


def test_the_recurrent_benchmark_runs(tmp_path, capsys):
    assert main(["benchmark", "recurrent", "--quick", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "benchmark-recurrent.json").read_text())
    table = capsys.readouterr().out
    assert record["quick"] is True
    rates = record["steps_a_second"]["4"]
    ratios = []
    for measure in ("processor", "clock"):
        ours, stock = (
            rates[name][measure]["median"]
            for name in ("two-deck agent (ours)", "RecurrentPPO, stock")
        )
        ratios.append(ours / stock)
    # The verdict is what the numbers say, whatever they are.
    assert record["holds"] == (min(ratios) >= 10)
    assert f"{ratios[0]:.1f}x, clock {ratios[1]:.1f}x" in table
    assert record["agents"]["4"]["RecurrentPPO, stock"]["passes_a_sample"] == 10
    assert record["rollouts"]["default"]["n_steps"] == 16
    for name, facts in record["agents"]["4"].items():
        assert facts["parameters"] > 0, name
        assert len(rates[name]["clock"]["windows"]) == 2
