"""Imports point down: which of the nine packages may import which, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import emanet

PACKAGE = Path(emanet.__file__).parent
COMMON = {"common"}
BELOW = {
    "common": set(),
    "model": COMMON,
    "data": COMMON,  # model and data do not know each other
    "config": COMMON | {"model", "data"},
    "checkpoints": COMMON | {"model", "data", "config"},
    "inference": COMMON | {"model", "data", "config", "checkpoints"},
    "training": COMMON | {"model", "data", "config", "checkpoints", "inference"},
    "studies": COMMON | {"model", "data", "config", "checkpoints", "inference", "training"},
    "cli": COMMON | {"model", "data", "config", "checkpoints", "inference", "training", "studies"},
}


def imported(path: Path) -> set[str]:
    """Full names of what a file imports, at its top or inside functions."""
    names: set[str] = set()
    package = ["emanet", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level]] if node.level else []
            names |= {".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names}
    return names


def rooms(path: Path) -> set[str]:
    """Packages of ours that a file imports from; a name of the root counts as one."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("emanet.")}


def test_the_reader_of_imports_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "x.py"
    path.write_text(
        "import torch\nimport emanet.model.emau\nfrom emanet.training.task import T\nfrom emanet import inference\n"
        "from ..config import a\nfrom . import voc\ndef f():\n    from emanet.studies import o\n"
    )
    assert rooms(path) == {"model", "training", "inference", "config", "data", "studies"}


def test_the_table_names_every_package_and_nothing_lies_beside_them():
    assert {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/**/*.py")} == set(BELOW)
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("room", BELOW)
def test_a_package_imports_only_what_stands_below_it(room: str):
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        assert rooms(path) <= BELOW[room] | {room}, path.relative_to(PACKAGE)


@pytest.mark.parametrize("path", ["model/emau.py", "model/tiles.py", "model/heads"])
def test_the_unit_needs_torch_alone(path: str):
    """No Lightning, Hydra, distributed code or files."""
    place = PACKAGE / path
    for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
        names = {name.split(".")[0] for name in imported(file)}
        assert names <= {"torch", "jaxtyping", "emanet", "math", "typing", "collections", "inspect", "pkgutil"}, file
        assert not any(name.startswith("torch.distributed") for name in imported(file))


def test_importing_the_package_imports_no_torch():
    code = "import sys, emanet; assert 'torch' not in sys.modules; emanet.EMAU; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    for name in emanet.__all__:
        assert getattr(emanet, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = emanet.nothing
