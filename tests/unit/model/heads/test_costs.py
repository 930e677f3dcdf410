"""What a head costs: counted by hand from its description, as published, and as the page of the heads says."""

import pytest
from omegaconf import OmegaConf

from emanet.config.schema import PROJECT_ROOT
from emanet.model.heads import HEADS, options_of
from emanet.studies.complexity import Cost, build_on_meta, head_costs, measure, overheads


def conv(c_in: int, c_out: int, n: int, kernel: int = 1) -> tuple[int, int]:
    """Parameters and multiply-accumulates of a convolution without bias and its batch norm, over n features."""
    weights = c_in * c_out * kernel**2
    return weights + 2 * c_out, weights * n + 2 * c_out * n


def linear(c_in: int, c_out: int, n: int, bias: int = 1) -> tuple[int, int]:
    """The same of a 1x1 convolution without norm (adding its bias counts nothing)."""
    return c_in * c_out + bias * c_out, c_in * c_out * n


def by_hand(name: str, *, D: int, N: int, c: int, K: int, T: int) -> tuple[int, int]:
    """Parameters and multiply-accumulates of a head over N features of D channels, from its description."""
    m, q, w = c // 2, c // 4, c // 2
    unit = {
        "fcn": [],
        "nonlocal": [linear(c, m, N), *2 * [linear(c, m, N, bias=0)], *2 * [(0, N * N * m)], conv(m, c, N)],
        "a2": [linear(c, q, N), *2 * [linear(c, q, N, bias=0)], *2 * [(0, N * q * q)], conv(q, c, N)],
        "external": [linear(c, c, N, bias=0), linear(c, K, N, bias=0), linear(K, c, N, bias=0), conv(c, c, N)],
        # x^T D, then per update x^T D, D^T D, C (D^T D), x C, C^T C, D (C^T C), then D C^T
        "ham": [
            linear(c, c, N),
            (0, N * c * K),
            (0, T * (N * c * K + K * c * K + N * K * K + N * c * K + K * N * K + c * K * K)),
            (0, N * c * K),
            conv(c, c, N),
        ],
    }
    if name == "psp":
        parts = [*(conv(D, D // 4, bins**2) for bins in (1, 2, 3, 6)), conv(2 * D, c, N, 3)]
    elif name == "deeplabv3":
        parts = [conv(D, w, N), *3 * [conv(D, w, N, 3)], conv(D, w, 1), conv(5 * w, w, N)]
    else:
        parts = [conv(D, c, N, 3), *unit[name]]
    return sum(params for params, _ in parts), sum(macs for _, macs in parts)


@pytest.mark.parametrize("c", [64, 32])
@pytest.mark.parametrize("name", ["fcn", "nonlocal", "a2", "external", "ham", "psp", "deeplabv3"])
def test_a_head_costs_what_its_description_says(name: str, c: int):
    options = {key: value for key, value in {"K": 7, "T": 2}.items() if key in options_of(name)}
    net = build_on_meta(num_classes=21, backbone="test_resnet", output_stride=8, head=name, channels=c, **options)
    costs = measure(net, 65, 41)
    rows = {row.name: row for row in [*costs, *overheads(net, costs)]}
    n = 9 * 6
    head = by_hand(name, D=net.backbone.channels, N=n, c=c, K=7, T=2)
    assert (rows["overhead as published"].params, rows["overhead as published"].macs) == head
    fc1, fc2 = conv(c // 2 if name == "deeplabv3" else c, 256, n, 3), linear(256, 21, n)
    assert (rows["fc1"].params, rows["fc1"].macs) == fc1
    assert rows["overhead, whole head"].params == head[0] + fc1[0] + fc2[0]
    assert rows["overhead, whole head"].macs == head[1] + fc1[1] + fc2[1]
    assert rows["total"].params == sum(parameter.numel() for parameter in net.parameters())


@pytest.fixture(scope="module")
def table() -> dict[str, Cost]:
    """What ``python src/complexity.py heads=true`` adds, by row."""
    model = OmegaConf.load(PROJECT_ROOT / "conf" / "model" / "emanet.yaml")
    model = OmegaConf.merge(model, {"channels": 512})
    return {row.name: row for row in head_costs(model, 21, 513, 513)}


def test_deeplabv3_and_the_paper_cost_what_is_published(table):
    """At 513x513 (FACTS section 2), where the published count has the unit's conv1 on every pixel."""
    rows = [table[f"{name}: overhead as published"] for name in ("deeplabv3", "ema")]
    c, n, T, K = 512, 65 * 65, 3, 64
    folded = c * c * n - 2 * T * c * c * K
    macs = [round((row.macs + more) / 1e9, 1) for row, more in zip(rows, (0, folded), strict=True)]
    assert (macs, [round(row.params / 1e6, 1) for row in rows]) == ([63.4, 43.1], [15.5, 10.0])


def test_attention_between_all_pixels_is_counted_and_not_held_in_memory(table):
    row, n = table["nonlocal: overhead as published"], 65 * 65
    assert row.macs == by_hand("nonlocal", D=2048, N=n, c=512, K=64, T=3)[1]
    # features, fc0's output, queries, keys, values, one of their copies, the result: and no weights of all pairs
    assert row.memory < 4 * n * (2048 + 512 + 7 * 256) + 4 * n**2 // 2


def test_the_page_of_the_heads_says_what_the_script_measures_and_each_heads_options(table):
    page = (PROJECT_ROOT / "docs" / "heads.md").read_text(encoding="utf-8")
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `")]
    told = {cells[0].strip(" `"): [cell.strip() for cell in cells] for cells in lines if len(cells) == 8}
    assert set(told) == set(HEADS)
    for name, cells in told.items():
        counts = [table[f"{name}: overhead{way}"] for way in (" as published", ", whole head")]
        expected = [text for row in counts for text in (f"{row.params / 1e6:.3f}", f"{row.macs / 1e9:.2f}")]
        assert cells[-4:] == expected, name
        assert set(cells[3].replace("`", "").split()) == options_of(name).keys() - {"channels"}, name
