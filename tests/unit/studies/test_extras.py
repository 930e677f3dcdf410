"""A job whose extra is not installed says what to install, in one line."""

import subprocess
import sys

import pytest

from zygote import SRC


@pytest.mark.parametrize(
    ("package", "arguments", "remedy"),
    [
        ("pandas", ["report.py", "runs=."], "this needs pandas; pip install 'emanet[report]'"),
        ("markdown_it", ["report.py", "runs=."], "this needs markdown_it; pip install 'emanet[report]'"),
        ("optuna", ["search.py"], "this needs optuna; pip install 'emanet[search]'"),
        ("wandb_workspaces", ["dashboard.py"], "this needs wandb_workspaces; pip install 'emanet[dashboard]'"),
    ],
)
def test_a_missing_package_is_said_with_its_pip_line(tmp_path, package, arguments, remedy):
    code = f"import runpy, sys; sys.modules[{package!r}] = None; sys.argv = {[str(SRC / arguments[0]), *arguments[1:]]}"
    code += f"; sys.path.insert(0, {str(SRC)!r}); runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert remedy in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
