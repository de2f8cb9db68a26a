"""A core that misbehaves on demand: only for provoking what the real one, which all other tests use, does rarely."""

import json
import threading

METADATA = {
    "backup_id": "b20261121T063000Z_3f9a1c",
    "backup_name": "articles_20261121T063000Z",
    "collection_name": "articles",
    "database": "default",
    "partition_names": ["_default"],
    "created_at": "2026-11-21T06:30:00Z",
    "storage_type": "LOCAL_FILE",
    "storage_path": "/backups/articles/b20261121T063000Z_3f9a1c",
    "size_bytes": 3 * 1024**2,
    "compressed_size_bytes": 1024**2,
    "checksum": "ab" * 32,
    "checksum_algorithm": "SHA256",
    "is_verified": False,
    "last_verified_at": None,
    "state": "COMPLETED",
    "backup_type": "FULL_COLLECTION",
    "error_message": None,
    "milvus_version": "2.3.5",
    "schema_snapshot": {"name": "articles"},
    "row_count": 1797,
    "segment_count": 1,
    "compression_enabled": True,
    "compression_level": 6,
    "include_indexes": True,
    "metadata_version": 1,
    "tags": ["nightly"],
    "snapshot": {"kind": "fuzzy"},
    "digest": {"algorithm": "xxh3-128", "partitions": {"_default": {"rows": 1797, "digest": "1f" * 16}}},
    "tool_version": "0.1.0",
}

VERIFICATION = {
    "success": True,
    "verification_type": "CHECKSUM",
    "checksum_valid": True,
    "deep_verification_passed": None,
    "files_verified": 5,
    "files_failed": [],
    "errors": [],
    "warnings": [],
    "verification_time_ms": 12.5,
    "verified_at": "2026-11-21T06:31:00Z",
    "details": {},
}

RESTORED = {
    "backup_id": METADATA["backup_id"],
    "source_collection_name": "articles",
    "target_collection_name": "articles",
    "rows_restored": 1797,
    "partitions_restored": ["_default"],
    "failed_partitions": [],
    "verification_passed": True,
    "verification_details": {"proof": "DIGEST"},
    "warnings": [],
    "timings": {"inserting": 0.5},
}


PRUNED = {
    "dry_run": True,
    "backups_to_delete": 1,
    "storage_to_free_gb": 0.5,
    "deleted_backup_ids": [],
    "kept": {METADATA["backup_id"]: "one of the 10 newest"},
    "left_alone": {},
    "failed": {},
    "planned": [
        {
            "backup_id": "b20250101T000000Z_000000",
            "backup_name": "old",
            "database": "default",
            "collection_name": "articles",
            "created_at": "2025-01-01T00:00:00Z",
            "size_bytes": 2**29,
        }
    ],
}


def failure(kind, message="it went wrong", *, started=False, **details):
    """The core's answer for an error."""
    return {
        "error": {"kind": kind, "message": message, "temporary": False, "details": details},
        "started": started,
    }


class FakeJob:
    """Ends when its core says so: at once, or when it is told to, or when it is canceled."""

    def __init__(self, answer, *, held, deaf):
        self.answer = answer
        self.deaf = deaf
        self.canceled = False
        self.counters = {"phase": "reading", "started_at": 1000.0}
        self._ended = threading.Event()
        if not held:
            threading.Timer(0.005, self.end).start()

    def end(self):
        self._ended.set()

    def wait(self, seconds):
        return self._ended.wait(seconds)

    def cancel(self):
        self.canceled = True
        if not self.deaf:
            self.answer = failure("canceled", "canceled", started=True)
            threading.Timer(0.02, self.end).start()

    def progress(self):
        return json.dumps(self.counters)

    def result(self):
        if not self._ended.is_set():
            raise RuntimeError("the job has not ended")
        return json.dumps(self.answer)


class FakeCore:
    """Stands for `_core.Session`: remembers what it was asked, and answers what the test says."""

    def __init__(self):
        self.answers = {
            "backup": {"ok": {"metadata": METADATA, "warnings": [], "verification": VERIFICATION, "timings": {}}},
            "list": {"ok": {"backups": [METADATA], "damaged": []}},
            "prune": {"ok": dict(PRUNED)},
            "get": {"ok": METADATA},
            "verify": {"ok": VERIFICATION},
            "restore": {"ok": RESTORED},
            "delete": {"ok": True},
            "server_info": {"ok": {"version": "2.3.5", "kind": "STANDALONE", "uri": "http://127.0.0.1:19530"}},
            "list_collections": {"ok": ["articles"]},
            "has_collection": {"ok": True},
            "describe_collection": {"ok": {"name": "articles", "row_count": 7, "indexes": []}},
            "drop_collection": {"ok": None},
        }
        self.held = False
        self.deaf = False
        self.dead = None
        self.configs = []
        self.requests = []
        self.jobs = []
        self.closed = 0

    def __call__(self, config):
        self.configs.append(json.loads(config))
        return self

    def start(self, operation, request):
        if self.dead:
            raise RuntimeError(self.dead)
        self.requests.append((operation, json.loads(request)))
        job = FakeJob(self.answers[operation], held=self.held, deaf=self.deaf)
        self.jobs.append(job)
        return job

    def close(self):
        self.closed += 1

    @property
    def request(self):
        """What the last operation was asked."""
        return self.requests[-1][1]
