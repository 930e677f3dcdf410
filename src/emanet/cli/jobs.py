"""The jobs behind the scripts: train a network, evaluate a checkpoint, predict pictures, look at data.

Each is handed the settled configuration, plain values resolved once.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from rich.console import Console

from emanet.checkpoints.restore import read_stored, read_weights
from emanet.common.console import progress_bar
from emanet.common.errors import ConfigError, EMANetError
from emanet.common.files import write_json
from emanet.common.processes import own_rank
from emanet.config.instantiate import build
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.inspection import contact_sheet, inspect, report, write_weights, written
from emanet.data.pictures import read_image
from emanet.inference.files import Results, predict_sources
from emanet.inference.media import Source, find_sources, read_picture
from emanet.inference.predictor import Predictor
from emanet.inference.submission import SubmissionWriter, image_sizes, submission_format
from emanet.model.stored import Stored
from emanet.model.weights import load_weights
from emanet.studies.runs import EVALUATIONS
from emanet.studies.study import claimed, finished
from emanet.training.build import build_data, build_evaluation, build_optimizer, build_task, build_trainer
from emanet.training.callbacks import RunProgress
from emanet.training.callbacks.summary import named_scores, print_scores, write_evaluation
from emanet.training.loggers import build_loggers, close_loggers
from emanet.training.naming import describe_run, sweep_choices
from emanet.training.resume import exclusive, find_checkpoint, with_absolute_paths
from emanet.training.task import SegmentationTask

log = logging.getLogger(__name__)

Config = dict[str, Any]


def train(cfg: Config, run_dir: Path) -> float | None:
    """Train as configured; return the mIoU of the final validation, for a sweeper."""
    if cfg["study"] is None:
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


def fit(cfg: Config, run_dir: Path, extra: Sequence[L.Callback] = ()) -> float | None:
    """The same, in a folder that is known to be ours; ``extra`` callbacks join the configured ones.

    Whatever can be wrong is looked at in order of cost: values, devices, files on disk, weights.
    """
    with exclusive(run_dir):
        return work(with_absolute_paths(cfg), run_dir, extra)


def work(cfg: Config, run_dir: Path, extra: Sequence[L.Callback]) -> float | None:
    """Train from first to last."""
    if own_rank() != 0:
        logging.getLogger().setLevel(logging.ERROR)  # the first process speaks for all
    description = describe_run(cfg, run_dir, sweep_choices(run_dir))
    checkpoint = find_checkpoint(cfg["resume"], run_dir)
    if checkpoint is not None:
        log.info("going on from %s", checkpoint)
    nodes = {name: node for name, node in cfg["callbacks"].items() if node is not None}
    callbacks = [build(node, f"callbacks.{name}", run_dir=run_dir) for name, node in nodes.items()]
    build_trainer(cfg, run_dir, callbacks=[], loggers=[])  # refuses devices that are not here
    L.seed_everything(cfg["seed"], workers=True, verbose=False)
    optimizer = build_optimizer(cfg)
    data = build_data(cfg, "fit")
    net = start_network(cfg, data.class_names, fresh=checkpoint is None)
    task = build_task(cfg, net, data, optimizer)
    if getattr(rank_zero_only, "rank", 0) == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(cfg), run_dir / "config.yaml")
    loggers = build_loggers(cfg["logger"], run_dir=run_dir, config=cfg, **description._asdict())
    setup, trainer = build_trainer(cfg, run_dir, callbacks=[*callbacks, *extra], loggers=loggers)
    setup.prepare(net)
    try:
        trainer.fit(task, data, ckpt_path=checkpoint)
        miou = trainer.callback_metrics.get("val/miou")
        evaluate_iterations(cfg, task, data, run_dir)
    except BaseException:
        close_loggers(loggers, exit_code=1)
        raise
    close_loggers(loggers)
    return None if miou is None else float(miou)


def start_network(cfg: Config, class_names: Sequence[str], *, fresh: bool) -> Any:
    """The network at the start of a training, with the weights of ``init_from``; a resumed one's are replaced."""
    model = dict(cfg["model"])
    if not fresh or cfg["init_from"] is not None:
        model["pretrained"] = False
    net = build(model, "model", num_classes=len(class_names))
    if cfg["init_from"] is not None:
        source = f"init_from={cfg['init_from']}"
        kept = load_weights(net, read_weights(cfg["init_from"], class_names), source=source, replaceable="fc2.")
        log.info("weights from %s%s", source, f", a new classifier ({', '.join(kept)})" if kept else "")
    return net


def evaluate_iterations(cfg: Config, task: SegmentationTask, data: SegmentationDataModule, run_dir: Path) -> None:
    """Validate the trained network with each number of EM iterations in ``T_evals``; keep the scores in one file.

    A trainer of its own does it, without callbacks and loggers: for them a validation belongs to the training.
    """
    if not cfg["T_evals"]:
        return
    _, trainer = build_trainer(cfg, run_dir, callbacks=[], loggers=[])
    unit = task.net.head
    scores, before = {}, unit.T_eval
    for T in cfg["T_evals"]:
        unit.T_eval = T
        trainer.validate(task, data, verbose=False)
        scores[str(T)] = named_scores(task.metrics.compute(), task.class_names)
    unit.T_eval = before
    if trainer.is_global_zero:
        write_json(run_dir / EVALUATIONS, {"T_eval": scores})


