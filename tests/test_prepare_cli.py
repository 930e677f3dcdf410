"""From archives to a trained network: the scripts, and every benchmark trained for two steps."""

import re
from pathlib import Path

import pytest
import torch

from emanet.data.preparing.prepare import Preparation
from emanet.data.preparing.recipes import RECIPES
from fake_archives import ARCHIVES, tiny_recipe, write_archives
from loopback import serving
from zygote import TINY, Zygote

SHORT = [*TINY, "dataset.crop_size=65", "trainer.max_steps=2", "trainer.val_every_n_steps=2"]
WITH_TINY_RECIPE = """
from pathlib import Path
from emanet.data.preparing.recipes import RECIPES
from fake_archives import tiny_recipe
RECIPES["ade20k"] = tiny_recipe("ade20k", Path({!r}))
"""


def test_the_scripts_prepare_inspect_and_train_a_benchmark(tmp_path: Path, zygote: Zygote):
    data, archives = tmp_path / "data", write_archives("ade20k", tmp_path / "shelf")
    options = ["dataset=ade20k", f"paths.data_dir={data}"]

    (here := tmp_path / "here").mkdir()

    def prepare(*arguments: str, code: int = 0) -> str:
        patch = WITH_TINY_RECIPE.format(str(archives))
        return zygote.run(*options, *arguments, cwd=here, script="prepare.py", code=code, patch=patch)

    with serving(archives) as server:
        source = f"source={server.url}"
        assert f"{server.url}/ADEChallengeData2016.zip" in prepare(source, "dry_run=true")
        assert not data.exists()
        strict = prepare(source, code=1)
        assert re.search(r"ade20k in .* is not whole: train 3 of 20210, val 2 of 2000", strict)
        assert "Traceback" not in strict
        said = prepare(source, "strict_counts=false")
        assert re.search(r"ade20k is ready in .*\n  train +3 images, 20210 published", said)
        assert len(server.requests) == 2 + 1, "the size twice, the archive once"
    assert all(path.name.startswith("output_") for path in here.iterdir()), "no run folder for preparing"
    zygote.run(*options, f"hydra.run.dir={tmp_path / 'seen'}", cwd=tmp_path, script="inspect_data.py")
    assert (tmp_path / "seen" / "sheet.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "options", "classes"),
    [
        ("voc", ["dataset.train_split=trainaug"], 21),
        ("pascal_context", ["dataset.label_source=mat"], 59),
        ("pascal_context", ["dataset.label_source=json", "dataset.num_classes=60"], 60),
        ("coco_stuff", [], 171),
        ("coco_stuff_164k", [], 171),
        ("cityscapes", [], 19),
        ("ade20k", [], 150),
    ],
)
def test_a_prepared_benchmark_trains_two_steps(
    tmp_path: Path, name: str, options: list[str], classes: int, monkeypatch: pytest.MonkeyPatch, zygote: Zygote
):
    archives = write_archives(name, tmp_path)
    monkeypatch.setitem(RECIPES, name, tiny_recipe(name, archives))
    Preparation(name, tmp_path / "data", source=str(archives), strict_counts=False).run()
    places = [f"dataset={name}", f"dataset.root={tmp_path / 'data'}", f"hydra.run.dir={tmp_path / 'run'}"]
    zygote.run(*SHORT, *places, *options, cwd=tmp_path)
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 2
    assert content["state_dict"]["net.fc2.weight"].shape[0] == classes


def test_every_benchmark_is_among_those_trained():
    (cases,) = (mark.args[1] for mark in test_a_prepared_benchmark_trains_two_steps.pytestmark)
    assert {name for name, _, _ in cases} == set(RECIPES) == set(ARCHIVES)
