"""The head in the configuration: its values, what goes with it, and settings stored before it was a key."""

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from emanet.common.errors import ConfigError
from emanet.config.instantiate import build_network
from emanet.config.rules import check
from emanet.config.schema import CONF_DIR, register
from emanet.model.heads import NAMES


def composed(*overrides: str) -> Any:
    """The configuration that a command line gives."""
    register()
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        return compose("train", overrides=list(overrides))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", [[], ["experiment=quickstart"]])
def test_every_head_goes_with_the_files_as_they_are(name: str, file: list[str]):
    check(composed(f"model.head={name}", *file))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.head=fnc"],
            "model.head must be one of ema, fcn, nonlocal, a2, ham, external, psp, deeplabv3, got 'fnc'",
        ),
        (["model.head=ham", "model.T=0"], "T=0"),
        (["model.head=ham", "model.gradient=none"], "gradient must be last or full, got gradient='none'"),
        (["model.head=external", "model.K=0"], "channels and K must be at least 1, got channels=512, K=0"),
        (["model=emanet_mmseg", "model.head=fcn"], "MMSegEMANet has head=ema alone, got head=fcn: use model=emanet"),
        (["model.head=psp", "T_evals=[1,3]"], "model.head=psp does not know the key T_eval (ema, ham)"),
        (["model.gradient=some"], "gradient must be one of none, last, full, got gradient='some'"),
    ],
)
def test_senseless_values_are_refused_before_anything_is_built(overrides: list[str], message: str):
    with pytest.raises(ConfigError) as caught:
        check(composed(*overrides))
    assert message in str(caught.value)


def test_keys_that_a_head_does_not_know_are_not_looked_at():
    check(composed("model.head=fcn", "model.K=0", "model.momentum=7"))  # the command line's are refused by the script


def test_a_head_is_taken_whatever_path_names_the_network():
    check(
        composed("model._target_=emanet.model.network.EMANet", "model.head=fcn")
    )  # as a folder of save_pretrained does


def test_settings_that_were_stored_before_there_were_heads_build_the_papers():
    model = OmegaConf.create(
        {"_target_": "emanet.EMANet", "backbone": "test_resnet", "output_stride": 16, "multi_grid": None, "channels": 8,
         "K": 3, "T": 3, "T_eval": None, "momentum": 0.9, "norm": "l2", "maintenance": "moving_average",
         "gradient": "none", "dropout": 0.1, "bn_momentum": 3e-4}
    )  # fmt: skip
    net = build_network(model, 4)
    assert net.head is None
    assert net.head.gradient == "none"
