"""Independent float64 references: the attention unit in NumPy, and the authors' network as plain functions.

Written from the paper's equations and the architecture's facts (FACTS section 1), sharing no code with the package.
Tensors of the network go by the authors' key names.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Array = np.ndarray
BN_EPS = 1e-5
EM_EPS = 1e-6


# --- the unit, in NumPy ---------------------------------------------------------------------------------------------


def numpy_e_step(x: Array, mu: Array) -> Array:
    """Responsibilities (n, K) of pixels x (c, n) under bases mu (c, K): z_nk = exp(x_n.mu_k) / sum_j exp(x_n.mu_j)."""
    z = np.empty((x.shape[1], mu.shape[1]))
    for pixel in range(x.shape[1]):
        scores = np.array([np.dot(x[:, pixel], mu[:, k]) for k in range(mu.shape[1])])
        scores = np.exp(scores - scores.max())
        z[pixel] = scores / scores.sum()
    return z


def numpy_m_step(x: Array, z: Array, norm: str = "l2") -> Array:
    """Bases (c, K): mean of the pixels weighted by their responsibilities, normalized over the channels."""
    mu = np.empty((x.shape[0], z.shape[1]))
    for k in range(z.shape[1]):
        base = x @ z[:, k] / (EM_EPS + z[:, k].sum())
        if norm == "l2":
            base = base / (EM_EPS + np.sqrt((base**2).sum()))
        elif norm == "layer":
            base = (base - base.mean()) / np.sqrt(base.var() + 1e-5)
        mu[:, k] = base
    return mu


def numpy_em(x: Array, mu: Array, T: int, norm: str = "l2") -> tuple[Array, Array]:
    """T rounds for one image; z is from the bases before the last M-step."""
    z = np.empty(0)
    for _ in range(T):
        z = numpy_e_step(x, mu)
        mu = numpy_m_step(x, z, norm)
    return z, mu


class NumpyUnit(NamedTuple):
    """What one forward of the unit gives."""

    y: Array  # (b, c, h, w)
    z: Array  # (b, n, K)
    mu: Array  # (b, c, K)
    bn_mean: Array  # (c,) batch statistics of conv2's output, for the running ones
    bn_var: Array  # (c,) biased


def numpy_unit(
    weights: dict[str, Array], x: Array, *, T: int = 3, norm: str = "l2", training: bool = False
) -> NumpyUnit:
    """The whole unit; ``weights`` by the keys of its state dict."""
    b, c, h, w = x.shape
    w1, b1 = weights["conv1.weight"][:, :, 0, 0], weights["conv1.bias"]
    w2 = weights["conv2.0.weight"][:, :, 0, 0]
    zs, mus, branch = [], [], []
    for image in x.reshape(b, c, h * w):
        z, mu = numpy_em(w1 @ image + b1[:, None], weights["mu"][0], T, norm)
        zs.append(z)
        mus.append(mu)
        branch.append(w2 @ np.maximum(mu @ z.T, 0))
    a = np.stack(branch)
    mean, var = a.mean(axis=(0, 2)), a.var(axis=(0, 2))
    use_mean, use_var = (mean, var) if training else (weights["conv2.1.running_mean"], weights["conv2.1.running_var"])
    a = (a - use_mean[:, None]) / np.sqrt(use_var[:, None] + BN_EPS)
    a = a * weights["conv2.1.weight"][:, None] + weights["conv2.1.bias"][:, None]
    y = np.maximum(x + a.reshape(x.shape), 0)
    return NumpyUnit(y, np.stack(zs), np.stack(mus), mean, var)


def numpy_update(stored: Array, mu: Array, momentum: float) -> Array:
    """Moving average: the share ``momentum`` of the stored bases (1, c, K), the rest from the batch's mean."""
    return momentum * stored + (1 - momentum) * mu.mean(axis=0, keepdims=True)


# --- the network, in torch, over the authors' key names --------------------------------------------------------------

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
WIDTHS = (64, 128, 256, 512)


