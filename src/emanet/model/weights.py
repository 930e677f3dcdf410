"""Reading weight files safely, and fitting published classifier weights to timm's backbones."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from emanet.common.errors import WeightsError

WRAPPERS = ("state_dict", "net", "model")  # under these keys training codes store the weights among other things


def read_checkpoint(path: str | Path) -> dict:
    """Read a ``torch.save`` or safetensors file without ever executing code from it.

    Raises:
        WeightsError: for a file that is missing, truncated, or holds more than tensors and plain containers.
    """
    path = Path(path).expanduser()
    if (path / "model.safetensors").is_file():  # a folder of save_pretrained
        path = path / "model.safetensors"
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: give the path of an existing file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}): truncated, or no PyTorch file? Fetch it again") from error
    except Exception as error:  # pickle.UnpicklingError and what a hostile file can provoke
        raise WeightsError(
            f"{path} was refused: it holds more than tensors and plain containers, and loading it could run code. "
            f"Save the weights alone with torch.save(net.state_dict(), ...). ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return dict(content)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file, whether bare or wrapped, without DataParallel's ``module.`` prefix.

    Raises:
        WeightsError: as :func:`read_checkpoint`, and for a file without tensors.
    """
    return unwrap_state_dict(read_checkpoint(path), source=str(path))


def unwrap_state_dict(content: Mapping, *, source: str = "the checkpoint") -> dict[str, Tensor]:
    """The tensors inside ``{"net": ...}``, ``{"state_dict": ...}``, ``{"model": ...}`` or a bare state dict."""
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{source} holds no tensors: expected a state dict, bare or under one of {WRAPPERS}")
    return state


def fit_classifier_weights(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Match a file's tensors against the whole timm classifier ``name`` and return them under timm's names.

    A classifier's last layer may be absent or of another size, since a backbone drops it; anything else that is
    missing, unexpected or of another shape is refused.

    Raises:
        WeightsError: names every key that does not fit.
    """
    with torch.device("meta"):
        classifier = timm.create_model(name)
    expected = {key: tuple(value.shape) for key, value in classifier.state_dict().items()}
    if any(key.startswith("_blocks.") for key in state):
        state = rename_efficientnet(state, expected)
    head = head_prefixes(classifier)
    optional = (*head, "num_batches_tracked")
    missing = sorted(k for k in expected if k not in state and not k.startswith(head) and not k.endswith(optional))
    unexpected = sorted(k for k in state if k not in expected)
    misshaped = sorted(
        f"{k} {tuple(state[k].shape)} instead of {expected[k]}"
        for k in expected.keys() & state.keys()
        if tuple(state[k].shape) != expected[k] and not k.startswith(head)
    )
    if missing or unexpected or misshaped:
        raise WeightsError(
            f"the weights do not fit backbone {name!r}: missing keys: {_listed(missing)}; unexpected keys: "
            f"{_listed(unexpected)}; other shapes: {_listed(misshaped)}. Give a file of this model in timm's layout"
        )
    return state


def load_weights(net: nn.Module, content: Mapping, *, source: str, replaceable: str | None = None) -> list[str]:
    """Fill ``net`` from a checkpoint, in place and strictly; return the keys that keep their own start.

    Args:
        net: the network.
        content: what :func:`read_checkpoint` returned.
        source: where it comes from, for the error message.
        replaceable: prefix of layers that may differ in shape and then keep their start: the classifier, where the
            number of classes differs (fine-tuning on another data set).

    Raises:
        WeightsError: names every other key that is missing, unexpected or of another shape.
    """
    state = {key.removeprefix("net."): value for key, value in unwrap_state_dict(content, source=source).items()}
    own = net.state_dict()
    other_shape = {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape}
    fresh = sorted(key for key in other_shape if replaceable is not None and key.startswith(replaceable))
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    misshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(other_shape - set(fresh))
    ]
    if missing or unexpected or misshaped:
        raise WeightsError(
            f"{source} does not fit this network: missing keys: {_listed(missing)}; unexpected keys: "
            f"{_listed(unexpected)}; other shapes: {_listed(misshaped)}. Use the model.* settings it was trained with"
        )
    net.load_state_dict({key: value for key, value in state.items() if key not in fresh}, strict=False)
    return fresh


def head_prefixes(classifier: nn.Module) -> tuple[str, ...]:
    """Key prefixes of a timm classifier's last layer."""
    names = getattr(classifier, "pretrained_cfg", {}).get("classifier") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    return tuple(f"{name}." for name in names) or ("\0",)


def rename_efficientnet(state: dict[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Rename the ``_blocks.N`` layout of the stand-alone EfficientNet packages to timm's ``blocks.stage.index``."""
    blocks = list(dict.fromkeys(".".join(key.split(".")[:3]) for key in expected if key.startswith("blocks.")))
    whole = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    expanding = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}

    def rename(key: str) -> str:
        head, _, rest = key.partition(".")
        if head != "_blocks":
            return f"{whole.get(head, head)}.{rest}"
        number, layer, leaf = rest.split(".", 2)
        if int(number) >= len(blocks):
            return key
        table = expanding if f"_blocks.{number}._expand_conv.weight" in state else plain
        return f"{blocks[int(number)]}.{table.get(layer, layer)}.{leaf}"

    return {rename(key): value for key, value in state.items()}


def _listed(keys: list[str]) -> str:
    """Keys for an error message: all of them, since the one that tells what is wrong may be any."""
    return ", ".join(keys) or "none"
