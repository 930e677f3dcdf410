"""Every configuration file composes; unknown keys, wrong types and senseless values are refused, readably."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from emanet.checkpoints.settings import evaluating
from emanet.cli.entry import argument
from emanet.common.errors import ConfigError
from emanet.config.instantiate import call_target
from emanet.config.report_schema import ReportConfig
from emanet.config.rules import RULES, check
from emanet.config.schema import CONF_DIR, EvalConfig, PredictConfig, SearchConfig, package_file, register
from emanet.training.build import build_trainer, count_devices
from emanet.training.distributed import SharedStatisticsDDPStrategy

GROUPS = ("dataset", "model", "optim", "loss", "trainer", "logger", "callbacks", "paths", "experiment", "sweep")


def composed(*overrides: str, name: str = "train"):
    """The configuration that a command line gives."""
    register()
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        return compose(name, overrides=list(overrides))


def files(group: str) -> list[str]:
    """Names of a group's files."""
    return sorted(path.stem for path in (Path(CONF_DIR) / group).glob("*.yaml"))


def choices() -> list[str]:
    """One override per file of every group; ``base`` files are parts of others."""
    return [f"{group}={name}" for group in GROUPS for name in files(group) if name != "base"]


def test_there_are_files_to_compose():
    assert len(choices()) > 20
    ours = {"blue_marble", "folder"}
    assert {"voc", "pascal_context", "coco_stuff", "coco_stuff_164k"} | ours <= set(files("dataset"))


@pytest.mark.parametrize("choice", choices())
def test_every_file_composes_to_values_that_make_sense(choice):
    cfg = composed(choice)
    check(cfg)
    assert cfg.model._target_


def test_without_arguments_the_configuration_is_the_papers_voc_setting():
    cfg = composed()
    assert (cfg.dataset.name, cfg.dataset.batch_size, cfg.dataset.crop_size) == ("voc", 16, 513)
    assert list(cfg.dataset.scales) == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    model = cfg.model
    assert (model.backbone, model.output_stride, model.channels, model.K, model.T) == ("resnet101s", 8, 512, 64, 3)
    assert (cfg.optim.lr, cfg.optim.weight_decay, cfg.optim.poly_power) == (9e-3, 1e-4, 0.9)
    assert (cfg.trainer.max_steps, cfg.optim.lr_refresh, cfg.loss.reduction) == (30_000, 10, "all_pixels")


def test_the_three_momenta_are_three_keys():
    cfg = composed("model.momentum=0.5", "optim.momentum=0.6", "model.bn_momentum=0.7")
    assert (cfg.model.momentum, cfg.optim.momentum, cfg.model.bn_momentum) == (0.5, 0.6, 0.7)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.k=8", "model.k"),
        ("trainer.max_stepz=3", "max_stepz"),
        ("dataset.batchsize=3", "batchsize"),
        ("model.K=many", "K"),
        ("seed=abc", "seed"),
        ("dataset=vocc", "vocc"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused_at_composition_by_name(override, named):
    with pytest.raises(HydraException, match=named):
        composed(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.K=0", "K must be at least 1, got K=0"),
        ("model.T=-1", "T and T_eval must be at least 1, got T=-1"),
        ("model.momentum=1.5", "0..1, got momentum=1.5"),
        ("model.norm=l1", "norm must be one of l2, layer, none, got norm='l1'"),
        ("model.maintenance=backprop", "set gradient=full"),
        ("model.output_stride=4", "model.output_stride must be 8, 16 or 32, got 4"),
        ("optim.lr=-1", "optim.lr must be a positive number, got -1"),
        ("optim.lr=nan", "optim.lr must be a positive number, got nan"),
        ("optim.lr=inf", "optim.lr must be a positive number, got inf"),
        ("optim.momentum=1", "optim.momentum must be a share below 1, got 1"),
        ("model.bn_momentum=2", "model.bn_momentum must be a share, 0..1, got 2"),
        ("trainer.max_steps=0", "trainer.max_steps must be at least 1, got 0"),
        ("trainer.precision=8", "trainer.precision must be one of auto"),
        ("loss.upsample=half", "loss.upsample must be one of auto, full, blocks, got 'half'"),
        ("loss.reduction=mean", "all_pixels, valid_pixels, got 'mean'"),
        ("dataset.batch_size=0", "dataset.batch_size must be at least 1, got 0"),
        ("dataset.scales=[]", "dataset.scales must be a list of positive numbers"),
        ("dataset.num_workers=-2", "dataset.num_workers must be 0 or more, got -2"),
        ("seed=-1", "seed must be an integer from 0"),
        ("dataset.flip=abc", "dataset.flip must be a probability, 0..1, got 'abc'"),
        ("dataset.cache=true", "dataset.cache must be null or a folder, got True"),
        ("dataset.scales=1.0", "dataset.scales must be a list of positive numbers, got 1.0"),
        ("dataset.drop_last=maybe", "dataset.drop_last must be true or false, got 'maybe'"),
        ("model.head=fnc", "model.head must be one of ema, fcn, nonlocal, a2, ham, external, psp, deeplabv3, got"),
        ("model.pretrained=1", "model.pretrained must be true, false or a path, got 1"),
        ("trainer.cuda_graphs=true", "trainer.cuda_graphs=true records the compiled network: set trainer.compile=true"),
        ("trainer.strategy=fsdp", "trainer.strategy must be one of auto, ddp, got 'fsdp'"),
    ],
)
def test_senseless_values_are_refused_with_what_was_got_and_what_is_allowed(override, message):
    with pytest.raises(ConfigError) as caught:
        check(composed(override))
    assert message in str(caught.value)


