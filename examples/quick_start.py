"""Backs a collection of real vectors up, loses it, restores it, and proves that every row is back.

Needs no server: Milvus Lite holds the collection in a folder. The vectors are scikit-learn's handwritten digits,
1,797 pictures of 8 by 8 pixels. Run it:

    pip install 'milvault[lite,cli]' scikit-learn
    python examples/quick_start.py
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymilvus import DataType, MilvusClient
from sklearn.datasets import load_digits

from milvault import BackupManager, RestoreParams

if TYPE_CHECKING:
    from milvault import BackupMetadata

COLLECTION = "digits"
ASKED = 42  # the picture whose neighbours are looked for


def fill(client: MilvusClient) -> Any:
    """Makes the collection of digits and gives the pictures back."""
    digits = load_digits()
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("digit", DataType.INT8)
    schema.add_field("pixels", DataType.FLOAT_VECTOR, dim=64)
    index = client.prepare_index_params()
    index.add_index("pixels", index_type="FLAT", metric_type="L2")
    client.create_collection(COLLECTION, schema=schema, index_params=index)
    rows = [
        # `row` is no field of the schema: it goes to the dynamic field, and comes back from there.
        {"id": number, "digit": int(digit), "pixels": pixels.tolist(), "row": number // 100}
        for number, (pixels, digit) in enumerate(zip(digits.data, digits.target, strict=True))
    ]
    client.insert(COLLECTION, rows)
    return digits.data


def neighbours(client: MilvusClient, pixels: Any) -> list[tuple[int, int, float]]:
    """The five nearest pictures: id, which digit it shows, distance."""
    client.load_collection(COLLECTION)
    found = client.search(COLLECTION, data=[pixels.tolist()], anns_field="pixels", limit=5, output_fields=["digit"])
    return [(hit["id"], hit["entity"]["digit"], round(hit["distance"], 3)) for hit in found[0]]


def rows_in(client: MilvusClient) -> int:
    """How many rows the collection has."""
    return int(client.query(COLLECTION, filter="", output_fields=["count(*)"])[0]["count(*)"])


def show(step: str, *lines: str) -> None:
    """One step of the story."""
    print(f"\n{step}")
    for line in lines:
        print(f"    {line}")


def describe(backup: BackupMetadata) -> list[str]:
    """What a person wants to know of a backup."""
    digests = [each["digest"] for each in backup.to_dict()["digest"]["partitions"].values()]
    return [
        f"id      {backup.backup_id}",
        f"rows    {backup.row_count:,}",
        f"size    {backup.size_mb:.2f} MiB of rows, {backup.compressed_size_mb or 0:.2f} MiB of files",
        f"digest  {', '.join(digests)} (of every row, whatever their order)",
        f"files   {backup.storage_path}",
    ]


async def demonstrate(folder: Path) -> bool:
    """The whole story. True if every row came back."""
    database = folder / "milvus.db"
    client = MilvusClient(str(database))
    pictures = fill(client)
    before = neighbours(client, pictures[ASKED])
    count_before = rows_in(client)
    show(
        "1. A collection of handwritten digits, in Milvus Lite",
        f"{count_before:,} rows of 64 floats in {database}",
        f"nearest to picture {ASKED}: {before}",
    )

    async with BackupManager.connect(database, folder / "backups") as manager:
        created = await manager.create_backup(COLLECTION)
        created.raise_for_error()
        backup = await manager.get_backup(created.backup_id or "")
        show(f"2. Backed up in {created.execution_time_seconds:.2f} s", *describe(backup))

        checked = await manager.verify_backup(backup.backup_id, COLLECTION)
        show("3. Verified", f"{checked.files_verified} files, every checksum matches: {checked.success}")

        client.drop_collection(COLLECTION)
        show("4. Lost", f"the collection is gone: {not client.has_collection(COLLECTION)}")

        restored = await manager.restore_backup(backup.backup_id, COLLECTION, RestoreParams(load_after_restore=True))
        restored.raise_for_error()
        show(
            f"5. Restored in {restored.execution_time_seconds:.2f} s",
            f"{restored.rows_restored:,} rows, read back and compared with the backup",
            f"digest  {restored.verification_details.get('digest')}: equal {restored.verification_passed}",
        )

    after = neighbours(client, pictures[ASKED])
    same = before == after and count_before == rows_in(client)
    show(
        "6. Proof",
        f"{rows_in(client):,} rows",
        f"nearest to picture {ASKED}: {after}",
        "the same neighbours at the same distances" if same else "DIFFERENT from before",
    )
    client.close()
    return same and checked.success and restored.verification_passed is True


def main() -> int:
    """Runs in a folder of its own, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="milvault-") as folder:
        try:
            return 0 if asyncio.run(demonstrate(Path(folder))) else 1
        finally:
            # The Lite server of this process has files open in there.
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_all()


if __name__ == "__main__":
    sys.exit(main())
