# ruff: noqa: INP001 - a script, not a module
"""Prints what pyproject.toml asks for: the project's dependencies and those of the extras named as arguments.

pip can install a project with its extras, but not the extras alone; the project itself is built by maturin.
"""

import re
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def requirements(extras: list[str]) -> list[str]:
    """The base dependencies and those of the extras; an extra may name others of this project."""
    wanted = list(PROJECT.get("dependencies", []))
    for extra in extras:
        for requirement in PROJECT["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", requirement)
            wanted += requirements([name.strip() for name in own[1].split(",")]) if own else [requirement]
    return list(dict.fromkeys(wanted))


print("\n".join(requirements(sys.argv[1:])))
