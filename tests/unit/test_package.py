"""The package itself: importing it is light, its names are all there, and the stub tells the truth about the core."""

import pickle
import subprocess
import sys
import typing

import pytest

import milvault


def test_every_exported_name_is_there():
    assert milvault.__all__ == sorted(milvault.__all__)
    for name in milvault.__all__:
        assert getattr(milvault, name) is not None


def test_every_exported_name_is_listed_and_comes_from_its_module():
    script = "import milvault; print(all(name in dir(milvault) for name in milvault.__all__), milvault.errors.__name__)"
    done = subprocess.run([sys.executable, "-I", "-c", prefix() + script], capture_output=True, text=True, check=True)
    assert done.stdout == "True milvault.errors\n"
    assert milvault.BackupList is milvault.results.BackupList


def test_every_class_says_where_users_import_it_from():
    # Pickles name a class by it, and hints of a subclass are looked up there.
    for name in milvault.results.__all__:
        assert getattr(milvault.results, name).__module__ == "milvault.results" or name == "read_metadata"
    for found in (milvault.BackupList, milvault.BackupMetadata, milvault.DamagedBackup):
        assert pickle.loads(pickle.dumps(found)) is found
        assert typing.get_type_hints(found) is not None


@pytest.mark.parametrize(
    "module",
    [
        "asyncio",
        "typer",
        "rich",
        "yaml",
        "pymilvus",
        "milvus_lite",
        "grpc",
        "numpy",
        "pyarrow",
        "pydantic",
        "milvault._core",
    ],
)
def test_importing_is_light(module):
    script = f"assert {module!r} not in sys.modules; import milvault; print({module!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", prefix() + script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def prefix():
    """-I leaves PYTHONPATH out: say where this very package is."""
    import pathlib

    return f"import sys; sys.path.insert(0, {str(pathlib.Path(milvault.__file__).parents[1])!r}); "


def test_the_version_is_the_cores():
    from milvault import _core

    assert milvault.__version__ == _core.version()
    assert milvault.__version__.count(".") == 2


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = milvault.nonsense


def test_the_core_has_what_its_stub_says():
    from milvault import _core

    for name in ("start", "close"):
        assert callable(getattr(_core.Session, name))
    for name in ("wait", "cancel", "progress", "result"):
        assert callable(getattr(_core.Job, name))


def test_the_core_refuses_a_config_that_is_no_json():
    from milvault import _core

    with pytest.raises(ValueError):
        _core.Session("{")


async def test_an_empty_repository_is_listed_through_the_real_core(tmp_path):
    async with milvault.BackupManager.connect(None, tmp_path) as manager:
        assert await manager.list_backups() == []
        with pytest.raises(milvault.BackupNotFoundError) as caught:
            await manager.get_backup("b20200101T000000Z_000000")
    assert "b20200101T000000Z_000000" in str(caught.value)
