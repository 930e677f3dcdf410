"""The jobs behind the scripts: train a network, evaluate a checkpoint, predict pictures."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from emanet.checkpoints.restore import read_stored, read_weights, restore_network
from emanet.common.errors import ConfigError
from emanet.common.files import write_json
from emanet.common.processes import own_rank
from emanet.config.instantiate import build_network, instantiate_all, resolved
from emanet.config.rules import check
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.reading import read_image
from emanet.inference.files import Results, predict_sources
from emanet.inference.media import Source, find_sources, read_picture
from emanet.inference.predictor import Predictor
from emanet.inference.submission import SubmissionWriter, image_sizes, submission_format
from emanet.model.weights import load_weights
from emanet.studies.study import EVALUATIONS, claimed, finished
from emanet.training.build import build_datamodule, build_inference, build_task, build_trainer, prepare_network
from emanet.training.callbacks import RunProgress
from emanet.training.callbacks.summary import named_scores, print_scores, write_evaluation
from emanet.training.loggers.wandb import build_loggers, close_wandb
from emanet.training.naming import describe_run, sweep_choices
from emanet.training.resume import find_checkpoint
from emanet.training.task import SegmentationTask

log = logging.getLogger(__name__)


def train(cfg: DictConfig, run_dir: Path) -> float | None:
    """Train as configured; return the mIoU of the final validation, for a sweeper.

    Whatever can be wrong is looked at in order of cost: values, files on disk, weights, devices.
    """
    check(cfg)
    OmegaConf.resolve(cfg)
    if cfg.study is None:
        return fit(cfg, run_dir)
    with claimed(run_dir) as mine:
        if not mine:
            log.info("another process is at work in %s", run_dir)
            return None
        done = finished(run_dir, cfg)
        if done is None:
            return fit(cfg, run_dir)
        log.info("%s has finished already: val/miou %s", run_dir, done["val/miou"])
        return done["val/miou"]


def fit(cfg: DictConfig, run_dir: Path) -> float | None:
    """The same, once the values are known to make sense and the folder to be ours."""
    if own_rank() != 0:
        logging.getLogger().setLevel(logging.ERROR)  # the first process speaks for all
    description = describe_run(cfg, run_dir, sweep_choices(run_dir))
    checkpoint = find_checkpoint(cfg.resume, run_dir)
    if checkpoint is not None:
        log.info("going on from %s", checkpoint)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    model = cfg.model.copy()
    if checkpoint is not None or cfg.init_from is not None:
        model.pretrained = False  # all weights are about to be replaced
    net = build_network(model, datamodule.num_classes)
    if cfg.init_from is not None:
        fresh = load_weights(net, read_weights(cfg.init_from), source=f"init_from={cfg.init_from}", replaceable="fc2.")
        log.info("weights from %s%s", cfg.init_from, f", a new classifier ({', '.join(fresh)})" if fresh else "")
    task = build_task(cfg, prepare_network(cfg, net), datamodule)
    if getattr(rank_zero_only, "rank", 0) == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(resolved(cfg)), run_dir / "config.yaml")
    loggers = build_loggers(
        resolved(cfg.logger),
        run_dir=run_dir,
        config=resolved(cfg),
        **description._asdict(),
    )
    trainer = build_trainer(cfg, run_dir, callbacks=instantiate_all(cfg.callbacks), loggers=loggers)
    try:
        trainer.fit(task, datamodule, ckpt_path=checkpoint)
        miou = trainer.callback_metrics.get("val/miou")
        evaluate_iterations(cfg, task, datamodule, run_dir)
    except BaseException:
        close_wandb(exit_code=1)
        raise
    close_wandb()
    return None if miou is None else float(miou)


def evaluate_iterations(
    cfg: DictConfig, task: SegmentationTask, datamodule: SegmentationDataModule, run_dir: Path
) -> None:
    """Validate the trained network with each number of EM iterations in ``T_evals``; keep the scores in one file.

    A trainer of its own does it, without callbacks and loggers: for them a validation belongs to the training.
    """
    if not cfg.T_evals:
        return
    trainer = build_trainer(cfg, run_dir, callbacks=[], loggers=[])
    unit = task.net.head
    scores, before = {}, unit.T_eval
    for T in cfg.T_evals:
        unit.T_eval = T
        trainer.validate(task, datamodule, verbose=False)
        scores[str(T)] = named_scores(task.metrics.compute(), task.class_names)
    unit.T_eval = before
    if trainer.is_global_zero:
        write_json(run_dir / EVALUATIONS, {"T_eval": scores})


def evaluate(cfg: DictConfig, run_dir: Path) -> dict[str, int | float]:
    """Evaluate a checkpoint as training validates; print and return the scores.

    The network, the data and the trainer are those stored in the checkpoint, with what the command line overrides.
    """
    check(cfg)
    OmegaConf.resolve(cfg)
    inference = build_inference(cfg.inference)
    stored = read_stored(cfg.checkpoint)
    if not cfg.dataset:
        raise ConfigError(f"{cfg.checkpoint} does not say what it was trained on: add dataset=NAME")
    if cfg.split is not None:
        cfg.dataset.val_split = cfg.split
    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("validate")
    net = restore_network(stored, resolved(cfg.model), num_classes=datamodule.num_classes)
    task = SegmentationTask(
        prepare_network(cfg, net),
        class_names=datamodule.class_names,
        max_steps=1,
        inference=inference,
        config={"name": stored.settings.get("name", cfg.name), "seed": stored.settings.get("seed")},
    )
    trainer = build_trainer(cfg, run_dir, callbacks=[RunProgress()], loggers=[])
    trainer.validate(task, datamodule, verbose=False)
    if not trainer.is_global_zero:
        return task.validation
    print_scores(task.metrics.compute(), task.class_names)
    before = stored.validation.get("val/miou")
    print(f"val/miou {task.validation['val/miou']!r}" + (f" (stored: {before!r})" if before is not None else ""))
    asked = {"checkpoint": str(cfg.checkpoint), "inference": resolved(cfg.inference), "model": resolved(cfg.model)}
    write_evaluation(run_dir / "summary.json", trainer, task, asked, steps=stored.validation.get("step"))
    return task.validation


def predict(cfg: DictConfig) -> list[str]:
    """Predict the pictures and videos of ``cfg.input``, or a split of the data set; return the files that failed."""
    check(cfg)
    OmegaConf.resolve(cfg)
    output = Path(cfg.output)
    read: Callable[[Path], Any] = read_picture
    if (cfg.input is None) == (cfg.split is None):
        raise ConfigError(f"give either input or split, got input={cfg.input} and split={cfg.split}")
    if cfg.split is not None:
        if not cfg.dataset:
            raise ConfigError(f"{cfg.checkpoint} does not say what it was trained on: add dataset=NAME")
        cfg.dataset.predict_split = cfg.split
        datamodule = build_datamodule(cfg)
        datamodule.prepare_data()
        sources = [Source(sample.image, sample.name) for sample in datamodule.samples(cfg.split)]
    else:
        sources = find_sources(cfg.input, leave_out=output)
    if cfg.split is not None or cfg.submission is not None:
        read = read_image  # as stored: the server compares with masks that know nothing of EXIF
    predictor = Predictor.from_checkpoint(
        cfg.checkpoint, inference=build_inference(cfg.inference), device=cfg.device, model=resolved(cfg.model)
    )
    submission = None
    if cfg.submission is not None:
        form = submission_format(cfg.submission, len(predictor.class_names))
        submission = SubmissionWriter(output, form, image_sizes(sources))
    results = Results(output, predictor, list(cfg.save), cfg.attention_bases, submission)
    try:
        predict_sources(sources, results, read=read, batch_size=cfg.batch_size)
        if submission is not None:
            log.info("submission written and checked: %s", submission.finish())
    finally:
        if submission is not None:
            submission.discard()
    log.info("%d of %d files predicted, results in %s", results.done, len(sources), output)
    return results.failed
