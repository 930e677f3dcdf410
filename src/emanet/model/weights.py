"""Reading weight files safely, and fitting them to a network."""

import hashlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from emanet.common.errors import WeightsError
from emanet.common.files import read_json

WRAPPERS = ("state_dict", "net", "model")  # under these keys training codes store the weights among other things
CHECKSUM = "weights_sha256"  # of model.safetensors, a key of config.json
COUNTER = "num_batches_tracked"  # of batch norms; absent in checkpoints of PyTorch before 0.4.1, and never used here


def read_checkpoint(path: str | Path) -> dict:
    """Read a ``torch.save`` or safetensors file, or a folder of ``save_pretrained``, without executing code from it.

    Raises:
        WeightsError: for a file that is missing, truncated, or holds more than tensors and plain containers.
    """
    path = Path(path).expanduser()
    if (path / "model.safetensors").is_file():
        path = path / "model.safetensors"
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: give the path of an existing file")
    check_whole(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}): truncated, or no PyTorch file? Fetch it again") from error
    except Exception as error:  # pickle.UnpicklingError and what a hostile file can provoke
        raise WeightsError(
            f"{path} was refused: it holds more than tensors and plain containers, and loading it could run code "
            f"({str(error).partition(chr(10))[0]}). If you trust its origin, as of an mmengine checkpoint of your own, "
            'save the weights alone, where the packages that wrote it are installed: python -c "import torch; '
            f"torch.save({{'state_dict': torch.load('{path}', weights_only=False)['state_dict']}}, 'weights.pth')\""
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return dict(content)


def check_whole(path: Path) -> None:
    """Compare a file with the checksums that were written with it: changed bytes would load as other weights.

    PyTorch keeps one for each tensor in the file, ``save_pretrained`` one for the whole in config.json beside it.

    Raises:
        WeightsError: where they differ.
    """
    stated = (read_json(path.with_name("config.json")) or {}).get(CHECKSUM) if path.suffix == ".safetensors" else None
    whole = stated is None or path.name != "model.safetensors" or stated == checksum(path)
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                whole = archive.testzip() is None
        except Exception:  # of many types, as damage to the parts' headers provokes them
            whole = False
    if not whole:
        change = f"; if you changed it, take {CHECKSUM} out of config.json" if stated else ""
        raise WeightsError(f"{path} is damaged: it is not what its checksums say. Fetch or copy it again{change}")


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file, see :func:`unwrap_state_dict`.

    Raises:
        WeightsError: as :func:`read_checkpoint`, and for a file without tensors.
    """
    return unwrap_state_dict(read_checkpoint(path), source=str(path))


def unwrap_state_dict(content: Mapping, *, source: str = "the checkpoint") -> dict[str, Tensor]:
    """The tensors of a state dict, bare or in ``{"net": ...}``, ``{"state_dict": ...}`` or ``{"model": ...}``.

    Without the prefixes ``module.`` of DataParallel, ``net.`` of our task and ``_orig_mod.`` of torch.compile.
    """
    content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{source} holds no tensors: expected a state dict, bare or under one of {WRAPPERS}")
    return {re.sub(r"^((module|net|_orig_mod)\.)+", "", key): value for key, value in tensors.items()}


def fit(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, told: str, remedy: str, optional: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The tensors of ``state`` that have their place in ``expected``; names and shapes are compared here alone.

    Args:
        state: tensors by name.
        expected: tensors of the wanted names and shapes; batch norms' counters may be missing in ``state``.
        told: what does not fit what, the beginning of the error message.
        remedy: its end.
        optional: prefixes of layers that may be missing or of another shape, and are left out then.

    Raises:
        WeightsError: names everything that is missing, unexpected or of another shape.
    """
    free = {key for key in expected if key.startswith(tuple(optional))}
    misshaped = {key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape}
    complaints = {
        "missing keys": {key for key in expected.keys() - state.keys() - free if not key.endswith(COUNTER)},
        "unexpected keys": state.keys() - expected.keys(),
        "other shapes": {
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}" for key in misshaped - free
        },
    }
    if any(complaints.values()):
        listed = "; ".join(f"{what}: {', '.join(sorted(keys)) or 'none'}" for what, keys in complaints.items())
        raise WeightsError(f"{told}: {listed}. {remedy}")
    return {key: state[key] for key in expected if key in state and key not in misshaped}


def load_weights(net: nn.Module, content: Mapping, *, source: str, replaceable: str | None = None) -> list[str]:
    """Fill ``net`` from a checkpoint, in place and strictly; return the keys that keep their own start.

    Args:
        net: the network.
        content: what :func:`read_checkpoint` returned, or tensors by name.
        source: where it comes from, for the error message.
        replaceable: prefix of layers that may be missing or of another shape and then keep their start: the
            classifier, where the number of classes differs (fine-tuning on another data set).

    Raises:
        WeightsError: names every other key that is missing, unexpected or of another shape.
    """
    own = net.state_dict()
    fitting = fit(
        unwrap_state_dict(content, source=source),
        own,
        told=f"{source} does not fit this network",
        remedy="Use the model.* settings it was trained with",
        optional=[] if replaceable is None else [replaceable],
    )
    net.load_state_dict(fitting, strict=False)
    return sorted(key for key in own.keys() - fitting.keys() if not key.endswith(COUNTER))


def fit_classifier_weights(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Fit a file's tensors to the whole timm classifier ``name``; its last layer may be absent or of another size.

    Raises:
        WeightsError: as :func:`fit`.
    """
    with torch.device("meta"):
        classifier = timm.create_model(name)
    last = getattr(classifier, "pretrained_cfg", {}).get("classifier") or ()
    expected = classifier.state_dict()
    return fit(
        rename_efficientnet(state, list(expected)),
        expected,
        told=f"the weights do not fit backbone {name!r}",
        remedy="Give a file of this model in timm's layout",
        optional=[f"{layer}." for layer in ([last] if isinstance(last, str) else last)],
    )


def rename_efficientnet(state: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Weights of the stand-alone EfficientNet packages (``_blocks.N``) under timm's names.

    Both list the same layers in the same order; where they do not, all names stay, to be refused.
    """
    leaves = [[key.rpartition(".")[2] for key in keys] for keys in (state, names)]
    if any(key.startswith("_blocks.") for key in state) and leaves[0] == leaves[1]:
        return dict(zip(names, state.values(), strict=True))
    return state
