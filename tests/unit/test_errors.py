"""Errors: which class, which attributes, and that they travel."""

import pickle

import pytest

import milvault
from milvault import (
    BackupCorruptedError,
    BackupError,
    BackupNotFoundError,
    BackupRecoveryError,
    CollectionNotFoundError,
    InsufficientStorageError,
    InvalidArgumentError,
    PartitionNotFoundError,
    RestoreError,
)
from milvault._seam import read_outcome
from milvault.errors import error_of_kind

from .fake_core import failure

ALL = [
    getattr(milvault, name)
    for name in milvault.__all__
    if isinstance(getattr(milvault, name), type) and issubclass(getattr(milvault, name), Exception)
]

DOCUMENTED = {
    "BackupError": {"storage_path": "/b", "storage_type": "LOCAL_FILE"},
    "RestoreError": {"target_collection_name": "t"},
    "BackupNotFoundError": {"backup_name": "n", "storage_path": "/b"},
    "BackupCorruptedError": {
        "expected_checksum": "aa",
        "actual_checksum": "bb",
        "checksum_algorithm": "SHA256",
        "failed_files": ["data/x.parquet"],
    },
    "BackupStorageError": {"storage_path": "/b", "error_code": "EACCES", "permissions_issue": True},
    "BackupAlreadyExistsError": {"backup_name": "n", "existing_backup_id": "i", "storage_path": "/b"},
    "RestoreValidationError": {"validation_errors": ["e"], "target_collection_name": "t"},
    "InsufficientStorageError": {"required_bytes": 9, "available_bytes": 3, "storage_path": "/b"},
    "BackupInProgressError": {"progress_percentage": 50.0},
    "PartitionNotFoundError": {"partition_name": "p", "available_partitions": ["q"]},
    "SchemaIncompatibleError": {"backup_schema": {"a": 1}, "target_schema": {"b": 2}, "incompatibilities": ["r"]},
}


def test_all_errors_share_one_base():
    assert len(ALL) >= 16
    assert all(issubclass(error, BackupRecoveryError) for error in ALL)


@pytest.mark.parametrize("error_class", ALL, ids=lambda each: each.__name__)
def test_every_error_pickles_with_all_that_it_knows(error_class):
    attributes = DOCUMENTED.get(error_class.__name__, {})
    error = error_class("what happened", "articles", "b1", {"port": 1}, **attributes)
    error.temporary = True
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert str(copy) == copy.message == "what happened"
    assert (copy.collection_name, copy.backup_id, copy.context, copy.temporary) == ("articles", "b1", {"port": 1}, True)
    for name, value in attributes.items():
        assert getattr(copy, name) == value
        assert error.to_dict()[name] == value


def test_every_documented_attribute_is_there_when_unset():
    for name, attributes in DOCUMENTED.items():
        error = getattr(milvault, name)("m")
        for attribute in attributes:
            assert hasattr(error, attribute)


def test_storage_and_partition_errors_reach_their_own_clause_behind_backup_error():
    assert not issubclass(InsufficientStorageError, BackupError)
    assert not issubclass(PartitionNotFoundError, BackupError)


def test_errors_are_what_a_python_person_expects_too():
    assert issubclass(BackupNotFoundError, LookupError)
    assert issubclass(CollectionNotFoundError, (BackupError, LookupError))
    assert issubclass(InvalidArgumentError, ValueError)


def test_sizes_are_told_in_gb_of_1024_cubed():
    error = InsufficientStorageError("m", required_bytes=3 * 1024**3, available_bytes=1024**3 // 2)
    assert (error.required_gb, error.available_gb) == (3.0, 0.5)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("server", "BackupRecoveryError"),
        ("canceled", "BackupRecoveryError"),
        ("internal", "BackupRecoveryError"),
        ("something new", "BackupRecoveryError"),
        ("backup", "BackupError"),
        ("restore", "RestoreError"),
        ("collection_not_found", "CollectionNotFoundError"),
        ("backup_not_found", "BackupNotFoundError"),
        ("backup_corrupted", "BackupCorruptedError"),
        ("storage", "BackupStorageError"),
        ("read_only", "ReadOnlyRepositoryError"),
        ("foreign", "ForeignBackupError"),
        ("already_exists", "BackupAlreadyExistsError"),
        ("restore_validation", "RestoreValidationError"),
        ("insufficient_storage", "InsufficientStorageError"),
        ("in_progress", "BackupInProgressError"),
        ("partition_not_found", "PartitionNotFoundError"),
        ("schema_incompatible", "SchemaIncompatibleError"),
        ("invalid_argument", "InvalidArgumentError"),
    ],
)
def test_each_kind_has_its_class(kind, name):
    error = error_of_kind("backup", {"kind": kind, "message": "m", "temporary": True, "details": {}})
    assert type(error).__name__ == name
    assert error.kind == kind
    assert error.temporary is True


@pytest.mark.parametrize(
    ("operation", "base"), [("backup", BackupError), ("restore", RestoreError), ("verify", BackupRecoveryError)]
)
def test_a_deadline_is_a_timeout_and_an_error_of_its_operation(operation, base):
    error = error_of_kind(operation, {"kind": "timeout", "message": "too slow", "details": {"collection_name": "a"}})
    assert isinstance(error, TimeoutError)
    assert isinstance(error, base)
    assert error.collection_name == "a"
    assert str(error) == "too slow"
    assert str(pickle.loads(pickle.dumps(error))) == "too slow"


def test_details_become_attributes_and_the_rest_is_context():
    answer = failure("backup_corrupted", failed_files=["data/x"], backup_id="b1", expected_checksum=None, offset=7)
    error = error_of_kind("restore", answer["error"])
    assert isinstance(error, BackupCorruptedError)
    assert (error.failed_files, error.backup_id, error.expected_checksum) == (["data/x"], "b1", None)
    assert error.context == {"offset": 7}


@pytest.mark.parametrize(
    ("kind", "started", "is_result"),
    [
        ("server", False, True),
        ("timeout", False, True),
        ("backup", False, True),
        ("insufficient_storage", True, True),
        ("insufficient_storage", False, False),
        ("storage", True, True),
        ("collection_not_found", False, False),
        ("already_exists", False, False),
        ("in_progress", False, False),
        ("backup_corrupted", False, False),
        ("schema_incompatible", False, False),
        ("invalid_argument", False, False),
        ("internal", False, False),
    ],
)
def test_what_went_wrong_while_it_ran_is_a_result_and_the_rest_an_exception(kind, started, is_result):
    import json

    outcome = read_outcome("backup", json.dumps(failure(kind, started=started)))
    assert outcome.is_result is is_result
