"""What becomes of every kind of collection on every server, as `docs/types.md` says it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.server.kind import SERVER
from tests.server.kinds import KINDS
from tests.server.table import Place, table

PAGE = Path(__file__).parents[2] / "docs" / "types.md"
BEGIN, END = "<!-- made by a test: begin -->\n\n", "\n<!-- made by a test: end -->"

REWRITE = os.environ.get("MILVAULT_WRITE_TYPES") == "1"
"""Whether the page is written anew and not held against what happened: `make types`."""


@pytest.mark.server
@pytest.mark.timeout(900)
async def test_the_table_of_types_is_what_happens(lite, lite_tcp, server, tmp_path, caplog):
    caplog.set_level("CRITICAL", "pymilvus")  # it prints a stack for everything that a server refuses
    caplog.set_level("CRITICAL", "milvus_lite")
    places = {"Lite, embedded": lite, "Lite over TCP": lite_tcp, SERVER: server}
    embedded, remote, milvus = (Place(title, place.uri, tmp_path) for title, place in places.items())
    columns = {
        embedded.title: (embedded, milvus, f"Lite → {SERVER}"),
        remote.title: (remote, None, ""),
        milvus.title: (milvus, embedded, f"{SERVER} → Lite"),
    }
    made, problems = await table(KINDS, columns)
    assert not problems, "\n".join(problems)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    committed, _, after = rest.partition(END)
    if REWRITE:
        PAGE.write_text(before + BEGIN + made + END + after, encoding="utf-8")
    else:
        assert committed == made, "the page tells otherwise; look why, and if it is right, rewrite it with `make types`"
