"""benchmarks/peers.py: how other implementations are found, loaded and compared. The checkouts are written here."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emanet.common.errors import ConfigError
from emanet.model.emau import EMAU
from emanet.model.mmseg import MMSegEMANet
from golden.make_mmseg_golden import GOLDEN

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

SETTINGS = "SCALE = 3.0\n"
NETWORK = """
from functools import partial
import torch
from torch import nn
from bn_lib.nn.modules import SynchronizedBatchNorm2d
import settings
from emanet.model import emau

norm_layer = partial(SynchronizedBatchNorm2d, momentum=0.1)

class EMAU(emau.EMAU):
    def __init__(self, c, k, stage_num):
        super().__init__(c, K=k, T=stage_num)

class EMANet(nn.Module):
    def __init__(self, n_classes, n_layers):
        super().__init__()
        torch.load(f"./models/resnet{n_layers}.pth")  # absent, like the authors' without its download
        self.fc2 = nn.Conv2d(3, n_classes, 1)

    def forward(self, img, lbl=None):
        logits = settings.SCALE * self.fc2(img)
        if lbl is None:
            return logits
        losses = nn.functional.cross_entropy(logits, lbl, ignore_index=255, reduction="none")
        return losses.mean((1, 2)), None
"""


class PaperNet(nn.Module):
    """Stands for our network: a pixel's logits from its color alone."""

    def __init__(self, scale: float = 3.0) -> None:
        super().__init__()
        self.fc2 = nn.Conv2d(3, 21, 1)
        self.scale = scale

    def forward(self, image: Tensor) -> Tensor:
        return self.scale * self.fc2(image)


def paper_net(scale: float = 3.0) -> PaperNet:
    torch.manual_seed(0)
    return PaperNet(scale)


def mean_loss(net: Any, image: Tensor, mask: Tensor) -> Tensor:
    """Over all pixels, those without a label included."""
    return nn.functional.cross_entropy(net(image), mask, ignore_index=255, reduction="sum") / mask.numel()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the benchmark; ours is a network of one layer."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import checkouts
    import implementations
    import mmseg_peer
    import peers

    def logits(net: Any, image: Tensor) -> Tensor:
        return net(image)

    own = implementations.Implementation("ours", paper_net, logits, mean_loss, unit=implementations.OURS.unit)
    for module in (checkouts, peers):
        monkeypatch.setattr(module, "OURS", own)
    monkeypatch.setattr(checkouts, "paper_net", paper_net)
    monkeypatch.setattr(checkouts, "to_reference_state_dict", nn.Module.state_dict)
    monkeypatch.setattr(peers, "find_mmseg", list)
    checkouts.authors_module.cache_clear()
    return SimpleNamespace(peers=peers, checkouts=checkouts, mmseg=mmseg_peer, own=own, **vars(implementations))


def write(folder: Path, **files: str) -> Path:
    """A folder with Python files."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def authors(tmp_path: Path) -> Path:
    """A checkout in the authors' layout, without its synchronized batch norm."""
    return write(tmp_path / "authors", network=NETWORK, settings=SETTINGS)


# --- checkouts --------------------------------------------------------------------------------------------------------


def test_a_checkout_in_the_authors_layout_gets_our_weights_and_gives_our_results(parts, authors: Path):
    peer = parts.checkouts.checkout(f"authors={authors}")
    entry = parts.compared(peer)
    assert (peer.name, entry["parameters"], entry["results"]) == ("authors", 3 * 21 + 21, "those of ours")
    assert entry["largest_relative_differences"].keys() == {"logits", "loss", "unit"}
    assert max(entry["largest_relative_differences"].values()) < 1e-12
    image = torch.randn(1, 3, 5, 5)
    assert torch.equal(peer.classes(peer.network(), image), paper_net()(image).argmax(1))


def test_a_synchronized_batch_norm_that_cannot_be_imported_is_pytorchs(parts, authors: Path):
    assert parts.checkouts.checkout(f"a={authors}").origin()["batch_norm"] == "torch.nn.modules.batchnorm"
    modules = authors / "bn_lib" / "nn" / "modules.py"
    modules.parent.mkdir(parents=True)
    modules.write_text("from torch import nn\nclass SynchronizedBatchNorm2d(nn.BatchNorm2d): pass\n")
    assert parts.checkouts.checkout(f"b={authors}").origin()["batch_norm"] == "bn_lib.nn.modules"


