"""Networks as folders: safetensors, config.json and a model card, on disk or on the Hugging Face Hub.

``net.save_pretrained(FOLDER)``, ``net.push_to_hub("user/name")`` and ``EMANet.from_pretrained(FOLDER or "user/name")``
come from huggingface_hub's mixin. No pickle is read or written.
"""

import importlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from safetensors.torch import save_file
from torch import nn

from emanet.common.errors import WeightsError
from emanet.model.backbone import input_statistics
from emanet.model.weights import load_weights, read_checkpoint

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
UNKNOWN = "unknown"  #: data set of weights that do not say it
ARCHITECTURES = {
    "EMANet": "emanet.model.network",
    "MMSegEMANet": "emanet.model.mmseg",
}  # what a config.json may ask to import

CITATION = """@inproceedings{li2019expectation,
  title     = {Expectation-Maximization Attention Networks for Semantic Segmentation},
  author    = {Li, Xia and Zhong, Zhisheng and Wu, Jianlong and Yang, Yibo and Lin, Zhouchen and Liu, Hong},
  booktitle = {International Conference on Computer Vision},
  year      = {2019}
}"""


@dataclass(frozen=True)
class Description:
    """What a network's input and output mean: all that prediction needs beside the weights.

    Args:
        dataset: what it was trained on.
        class_names: name of each class.
        palette: color of each class, 0..255 RGB.
        mean, std: normalization of the input in units of 0..1, RGB; ``None``: those of the backbone's weights.
        miou: on ``split``, a share 0..1; ``None``: not measured.
        split: of the data set that was measured on.
    """

    dataset: str
    class_names: Sequence[str]
    palette: Sequence[Sequence[int]] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    miou: float | None = None
    split: str | None = None


class HubMixin(ModelHubMixin):
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub``; the constructor's arguments are kept for them.

    ``description`` says what the classes are; set it before saving, read it after loading.
    """

    description: Description | None = None
    head_name: str

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write weights and configuration; the card is the mixin's next step."""
        assert isinstance(self, nn.Module)
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        save_file(state, save_directory / WEIGHTS_FILE, metadata={"format": "pt"})
        text = json.dumps(self.hub_config(), indent=2)
        (save_directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    def hub_config(self) -> dict[str, Any]:
        """What config.json holds: the class, its arguments, and the description with the input statistics filled in."""
        captured: Any = self._hub_mixin_config
        # the weights file has the backbone's too
        model = dict(captured or {}) | {"pretrained": False, "head": self.head_name}
        described = self.description
        if described is not None and (described.mean is None or described.std is None):
            mean, std = input_statistics(model["backbone"])
            described = replace(described, mean=list(mean), std=list(std))
        return {
            "architecture": type(self).__name__,
            "model": model,
            "description": None if described is None else asdict(described),
        }

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        config: dict[str, Any] | None = None,
        **overrides: Any,
    ) -> Self:
        """Build the network that config.json names, with ``overrides`` of its arguments, and fill it strictly."""
        if not isinstance(config, dict) or config.get("architecture") not in ARCHITECTURES:
            raise WeightsError(
                f"{model_id} holds no {CONFIG_FILE} of an EMANet: give a folder that save_pretrained wrote, or the "
                "name of a repository made by push_to_hub"
            )
        path = Path(model_id) / WEIGHTS_FILE
        if not Path(model_id).is_dir():
            options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
            options |= {"local_files_only": local_files_only, "token": token}
            path = Path(str(hf_hub_download(model_id, WEIGHTS_FILE, **options)))
        for key in ("proxies", "resume_download"):  # of the mixin before huggingface_hub 1.0
            overrides.pop(key, None)
        name = config["architecture"]
        architecture = getattr(importlib.import_module(ARCHITECTURES[name]), name)
        if not issubclass(architecture, cls):
            raise WeightsError(f"{model_id} holds a {name}, not a {cls.__name__}: use EMANet.from_pretrained")
        net = architecture(**config["model"] | overrides)
        load_weights(net, read_checkpoint(path), source=str(path))
        if (described := config.get("description")) is not None:
            net.description = Description(**described)
        return net.eval()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Make README.md of the folder: task, data, score, configuration, citation."""
        config = self.hub_config()
        return ModelCard(f"---\n{card_data(self.description).to_yaml()}\n---\n\n{card_text(config)}")


def card_data(described: Description | None) -> ModelCardData:
    """What the Hub's index reads: task, data set, score."""
    results = None
    if described is not None and described.miou is not None:
        results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type=described.dataset,
                dataset_name=described.dataset,
                dataset_split=described.split,
                metric_type="mean_iou",
                metric_name="mIoU",
                metric_value=described.miou,
            )
        ]
    return ModelCardData(
        model_name="EMANet",
        library_name="emanet",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "emanet", "expectation-maximization-attention", "arxiv:1907.13426"],
        datasets=None if described is None or described.dataset == UNKNOWN else [described.dataset],
        eval_results=results,
    )


def card_text(config: dict[str, Any]) -> str:
    """The card's text."""
    described, model = config["description"], config["model"]
    data, score, classes = "not stated", "not measured", f"{model['num_classes']}"
    head = model["head"]
    method = "expectation-maximization attention" if head == "ema" else f"head {head} in place of the attention unit"
    if described is not None:
        data, classes = described["dataset"], ", ".join(described["class_names"])
        if described["miou"] is not None:
            score = f"{100 * described['miou']:.2f} %" + (f" ({described['split']})" if described["split"] else "")
    return f"""# EMANet, {model["backbone"]}

Semantic segmentation with {method}: EMANet (Li et al., ICCV 2019, arXiv 1907.13426).

| | |
|---|---|
| data | {data} |
| mIoU | {score} |
| classes | {classes} |

```python
from emanet import EMANet

net = EMANet.from_pretrained("THIS FOLDER OR REPOSITORY")
logits = net(image)  # (b, 3, h, w), normalized as config.json says
```

## Configuration

```json
{json.dumps({"architecture": config["architecture"], **model}, indent=2)}
```

## Citation

```bibtex
{CITATION}
```
"""
