"""Two processes back the same collection up, one prunes, and this one lists and verifies: what is listed is whole.

Two minutes with MILVAULT_SOAK=1 (`make soak`), a quarter of one otherwise.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time

import pytest

from milvault import BackupNotFoundError, RestoreParams, VerificationParams
from tests.backup_files import leftovers
from tests.conftest import SOAK
from tests.faults.processes import REPOSITORY, command
from tests.recipes import create, expected, plain, read_all

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SECONDS = 120 if SOAK else 12


async def test_what_is_listed_verifies_while_others_back_up_and_prune(lite_tcp, connect, name, root):
    recipe = plain(400)
    create(lite_tcp.client, name, recipe)
    job = {"uri": lite_tcp.uri, "root": str(root), "collection": name, "seconds": SECONDS}
    works = ("backup", "backup", "prune")
    children = [
        subprocess.Popen(
            command({**job, "work": work}, "tests.faults.pruner"), stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        for work in works
    ]
    verified = gone = 0
    async with connect(None) as manager:
        try:
            until = time.monotonic() + SECONDS
            while time.monotonic() < until and any(child.poll() is None for child in children):
                listed = await manager.list_backups(name)
                assert listed.damaged == []
                for number, backup in enumerate(listed):
                    kind = "QUICK" if number % 2 else "CHECKSUM"
                    try:
                        result = await manager.verify_backup(
                            backup.backup_id, name, VerificationParams(verification_type=kind)
                        )
                    except BackupNotFoundError:
                        gone += 1  # pruned since it was listed
                        continue
                    assert result.success, (backup.backup_id, result.errors)
                    verified += 1
                await asyncio.sleep(0.05)
        finally:
            outcomes = [json.loads(child.communicate(timeout=120)[0]) for child in children]
        *writers, pruner = outcomes
        print({"verified": verified, "gone": gone, "backups": [writer["done"] for writer in writers],
               "refused": [writer["refused"] for writer in writers], "pruned": len(pruner["deleted"])})  # fmt: skip
        assert [outcome["wrong"] for outcome in outcomes] == [[], [], []]
        assert verified
        assert min(writer["done"] for writer in writers)
        assert pruner["deleted"]
        assert len(set(pruner["deleted"])) == len(pruner["deleted"])
        final = await manager.list_backups(name)
        assert len(final) >= 2
        assert not {backup.backup_id for backup in final} & set(pruner["deleted"])
        assert sum(writer["done"] for writer in writers) == len(final) + len(pruner["deleted"])
        for backup in final:
            assert (await manager.verify_backup(backup.backup_id, name)).success
    assert leftovers(root) == []
    async with connect(lite_tcp) as manager:
        params = RestoreParams(target_collection_name=f"{name}_again", load_after_restore=True)
        assert (await manager.restore_backup(final[-1].backup_id, name, params)).success
    assert read_all(lite_tcp.client, f"{name}_again") == expected(recipe)
