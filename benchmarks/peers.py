"""Our network beside other implementations of EMANet: same work, same machine, same run, equal conditions.

    git clone https://github.com/XiaLiPKU/EMANet authors
    MMCV_WITH_OPS=0 pip install --target mmseg --no-deps onedl-mmsegmentation==1.4.2 onedl-mmengine onedl-mmcv \\
        ftfy regex prettytable wcwidth addict yapf termcolor
    make bench PEERS="--authors authors --mmseg mmseg"

None of their code is part of this repository: it is imported from where it lies, and run. Before anything is timed, a
peer must give our results in float64 with the same weights. mmsegmentation's network has another stem, a wider head
and an auxiliary one: beside it stands ours with the same options.
"""

import importlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, patch

import torch
import torch.nn.functional as F
from loss import blocky_mask
from measure import Variant, main, parse
from step import CONDITIONS, SCALES, VIEWS, Net, Ours, tasks
from torch import Tensor, nn

from emanet import EMAU, load_mmseg_checkpoint, load_reference_checkpoint
from emanet.model.mmseg import MMSegEMANet
from unit import UNITS, features, first, unit_variants

CLASSES = 21
BOUND = 1e-9  # of differences in float64, relative to the largest value
OURS, PORT = Ours(), Ours("ours as mmsegmentation", MMSegEMANet, "c")


def authors_module(folder: Path, name: str) -> ModuleType:
    """A module of a checkout of XiaLiPKU/EMANet; on one device its batch norm is PyTorch's, which takes its place."""
    if not (folder / "network.py").is_file():
        sys.exit(f"error: --authors takes the folder of a checkout of XiaLiPKU/EMANet; {folder} has no network.py")
    norm: Any = ModuleType("bn_lib.nn.modules")
    norm.SynchronizedBatchNorm2d = nn.BatchNorm2d
    stubs = {"bn_lib": ModuleType("bn_lib"), "bn_lib.nn": ModuleType("bn_lib.nn"), "bn_lib.nn.modules": norm}
    with patch.dict(sys.modules, stubs), patch.object(sys, "path", [str(folder.resolve()), *sys.path]):
        return importlib.import_module(name)


class Peer:
    """Somebody else's EMANet; beside the methods of :class:`~step.Ours` those by which it is compared."""

    name: str
    counterpart: Ours  #: ours that computes the same
    origin: str

    def logits(self, net: Net, image: Tensor) -> Tensor:
        """At the images' size."""
        return net(image)

    def classes(self, net: Net, image: Tensor) -> Tensor:
        """By the largest logit."""
        return self.logits(net, image).argmax(1)


class Authors(Peer):
    """The authors' code."""

    name, counterpart = "authors", OURS

    def __init__(self, folder: Path) -> None:
        self.module = authors_module(folder, "network")
        git = ["git", "-C", str(folder), "rev-parse", "--short=10", "HEAD"]
        self.origin = f"XiaLiPKU/EMANet {subprocess.run(git, capture_output=True, text=True).stdout.strip()}"

    def network(self, depth: int, classes: int) -> Net:
        """Random weights: those of ImageNet would be read from a fixed path."""
        with patch.object(torch, "load", return_value={}):
            return self.module.EMANet(classes, depth)

    def loss(self, net: Net, image: Tensor, mask: Tensor) -> Tensor:
        """As in their training loop."""
        losses, mu = net(image, mask)
        net.emau.mu.lerp_(mu.mean(dim=0, keepdim=True).to(net.emau.mu.dtype), 0.1)
        return losses.mean()

    def unit(self, net: Net) -> nn.Module:
        """The attention unit of a network."""
        return net.emau

    def as_ours(self, net: Net) -> Net:
        """Our network with the weights of theirs."""
        return load_reference_checkpoint(net.state_dict())


def import_mmseg(folder: Path) -> ModuleType:
    """The package in a folder; without mmcv's compiled operators, of which EMANet uses none."""
    if not (folder / "mmseg" / "__init__.py").is_file():
        sys.exit(f"error: --mmseg takes a folder that holds the package mmseg; {folder} does not")
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))
    sys.modules.setdefault("mmcv._ext", MagicMock())
    module = importlib.import_module("mmseg")
    importlib.import_module("mmseg.utils").register_all_modules()
    return module


