"""`make gpu` where there is no GPU: the plan, what is kept, and every stage at a tiny size."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.gpu import checks, measure, plan, speed, training
from experiments.gpu.plan import (
    BY_NAME,
    STAGES,
    Setting,
    UnfinishedError,
    main,
    parser,
    read,
    write,
)
from tests.children import run_command

ROOT = Path(plan.__file__).parents[2]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(
        out=tmp_path,
        quick=True,
        device="cpu",
        data_dir=None,
        until=time.time() + 600,
        seeds=1,
        core=None,
        core_steps=2,
        allow_missing=False,
    )


# -- the plan ------------------------------------------------------------------------------------


def test_the_plan_needs_python_alone() -> None:
    """Packages that a machine lacks are installed by it, so it cannot import them."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(['torch', 'numpy', 'gymnasium', 'tyro']);"
        "from experiments.gpu.plan import main; sys.exit(main(['--list']))"
    )
    done = run_command([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(BY_NAME)


def test_every_stage_has_its_function() -> None:
    modules = {"checks": checks, "speed": speed, "training": training}
    for stage in STAGES:
        module, _, function = stage.function.partition(":")
        assert callable(getattr(modules[module], function))


def test_a_dry_run_says_what_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--out", str(tmp_path), "--stage", "check", "retina"]) == 0
    told = capsys.readouterr().out
    assert "check: -m experiments.gpu" in told and "--child retina" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [["--minutes", "0"], ["--seeds", "0"], ["--core-steps", "0"]])
def test_wrong_numbers_are_refused_in_one_sentence(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wrong) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> list[list[str]]:
    """Children run `code` instead of a stage; returns the commands asked for."""
    asked: list[list[str]] = []

    def command(given: Any, arguments: Any, name: str) -> list[str]:
        asked.append([name, *arguments])
        path = given.out / plan.RECORDS / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        return [sys.executable, "-c", code, str(path)]

    monkeypatch.setattr(plan, "_command", command)
    return asked


WRITES = """
import json, sys
with open(sys.argv[1], "w") as file:
    json.dump({"state": "%s", "quick": True}, file)
"""


def test_a_finished_stage_is_kept_and_another_is_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = stand_in(monkeypatch, WRITES % "finished")
    arguments = ["--quick", "--out", str(tmp_path), "--stage", "check"]
    assert main(arguments) == 0 and main(arguments) == 0
    assert len(asked) == 1
    write(tmp_path / plan.PARTS / "check" / "one.json", {})
    assert main([*arguments, "--again"]) == 0
    assert len(asked) == 2 and not (tmp_path / plan.PARTS / "check").exists()
    # A quick run's record is none of a whole one.
    main([*arguments[1:]])
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("code", "state", "returned"),
    [
        (WRITES % "unfinished", "unfinished", 3),
        (WRITES % "failed", "failed", 1),
        ("raise SystemExit(5)", "failed", 1),
    ],
)
def test_states_and_what_is_returned(
    code: str, state: str, returned: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, code)
    assert main(["--quick", "--out", str(tmp_path), "--stage", "check"]) == returned
    record = read(tmp_path / plan.RECORDS / "check.json")
    assert record is not None and record["state"] == state


def test_a_stage_that_outlives_its_minutes_is_ended_and_goes_on_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plan, "_GRACE", 1.0)
    stand_in(monkeypatch, "import time; time.sleep(600)")
    began = time.monotonic()
    arguments = ["--quick", "--out", str(tmp_path), "--stage", "check", "--minutes", "0.01"]
    assert main(arguments) == 3
    assert time.monotonic() - began < 300
    record = read(tmp_path / plan.RECORDS / "check.json")
    assert record is not None and record["state"] == "unfinished"


def test_too_many_bytes_are_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, WRITES % "finished")
    monkeypatch.setattr(plan, "MOST_BYTES", 5)
    assert main(["--quick", "--out", str(tmp_path), "--stage", "check"]) == 1
    assert "more than 5" in capsys.readouterr().err


