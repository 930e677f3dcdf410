"""Our network beside other implementations of EMANet: same shapes, same machine, same run, same weights.

    python -m venv peers && . peers/bin/activate
    pip install --editable . onedl-mmsegmentation==1.4.2 ftfy regex
    git clone https://github.com/XiaLiPKU/EMANet authors
    python benchmarks/peers.py --checkout authors=authors [--device auto]

Peers: mmsegmentation where it is installed (``onedl-mmsegmentation`` is its maintained fork; the original is
``mmsegmentation==1.2.2 mmcv-lite==2.1.0``), a checkout of the authors' code by its folder, and any other
implementation by ``--checkout NAME=FOLDER:MODULE:FACTORY``, where ``FACTORY()`` gives a module that takes images
(b, 3, h, w) to logits of 21 classes. None of it is part of this repository.

Tasks: the attention unit alone (512 channels, K=64, T=3), forward and with its gradients; the network with ResNet-50,
from an image to its classes, and from a batch to the loss and the gradients. Each implementation runs under equal
conditions: float32, float32 with channels last, bfloat16 autocast with channels last. mmsegmentation's network has
another stem, a wider head and an auxiliary one, so it stands beside ours with its options as well.

Before anything is timed, an implementation must give the unit's output, the network's logits and the loss of our
counterpart with the same weights, in float64, and have as many parameters. Those of FACTORY are not compared.
Writes benchmarks/results/peers_DEVICE.json.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from attention_unit import Setting, operations
from checkouts import checkout
from implementations import OURS, PORT, Implementation, batch, compared, features, first, parameters
from measure import Call, Variant, arguments, main, parse
from mmseg_peer import find_mmseg

from emanet.common.errors import ConfigError

NO_PEER = (
    "there is no other implementation to compare with, so nothing was measured: install onedl-mmsegmentation, or give "
    "--checkout authors=FOLDER; python benchmarks/peers.py --help says how"
)


class Condition(NamedTuple):
    """Equal for all that are compared."""

    precision: str
    layout: str

    @property
    def format(self) -> torch.memory_format:
        """Of weights and images."""
        return torch.channels_last if self.layout == "channels last" else torch.contiguous_format

    def autocast(self, device: str) -> AbstractContextManager:
        """Lower precision where wanted."""
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


CONDITIONS = (
    Condition("float32", "contiguous"),
    Condition("float32", "channels last"),
    Condition("bfloat16", "channels last"),
)


# --- what is timed ----------------------------------------------------------------------------------------------------


def unit_call(peer: Implementation, condition: Condition, device: str, size: int, backward: bool) -> Call:
    """The unit alone; in evaluation, or in training to the gradients of its input and weights."""
    assert peer.unit
    unit = peer.unit().to(device).to(memory_format=condition.format).train(backward)
    x = features(2, size).to(device, memory_format=condition.format).requires_grad_(backward)
    wanted = [x, *(parameter for parameter in unit.parameters() if parameter.requires_grad)]
    upstream = torch.ones_like(x)

    def call() -> object:
        with torch.set_grad_enabled(backward), condition.autocast(device):
            y = first(unit(x))
        return torch.autograd.grad(y, wanted, upstream.to(y.dtype), allow_unused=True) if backward else y

    return call


def classes_call(peer: Implementation, condition: Condition, device: str, size: int) -> Call:
    """From one image to the class of each pixel."""
    net = peer.network().to(device).to(memory_format=condition.format).eval()
    image = batch(1, size)[0].to(device, memory_format=condition.format)

    def call() -> object:
        with torch.no_grad(), condition.autocast(device):
            return peer.classes(net, image)

    return call


def gradient_call(peer: Implementation, condition: Condition, device: str, size: int) -> Call:
    """From two images to the loss and the gradients of all weights."""
    net = peer.network().to(device).to(memory_format=condition.format)
    image, mask = batch(2, size)
    image, mask = image.to(device, memory_format=condition.format), mask.to(device)

    def call() -> object:
        with condition.autocast(device):
            loss = peer.loss(net, image, mask)
        loss.backward()
        net.zero_grad(set_to_none=True)
        return loss.detach()

    return call


def variants(peers: Sequence[Implementation], options: argparse.Namespace) -> Iterator[Variant]:
    """Every implementation under every condition that it accepts."""
    ways = [(peer, condition) for condition in CONDITIONS for peer in peers]
    ways = [(peer, condition) for peer, condition in ways if label(peer, condition) not in options.refused]
    for size in options.pixels:
        for task, backward in (("unit, forward", False), ("unit, forward and backward", True)):
            case = {"task": task, "images": 2, "size": size}
            least = operations("ours", Setting(options.device, side=size, images=2, training=backward))
            for peer, condition in ways:
                if peer.unit and peer is not PORT:  # differs from ours in an epsilon
                    build = partial(unit_call, peer, condition, options.device, size, backward)
                    # A fresh process for each of many short calls would take minutes.
                    memory = size == max(options.pixels) and not backward
                    yield variant(case, peer, condition, build, memory=memory, operations=least)
    for task, images, size, prepare in (
        ("network, image to classes", 1, options.size, classes_call),
        ("network, loss and gradients", 2, options.crop, gradient_call),
    ):
        case = {"task": task, "images": images, "size": size}
        for peer, condition in ways:
            yield variant(case, peer, condition, partial(prepare, peer, condition, options.device, size), count=True)


def label(peer: Implementation, condition: Condition) -> str:
    """Name of a variant."""
    return f"{peer.name}; {condition.precision}, {condition.layout}"


def variant(case: dict[str, Any], peer: Implementation, condition: Condition, build: Any, **more: Any) -> Variant:
    """One row."""
    note = {"implementation": peer.name, **condition._asdict()}
    return Variant(case, label(peer, condition), build, per_call=case["images"], note=note, **more)


def refusals(peer: Implementation, device: str) -> dict[str, str]:
    """Conditions that a peer cannot run under, tried at a small size, and why."""
    found = {}
    for condition in CONDITIONS[1:]:
        try:
            if peer.unit:
                unit_call(peer, condition, device, 9, True)()
            classes_call(peer, condition, device, 65)()
            gradient_call(peer, condition, device, 65)()
        except RuntimeError as error:  # a view of a layout that it did not expect, or two dtypes
            found[label(peer, condition)] = str(error).splitlines()[0]
    return found


# --- one run ----------------------------------------------------------------------------------------------------------


def run() -> None:
    """Parse, compare, measure."""
    parser = arguments(__doc__)
    parser.set_defaults(rounds=5, budget=10)
    parser.add_argument("--checkout", action="append", default=[], help="NAME=FOLDER or NAME=FOLDER:MODULE:FACTORY")
    parser.add_argument("--pixels", type=int, nargs="+", default=(65, 129), help="sides of the unit's features")
    parser.add_argument("--size", type=int, default=513, help="of the image to classes")
    parser.add_argument("--crop", type=int, default=257, help="of the two training images")
    parser.add_argument("--refused", action="append", default=[], help=argparse.SUPPRESS)  # for processes of its own
    options = parse(parser)
    try:
        peers = [*find_mmseg(), *map(checkout, options.checkout)]
        if not peers:
            raise ConfigError(NO_PEER)
        if len({peer.name for peer in (OURS, *peers)}) <= len(peers):
            raise ConfigError(f"each implementation needs a name of its own, got {', '.join(p.name for p in peers)}")
        entries = {} if options.peak is not None else {peer.name: describe(peer, options) for peer in (OURS, *peers)}
    except ConfigError as error:
        parser.exit(1, f"error: {error}\n")
    what = "Implementations of EMANet, ResNet-50, 21 classes, random weights and images"
    main(what, list(variants([OURS, *peers], options)), options, implementations=entries)


def describe(peer: Implementation, options: argparse.Namespace) -> dict[str, Any]:
    """For the result file; what a peer refuses is left out of this run, and of the processes that it starts."""
    if peer in (OURS, PORT):
        return {"parameters": parameters(peer.network())}
    entry = peer.origin() | compared(peer)
    for name, reason in refusals(peer, options.device).items():
        entry.setdefault("refused", {})[name] = reason
        options.refused.append(name)
        sys.argv += ["--refused", name]
    return entry


if __name__ == "__main__":
    run()