def test_modules_of_the_same_name_in_two_checkouts_and_in_ours_do_not_mix(parts, tmp_path: Path):
    text = "from torch import nn\nimport settings\ndef build():\n    return nn.Conv2d(3, 21, settings.SIDE)\n"
    folders = [write(tmp_path / str(k), model=text, settings=f"SIDE = {k}") for k in (1, 3)]
    sys.modules["settings"] = ours = SimpleNamespace(SIDE=7)  # type: ignore[assignment]
    try:
        nets = [parts.checkouts.checkout(f"p={folder}:model:build").network() for folder in folders]
        assert sys.modules["settings"] is ours
    finally:
        del sys.modules["settings"]
    assert [net.kernel_size for net in nets] == [(1, 1), (3, 3)]
    assert "model" not in sys.modules
    assert not {str(folder) for folder in folders} & set(sys.path)


def test_any_modules_logits_are_brought_to_the_images_size_and_not_compared(parts, tmp_path: Path):
    text = (
        "from torch import nn\nclass Net(nn.Conv2d):\n    def forward(self, x):\n        return [super().forward(x)]\n"
    )
    folder = write(tmp_path / "other", model=text + "def build():\n    return Net(3, 21, 1, stride=8)\n")
    peer = parts.checkouts.checkout(f"other={folder}:model:build")
    net, image = peer.network(), torch.randn(2, 3, 17, 33)
    logits = peer.logits(net, image)
    assert logits.shape == (2, 21, 17, 33)
    torch.testing.assert_close(logits[..., ::8, ::8], net(image)[0])  # aligned corners
    mask = torch.randint(0, 21, (2, 17, 33))
    assert peer.loss(net, image, mask).item() == pytest.approx(nn.functional.cross_entropy(logits, mask).item())
    assert parts.compared(peer) == {
        "parameters": 3 * 21 + 21,
        "results": "not compared: its weights are its own",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("authors", "takes NAME=FOLDER or NAME=FOLDER:MODULE:FACTORY, got 'authors'"),
        ("a={folder}:model", "NAME=FOLDER:MODULE:FACTORY, got 'a=.*:model'"),
        ("a=/nowhere/at/all", "a: there is no folder /nowhere/at/all"),
        ("a={folder}", r"XiaLiPKU/EMANet, with network.py and settings.py, but .* lacks network.py and settings.py"),
        ("a={folder}:absent:build", "cannot import absent: ModuleNotFoundError: No module named 'absent'"),
        ("a={folder}:model:absent", "model has no absent; it has Net"),
        ("a={folder}:model:number", r"model.number\(\) must give a torch.nn.Module, got <class 'int'>"),
        ("a={folder}:model:Net", r"expected logits of shape \(b, 21, height, width\), got \(1, 2, 9, 9\)"),
    ],
)
def test_what_is_no_checkout_is_refused_with_what_was_expected(parts, tmp_path: Path, text: str, message: str):
    source = "from torch import nn\ndef number():\n    return 1\n"
    source += "class Net(nn.Conv2d):\n    def __init__(self):\n        super().__init__(3, 2, 1)\n"
    folder = write(tmp_path / "other", model=source)

    def logits() -> Tensor:
        peer = parts.checkouts.checkout(text.format(folder=folder))
        return peer.logits(peer.network(), torch.zeros(1, 3, 9, 9))

    with pytest.raises(ConfigError, match=message):
        logits()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"network": "import settings\n1 / 0\n"}, "cannot import network: ZeroDivisionError: division by zero"),
        ({"network": NETWORK.replace("class EMANet", "class Other")}, "network has no EMANet; it has .*EMAU, Other"),
        ({"network": NETWORK.replace("self.fc2 =", "self.fc3 =")}, "does not take the weights of our network.*fc3"),
    ],
)
def test_a_checkout_that_is_not_the_authors_is_refused(parts, authors: Path, files: dict[str, str], message: str):
    write(authors, **files)
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        parts.checkouts.checkout(f"a={authors}").network()