def reference_state(
    depth: int = 50, *, classes: int = 21, channels: int = 512, K: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    """Random weights in the authors' layout, float32, with drawn batch-norm statistics."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def conv(key: str, c_out: int, c_in: int, k: int) -> None:
        state[f"{key}.weight"] = draw(c_out, c_in, k, k) * (2 / (k * k * c_in)) ** 0.5

    def norm(key: str, c: int, scale: float = 1.0) -> None:
        state[f"{key}.weight"] = scale * (0.5 + torch.rand(c, generator=generator))
        state[f"{key}.bias"] = 0.1 * draw(c)
        state[f"{key}.running_mean"] = 0.1 * draw(c)
        state[f"{key}.running_var"] = 0.5 + torch.rand(c, generator=generator)

    conv("extractor.0.0", 64, 3, 3)
    norm("extractor.0.1", 64)
    conv("extractor.0.3", 64, 64, 3)
    norm("extractor.0.4", 64)
    conv("extractor.0.6", 128, 64, 3)
    norm("extractor.1", 128)
    c_in = 128
    for stage, (blocks, width) in enumerate(zip(BLOCKS[depth], WIDTHS, strict=True), start=4):
        for block in range(blocks):
            key = f"extractor.{stage}.{block}"
            conv(f"{key}.conv1", width, c_in, 1)
            norm(f"{key}.bn1", width)
            conv(f"{key}.conv2", width, width, 3)
            norm(f"{key}.bn2", width)
            conv(f"{key}.conv3", 4 * width, width, 1)
            norm(f"{key}.bn3", 4 * width, scale=0.3)
            if block == 0:
                conv(f"{key}.downsample.0", 4 * width, c_in, 1)
                norm(f"{key}.downsample.1", 4 * width)
            c_in = 4 * width
    conv("fc0.conv", channels, c_in, 3)
    norm("fc0.bn", channels)
    state["emau.mu"] = F.normalize(draw(1, channels, K), dim=1)
    conv("emau.conv1", channels, channels, 1)
    state["emau.conv1.bias"] = 0.1 * draw(channels)
    conv("emau.conv2.0", channels, channels, 1)
    norm("emau.conv2.1", channels)
    conv("fc1.0.conv", 256, channels, 3)
    norm("fc1.0.bn", 256)
    conv("fc2", classes, 256, 1)
    state["fc2.bias"] = 0.1 * draw(classes)
    return state


class ReferenceNet:
    """The authors' network as a function of a state dict; without dropout.

    ``training`` takes batch norms' statistics from the batch; ``statistics`` then holds them (mean, unbiased variance).
    """

    def __init__(self, state: dict[str, Tensor], *, output_stride: int = 8, T: int = 3, training: bool = False) -> None:
        self.state = state
        self.T = T
        self.training = training
        self.statistics: dict[str, tuple[Tensor, Tensor]] = {}
        self.strides = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1)}[output_stride]
        # By stage and block: the first block of layer3 at stride 8 is not dilated, the last stage has the multi-grid.
        deep = range(1, BLOCKS[152][2])
        self.dilations = {
            8: ({}, {}, dict.fromkeys(deep, 2), {0: 2, 1: 8, 2: 16}),
            16: ({}, {}, {}, {0: 1, 1: 4, 2: 8}),
        }[output_stride]

    def conv(self, key: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = self.state[f"{key}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.state.get(f"{key}.bias"), stride=stride, padding=padding, dilation=dilation)

    def norm(self, key: str, x: Tensor) -> Tensor:
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            count = x.numel() // x.shape[1]
            self.statistics[key] = (mean.detach(), var.detach() * count / (count - 1))
        else:
            mean, var = self.state[f"{key}.running_mean"], self.state[f"{key}.running_var"]
        scale = self.state[f"{key}.weight"] / (var + BN_EPS).sqrt()
        return x * scale[:, None, None] + (self.state[f"{key}.bias"] - mean * scale)[:, None, None]

    def backbone(self, x: Tensor) -> Tensor:
        x = self.norm("extractor.0.1", self.conv("extractor.0.0", x, stride=2)).relu()
        x = self.norm("extractor.0.4", self.conv("extractor.0.3", x)).relu()
        x = self.norm("extractor.1", self.conv("extractor.0.6", x)).relu()
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(4):
            block = 0
            while f"extractor.{stage + 4}.{block}.conv1.weight" in self.state:
                stride = self.strides[stage] if block == 0 else 1
                x = self.bottleneck(f"extractor.{stage + 4}.{block}", x, stride, self.dilations[stage].get(block, 1))
                block += 1
        return x

    def bottleneck(self, key: str, x: Tensor, stride: int, dilation: int) -> Tensor:
        out = self.norm(f"{key}.bn1", self.conv(f"{key}.conv1", x)).relu()
        out = self.norm(f"{key}.bn2", self.conv(f"{key}.conv2", out, stride, dilation)).relu()
        out = self.norm(f"{key}.bn3", self.conv(f"{key}.conv3", out))
        if f"{key}.downsample.0.weight" in self.state:
            x = self.norm(f"{key}.downsample.1", self.conv(f"{key}.downsample.0", x, stride))
        return (out + x).relu()

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, c, h, w = x.shape
        with torch.no_grad():
            pixels = self.conv("emau.conv1", x).reshape(b, c, h * w)
            mu = self.state["emau.mu"].repeat(b, 1, 1)
            for _ in range(self.T):
                z = torch.einsum("bcn,bck->bnk", pixels, mu).softmax(2)
                mu = torch.einsum("bcn,bnk->bck", pixels, z / (EM_EPS + z.sum(1, keepdim=True)))
                mu = mu / (EM_EPS + mu.pow(2).sum(1, keepdim=True).sqrt())
            y = torch.einsum("bck,bnk->bcn", mu, z).reshape(b, c, h, w).relu()
        return (self.norm("emau.conv2.1", self.conv("emau.conv2.0", y)) + x).relu(), mu

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at the image's size, and each image's final bases."""
        x = self.norm("fc0.bn", self.conv("fc0.conv", self.backbone(image))).relu()
        x, mu = self.attention(x)
        x = self.norm("fc1.0.bn", self.conv("fc1.0.conv", x)).relu()
        return F.interpolate(self.conv("fc2", x), size=image.shape[-2:], mode="bilinear", align_corners=True), mu


def reference_loss(logits: Tensor, mask: Tensor, ignore_index: int = 255) -> Tensor:
    """Negative log-likelihood of the labeled pixels over the number of *all* pixels."""
    labeled = mask != ignore_index
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    truth = torch.zeros_like(logits).scatter_(1, (mask * labeled).unsqueeze(1), 1.0) * labeled.unsqueeze(1)
    return -(truth * log_p).sum() / mask.numel()
