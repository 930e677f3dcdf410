"""Pictures and videos in, files of masks, overlays, probabilities and attention maps out.

A file that cannot be read or predicted is reported, and the rest goes on. At most a few pictures are held at a time.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from emanet.common.errors import EMANetError
from emanet.common.files import replacing
from emanet.common.visual import PAPER, Pixels, legend, overlay
from emanet.inference.attention import attention_sheet, check_bases
from emanet.inference.media import Source, Video, index_png, video_writer
from emanet.inference.predictor import Prediction, Predictor
from emanet.inference.submission import SubmissionWriter

log = logging.getLogger(__name__)

FAILURES = (EMANetError, OSError, RuntimeError, MemoryError)  #: torch reports a full GPU as RuntimeError
LEGEND_CLASSES = 40  #: a video's legend shows all classes up to this many

Read = Callable[[Path], Pixels]
Item = TypeVar("Item")


@dataclass
class Results:
    """Writes what a prediction gives.

    Args:
        folder: of all results: masks/, overlays/, probabilities/, attention/.
        predictor: whose class names and colors are shown.
        save: which of mask, overlay, probabilities, attention to write.
        attention_bases: maps on each attention sheet; ``None``: all.
        submission: takes the masks as well.

    Raises:
        ConfigError: if attention is to be written of a network without bases.
    """

    folder: Path
    predictor: Predictor
    save: Sequence[str] = ("mask", "overlay")
    attention_bases: int | None = None
    submission: SubmissionWriter | None = None
    failed: list[str] = field(default_factory=list)
    done: int = 0  #: files with all their results

    def __post_init__(self) -> None:
        """Say once what would else fail at every file."""
        if "attention" in self.save:
            check_bases(self.predictor.net)

    def predict(self, images: Sequence[Pixels]) -> list[Prediction]:
        """Predict images of one size as far as the wanted outputs need it."""
        return self.predictor.batch(
            images, probabilities="probabilities" in self.save, attention="attention" in self.save
        )

    def write(self, name: str, image: Pixels, prediction: Prediction, *, overlays: bool = True) -> None:
        """Write all results of one image, each file whole or not at all."""
        if self.submission is not None:
            self.submission.add(Path(name).name, prediction.mask)
        if "mask" in self.save:
            with replacing(self.folder / "masks" / f"{name}.png") as file:
                index_png(prediction.mask, self.predictor.palette).save(file, "PNG")
        if "overlay" in self.save and overlays:
            self._save_picture("overlays", name, overlay_with_legend(image, prediction.mask, self.predictor))
        if prediction.probabilities is not None:
            values, names = prediction.probabilities.astype(np.float16), self.predictor.class_names
            with replacing(self.folder / "probabilities" / f"{name}.npz") as path, path.open("wb") as file:
                np.savez_compressed(file, probabilities=values, names=names)
        if prediction.attention is not None:
            stride = self.predictor.net.output_stride
            sheet = attention_sheet(image, prediction.attention, stride=stride, title=name, bases=self.attention_bases)
            self._save_picture("attention", name, sheet)

    def fail(self, source: Source, error: BaseException) -> None:
        """Report a file that gave no result."""
        name = str(source.path)
        reason = (str(error) or type(error).__name__).splitlines()[0].removeprefix(f"{name}: ")
        hint = "; set inference.window=513 to look at parts" if "memory" in reason.lower() else ""
        log.error("%s: %s%s", name, reason, hint)
        self.failed.append(name)

    def _save_picture(self, folder: str, name: str, picture: Image.Image) -> None:
        """Write a picture for looking at."""
        with replacing(self.folder / folder / f"{name}.jpg") as file:
            picture.save(file, "JPEG", quality=92, subsampling=0)


def predict_sources(sources: Sequence[Source], results: Results, *, read: Read, batch_size: int = 1) -> None:
    """Predict all files, pictures of one size up to ``batch_size`` together; failures are collected in ``results``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("predicting", total=len(sources))
        pictures = (source for source in sources if not source.is_video)
        for group in same_size(read_ahead(pictures, read, batch_size + 2, results), batch_size):
            predict_group(group, results)
            progress.update(bar, completed=results.done + len(results.failed))
        for source in (source for source in sources if source.is_video):
            try:
                predict_video(source, results, batch_size, progress)
                results.done += 1
            except FAILURES as error:
                results.fail(source, error)
            progress.advance(bar)