def evaluate(cfg: Config, run_dir: Path) -> dict[str, int | float]:
    """Evaluate a checkpoint as training validates; print and return the scores.

    The network, the data and the trainer are those stored in the checkpoint, with what the command line overrides.
    """
    data = build_data(dataset_of(cfg, "val_split"), "validate")
    stored = read_stored(cfg["checkpoint"], trust=cfg["trust"])
    inference = build(cfg["inference"], "inference")
    task, trainer = build_evaluation(cfg, stored, run_dir, data=data, inference=inference, callbacks=[RunProgress()])
    trainer.validate(task, data, verbose=False)
    if not trainer.is_global_zero:
        return task.validation
    print_scores(task.metrics.compute(), task.class_names)
    before = stored.validation.get("val/miou")
    print(f"val/miou {task.validation['val/miou']!r}" + (f" (stored: {before!r})" if before is not None else ""))
    if before is not None and asks_the_same(cfg, stored) and abs(task.validation["val/miou"] - before) > ROUNDING:
        log.warning(
            "%s scored %.4f when it was stored, and scores %.4f now, with the same settings: have the data changed?",
            *(cfg["checkpoint"], before, task.validation["val/miou"]),
        )
    asked = {key: cfg[key] for key in ("checkpoint", "inference", "model")}
    write_evaluation(run_dir / "summary.json", trainer, task, asked, steps=stored.validation.get("step"))
    return task.validation


ROUNDING = 1e-3  #: difference between two mIoU that another device may make


def asks_the_same(cfg: Config, stored: Stored) -> bool:
    """Whether a checkpoint is evaluated as it was at the end of its training: that split, network and way to look."""
    keys = [("dataset", "_target_"), ("dataset", "val_split"), ("trainer", "limit_val_batches")]
    keys += [("model", key) for key in stored.settings["model"]]
    same = all(cfg[group].get(key) == (stored.settings.get(group) or {}).get(key) for group, key in keys)
    inference = build(cfg["inference"], "inference")
    return same and cfg["split"] is None and inference.is_plain and inference.window is None


def dataset_of(cfg: Config, split: str) -> Config:
    """The configuration with ``split=NAME`` as one of the data set's splits.

    Raises:
        ConfigError: where no data set is known.
    """
    if not cfg["dataset"]:
        raise ConfigError(f"{cfg['checkpoint']} does not say what it was trained on: add dataset=NAME")
    return cfg | ({"dataset": cfg["dataset"] | {split: cfg["split"]}} if cfg["split"] is not None else {})


def predict(cfg: Config) -> None:
    """Predict the pictures and videos of ``input``, or a split of the data set.

    Raises:
        EMANetError: once the others are done, if any file failed.
    """
    output = Path(cfg["output"])
    read: Callable[[Path], Any] = read_picture
    if (cfg["input"] is None) == (cfg["split"] is None):
        raise ConfigError(f"give either input or split, got input={cfg['input']} and split={cfg['split']}")
    if cfg["split"] is not None:
        data = build_data(dataset_of(cfg, "predict_split"), "predict")
        sources = [Source(sample.image, sample.name) for sample in data.samples(cfg["split"])]
    else:
        sources = find_sources(cfg["input"], leave_out=output)
    if cfg["split"] is not None or cfg["submission"] is not None:
        read = read_image  # as stored: the server compares with masks that know nothing of EXIF
    predictor = Predictor.from_checkpoint(
        cfg["checkpoint"],
        inference=build(cfg["inference"], "inference"),
        device=cfg["device"],
        model=cfg["model"],
        trust=cfg["trust"],
    )
    submission = None
    if cfg["submission"] is not None:
        form = submission_format(cfg["submission"], len(predictor.class_names))
        submission = SubmissionWriter(output, form, image_sizes(sources))
    results = Results(output, predictor, list(cfg["save"]), cfg["attention_bases"], submission)
    try:
        predict_sources(sources, results, read=read, batch_size=cfg["batch_size"])
        if submission is not None:
            log.info("submission written and checked: %s", submission.finish())
    finally:
        if submission is not None:
            submission.discard()
    log.info("%d of %d files predicted, results in %s", results.done, len(sources), output)
    if results.failed:
        raise EMANetError(f"{len(results.failed)} of {len(sources)} files failed")


def inspect_data(cfg: Config, run_dir: Path) -> None:
    """Print the figures of a split; write ``sheet.png``, ``report.txt``, ``class_weights.yaml`` to the run folder."""
    node = {key: value for key, value in cfg["dataset"].items() if key not in ("name", "extra_transforms")}
    data: SegmentationDataModule = build(node, "dataset", seed=cfg["seed"])
    data.prepare_data()
    split = cfg["split"] or data.stage_splits["fit"]
    with progress_bar(Console(), "reading masks", unit="images") as tick:
        found = inspect(data, split, limit=cfg["limit"], tick=tick)
    text = report(found)
    print(text)
    (run_dir / "report.txt").write_text(text + "\n", encoding="utf-8")
    contact_sheet(data, split, pictures=cfg["pictures"], seed=cfg["seed"]).save(run_dir / "sheet.png")
    print(f"\nlook at       {run_dir / 'sheet.png'}")
    if found.read:
        write_weights(found, run_dir / "class_weights.yaml")
        print(f"class weights {run_dir / 'class_weights.yaml'}")
        if len(found.class_names) <= 32:
            print(f"              train with  'loss.class_weights={written(found.class_weights())}'")


def search(cfg: Config) -> None:
    """Search the values that train best."""
    from emanet.studies import search  # needs a package of its own

    search.search(cfg, fit)
