"""The examples of the text that the contract was written from run as printed there, but for their import lines.

The text is not part of this repository: where it does not lie beside it, nothing here is collected (`conftest.py`).
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from typing import Any

import pytest

import milvault
from tests.promises.conftest import COLLECTION, Enough
from tests.promises.text import blocks, text

pytestmark = pytest.mark.embedded

TEXT = text()
EXAMPLES = [] if TEXT is None else blocks(TEXT)

PROMISED = {
    "Quick Start": "Backup created successfully: b20",
    "Configuration": "",
    "Full Collection Backup": "",
    "Partition Backup": "",
    "Listing Backups": "State: VERIFIED",
    "Verifying Backups": "Verification passed!",
    "Restoring Backups": "Restored 90 rows successfully",
    "Deleting Backups": "Backup deleted successfully",
    "Applying Retention Policies": "Would delete 0 backups",
    "Compression": "",
    "Retention Policies": "",
    # The example leaves its arguments out, and an ellipsis is no collection's name.
    "Error Handling": "Unexpected error: collection_name has to be a name",
    "Custom Checksum Algorithm": "",
    "Manual Checksum Verification": "",
    "Custom Compression": "",
    "Regular Backup Schedule": "Backup completed: True",
    "Backup Before Migration": "Pre-migration backup created: b20",
}
"""What each example prints, by the heading above it."""

CALLED = {"Backup Before Migration": f"\nassert await migrate_collection({COLLECTION!r}, None) is True\n"}
"""What calls a function that an example only defines."""


def test_there_is_a_promise_for_each_example():
    assert [heading for heading, _ in EXAMPLES] == list(PROMISED)


@pytest.mark.parametrize(("heading", "code"), EXAMPLES, ids=[heading.replace(" ", "-") for heading, _ in EXAMPLES])
def test_an_example_runs_as_printed(heading, code, collection, backup_manager, tmp_path, short_schedule, capsys):
    backup = asyncio.run(backup_manager.create_backup(collection))
    (tmp_path / "file").write_bytes(b"a file of one's own" * 1000)
    code = re.sub(r"\bMilvus_Ops(\.\w+)*", "milvault", code).replace("/path/to/", f"{tmp_path}/")
    names: dict[str, Any] = {name: getattr(milvault, name) for name in milvault.__all__}
    names |= {"__name__": "__main__", "backup_manager": backup_manager, "backup_id": backup.backup_id}
    names |= {"datetime": __import__("datetime").datetime}
    code += CALLED.get(heading, "")
    run = compile(code, heading, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    try:
        waiting = eval(run, names)
        if inspect.isawaitable(waiting):
            asyncio.run(finish(waiting))
    except Enough:
        assert heading == "Regular Backup Schedule"
    told = capsys.readouterr().out
    assert PROMISED[heading] in told, told
    assert "failed" not in told, told
    result = names.get("result")
    assert getattr(result, "success", True), result
    assert "milvus_ops" not in {module.lower() for module in sys.modules}


async def finish(waiting: Any) -> None:
    await waiting
