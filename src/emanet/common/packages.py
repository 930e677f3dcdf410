"""Files inside installed packages."""

import importlib.util
from pathlib import Path


def find_package_file(package: str, relative: str) -> Path | None:
    """Path of a file inside an installed package, which is not imported; ``None`` where either is missing."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # the parent package is not there either
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / relative).is_file():
            return path
    return None
