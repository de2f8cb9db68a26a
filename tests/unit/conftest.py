"""What every unit test gets: no settings from outside, and on request a core that does what the test says."""

import os

import pytest

from .fake_core import FakeCore


@pytest.fixture
def core():
    return FakeCore()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith("MILVAULT_"):
            monkeypatch.delenv(name)
