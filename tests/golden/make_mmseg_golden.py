"""Make mmseg_emanet.json: what mmsegmentation's own EMANet computes, for tests that run without it.

    python -m venv /tmp/mmseg && . /tmp/mmseg/bin/activate
    pip install torch numpy ftfy regex mmengine mmcv-lite==2.1.0 mmsegmentation==1.2.2
    python tests/golden/make_mmseg_golden.py

The model is configs/_base_/models/emanet_r50-d8.py of the installed package with plain batch norms. Weights and
batch-norm statistics are drawn from a seed that each tensor's name gives, so the file holds names, shapes and some
outputs instead of weights. All in float64.
"""

import importlib.metadata
import json
import sys
import types
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN = Path(__file__).with_name("mmseg_emanet.json")
IMAGE_SHAPE = (2, 3, 65, 81)
SAMPLES = 200  # values kept of each output


def draw(name: str, shape: Sequence[int]) -> torch.Tensor:
    """One tensor, from its name and shape alone: batch norms far from their start, responsibilities in between."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return torch.tensor(0)
    if leaf == "running_var":
        values = rng.uniform(0.5, 1.5, shape)
    elif leaf == "weight" and len(shape) == 1:
        values = rng.uniform(0.45, 1.1, shape)
    elif len(shape) > 1:
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    else:
        values = rng.normal(0, 0.1, shape)
    if leaf == "bases":
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    return torch.from_numpy(values)


def draw_all(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """All tensors of a network."""
    return {name: draw(name, shape) for name, shape in shapes.items()}


def sample(values: torch.Tensor) -> list[float]:
    """Evenly spaced values of a tensor."""
    flat = values.detach().flatten()
    return flat[:: max(1, len(flat) // SAMPLES)].tolist()


class NoOperators(types.ModuleType):
    """Stands for mmcv's compiled operators, which mmcv-lite lacks and this model does not use."""

    def __getattr__(self, name: str) -> Any:
        """Something for every operator that is asked for on import."""
        if name.startswith("__"):
            raise AttributeError(name)
        return print


def build_peer() -> Any:
    """mmsegmentation's R-50 EMANet with plain batch norms and no dropout."""
    sys.modules["mmcv._ext"] = NoOperators("mmcv._ext")
    import mmseg
    from mmengine.config import Config
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    path = Path(mmseg.__file__).parent / ".mim/configs/_base_/models/emanet_r50-d8.py"
    model = Config.fromfile(path).model
    model.pretrained = None
    for part in (model.backbone, model.decode_head, model.auxiliary_head):
        part.norm_cfg.type = "BN"
    model.decode_head.dropout_ratio = model.auxiliary_head.dropout_ratio = 0
    return MODELS.build(model)


def main() -> None:
    """Run the peer and write the file."""
    peer = build_peer()
    shapes = {name: list(value.shape) for name, value in peer.state_dict().items()}
    peer.load_state_dict(draw_all(shapes))
    peer.double()
    image = draw("image", IMAGE_SHAPE)

    def upsampled(logits: torch.Tensor) -> torch.Tensor:
        from mmseg.models.utils import resize

        return resize(logits, size=IMAGE_SHAPE[-2:], mode="bilinear", align_corners=peer.align_corners)

    golden: dict[str, Any] = {
        "made_by": "tests/golden/make_mmseg_golden.py",
        "versions": {name: importlib.metadata.version(name) for name in ("mmsegmentation", "mmcv-lite", "torch")},
        "shapes": shapes,
    }
    with torch.no_grad():
        peer.eval()
        golden["eval/logits"] = sample(upsampled(peer(image, mode="tensor")))
        peer.train()
        features = peer.extract_feat(image)
        golden["train/logits"] = sample(upsampled(peer.decode_head(features)))
        golden["train/aux_logits"] = sample(upsampled(peer.auxiliary_head(features)))
        golden["train/bases_after"] = sample(peer.decode_head.ema_module.bases)
    GOLDEN.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