def predict_group(group: Sequence[tuple[Source, Pixels]], results: Results) -> None:
    """Predict pictures of one size and write their results."""
    try:
        predictions = results.predict([image for _, image in group])
    except FAILURES as error:
        for source, _ in group:
            results.fail(source, error)
        return
    for (source, image), prediction in zip(group, predictions, strict=True):
        try:
            results.write(source.name, image, prediction)
            results.done += 1
        except FAILURES as error:
            results.fail(source, error)


def predict_video(source: Source, results: Results, batch_size: int, progress: Progress) -> None:
    """Predict a video frame by frame: the overlay becomes a video, other results a file per frame."""
    video = Video(source.path)
    names, palette = results.predictor.class_names, results.predictor.palette
    strip: Pixels | None = None
    frames = progress.track(video, total=video.frames or None, description=source.path.name)
    pairs = (pair for some in chunks(frames, batch_size) for pair in zip(some, results.predict(some), strict=True))
    with video_writer(results.folder / "overlays" / f"{source.name}.mp4", video.rate) as write:
        for number, (frame, prediction) in enumerate(pairs):
            results.write(f"{source.name}/{number:06d}", frame, prediction, overlays=False)
            if "overlay" in results.save:
                if strip is None and len(names) <= LEGEND_CLASSES:
                    strip = np.asarray(legend(names, palette, width=frame.shape[1]))
                picture = overlay(frame, prediction.mask, palette)
                write(picture if strip is None else np.vstack([picture, strip]))


def overlay_with_legend(image: Pixels, mask: UInt8[np.ndarray, "h w"], predictor: Predictor) -> Image.Image:
    """The classes over the image, and below it what they are called and how much they cover, largest first."""
    counts = np.bincount(mask.ravel(), minlength=len(predictor.class_names))
    present = sorted(np.flatnonzero(counts).tolist(), key=lambda label: -counts[label])
    names = [f"{predictor.class_names[label]}  {counts[label] / mask.size:.1%}" for label in present]
    picture = Image.fromarray(overlay(image, mask, predictor.palette))
    width = max(picture.width, 240)
    size = min(48, max(14, width // 45))
    below = legend(names, predictor.palette[present], width=width - size, size=size)
    canvas = Image.new("RGB", (width, picture.height + below.height + size), PAPER)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    canvas.paste(below, (size // 2, picture.height + size // 2))
    return canvas


def read_ahead(sources: Iterable[Source], read: Read, depth: int, results: Results) -> Iterator[tuple[Source, Pixels]]:
    """Read pictures in a second thread, at most ``depth`` ahead; report those that cannot be read."""
    waiting: deque[tuple[Source, Future[Pixels]]] = deque()
    sources = iter(sources)
    with ThreadPoolExecutor(1) as pool:
        while True:
            waiting.extend((source, pool.submit(read, source.path)) for source in islice(sources, depth - len(waiting)))
            if not waiting:
                return
            source, future = waiting.popleft()
            try:
                image = future.result()
            except FAILURES as error:
                results.fail(source, error)
            else:
                yield source, image


def same_size(pictures: Iterable[tuple[Source, Pixels]], most: int) -> Iterator[list[tuple[Source, Pixels]]]:
    """Group neighbors of one size, up to ``most``."""
    for _, neighbors in groupby(pictures, key=lambda item: item[1].shape):
        yield from chunks(neighbors, most)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive items in lists of ``size``."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