def test_a_checkout_is_known_by_its_own_commit_alone(parts, authors: Path):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main")
        done = subprocess.run(["git", *identity, *arguments], cwd=authors, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert parts.checkouts.commit(authors) == "unknown"
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    assert parts.checkouts.commit(authors) == git("rev-parse", "HEAD")
    (authors / "settings.py").write_text("SCALE = 2.0")
    assert parts.checkouts.commit(authors) == git("rev-parse", "HEAD") + "-dirty"
    (authors / "inner").mkdir()
    assert parts.checkouts.commit(authors / "inner") == "unknown"


# --- comparison -------------------------------------------------------------------------------------------------------


def peer_of(parts, network: Any, **options: Any) -> Any:
    """A peer that should compute what ours does."""
    logits, loss = parts.own.logits, mean_loss
    return parts.Implementation("peer", network, logits, loss, **{"counterpart": parts.own, **options})


def test_a_peer_that_computes_something_else_is_not_timed(parts):
    unit = parts.own.unit
    assert parts.compared(peer_of(parts, paper_net, unit=unit))["results"] == "those of ours"
    with pytest.raises(ConfigError, match=r"peer does not compute what ours computes .*'logits': 0.33"):
        parts.compared(peer_of(parts, lambda: paper_net(scale=2.0), unit=unit))
    with pytest.raises(ConfigError, match=r"with the same weights.*\{'unit': 0\.\d+\}"):
        parts.compared(peer_of(parts, paper_net, unit=lambda: parts.drawn(lambda: EMAU(512, K=64, T=2))))
    with pytest.raises(ConfigError, match="peer has 85 parameters, but ours has 84"):
        parts.compared(peer_of(parts, lambda: nn.Sequential(paper_net(), nn.Conv2d(1, 1, 1, bias=False)), unit=unit))


def test_every_tensor_of_mmsegmentation_has_one_of_ours(parts):
    shapes = json.loads(GOLDEN.read_text())["shapes"]
    with torch.device("meta"):
        theirs = {key: torch.empty(shape) for key, shape in shapes.items()}
        ours = MMSegEMANet(shapes["decode_head.conv_seg.weight"][0]).state_dict()
    names = parts.mmseg.their_keys(theirs)
    assert {our: theirs[key].shape for our, key in names.items()} == {key: value.shape for key, value in ours.items()}
    unit = {key.removeprefix("decode_head."): value for key, value in theirs.items() if ".ema_m" in key}
    assert parts.mmseg.their_keys(unit, "decode_head.") == {
        "emau.mu": "ema_module.bases",
        "emau.conv1.weight": "ema_mid_conv.conv.weight",
        "emau.conv1.bias": "ema_mid_conv.conv.bias",
    }


# --- the run ----------------------------------------------------------------------------------------------------------


class Particular(PaperNet):
    """Takes one memory layout alone."""

    def forward(self, image: Tensor) -> Tensor:
        if not image.is_contiguous():
            raise RuntimeError("view size is not compatible")
        return super().forward(image)


def options_of(**more: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"device": "cpu", "pixels": [3, 5], "size": 17, "crop": 33, "refused": [], **more})


def test_a_condition_that_a_peer_refuses_is_left_out_and_named(parts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["peers.py"])
    picky, options = peer_of(parts, Particular, counterpart=None), options_of()
    entry = parts.peers.describe(picky, options)
    left_out = ["peer; float32, channels last", "peer; bfloat16, channels last"]
    assert entry["refused"] == dict.fromkeys(left_out, "view size is not compatible")
    assert options.refused == left_out
    assert sys.argv == ["peers.py", "--refused", left_out[0], "--refused", left_out[1]]  # for processes of its own
    rows = [v for v in parts.peers.variants([parts.own, picky], options) if v.case["task"].startswith("network")]
    assert [v.name for v in rows if v.note["implementation"] == "peer"] == ["peer; float32, contiguous"] * 2
    assert len(rows) == 2 * (3 + 1)


def test_all_implementations_run_each_task_under_each_condition(parts):
    peer = peer_of(parts, paper_net, unit=parts.own.unit)
    rows = list(parts.peers.variants([parts.own, peer], options_of()))
    assert len(rows) == len({(str(v.case), v.name) for v in rows}) == 6 * 2 * 3
    expected = {
        ("unit, forward", 3): (2, 512, 3, 3),
        ("unit, forward", 5): (2, 512, 5, 5),
        ("network, image to classes", 17): (1, 17, 17),
        ("network, loss and gradients", 33): (),
    }
    results: dict[str, list[Any]] = {}
    for row in rows:
        result = row.build()()
        if row.case["task"] == "unit, forward and backward":
            assert result[0].shape == (2, 512, row.case["size"], row.case["size"])
            assert result[0].abs().max() > 0  # the input's gradient
        else:
            assert result.shape == expected[row.case["task"], row.case["size"]]
            results.setdefault(f"{row.case} {row.note['precision']} {row.note['layout']}", []).append(result)
    for own, other in results.values():
        assert torch.equal(own, other)
    unmeasured = {("unit, forward", 3), ("unit, forward and backward", 3), ("unit, forward and backward", 5)}
    assert {(v.case["task"], v.case["size"]) for v in rows if not v.memory} == unmeasured


def test_without_any_peer_nothing_is_measured_or_written(
    parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(parts.peers, "main", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["peers.py", "--output", str(tmp_path / "result.json")])
    with pytest.raises(SystemExit, match="1"):
        parts.peers.run()
    assert "no other implementation to compare with, so nothing was measured: install" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()


def test_two_implementations_of_one_name_are_refused(
    parts, authors: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(parts.peers, "main", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["peers.py", "--checkout", f"ours={authors}"])
    with pytest.raises(SystemExit, match="1"):
        parts.peers.run()
    assert "each implementation needs a name of its own, got ours" in capsys.readouterr().err