class MMSegUnit(nn.Module):
    """The attention unit, which stands in pieces in mmsegmentation's head."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.conv1, self.em, self.conv2 = head.ema_mid_conv, head.ema_module, head.ema_out_conv

    def forward(self, x: Tensor) -> Tensor:
        """The pieces in their order."""
        return F.relu_(x + self.conv2(F.relu_(self.em(self.conv1(x)))))


class MMSegmentation(Peer):
    """mmsegmentation, or its maintained fork."""

    name, counterpart = "mmsegmentation", PORT

    def __init__(self, folder: Path) -> None:
        package = import_mmseg(folder)
        self.origin = f"mmseg {package.__version__}"
        places = (Path(str(package.__file__)).parent / ".mim", folder)  # installed, or a checkout
        self.configs = next(place / "configs" for place in places if (place / "configs").is_dir())

    def network(self, depth: int, classes: int) -> Net:
        """Of their configuration, with batch norms for one device."""
        from mmengine.config import Config
        from mmseg.registry import MODELS

        model = Config.fromfile(self.configs / "_base_" / "models" / "emanet_r50-d8.py").model
        model.pretrained, model.backbone.depth = None, depth
        for part in (model.backbone, model.decode_head, model.auxiliary_head):
            part.norm_cfg.type = "BN"
        for head in (model.decode_head, model.auxiliary_head):
            head.num_classes = classes
        return MODELS.build(model)

    def sample(self, size: Any, **more: Any) -> Any:
        """Their wrapping of what is known of an image."""
        from mmseg.structures import SegDataSample

        return SegDataSample(metainfo={"img_shape": size, "ori_shape": size, "img_path": "", "flip": False} | more)

    def loss(self, net: Net, image: Tensor, mask: Tensor) -> Tensor:
        """As in their training loop."""
        from mmengine.structures import PixelData

        samples = [self.sample(tuple(labels.shape)) for labels in mask]
        for sample, labels in zip(samples, mask, strict=True):
            sample.gt_sem_seg = PixelData(data=labels[None])
        return net.parse_losses(net.loss(image, samples))[0]

    def logits(self, net: Net, image: Tensor) -> Tensor:
        """At the images' size."""
        return net.encode_decode(image, [{"img_shape": tuple(image.shape[-2:])}] * len(image))

    def views(self, net: Net, image: Tensor) -> Tensor:
        """Classes of an image by all scales and flips, as their evaluation merges them."""
        from mmseg.models import SegTTAModel

        inputs, samples = [], []
        for scale in SCALES:
            scaled = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)[0]
            for flip in (False, True):
                inputs.append([scaled.flip(-1) if flip else scaled])
                how = {"img_shape": tuple(scaled.shape[-2:]), "flip": flip, "flip_direction": "horizontal"}
                samples.append([self.sample(tuple(image.shape[-2:]), **how)])
        merged = SegTTAModel(module=net).test_step({"inputs": inputs, "data_samples": samples})
        return merged[0].pred_sem_seg.data

    def unit(self, net: Net) -> nn.Module:
        """The attention unit of a network."""
        return MMSegUnit(net.decode_head)

    def as_ours(self, net: Net) -> Net:
        """Our network with the weights of theirs."""
        return load_mmseg_checkpoint({"state_dict": net.state_dict()})


@torch.no_grad()
def differences(peer: Any) -> dict[str, float]:
    """Largest differences of unit, logits and loss from ours with the same weights, in float64, relative.

    Raises:
        SystemExit: where they exceed the bound: times of something else would say nothing.
    """
    torch.manual_seed(0)
    theirs = peer.network(50, CLASSES)
    mine, theirs = (net.double() for net in (peer.as_ours(theirs), theirs))
    for part in (*mine.modules(), *theirs.modules()):
        if isinstance(part, nn.Dropout2d):
            part.p = 0.0
    image, x = torch.randn(2, 3, 137, 137).double(), features(2, 9).double()
    mask = blocky_mask(2, 137, 137, CLASSES)
    unit = next(part for part in mine.modules() if isinstance(part, EMAU))
    pairs = {"unit": [first(part.eval()(x)) for part in (peer.unit(theirs), unit)]}
    pairs["logits"] = [peer.logits(theirs.eval(), image), mine.eval()(image)]
    pairs["loss"] = [peer.loss(theirs.train(), image, mask), peer.counterpart.loss(mine.train(), image, mask)]
    found = {what: float((a - b).abs().max() / b.abs().max()) for what, (a, b) in pairs.items()}
    if wrong := {what: value for what, value in found.items() if not value < BOUND}:
        sys.exit(f"error: {peer.name} does not compute what ours does with the same weights: {wrong}; nothing is timed")
    return found


def variants(peers: Sequence[Any], device: str) -> Iterator[Variant]:
    """Units in both layouts; networks under default and fast settings; several views as on ADE20K."""
    units = {peer.name: partial(lambda peer: peer.unit(peer.network(50, CLASSES)), peer) for peer in peers}
    yield from unit_variants({"ours": UNITS["ours"]} | units, (65, 129), 2, device)
    everybody = [*dict.fromkeys([OURS, *(peer.counterpart for peer in peers)]), *peers]
    for case, make in tasks(device):
        views = case["task"] == VIEWS
        for name in ("default",) if views else ("default", "fast"):
            for who in everybody:
                if not views or who.name.endswith("mmsegmentation"):  # the authors' code has one view
                    as_given = "contiguous" if who in peers and name == "default" else name
                    yield Variant(case, f"{who.name}; {name}", partial(make, who, CONDITIONS[as_given]), memory=views)


if __name__ == "__main__":
    options = parse(__doc__, rounds=5, budget=10)
    peers = [kind(place) for kind, place in ((Authors, options.authors), (MMSegmentation, options.mmseg)) if place]
    if not peers:
        sys.exit(print("Peers: not run, as none was given; python benchmarks/peers.py --help says how."))
    found = {} if options.peak is not None else {peer.name: differences(peer) for peer in peers}
    origins = {peer.name: peer.origin for peer in peers}
    main([*variants(peers, options.device)], options, differences=found, origins=origins)
