"""Imports point one way: which module of the package may import which, read from the sources."""

import ast
from pathlib import Path

import pytest

import emanet

PACKAGE = Path(emanet.__file__).parent
LEAVES = {"errors", "files", "packages", "seeding"}  # import nothing of ours; everybody may import them

ALLOWED = {
    "emau": {"kernels"},
    "kernels": set(),
    "heads": {"emau"},
    "weights": set(),
    "backbone": {"weights"},
    "network": {"emau", "backbone", "heads", "weights", "hub"},
    "losses": {"kernels"},
    "metrics": set(),
    "optim": set(),
    "inference": {"kernels"},
    "task": {"network", "losses", "optim", "metrics", "inference"},
    "bases": {"emau", "inference"},
    "naming": set(),
    "distributed": set(),
    "interop": {"network", "weights"},
}
MODEL = {"emau", "backbone", "network", "heads", "kernels", "interop", "task", "losses", "optim", "weights", "build"}


def sources(part: str) -> list[Path]:
    """Files of a module or sub-package; none where it does not exist (yet)."""
    return [path for path in (PACKAGE / f"{part}.py",) if path.exists()] + sorted((PACKAGE / part).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Parts of the package that a file imports, at its top or inside functions."""
    names: set[str] = set()
    package = ["emanet", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                [*package[: len(package) + 1 - node.level], *filter(None, [node.module])]
                if node.level
                else [node.module]
            )
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("emanet.")}


def test_the_reader_of_imports_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "x.py"
    path.write_text(
        "import torch\nimport emanet.emau\nfrom emanet.task import T\nfrom emanet import network\n"
        "from ..losses import a\nfrom . import voc\ndef f():\n    from emanet.optim import o\n"
    )
    assert imported(path) == {"emau", "task", "network", "losses", "data", "optim"}


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_module_imports_only_what_stands_below_it(part: str):
    files = sources(part)
    if part not in {"heads", "kernels"}:  # not every version has them
        assert files
    for path in files:
        extra = imported(path) - ALLOWED[part] - LEAVES - {part}
        assert not extra, f"{path.name} imports {sorted(extra)}"


@pytest.mark.parametrize("part", sorted(LEAVES))
def test_leaves_import_nothing_of_ours(part: str):
    (path,) = sources(part)
    assert imported(path) == set()


def test_data_knows_nothing_of_the_model():
    files = sources("data")
    assert len(files) > 3
    for path in files:
        assert not imported(path) & MODEL, path.name


@pytest.mark.parametrize("part", ["emau", "heads", "kernels"])
def test_the_unit_needs_torch_alone(part: str):
    """No Lightning, Hydra, distributed code or files."""
    for path in sources(part):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in names} <= {
            "torch",
            "triton",
            "jaxtyping",
            "math",
            "typing",
            "emanet",
            "bisect",
            "collections",
            "concurrent",
            "itertools",
            "os",
        }
        assert not any(name.startswith("torch.distributed") for name in names)
