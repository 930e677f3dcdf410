"""The paper's unit inside another network and another training loop: all that it needs is torch.

    python examples/emau_elsewhere.py

Two things are to be kept: the bases move once per optimizer step, by ``update_bases(mu)`` with the ``mu`` of the
forward pass (on several devices: with its mean over them), and ``conv1`` is not trained.
"""

import torch
from torch import Tensor, nn

from emanet import EMAU


class SmallNet(nn.Module):
    """Two convolutions, the unit, a classifier."""

    def __init__(self, classes: int, *, channels: int = 32, K: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.emau = EMAU(channels, K=K, T=3)
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at the size of the image, and each image's final bases."""
        y, mu = self.emau(torch.relu(self.stem(image)))
        logits = nn.functional.interpolate(self.classify(y), size=image.shape[2:], mode="bilinear")
        return logits, mu


def train(steps: int = 60, *, seed: int = 0) -> list[float]:
    """Learn to tell the brighter from the darker half of random images; return the loss of each step."""
    torch.manual_seed(seed)
    net = SmallNet(classes=2)
    optimizer = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(steps):
        image = torch.rand(4, 3, 32, 32) * 0.5
        mask = torch.zeros(4, 32, 32, dtype=torch.int64)
        image[:, :, :, 16:] += 0.5
        mask[:, :, 16:] = 1
        logits, mu = net(image)
        loss = nn.functional.cross_entropy(logits, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        net.emau.update_bases(mu.detach())
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    found = train()
    print(f"loss {found[0]:.3f} at the first step, {found[-1]:.3f} at the last")