def test_float16_gradients_are_not_left_to_a_fused_optimizer():
    check(composed("trainer.precision=16-mixed"))
    check(composed("optim.fused=true"))
    with pytest.raises(ConfigError, match=r"too late for trainer\.precision=16-mixed: set optim\.fused=null"):
        check(composed("trainer.precision=16-mixed", "optim.fused=true"))


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        check(composed("model.K=0", "optim.lr=0", "trainer.max_steps=0"))
    assert all(text in str(caught.value) for text in ("K=0", "optim.lr", "trainer.max_steps"))


def test_every_rule_names_a_key_that_exists():
    schemas = (EvalConfig, PredictConfig, SearchConfig, ReportConfig)
    roots = [composed(), *(OmegaConf.structured(schema) for schema in schemas)]
    assert len(RULES) > 15
    for key, _, _ in RULES:
        parent, _, leaf = key.rpartition(".")
        nodes = [OmegaConf.select(root, parent) if parent else root for root in roots]
        assert any(leaf in list(node.keys()) for node in nodes if node is not None), key


def test_seed_zero_is_a_seed():
    assert composed("seed=0").seed == 0
    check(composed("seed=0"))


def test_a_target_that_refuses_a_value_gives_one_readable_error():
    node = OmegaConf.create({"_target_": "emanet.EMANet", "K": 0})
    with pytest.raises(ConfigError, match="EMANet: K and T must be at least 1, got K=0"):
        call_target(node, num_classes=3)
    with pytest.raises(ConfigError, match=r"_target_=emanet\.Nothing cannot be imported"):
        call_target(OmegaConf.create({"_target_": "emanet.Nothing"}))


def test_a_file_of_a_package_that_is_not_installed_says_what_to_install():
    with pytest.raises(ConfigError, match="pip install"):
        package_file("no_such_package_at_all", "weights.pth")


@pytest.mark.parametrize(
    ("devices", "count"),
    [(1, 1), ("1", 1), (3, 3), ("4", 4), ([0], 1), ([1, 2], 2), ("0,3", 2), ("0,", 1), ("auto", 8), (-1, 8)],
)
def test_devices_are_counted_as_lightning_reads_them(devices, count):
    assert count_devices(devices, available=8) == count


def test_more_than_one_device_gets_our_strategy_whether_it_is_named_or_not(tmp_path):
    for overrides in (["trainer.devices=2"], ["trainer=ddp", "trainer.devices=2"]):
        trainer = build_trainer(composed("trainer.accelerator=cpu", *overrides), tmp_path, callbacks=[], loggers=[])
        assert isinstance(trainer.strategy, SharedStatisticsDDPStrategy)
    trainer = build_trainer(composed("trainer.accelerator=cpu"), tmp_path, callbacks=[], loggers=[])
    assert not isinstance(trainer.strategy, SharedStatisticsDDPStrategy)


def test_cuda_graphs_are_refused_without_cuda(tmp_path):
    cfg = composed("trainer.accelerator=cpu", "trainer.compile=true", "trainer.cuda_graphs=true")
    with pytest.raises(ConfigError, match="needs a CUDA device, and none is used: set it to false"):
        build_trainer(cfg, tmp_path, callbacks=[], loggers=[])


def test_an_evaluation_starts_from_the_runs_trainer_on_one_device():
    stored = {"accelerator": "gpu", "devices": 8, "num_nodes": 2, "strategy": "ddp", "precision": "bf16-mixed"}
    assert evaluating(stored | {"limit_val_batches": 0, "cuda_graphs": True}) == {
        "accelerator": "auto",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "precision": "bf16-mixed",
        "limit_val_batches": None,
        "cuda_graphs": False,
    }
    assert evaluating({"accelerator": "cpu", "limit_val_batches": 3})["limit_val_batches"] == 3


def test_the_last_value_of_an_argument_counts_and_quotes_are_dropped():
    argv = ["eval.py", "checkpoint=a", "split=val", "checkpoint='b c'"]
    assert argument("checkpoint", argv) == "b c"
    assert argument("resume", argv) is None
