"""Which values of a configuration make sense: checked at once, before anything heavy starts."""

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from emanet.common.errors import ConfigError
from emanet.model.emau import EMAU
from emanet.model.heads import EMA, EMA_KEYS, NAMES, check_asked, check_head


def check(cfg: DictConfig) -> None:
    """Refuse senseless values, naming the key, what was got and what is allowed.

    Raises:
        ConfigError: with one line per mistake, all mistakes at once.
    """
    mistakes = [
        f"{key} must be {allowed}, got {OmegaConf.select(cfg, key)!r}"
        for key, allowed, accepts in RULES
        if _present(cfg, key) and not _is_accepted(OmegaConf.select(cfg, key), accepts)
    ]
    mistakes += [text for text, is_made in TOGETHER if is_made(cfg)]
    if "model" in cfg and cfg.model.head in NAMES:
        try:
            check_model(cfg.model)
            if cfg.get("T_evals"):
                check_asked(cfg.model.head, ["T_eval"])
        except (ValueError, ConfigError) as error:
            mistakes.append(f"model: {error}")
    if mistakes:
        raise ConfigError("this configuration makes no sense:\n  " + "\n  ".join(mistakes))


def check_model(model: DictConfig) -> None:
    """Refuse settings of the head that make no sense, alone or together.

    Raises:
        ValueError: with what was got and what is allowed.
    """
    options = {key: model[key] for key in ("channels", *EMA_KEYS)}
    if model.head == EMA:
        with torch.device("meta"):
            EMAU(**options | {"gradient": model.gradient or "none"})
    elif model._target_.endswith(".MMSegEMANet"):
        raise ValueError(f"MMSegEMANet has head=ema alone, got head={model.head}: use model=emanet")
    else:
        check_head(model.head, **options)


def _present(cfg: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return node is not None and leaf in node and not OmegaConf.is_missing(node, leaf)


def _is_accepted(value: Any, accepts: Any) -> bool:
    try:
        return bool(accepts(value))
    except (TypeError, ValueError):  # a value of another type than the rule can compare
        return False


def _is_set(cfg: DictConfig, key: str) -> bool:
    return _present(cfg, key) and OmegaConf.select(cfg, key) is True


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _optional(accepts: Any) -> Any:
    return lambda value: value is None or accepts(value)


def _one_of(*options: str) -> tuple[str, Any]:
    return f"one of {', '.join(options)}", lambda value: value in options


def _is_share(value: float) -> bool:
    return 0 <= value <= 1


def _is_positive(value: float) -> bool:
    return 0 < value < float("inf")


def _is_not_negative(value: float) -> bool:
    return 0 <= value < float("inf")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _are_figures(value: Any) -> bool:
    return {*value} <= {"svg", "png", "pdf"} and bool({"svg", "png"} & {*value})  # the page shows no pdf


PREDICTIONS = ("mask", "overlay", "probabilities", "attention")  # what predict can save
PRECISIONS = ("auto", "32-true", "16-mixed", "bf16-mixed", "64-true")

#: (mistake, test of the whole configuration): of keys that do not go together
TOGETHER: list[tuple[str, Any]] = [
    (
        "optim.fused=true unscales float16 gradients too late for trainer.precision=16-mixed: set optim.fused=null",
        lambda cfg: _is_set(cfg, "optim.fused") and OmegaConf.select(cfg, "trainer.precision") == "16-mixed",
    ),
    (
        "trainer.cuda_graphs=true records the compiled network: set trainer.compile=true",
        lambda cfg: _is_set(cfg, "trainer.cuda_graphs") and not cfg.trainer.compile,
    ),
]

#: (key, what is allowed, test)
RULES: list[tuple[str, str, Any]] = [
    ("seed", "an integer from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32),
    ("T_evals", "a list of numbers of EM iterations, each at least 1", lambda value: all(map(_is_count, value))),
    ("model.head", *_one_of(*NAMES)),
    ("model.output_stride", "8, 16 or 32", lambda value: value in (8, 16, 32)),
    ("model.pretrained", "true, false or a path", lambda value: isinstance(value, bool | str) and value != ""),
    ("model.dropout", "a share below 1", lambda value: 0 <= value < 1),
    ("model.bn_momentum", "a share, 0..1", _is_share),
    ("optim.lr", "a positive number", _is_positive),
    ("optim.momentum", "a share below 1", lambda value: 0 <= value < 1),
    ("optim.weight_decay", "0 or more", _is_not_negative),
    ("optim.backbone_lr_factor", "a positive number", _is_positive),
    ("optim.poly_power", "0 or more", _is_not_negative),
    ("optim.lr_refresh", "at least 1", _is_count),
    ("loss.reduction", *_one_of("all_pixels", "valid_pixels")),
    ("loss.upsample", *_one_of("auto", "full", "blocks")),
    ("loss.class_weights", "null or weights of 0 or more", _optional(lambda value: all(map(_is_not_negative, value)))),
    ("loss.ohem_threshold", "null or a probability, 0..1", _optional(_is_share)),
    ("loss.ohem_min_kept", "at least 1", _is_count),
    ("trainer.strategy", *_one_of("auto", "ddp")),
    ("trainer.precision", *_one_of(*PRECISIONS)),
    ("trainer.max_steps", "at least 1", _is_count),
    ("trainer.accumulate_grad_batches", "at least 1", _is_count),
    ("trainer.gradient_clip_val", "null or a positive number", _optional(_is_positive)),
    ("trainer.val_every_n_steps", "at least 1", _is_count),
    ("trainer.num_nodes", "at least 1", _is_count),
    ("trainer.log_every_n_steps", "at least 1", _is_count),
    ("trainer.num_sanity_val_steps", "-1 (all) or more", lambda value: value >= -1),
    ("trainer.matmul_precision", *_one_of("highest", "high", "medium")),
    ("dataset.batch_size", "at least 1", _is_count),
    ("dataset.eval_batch_size", "at least 1", _is_count),
    ("dataset.num_workers", "0 or more", lambda value: isinstance(value, int) and value >= 0),
    ("dataset.drop_last", "true or false", _is_bool),
    ("dataset.persistent_workers", "true or false", _is_bool),
    ("dataset.pin_memory", "true, false or null", _optional(_is_bool)),
    ("dataset.cache", "null or a folder", _optional(lambda value: isinstance(value, str) and value != "")),
    ("dataset.crop_size", "at least 1", _is_count),
    ("dataset.flip", "a probability, 0..1", _is_share),
    ("dataset.scales", "a list of positive numbers", lambda value: len(value) > 0 and all(map(_is_positive, value))),
    ("n_trials", "at least 1", _is_count),
    ("timeout", "null or a positive number", _optional(_is_positive)),
    ("startup_trials", "0 or more", lambda value: value >= 0),
    ("warmup_steps", "0 or more", lambda value: value >= 0),
    ("save", f"a list of {', '.join(PREDICTIONS)}", lambda value: all(name in PREDICTIONS for name in value)),
    ("formats", "a list of svg, png and pdf, with svg or png among them", _are_figures),
    ("attention_bases", "null or at least 1", _optional(_is_count)),
    ("batch_size", "at least 1", _is_count),
]
