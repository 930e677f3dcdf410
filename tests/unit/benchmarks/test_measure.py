"""benchmarks/measure.py: turns in random order, medians by hand, memory of a call, and files that say where from."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
import pytest
import torch
from measure import Variant

import emanet


def test_each_round_runs_every_call_once_in_an_order_that_changes_and_slow_ones_while_their_budget_lasts(
    monkeypatch: pytest.MonkeyPatch,
):
    durations = {"short": 0.001, "other": 0.002, "long": 0.4, "longest": 5.0}
    log: list[str] = []

    def seconds(name: str, device: str) -> float:
        log.append(name)
        return durations[name]

    monkeypatch.setattr(measure, "seconds", seconds)
    found = measure.times([*durations], device="cpu", rounds=20, budget=1)  # type: ignore[arg-type]
    assert [len(values) for values in found] == [20, 20, 2, 1]  # of 1 second: 2 times 0.4; the longest's first call
    assert [set(values) for values in found] == [{value} for value in durations.values()]
    rounds = [log[4:7], log[7:10], *(log[start : start + 2] for start in range(10, len(log), 2))]
    assert [sorted(each) for each in rounds] == [["long", "other", "short"]] * 2 + [["other", "short"]] * 18
    firsts = [each[0] for each in rounds[2:]]
    assert {"short", "other"} == {*firsts}  # chance would take one alone in 1 of 2 ** 17 runs; the order is seeded


def test_a_summary_has_the_median_and_the_quartiles_found_by_hand():
    values = [5e-3, 1e-3, 3e-3, 2e-3, 4e-3]
    assert measure.summary(values) == {"ms": 3.0, "quartiles_ms": [2.0, 4.0], "rounds": 5}
    assert measure.summary([0.1234567]) == {"ms": 123.5, "quartiles_ms": [123.5, 123.5], "rounds": 1}


SCRIPT = """
import torch
from measure import Variant, main, parse
def build(held):
    source = torch.ones(10_000_000)
    return lambda: [source.clone() for _ in range(held)]
variants = [Variant({}, f"{held}", lambda held=held: build(held), memory=True) for held in (1, 3)]
main(variants, parse("A script.", rounds=1, budget=1))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell peaks of memory")
def test_the_peak_is_what_a_call_holds_at_once_beyond_its_inputs_measured_in_a_process_of_its_own(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), "--threads", "1", "--output", str(tmp_path / "out.json")]
    places = os.pathsep.join([str(Path(measure.__file__).parent), str(Path(emanet.__file__).parents[1])])
    subprocess.run(command, env=os.environ | {"PYTHONPATH": places}, capture_output=True, check=True)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["peak_mb"] for row in rows] == pytest.approx([40, 120], abs=6)


def options(monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """The options of a command line."""
    monkeypatch.setattr(sys, "argv", ["script.py", "--threads", "1", *words])
    return measure.parse("A script.")


def test_a_run_writes_a_row_for_each_variant_with_hardware_versions_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    peaks = {0: 2_000_000, 2: None}
    monkeypatch.setattr(measure, "peak_in_fresh_process", lambda index: peaks[index])
    variants = [
        Variant({"task": "test"}, "a", lambda: lambda: None, memory=True),
        Variant({"task": "test"}, "b", lambda: lambda: None),
        Variant({"task": "other"}, "a", lambda: lambda: None, memory=True),
    ]
    path, further = tmp_path / "out.json", {"task": "test", "variant": "floor", "ms": 1.0}
    measure.main(variants, options(monkeypatch, "--rounds", "2", "--output", str(path)), also=[further], size=3)
    result = json.loads(path.read_text())
    assert (result["script"], result["device"], result["size"]) == ("script", "cpu", 3)
    rows = [(row["task"], row["variant"], row.get("rounds"), row.get("peak_mb")) for row in result["rows"]]
    assert rows == [
        ("test", "a", 2, 2.0),
        ("test", "b", 2, None),
        ("other", "a", 2, None),
        ("test", "floor", None, None),
    ]
    assert result["hardware"]["threads"] == 1
    assert result["versions"]["torch"] == torch.__version__
    git = ["git", "-C", str(measure.ROOT), "rev-parse", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    assert result["code"]["commit"] == head or not head  # a source tree without git has none


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        options(monkeypatch, "--device", "cuda")
    assert "--device cuda: no CUDA device was found" in capsys.readouterr().err
