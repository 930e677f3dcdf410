"""docs/own_data.md, word for word, as a new user works through it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_command_of_the_recipe_works_in_order(tmp_path: Path):
    text = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "bash", "bash", "bash"]
    (tmp_path / "src").symlink_to(ROOT / "src")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = []
    for kind, block in blocks:
        command = [sys.executable, "-c", block] if kind == "python" else ["bash", "-euc", block]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, block + done.stdout[-3000:] + done.stderr[-3000:]
        said.append(done.stdout)
    assert re.search(r"0  ground +\d\d\.\d+% +64 ", said[1])
    assert (tmp_path / "seen" / "sheet.png").is_file()
    scores = [float(value) for value in re.findall(r"validation at step \d+: mIoU ([\d.]+)", said[2])]
    assert len(scores) == 2
    assert scores[-1] > 0.4, "much better than all ground, 0.27"
    assert list((tmp_path / "predicted").rglob("*.png"))
