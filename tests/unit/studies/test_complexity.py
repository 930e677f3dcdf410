"""Costs: equal to those computed by hand from layer shapes, and to the published table."""

import json
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from emanet import EMANet
from emanet.config.schema import PROJECT_ROOT
from emanet.studies.complexity import (
    PUBLISHED,
    PUBLISHED_SIZE,
    build_on_meta,
    measure,
    overheads,
    published_rows,
)

N = 65 * 65  # features of a 513x513 image at output stride 8


def conv1(channels: int) -> int:
    """What the unit's conv1 would cost on every pixel, as published, beyond what folding it into 64 bases costs."""
    return channels**2 * N - 3 * 64 * (2 * channels**2 + channels)


@pytest.fixture(scope="module")
def costs() -> dict[int, dict]:
    """Costs of R-101 at 513x513 by channels and part."""
    table = {}
    for channels in (512, 256):
        net = build_on_meta(num_classes=21, channels=channels)
        rows = measure(net, PUBLISHED_SIZE, PUBLISHED_SIZE)
        table[channels] = {row.name: row for row in [*rows, *overheads(net, rows)]}
    return table


@pytest.mark.parametrize("channels", [512, 256])
def test_the_heads_parts_cost_what_their_shapes_say(costs, channels):
    norm = 2 * channels * N
    expected = {
        "fc0": 9 * 2048 * channels * N + norm,
        # two 1x1 convolutions; T = 3 times x^T mu and x z; the reconstruction; one norm
        "head": 2 * channels**2 * N + 7 * channels * 64 * N + norm - conv1(channels),
        "fc1": 9 * channels * 256 * N + 2 * 256 * N,
        "fc2": 256 * 21 * N,
    }
    assert {name: costs[channels][name].macs for name in expected} == expected


def test_the_backbone_is_within_half_a_percent_of_the_measured_figure(costs):
    assert costs[512]["backbone"].macs == pytest.approx(190.4e9, rel=0.005)
    assert costs[512]["backbone"].params == pytest.approx(42.624e6, abs=500)


@pytest.mark.parametrize(("channels", "gmacs", "mparams"), [(512, 43.06, 9.997), (256, 20.98, 4.867)])
def test_the_published_way_of_counting_gives_the_published_overhead(costs, channels, gmacs, mparams):
    row = costs[channels]["overhead as published"]
    assert (round((row.macs + conv1(channels)) / 1e9, 2), round(row.params / 1e6, 3)) == (gmacs, mparams)


def test_the_total_is_the_sum_of_the_parts_and_all_parameters(costs):
    parts = [costs[512][name] for name in ("backbone", "fc0", "head", "fc1", "fc2")]
    total = costs[512]["total"]
    assert total.macs == sum(part.macs for part in parts)
    assert total.params == pytest.approx(53.774e6, abs=500)
    assert total.memory >= max(part.memory for part in parts)
    whole = costs[512]["overhead, whole head"]
    assert whole.params == total.params - costs[512]["backbone"].params + 512 * 64  # and the bases
    assert whole.macs == total.macs - costs[512]["backbone"].macs


def test_memory_is_the_most_that_is_alive_at_once():
    """fc2, by hand: image, backbone's (512) and unit's output (8) and final bases (8 x 4) are held; its own two."""
    net = build_on_meta(num_classes=4, backbone="resnet18", channels=8, K=4, multi_grid=None)
    rows = {row.name: row for row in measure(net, 33, 33)}
    features = 5 * 5 * 4  # bytes of one channel
    assert rows["fc2"].memory == 3 * 33 * 33 * 4 + (512 + 8) * features + 8 * 4 * 4 + (256 + 4) * features
    larger = {row.name: row for row in measure(net, 65, 65)}
    assert all(larger[name].memory > row.memory for name, row in rows.items())


def test_counting_changes_nothing_costs_no_memory_and_fetches_no_weights(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    net = build_on_meta(num_classes=3, backbone="resnet18", channels=8, K=4, multi_grid=None)
    assert measure(net, 33, 41) == measure(net, 33, 41)
    with pytest.raises(ValueError, match=r"torch\.device\('meta'\)"):
        measure(EMANet(3, backbone="resnet18", channels=8, K=4, multi_grid=None), 33, 33)
    with pytest.raises(ValueError, match="at least 1 pixel, got 0x33"):
        measure(net, 0, 33)
    assert all(parameter.is_meta for parameter in net.parameters())


def test_ours_stands_beside_every_published_emanet():
    published = OmegaConf.to_container(OmegaConf.load(PUBLISHED))["costs"]
    rows = {row[0]: row[1:] for row in published_rows(published)}
    assert rows["EMANet (512)"] == ("43.1", "10.0", "22.1M", "42.06", "9.997", "47.07", "11.182")
    assert rows["EMANet (256)"][3:5] == ("20.73", "4.867")
    assert rows["DeepLabV3"][:5] == ("63.4", "15.5", "66.0M", "63.42", "15.535")
    assert rows["PSANet"] == ("56.3", "18.5", "59.4M", "", "", "", "")
    assert float(rows["ResNet-101 backbone"][3]) == pytest.approx(190.4, rel=0.005)


def test_the_script_prints_the_tables_and_writes_the_rows(tmp_path):
    command = [sys.executable, str(PROJECT_ROOT / "src" / "complexity.py"), "model=emanet_mmseg", "size=[65,97]"]
    result = subprocess.run([*command, "json=rows.json"], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "1x3x65x97" in result.stdout
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {"backbone", "fc0", "head", "fc1", "fc_cat", "fc2", "total"} <= {row["name"] for row in rows}
    assert all(set(row) == {"name", "params", "macs", "memory"} for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
    bad = subprocess.run([*command[:-1], "size=[3,4,5]"], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert bad.returncode == 1
    assert "size is one number of pixels, or [height,width], got [3, 4, 5]" in bad.stdout + bad.stderr
