"""Every benchmark of speed runs, and its verdict is what its numbers say. No time is tested."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from encoders.inference.openvino_form import openvino_obstacle
from encoders.spec import get_spec
from experiments.benchmarks import encoder, encoders, environment, peak, pyramids, workers
from experiments.benchmarks.environment import Free
from experiments.benchmarks.timing import Rate
from experiments.cli import main


def run(name: str, folder: Path) -> dict[str, Any]:
    assert main(["benchmark", name, "--quick", "--out", str(folder)]) == 0
    record = json.loads((folder / f"benchmark-{name}.json").read_text())
    assert record["quick"] is True and record["table"] and record["notes"]
    assert record["environment"]["machine"]["cores"] >= 1
    return record


def rate(*clock: float) -> Rate:
    return Rate(clock, clock, 1)


def test_retina(tmp_path: Path) -> None:
    record = run("retina", tmp_path)
    rates = record["glimpses_a_second"]["4"]
    ours = rates["ours"]["clock"]["median"]
    assert {"memcpy", "grid_sample", "ours, image by image"} <= rates.keys()
    for name, ratio in record["ours_over"].items():
        assert ratio == pytest.approx(ours / rates[name]["clock"]["median"], rel=1e-2, abs=1e-3)
    over = record["ours_over"]
    peer = over.get("ap_gym", 0) >= 100  # without ap_gym the claim is not shown
    assert record["holds"] == (peer and over["grid_sample"] >= 10 and over["memcpy"] >= 0.5)


def test_encoders(tmp_path: Path) -> None:
    words = ["benchmark", "encoders", "--quick", "--out", str(tmp_path)]
    assert main([*words, "--encoders", "inception_mini", "inception_mini@128"]) == 0
    record = json.loads((tmp_path / "benchmark-encoders.json").read_text())
    small, large = (record["encoders"][name] for name in ("inception_mini", "inception_mini@128"))
    assert small["fingerprint"] == large["fingerprint"] == get_spec("inception_mini").fingerprint
    assert (small["patch_side"], large["patch_side"]) == (96, 128)
    assert large["macs_a_patch"] == pytest.approx(small["macs_a_patch"] * (128 / 96) ** 2, rel=0.1)
    assert small["patches_a_second"]["clock"]["median"] > 0
    assert small["map"] == [12, 12, 32] and small["features"] == 128


def test_multiply_adds_of_a_patch_are_those_of_its_layers() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=8)
    )
    expected = 48 * 48 * (8 * 3 * 9 + 8 * 9)
    assert peak.count_flops(network, torch.zeros(1, 3, 96, 96)) // 2 == expected
    # GoogLeNet's usual 1.5 billion at 224 x 224, stem at stride 2 and all inception blocks.
    assert encoders.count_macs(get_spec("googlenet_224"), 224) == pytest.approx(1.5e9, rel=0.1)


def test_encoders_that_are_named_must_be_there(capsys: pytest.CaptureFixture) -> None:
    for words, message in (
        (["encoders", "--encoders", "googlenat"], "googlenat"),
        (["encoders", "--encoders", "googlenet@40"], "from 64 to 224"),
        (["retina", "--encoders", "googlenet"], "--encoders is of the benchmark encoders"),
    ):
        try:
            status = main(["benchmark", *words, "--quick"])
        except SystemExit as end:
            status = end.code
        assert status in (1, 2)
        assert message in " ".join(capsys.readouterr().err.split())


def test_backends(tmp_path: Path) -> None:
    if openvino_obstacle(torch.float32) is not None:
        pytest.skip(str(openvino_obstacle(torch.float32)))
    record = run("backends", tmp_path)
    rates = record["patches_a_second"]
    for name, ratio in record["openvino_over_torch"].items():
        one, other = (rates[f"{who}, {name}"]["clock"]["median"] for who in ("openvino", "torch"))
        assert ratio["clock"] == pytest.approx(one / other, rel=1e-2, abs=1e-3)
    assert record["holds"] == all(
        ratio["clock"] > 1 for ratio in record["openvino_over_torch"].values()
    )
    assert record["relative_error"]["openvino, fp32"] < 1e-4


def test_environment(tmp_path: Path) -> None:
    record = run("environment", tmp_path)
    found = record["found"]
    assert record["holds"] == (
        found["share"] <= 0.05 and found["bank"] >= 200_000 and found["scalar_ms"] <= 1
    )
    rates = record["glimpses_a_second"]
    bare, free = (
        rates[f"{name}, 2"]["clock"]["median"] for name in ("bare encoder", "free encoder")
    )
    assert found["share"] == pytest.approx(bare / free, rel=1e-2)


def test_reading(tmp_path: Path) -> None:
    record = run("reading", tmp_path)
    rates, found = record["episodes_a_second"], record["found"]
    assert len(rates) == 8 and all(len(each["clock"]["windows"]) == 2 for each in rates.values())
    share = found["training: share of the warm rate, fetching"]
    assert record["holds"] == (share >= 0.9)
    cold, warm = (
        rates[f"training, {state}, fetching"]["clock"]["median"] for state in ("cold", "warm")
    )
    assert share == pytest.approx(cold / warm, rel=1e-2)
    # A context and three glimpses at three resolutions, 1,024 numbers of two bytes each.
    assert record["bytes"]["served_an_episode"] == 2 * 1024 * 10


@pytest.mark.slow
def test_workers(tmp_path: Path) -> None:
    record = run("workers", tmp_path)
    efficiency = record["efficiency"]
    assert set(efficiency) == {"bank, images", "run, episodes", "torchrun, glimpses"}
    assert record["holds"] == (min(efficiency.values()) >= 0.9)
    for name, rates in record["rates"].items():
        one, two = (rates[count]["clock"]["median"] for count in ("one", "two"))
        assert efficiency[name] == pytest.approx(two / one / 2, rel=1e-2)


def _dies(sizes: workers.Sizes) -> workers.Work:
    os._exit(3)


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(ValueError, match="a worker of the benchmark died"):
        workers._one_and_two(_dies, workers.QUICK)


def test_a_free_encoder_is_free_and_right_in_shape() -> None:
    features = Free()(torch.zeros(7, 3, 96, 96))
    assert features.shape == (7, 1024) and features.stride(0) == 0
    assert isinstance(Free(), nn.Module)
    assert environment.GLIMPSES == 3


def test_pyramids_of_drawn_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record = run("pyramids", tmp_path)
    assert record["settings"]["kind"] == "drawn, as JPEG"
    assert record["holds"] == (max(record["times_over_decoding"].values()) < 3)


def test_pyramids_are_of_the_first_images(tmp_path: Path) -> None:
    with pyramids._images(3, tmp_path) as (dataset, _):
        assert len(dataset) == 3
        with Image.open(dataset.path(2)) as image:
            assert np.asarray(image.convert("RGB")).shape == dataset.image(2).shape


def test_encoder(tmp_path: Path) -> None:
    record = run("encoder", tmp_path)
    assert record["holds"] == (
        bool(record["parts_of_the_claim"])
        and all(record["parts_of_the_claim"].values())
        and not torch.cuda.is_available()
    )
    # GoogLeNet at 96x96 and stride 1, by hand from its layers: 2.2 GFLOP a patch.
    assert 2.1 < record["gigaflops_a_patch"]["batch norm"] < 2.3
    for label, ratio in record["ratios"].items():
        one, other = label.split(" / ")
        rates = record["patches_a_second"]
        expected = rates[one]["clock"]["median"] / rates[other]["clock"]["median"]
        assert ratio == pytest.approx(expected, rel=1e-2)


def test_the_encoders_verdict_needs_every_part() -> None:
    rates = {}
    for kind in (encoder.BN, encoder.LRN):
        rates[encoder._name(kind, encoder.USER)] = rate(10.0)
        rates[encoder._name(kind, encoder.BF16)] = rate(51.0)
        rates[encoder._name(kind, encoder.FP32)] = rate(20.0)
    _, verdicts = encoder._verdicts(rates)
    assert len(verdicts) == 3 and all(verdicts.values())
    rates[encoder._name(encoder.BN, "OpenVINO, bf16")] = rate(52.0)
    _, verdicts = encoder._verdicts(rates)
    assert [name for name, good in verdicts.items() if not good] == [
        "ours, bf16 (batch norm) / OpenVINO, bf16 (batch norm) >= 1"
    ]


def test_scaling(tmp_path: Path) -> None:
    record = run("scaling", tmp_path)
    assert record["holds"] == all(record["parts_of_the_claim"].values())
    assert len(record["parts_of_the_claim"]) == len(record["microseconds"]) == 9
    with Image.open(tmp_path / "benchmark-scaling.png") as image:
        assert image.size[0] > 1000


def test_flops_are_counted_as_two_a_multiply_add() -> None:
    assert peak.count_flops(nn.Linear(5, 7, bias=False), torch.zeros(3, 5)) == 2 * 3 * 5 * 7
    conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
    assert peak.count_flops(conv, torch.zeros(1, 2, 8, 8)) == 2 * 4 * 64 * 2 * 9


def test_bounds_are_positive() -> None:
    cpu = torch.device("cpu")
    assert peak.matmul_peak(torch.float32, cpu, quick=True) > 1e6
    assert peak.copy_bandwidth(cpu, quick=True) > 1e6
