"""benchmarks/measure.py: what the benchmarks share. Each script has a file of its own, test_benchmark_*.py."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import measure
from measure import Roof, Variant

NO_PEAKS = not Path("/proc/self/clear_refs").exists()


def variant(name: str = "ours", build: Callable[[], Callable[[], object]] = lambda: lambda: None, **more: Any):
    """A variant of one case."""
    return Variant({"task": "test"}, name, build, **more)


# --- floor and row ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        ({"bytes": 2e6, "operations": 1e9}, 2e-3),  # 2 MB at 1 GB/s; a billion operations take half as long
        ({"bytes": 1e6, "operations": 5e9}, 2.5e-3),  # 5 billion at 2 thousand billion
        ({"bytes": 1e6, "operations": 5e9, "dtype": "bfloat16"}, 1e-3),  # ten times as many a second
        ({}, None),
    ],
)
def test_the_floor_is_the_longer_of_moving_bytes_and_of_computing(work: dict, expected: float | None):
    roof = Roof(bandwidth=1e9, operations={"float32": 2e12, "bfloat16": 20e12})
    assert roof.floor(variant(**work)) == (None if expected is None else pytest.approx(expected))


def test_a_row_has_median_quartiles_floor_and_memory():
    row = measure.row(variant(per_call=6, note={"layout": "rows"}), [5e-3, 1e-3, 3e-3, 2e-3, 4e-3], 1.5e-3, 1_260_000)
    assert row == {
        "task": "test",
        "variant": "ours",
        "ms": 3.0,
        "quartiles_ms": [2.0, 4.0],
        "rounds": 5,
        "images_per_s": 2000.0,
        "floor_ms": 1.5,
        "times_floor": 2.0,
        "peak_mb": 1.3,
        "layout": "rows",
    }


def test_what_is_not_known_is_no_column_and_a_single_time_is_its_own_quartiles():
    row = measure.row(variant(), [0.1234567], None, None)
    assert row == {"task": "test", "variant": "ours", "ms": 123.5, "quartiles_ms": [123.5, 123.5], "rounds": 1}


# --- time -------------------------------------------------------------------------------------------------------------


def test_each_round_runs_every_variant_once_and_slow_ones_only_while_their_budget_lasts(
    monkeypatch: pytest.MonkeyPatch,
):
    durations = {"short": 0.001, "long": 0.4, "longest": 5.0}
    log: list[tuple[str, int]] = []

    def seconds(name: str, device: str, repeats: int = 1) -> float:
        log.append((name, repeats))
        return durations[name]

    monkeypatch.setattr(measure, "seconds", seconds)
    variants = [variant(name, lambda name=name: name) for name in durations]  # its call is its name
    found = measure.times(variants, argparse.Namespace(rounds=4, budget=1, device="cpu"))
    assert [len(times) for times in found] == [4, 2, 1]  # of 1 second: 2 times 0.4, and one whatever it takes
    assert [set(times) for times in found] == [{value} for value in durations.values()]
    warm_up, rounds = log[:5], [log[5:8], log[8:10], log[10:11], log[11:]]
    assert [name for name, _ in warm_up] == ["short", "short", "long", "long", "longest"]  # the longest is not repeated
    assert [sorted(name for name, _ in each) for each in rounds] == [
        ["long", "longest", "short"],
        ["long", "short"],
        ["short"],
        ["short"],
    ]
    assert set(log[5:]) == {("short", 20), ("long", 1), ("longest", 1)}  # 20 calls last the 20 ms of a sample


def test_the_time_of_a_call_is_the_mean_of_its_repeats(monkeypatch: pytest.MonkeyPatch):
    clock = iter([10.0, 16.0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    assert measure.seconds(lambda: calls.append(1), "cpu", repeats=3) == 2.0
    assert len(calls) == 3


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(NO_PEAKS, reason="the system does not tell peaks of resident memory")
@pytest.mark.parametrize(("held", "expected"), [(1, 40e6), (3, 120e6)])
def test_the_peak_is_what_a_call_holds_at_once_beyond_its_inputs(held: int, expected: float):
    def build() -> Callable[[], object]:
        source = torch.ones(10_000_000)
        return lambda: [source.clone() for _ in range(held)]

    assert measure.peak_bytes(variant(build=build), "cpu") == pytest.approx(expected, abs=6e6)


def test_memory_is_asked_of_a_process_that_gives_back_what_is_freed(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[list[str], dict[str, str]]] = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> SimpleNamespace:
        asked.append((command, env))
        return SimpleNamespace(returncode=0, stdout="some words\n4096\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["script.py", "--size", "33"])
    assert measure.peak_in_fresh_process(7) == 4096
    (command, env) = asked[0]
    assert command == [sys.executable, "script.py", "--size", "33", "--peak", "7"]
    assert env["MALLOC_MMAP_THRESHOLD_"] == "65536"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout=""))
    assert measure.peak_in_fresh_process(7) is None


# --- one run ----------------------------------------------------------------------------------------------------------


def options(monkeypatch: pytest.MonkeyPatch, *words: str) -> argparse.Namespace:
    """The options of a command line."""
    monkeypatch.setattr(sys, "argv", ["script.py", "--threads", "1", *words])
    return measure.parse(measure.arguments("A script."))


def test_a_run_writes_a_row_for_each_variant_with_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(measure, "roof", lambda device, dtypes: Roof(2e9, dict.fromkeys(dtypes, 1e12)))
    peaks = {0: 2_000_000, 2: None}
    monkeypatch.setattr(measure, "peak_in_fresh_process", lambda index: peaks[index])
    variants = [variant("a", bytes=2e6), variant("b", memory=False), Variant({"task": "other"}, "a", lambda: int)]
    path = tmp_path / "folder" / "out.json"
    measure.main("Nothing.", variants, options(monkeypatch, "--rounds", "2", "--output", str(path)), size=3)
    result = json.loads(path.read_text())
    assert {"script", "device", "what", "roof", "rows", "size", "hardware", "versions", "code"} <= set(result)
    assert (result["script"], result["what"], result["size"]) == ("script", "Nothing.", 3)
    assert result["roof"] == {"bandwidth_gb_per_s": 2.0, "gflops_float32": 1000.0}
    rows = [(row["task"], row["variant"], row["rounds"], row.get("peak_mb")) for row in result["rows"]]
    assert rows == [("test", "a", 2, 2.0), ("test", "b", 2, None), ("other", "a", 2, None)]
    assert result["rows"][0]["floor_ms"] == 1.0
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in printed[:3]] == result["rows"]


def test_asked_for_a_peak_a_run_prints_that_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr(measure, "peak_bytes", lambda variant, device: len(variant.name))
    asked = options(monkeypatch, "--peak", "1", "--output", str(tmp_path / "out.json"))
    measure.main("Nothing.", [variant("a"), variant("four")], asked)
    assert capsys.readouterr().out == "4\n"
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert options(monkeypatch).device == "cpu"
    with pytest.raises(SystemExit):
        options(monkeypatch, "--device", "cuda")
    assert "--device cuda: no CUDA device was found" in capsys.readouterr().err


def test_operations_are_those_of_the_products_and_are_shared_within_a_case():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    counting = variant(build=lambda: lambda: a @ b + 1, count=True)
    given, other, by_bytes = variant(operations=7), variant(), variant(bytes=1)
    found = measure.with_operations([other, counting, given, by_bytes])
    assert [one.operations for one in found] == [2 * 3 * 4 * 5, 2 * 3 * 4 * 5, 7, 0]
