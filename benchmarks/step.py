"""Whole training steps and whole evaluations of our network: default settings beside the faster ones.

    python benchmarks/step.py [--device cpu|cuda]

Random weights, images and masks. A training step is loss, gradients, SGD and the move of the bases, without Lightning's
loop and the loggers; an evaluation goes from an image to the class of each pixel. "default" is float32 and channels
last, "fast" what trainer=fast sets: bfloat16 autocast as well (and TF32 products on CUDA). Peers: peers.py.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from loss import blocky_mask, summed_loss
from measure import Call, Variant, main, parse
from torch import Tensor

from emanet import EMANet
from emanet.inference.views import Inference
from emanet.training.losses.upsampled import pick, upsampled_cross_entropy

TRAINING, EVALUATION, VIEWS = "training step", "evaluation", "evaluation, 6 scales and flip, 150 classes"
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of an evaluation with several views
Shape = tuple[int, int, int]  # images, height, width
Net = Any  # a module with whatever its implementation asks of it


@dataclass(frozen=True)
class Condition:
    """Settings under which networks run; equal for all that are compared."""

    layout: torch.memory_format = torch.contiguous_format
    bfloat16: bool = False
    compile_mode: str | None = None

    @contextmanager
    def active(self, device: str) -> Iterator[None]:
        """The precision of a call: for the whole process, as variants take turns, and autocast around it."""
        torch.set_float32_matmul_precision("high" if self.bfloat16 else "highest")
        with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
            yield


CONDITIONS = {
    "default": Condition(torch.channels_last),
    "contiguous": Condition(),
    "contiguous, bfloat16": Condition(bfloat16=True),
    "fast": Condition(torch.channels_last, bfloat16=True),
}
ON_CUDA = {
    "compiled": Condition(compile_mode="default"),
    "fast, compiled": Condition(torch.channels_last, bfloat16=True, compile_mode="default"),
    "fast, CUDA graphs": Condition(torch.channels_last, bfloat16=True, compile_mode="reduce-overhead"),
}


class Ours:
    """One of our networks, with the paper's stem (``s``) or mmsegmentation's (``c``); peers have the same methods."""

    def __init__(self, name: str = "ours", kind: type[EMANet] = EMANet, stem: str = "s") -> None:
        self.name, self.kind, self.stem = name, kind, stem

    def network(self, depth: int, classes: int) -> Net:
        """Random weights."""
        return self.kind(classes, backbone=f"resnet{depth}{self.stem}")

    def loss(self, net: Net, image: Tensor, mask: Tensor) -> Tensor:
        """As the training task computes it: over all pixels, in blocks where that is the default."""
        low, mu, *auxiliary = net(image, return_bases=True, low=True)
        loss = torch.zeros((), device=image.device)
        for weight, logits in zip((1.0, *getattr(net, "aux_weights", ())), (low, *auxiliary), strict=True):
            blocks = pick("auto", logits, mask) == "blocks"
            total = (upsampled_cross_entropy if blocks else summed_loss)(logits, mask, align_corners=net.align_corners)
            loss = loss + weight * total / mask.numel()
        net.update_bases(mu.detach())
        return loss

    def classes(self, net: Net, image: Tensor) -> Tensor:
        """As the evaluation finds them."""
        return Inference().predict(net, image)

    def views(self, net: Net, image: Tensor) -> Tensor:
        """By several scales, upright and mirrored."""
        return Inference(scales=SCALES, flip=True).predict(net, image)


def training_step(who: Any, net: Net, image: Tensor, mask: Tensor, condition: Condition) -> Call:
    """A training step; it returns the loss."""
    weights = [parameter for parameter in net.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step() -> Tensor:
        with condition.active(image.device.type):
            loss = who.loss(net, image, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def network_call(who: Any, condition: Condition, *, task: str, device: str, depth: int, shape: Shape) -> Call:
    """A task of a network: a training step, or from an image to the class of each pixel, in one view or several."""
    torch.manual_seed(0)
    classes = 150 if task == VIEWS else 21
    net = who.network(depth, classes).to(device, memory_format=condition.layout)
    if condition.compile_mode:
        net.compile(mode=condition.compile_mode)
    image = torch.randn(*shape[:1], 3, *shape[1:]).to(device, memory_format=condition.layout)
    if task == TRAINING:
        return training_step(who, net, image, blocky_mask(*shape, classes).to(device), condition)
    net, look = net.eval(), who.views if task == VIEWS else who.classes

    def evaluate() -> Tensor:
        with torch.no_grad(), condition.active(device):
            return look(net, image)

    return evaluate


def tasks(device: str) -> Iterator[tuple[dict[str, Any], Callable[[Any, Condition], Call]]]:
    """What is timed: a case, and what makes its calls. On a CPU smaller and fewer images."""
    work = {TRAINING: (16, 513, 513) if device == "cuda" else (2, 257, 257), EVALUATION: (1, 513, 513)}
    for task, shape in {**work, VIEWS: (1, 512, 683)}.items():
        for depth in (50, 101) if task == EVALUATION else (50,):
            case = {"task": task, "network": f"ResNet-{depth}", "images": "x".join(map(str, shape))}
            yield case, partial(network_call, task=task, device=device, depth=depth, shape=shape)


def variants(device: str) -> Iterator[Variant]:
    """Our network under every condition."""
    for case, make in tasks(device):
        for name, condition in (CONDITIONS | (ON_CUDA if device == "cuda" else {})).items():
            if case["task"] != VIEWS:  # which takes minutes, and stands in peers.py
                memory = name in ("default", "fast") and case["network"] == "ResNet-50"
                yield Variant(case, name, partial(make, Ours(), condition), memory=memory)


if __name__ == "__main__":
    options = parse(__doc__, rounds=5, budget=10)
    main([*variants(options.device)], options)