def test_wheels_are_installed_from_files_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = plan.subprocess.run
    commands: list[list[str]] = []

    def noted(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(plan.subprocess, "run", noted)
    assert not plan._install(tmp_path, tmp_path)
    assert "make gpu-wheels" in capsys.readouterr().err
    (tmp_path / "a-1-py3-none-any.whl").touch()
    assert plan._install(tmp_path, tmp_path / "out")
    assert {"--no-index", "--no-deps", "--target"} <= set(commands[0])
    monkeypatch.setattr(plan.subprocess, "run", run)


def test_a_childs_failure_is_a_record(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, state in (
        (ValueError("no device"), "failed"),
        (UnfinishedError({"n": 1}), "unfinished"),
    ):

        def check(given: Setting, error: Exception = error) -> dict[str, Any]:
            raise error

        monkeypatch.setattr(checks, "check", check)
        given = parser().parse_args(["--child", "check", "--quick", "--out", str(setting.out)])
        assert plan._child(given) == 1
        record = read(setting.out / plan.RECORDS / "check.json")
        assert record is not None and record["state"] == state
    assert record["result"] == {"n": 1} and "versions" in record["about"]


# -- parts ---------------------------------------------------------------------------------------


def test_parts_are_kept_and_those_that_failed_tried_again(setting: Setting) -> None:
    calls: list[str] = []
    broken = True

    def one() -> dict[str, Any]:
        calls.append("one")
        return {"value": 1}

    def two() -> dict[str, Any]:
        calls.append("two")
        if broken:
            raise RuntimeError("out of memory")
        return {"value": 2}

    def three() -> dict[str, Any]:
        raise measure.AbsentError("not installed")

    parts = {"one": one, "two": two, "three": three}
    found = measure.run_parts(setting, "stage", parts)
    assert found["passed"] is False and found["two"] == {"error": "RuntimeError: out of memory"}
    assert found["three"]["absent"] == "not installed"
    broken = False
    found = measure.run_parts(setting, "stage", parts)
    assert found["passed"] is True and found["one"]["value"] == 1
    assert calls == ["one", "two", "two"]
    late = replace(setting, until=time.time())
    with pytest.raises(UnfinishedError) as more:
        measure.run_parts(late, "stage", parts | {"four": one})
    assert set(more.value.args[0]) == {"one", "two", "three"}


def test_a_whole_run_wants_cuda(setting: Setting) -> None:
    assert measure.device_of(setting) == torch.device("cpu")
    with pytest.raises(ValueError, match="--quick"):
        measure.device_of(replace(setting, quick=False))


# -- stages --------------------------------------------------------------------------------------


def test_reports_of_tests_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(
        """<testsuites><testsuite><testcase classname="a" name="fine"/>
        <testcase classname="a" name="bad"><failure message="1 != 2">long</failure></testcase>
        <testcase classname="a" name="worse"><error message="no fixture"/></testcase>
        <testcase classname="b" name="not"><skipped message="no CUDA device here"/></testcase>
        </testsuite></testsuites>""",
        encoding="utf-8",
    )
    found = checks.read_report(path)
    assert found["counts"] == {"passed": 1, "failed": 2, "skipped": 1} and found["total"] == 4
    assert found["told"]["failed"] == ["a::bad: 1 != 2", "a::worse: no fixture"]
    assert found["told"]["skipped"] == ["b::not: no CUDA device here"]


@pytest.mark.parametrize(
    ("counts", "quick", "passed"),
    [
        ({"passed": 3}, False, True),
        ({"passed": 3, "skipped": 1}, False, False),
        ({"skipped": 4}, True, True),
        ({"passed": 3, "failed": 1}, True, False),
        ({}, False, False),
    ],
)
def test_on_a_gpu_no_test_of_cuda_may_be_skipped(
    counts: dict[str, int],
    quick: bool,
    passed: bool,
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"counts": counts, "total": sum(counts.values()), "told": {}, "ended": True}
    monkeypatch.setattr(checks, "run_tests", lambda *given: told)
    assert checks.cuda_tests(replace(setting, quick=quick))["passed"] is passed


def test_a_trace_of_the_profiler_is_summed_by_kind() -> None:
    def event(name: str, size: int, category: str = "gpu_memcpy") -> dict[str, Any]:
        return {"cat": category, "name": name, "args": {"bytes": size}}

    trace = {
        "traceEvents": [
            event("Memcpy HtoD (Pageable -> Device)", 100),
            event("Memcpy HtoD (Pinned -> Device)", 50),
            event("Memcpy DtoH (Device -> Pageable)", 8),
            event("Memcpy DtoD (Device -> Device)", 1_000_000),
            event("aten::copy_", 7, "cpu_op"),
            {"name": "process_name"},
        ]
    }
    assert checks.read_trace(trace) == {"HtoD": (2, 150), "DtoH": (1, 8)}


def test_the_profiler_sees_no_such_copies_on_a_cpu() -> None:
    moved = checks.profile_copies(lambda: torch.ones(3).add(1), torch.device("cpu"))
    assert moved == {}


def test_check_tells_what_there_is(setting: Setting) -> None:
    found = checks.check(setting)
    assert found["missing_packages"] == [] and found["passed"] is True
    assert set(found) >= {"torch", "gpus", "images", "weights", "cores"}


def test_the_retina_is_measured_and_exact(setting: Setting) -> None:
    found = speed.retina(setting)
    assert found["passed"] and found["exact"]["equal"]
    assert found["exact"]["kernel"] == "torch"
    assert set(found["share_of_copy"]) == {"kernel, batch 2", "whole call, batch 2"}


def test_forms_of_the_encoder_agree(setting: Setting) -> None:
    """Whatever is measured computes the same features."""
    from encoders.spec import get_spec

    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    pixels = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    forms = [
        speed.ENCODER_FORMS[name] for name in ("ours, fp32, graphs", "eager bf16, channels-last")
    ]
    with torch.inference_mode():
        full, half = (form(spec, torch.device("cpu"), [pixels], True)(pixels) for form in forms)
    assert ((half.float() - full).norm() / full.norm()) < 5e-2


def test_what_cannot_be_had_is_told_of(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    form = speed.ENCODER_FORMS["TensorRT, fp16"]

    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(speed, "import_module", absent)
    with pytest.raises(measure.AbsentError, match="torch_tensorrt is not installed"):
        form(None, torch.device("cpu"), [torch.zeros(1)], True)


def test_tensorrt_is_asked_as_its_interface_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from encoders.spec import get_spec

    asked: dict[str, Any] = {}

    def compile(module: Any, **options: Any) -> Any:
        asked.update(options)
        return lambda x: x.mean((2, 3))

    monkeypatch.setattr(speed, "import_module", lambda name: SimpleNamespace(compile=compile))
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    pixels = [torch.zeros(2, 96, 96, 3, dtype=torch.uint8)]
    forward = speed.ENCODER_FORMS["TensorRT, fp16"](spec, torch.device("cpu"), pixels, True)
    assert forward(pixels[0]).shape == (2, 3)
    assert asked["ir"] == "dynamo" and asked["inputs"][0].shape == (2, 3, 96, 96)


def test_cells_of_table_1_are_at_full_fidelity(setting: Setting) -> None:
    jobs = training.table1_jobs(replace(setting, quick=False, device="cuda", seeds=5))
    assert len(jobs) == 15 * 5
    assert [job.config.seed for job in jobs] == [seed for seed in range(5) for _ in range(15)]
    for job in jobs:
        run = job.config
        assert run.bank is None and run.mirror == run.context == "auto"
        assert run.network.hidden_size == 4096 and run.eval_split == "val"
        assert job.resumable and json.dumps(str(job.file))


def test_the_core_goes_on_from_its_checkpoint(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def glimpse(given: Setting, arguments: list[str], progress: dict[str, Any]) -> None:
        asked.append(arguments)
        folder = given.out / "core"
        if len(asked) == 1:
            write(folder / "checkpoint" / "checkpoint.json", {})
            raise UnfinishedError(progress)
        for suffix in ("json", "safetensors"):
            (folder / f"core.{suffix}").touch()

    monkeypatch.setattr(training, "_glimpse", glimpse)
    monkeypatch.setattr(training, "device_of", lambda given: None)
    given = replace(setting, quick=False, device="cuda", data_dir=Path("dogs"), allow_missing=True)
    with pytest.raises(UnfinishedError):
        training.core(given)
    assert training.core(given)["core"] == "core.json"
    assert "--resume" not in asked[0] and asked[1][-1] == "--resume"
    assert {"--data-dir", "dogs", "--allow-missing", "stanford_dogs"} <= set(asked[0])
    assert (given.out / plan.RECORDS / "core" / "core.json").is_file()


def test_a_command_is_asked_to_end_before_time_is_up(setting: Setting) -> None:
    late = replace(setting, until=time.time() + 1)
    with pytest.raises(UnfinishedError):
        training._glimpse(late, ["demo", "--out", str(setting.out / "demo")], {"steps": 3})
    with pytest.raises(RuntimeError, match="glimpse nothing ended with code"):
        training._glimpse(setting, ["nothing"], {})


@pytest.mark.slow
def test_every_stage_runs_at_a_tiny_size(tmp_path: Path) -> None:
    """The script as `make gpu` calls it, on a CPU; all but `tests`, which collects every test."""
    names = [name for name in BY_NAME if name != "tests"]
    command = [sys.executable, "-m", "experiments.gpu", "--quick", "--device", "cpu"]
    command += ["--out", str(tmp_path / "gpu"), "--minutes", "120", "--stage", *names]
    done = run_command(command, cwd=ROOT)
    logs = {path.stem: path.read_text()[-2000:] for path in (tmp_path / "gpu/logs").glob("*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    records = {path.stem: read(path) for path in (tmp_path / "gpu/records").glob("*.json")}
    assert set(records) == set(names)
    assert {record["state"] for record in records.values() if record} == {"finished"}
    again = run_command(command, cwd=ROOT)
    assert again.returncode == 0 and again.stdout.count("finished before") == len(names)
