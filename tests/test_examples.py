"""Every example runs: all parts of one's own in one training, from a folder beside --config-dir, and each by hand."""

import json
from pathlib import Path

import pytest
import torch

from emanet.model.network import EMANet
from fake_data import write_voc
from zygote import TINY, Zygote

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder as the scripts see it."""
    monkeypatch.syspath_prepend(EXAMPLES)


def test_parts_of_ones_own_train_together_by_name_without_touching_the_package(zygote: Zygote, tmp_path: Path):
    write_voc(tmp_path / "data", n_train=4)
    small = [item for item in TINY if not item.startswith("model.K=")]
    parts = ["head=gated", "model.reduction=4", "loss=smoothed", "optimizer=sign", "logger=jsonl"]
    parts += ["callbacks=[default,gradient_norm,dice_metric]", "callbacks.best.monitor=val/dice"]
    steps = ["trainer.max_steps=2", "trainer.val_every_n_steps=2", f"dataset.root={tmp_path / 'data'}"]
    place = [f"hydra.run.dir={tmp_path / 'run'}", "--config-dir", str(EXAMPLES / "conf")]
    zygote.run(*small, *parts, *steps, *place, cwd=tmp_path)
    state = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert state["state_dict"]["net.head.gate.0.weight"].shape == (2, 8)
    assert state["hyper_parameters"]["model"]["head"] == "gated_head.GatedHead"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = {key: value for row in rows for key, value in row.items()}
    assert logged["train/gradient_norm"] > 0
    assert 0 <= logged["val/dice"] <= 1
    assert (tmp_path / "run" / "metrics.csv").is_file()


def test_the_head_weighs_channels_by_the_mean_of_the_image(examples):
    from gated_head import GatedHead

    net = EMANet(2, backbone="test_resnet", output_stride=16, head=GatedHead, channels=8, reduction=2)
    x = torch.randn(2, 8, 3, 3)
    y, mu = net.head(x)
    assert mu is None
    torch.testing.assert_close(y, x * net.head.gate(x.mean((2, 3)))[:, :, None, None])
    assert net(torch.randn(1, 3, 33, 33)).shape == (1, 2, 33, 33)


def test_the_loss_leaves_ignored_pixels_out(examples):
    from smoothed_loss import SmoothedCrossEntropy

    mask = torch.tensor([[[0, 255]]])
    logits = torch.tensor([[[[2.0, 9.0]], [[0.0, -9.0]]]])
    log_p = torch.log_softmax(torch.tensor([2.0, 0.0]), 0)
    expected = -(0.9 * log_p[0] + 0.1 * log_p.mean())
    torch.testing.assert_close(SmoothedCrossEntropy(smoothing=0.1)(logits, mask), expected)


def test_the_optimizer_steps_by_the_sign_of_the_average(examples):
    from sign_optimizer import SignSGD

    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = SignSGD([weight], lr=0.1, momentum=0.5, weight_decay=0.5)
    for gradient in ([3.0, -1.0], [-1.0, 5.0]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    # averages: (1.5, -0.5), then (0.25, 2.25)
    expected = torch.tensor([(0.95 * 1 - 0.1) * 0.95 - 0.1, (0.95 * -2 + 0.1) * 0.95 - 0.1])
    torch.testing.assert_close(weight.detach(), expected)


def test_the_metric_by_hand(examples):
    from dice_metric import Dice

    dice = Dice(3)
    dice.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 255]]]))
    # class 0: 2 * 1 / (2 + 1); class 1: 2 * 1 / (1 + 2); class 2 does not occur
    assert dice.compute() == pytest.approx(2 / 3)


def test_the_unit_trains_inside_another_network_and_its_bases_move(examples):
    from emau_elsewhere import SmallNet, train

    start = SmallNet(2).emau.mu
    assert torch.linalg.vector_norm(start, dim=1).allclose(torch.ones(1, 8))
    losses = train(40)
    assert losses[-1] < 0.2 * losses[0]
