"""What ``emanet.data`` hands out: every name that a configuration or a data set of one's own needs."""

import subprocess
import sys
from pathlib import Path

import pytest

import emanet.data


def test_every_public_name_is_there_and_another_is_an_error():
    assert all(getattr(emanet.data, name) is not None for name in emanet.data.__all__)
    assert issubclass(emanet.data.BlueMarble, emanet.data.SegmentationDataModule)
    with pytest.raises(AttributeError, match=r"'emanet\.data' has no attribute 'nothing'"):
        _ = emanet.data.nothing


def test_the_package_alone_imports_no_heavy_library():
    code = "import sys, emanet.data; assert not {'torch', 'albumentations', 'lightning', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(emanet.data.__file__).parents[2], check=True)
