"""Networks as folders: safetensors, config.json and a model card, on disk or on the Hugging Face Hub.

``net.save_pretrained(FOLDER)`` and ``net.push_to_hub("user/name")`` come from huggingface_hub's mixin;
``EMANet.from_pretrained(FOLDER or "user/name")`` reads what they wrote. No pickle is read or written.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from safetensors.torch import save_file
from torch import nn

from emanet.common.errors import WeightsError
from emanet.common.files import write_json
from emanet.model.backbone import input_statistics
from emanet.model.heads import options_of
from emanet.model.stored import NETWORKS, UNKNOWN, Description, Stored, check_names, refusing, restore_network
from emanet.model.weights import CHECKSUM, checksum, read_state_dict

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
DOWNLOAD = ("revision", "cache_dir", "force_download", "local_files_only", "token")  #: options of the Hub's
CARD = Path(__file__).with_name("card.md")  #: the model card's template


class HubMixin(ModelHubMixin):
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub``; the constructor's arguments are kept for them.

    ``description`` says what the classes are; set it before saving, read it after loading.
    """

    description: Description | None = None
    head: Any
    head_name: str

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """As the mixin's, but written beside and renamed: a save that fails leaves what was in the folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".saving") as beside:
            address = super().save_pretrained(beside, **{"repo_id": folder.name} | options)
            for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
                if name != CARD_FILE or not (folder / name).exists():  # which may be the user's own
                    (Path(beside) / name).replace(folder / name)
        return address

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write weights and configuration; the card is the mixin's next step."""
        assert isinstance(self, nn.Module)
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        save_file(state, save_directory / WEIGHTS_FILE, metadata={"format": "pt"})
        write_json(
            save_directory / CONFIG_FILE, self.hub_config() | {CHECKSUM: checksum(save_directory / WEIGHTS_FILE)}
        )

    def hub_config(self) -> dict[str, Any]:
        """What config.json holds: the class, its arguments, and the description with the input statistics filled in."""
        # Defaults are written out, the head's too: they may change. The weights file has the backbone's weights.
        model = {key: p.default for key, p in options_of(type(self.head)).items() if p.default is not p.empty}
        model |= {**(self._hub_mixin_config or {}), "pretrained": False, "head": self.head_name}  # type: ignore[dict-item]
        described = self.description
        if described is not None and (described.mean is None or described.std is None):
            mean, std = input_statistics(model["backbone"])
            described = replace(described, mean=list(mean), std=list(std))
        target = f"{type(self).__module__}.{type(self).__qualname__}"
        return {
            "architecture": type(self).__name__ if target in NETWORKS else target,
            "model": model,
            "description": None if described is None else asdict(described),
        }

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *, trust: bool = False, **options: Any) -> Self:
        """Build the network that a folder or a repository of the Hub holds, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder that ``save_pretrained`` wrote, or ``user/name``.
            trust: import other people's classes that it names, and run their code.
            options: of the download (``revision``, ``cache_dir``, ``force_download``, ``local_files_only``, ``token``),
                and arguments of the network that are to differ from those stored.

        Raises:
            WeightsError: for what cannot be fetched, is no such folder, names code that is not ours, or does not fit.
            ConfigError: for options that make no sense.
        """
        name, folder = str(pretrained_model_name_or_path), Path(pretrained_model_name_or_path).expanduser()
        download = {key: options.pop(key) for key in DOWNLOAD if key in options}
        if not folder.is_dir():
            with refusing(f"{name} is no folder, and no repository that the Hub gives"):
                folder = Path(snapshot_download(name, allow_patterns=[WEIGHTS_FILE, CONFIG_FILE], **download))
        stored = read_folder(folder, trust=trust)
        net = restore_network(stored, stored.settings["model"] | options)
        if not isinstance(net, cls):
            raise WeightsError(f"{name} holds {type(net).__name__}, not {cls.__name__}: use EMANet.from_pretrained")
        return net

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Make README.md of the folder: task, data, score, configuration, citation."""
        described = self.description
        data = ModelCardData(
            model_name="EMANet",
            library_name="emanet",
            pipeline_tag="image-segmentation",
            tags=["semantic-segmentation", "emanet", "expectation-maximization-attention", "arxiv:1907.13426"],
            datasets=None if described is None or described.dataset == UNKNOWN else [described.dataset],
            eval_results=None if described is None or described.miou is None else [score_of(described)],
        )
        return ModelCard.from_template(data, template_str=CARD.read_text(encoding="utf-8"), **self.hub_config())


def score_of(described: Description) -> EvalResult:
    """The score as the Hub's index reads it."""
    return EvalResult(
        task_type="image-segmentation",
        dataset_type=described.dataset,
        dataset_name=described.dataset,
        dataset_split=described.split,
        metric_type="mean_iou",
        metric_name="mIoU",
        metric_value=described.miou,
    )


def read_folder(folder: Path, *, trust: bool = False) -> Stored:
    """Read a folder of ``save_pretrained``.

    Raises:
        WeightsError: if it is none, or names code that is not ours (unless ``trust``).
    """
    with refusing(
        f"{folder} holds no {CONFIG_FILE} of an EMANet: give a folder that save_pretrained wrote, or the name of a "
        "repository made by push_to_hub"
    ):
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        model, named = dict(config["model"]), str(config["architecture"])
        num_classes = model.pop("num_classes")
        model["_target_"] = named if "." in named else f"emanet.model.{named}"
        described = config.get("description")
        description = None if described is None else Description(**described)
    if not trust:
        check_names(model, str(folder))
    weights = read_state_dict(folder / WEIGHTS_FILE)
    return Stored(str(folder), {"model": model}, num_classes, weights, description, {})
