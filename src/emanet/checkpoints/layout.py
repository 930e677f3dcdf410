"""Names under which others store an EMANet, and what the shapes of their tensors tell."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from emanet.common.errors import WeightsError


class Layout(NamedTuple):
    """How somebody's code names the parts of the network."""

    owner: str  #: for error messages
    network: str  #: our class for it
    parts: dict[str, str]  #: the beginnings of their names, and of ours; other names are the same
    bases: str  #: their name of the stored bases, (1, channels, K)
    classifier: str  #: of the last convolution's weight, (classes, 256, 1, 1)
    stage: str  #: beginning of the names in the backbone's third stage
    backbones: dict[int, str]  #: timm's name of the backbone by the number of blocks in that stage

    def convert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors under our names; a name that is not known stays, to be refused later."""
        return {renamed(key, self.parts): value for key, value in state.items()}

    def infer_options(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Backbone, classes, channels and K.

        Raises:
            WeightsError: where the tensors that tell are missing, or tell of no network of theirs.
        """
        if missing := [key for key in (self.bases, self.classifier, f"{self.stage}0.conv1.weight") if key not in state]:
            raise WeightsError(
                f"this is no checkpoint of {self.owner}: it lacks {', '.join(missing)}; its keys begin with "
                f"{', '.join(list(state)[:3])}"
            )
        bases, classifier = tuple(state[self.bases].shape), tuple(state[self.classifier].shape)
        if len(bases) != 3 or bases[0] != 1 or len(classifier) != 4:
            raise WeightsError(
                f"expected {self.bases} of shape (1, channels, K) and {self.classifier} of shape (classes, 256, 1, 1), "
                f"got {bases} and {classifier}"
            )
        blocks = len({key.split(".")[2] for key in state if key.startswith(self.stage)})
        if blocks not in self.backbones:
            raise WeightsError(
                f"the third stage, {self.stage[:-1]}, has {blocks} blocks; ResNet-50, 101 and 152 have "
                f"{', '.join(map(str, self.backbones))}"
            )
        backbone, (_, channels, K) = self.backbones[blocks], bases
        return {"num_classes": classifier[0], "backbone": backbone, "channels": channels, "K": K}


def renamed(key: str, parts: Mapping[str, str]) -> str:
    """A name whose beginning is one of ``parts`` with the other beginning."""
    part = next((part for part in parts if key.startswith(part)), "")
    return parts.get(part, "") + key.removeprefix(part)
