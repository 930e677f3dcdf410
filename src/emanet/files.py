"""JSON files that are never seen half-written."""

import json
import os
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; ``None`` where there is none, or a damaged one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, with its folder: it is either the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with incomplete.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        incomplete.replace(path)
    finally:
        incomplete.unlink(missing_ok=True)
