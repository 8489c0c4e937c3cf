# SPDX-License-Identifier: Apache-2.0
"""Result files: written whole or not at all, and continued where a run was cut off."""

import json
import os
from pathlib import Path
from typing import Any


def write(path: Path | None, document: dict[str, Any]) -> None:
    """Replace the file at once: who is killed meanwhile leaves the last one behind."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def resume(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The document at path, to be continued; None: there is none yet.

    Raises ValueError, in a line, if it is damaged or was made with other settings.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be continued: {error}") from None
    # As JSON has them: tuples are lists there.
    for name, here in json.loads(json.dumps(settings)).items():
        there = document.get(name) if isinstance(document, dict) else None
        if there != here:
            raise ValueError(
                f"{path}: of another run, whose {name} is {there!r} and not {here!r}; "
                "name another --out, or leave out --resume"
            )
    return document
