"""Where the text lies that the contract was written from, and the Python examples in it."""

from __future__ import annotations

import os
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def text() -> Path | None:
    """The text that begins with the module's name, in a folder `shared/seeds` beside the repository, if there is one.

    `MILVAULT_TEXTS` names another folder.
    """
    folder = Path(os.environ.get("MILVAULT_TEXTS") or REPOSITORY.parent / "shared" / "seeds")
    found = [file for file in sorted(folder.glob("*.txt")) if "Milvus_Ops.backup_recovery" in file.read_text("utf-8")]
    return found[0] if found else None


def blocks(file: Path) -> list[tuple[str, str]]:
    """Each Python example with the heading above it."""
    examples, heading = [], ""
    pattern = r"^#{2,4} (?P<heading>[^\n]+)$|^```python\n(?P<code>.*?)^```"
    for match in re.finditer(pattern, file.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        if match["heading"]:
            heading = match["heading"]
        else:
            examples.append((heading, match["code"]))
    return examples
