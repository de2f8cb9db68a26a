"""How long `import milvault` takes beside a package that has the same pydantic models and nothing else.

    python -m benches.compare.imports

Processor time of a new interpreter, its own start taken off: medians of interleaved rounds. The aim is 1.3.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = ["enums", "errors", "_model", "_moments", "_metadata", "config", "params", "results", "progress", "display"]
ROUNDS = 15


def seconds(code: str, path: Path) -> float:
    """Processor seconds of an interpreter that runs the code."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(path)})
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    """Measures, and prints one line."""
    import milvault

    source = Path(milvault.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "models_alone"
        package.mkdir()
        for name in MODELS:
            shutil.copy(source / f"{name}.py", package)
        (package / "__init__.py").write_text("from . import config, params, progress, results\n")
        times: dict[str, list[float]] = {"pass": [], "import models_alone": [], "import milvault": []}
        for code in times:
            seconds(code, Path(folder))  # compiles, and fills the cache of files
        for _ in range(ROUNDS):
            for code, found in times.items():
                found.append(seconds(code, Path(folder)))
    start, models, whole = (statistics.median(found) for found in times.values())
    print(
        f"import milvault: {1000 * (whole - start):.0f} ms of processor time, the models alone "
        f"{1000 * (models - start):.0f} ms: {(whole - start) / (models - start):.2f} times"
    )


if __name__ == "__main__":
    main()
