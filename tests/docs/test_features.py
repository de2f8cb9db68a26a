"""docs/features.md: each line is a promise with a link to a test that is there."""

from __future__ import annotations

import re

import pytest

from tests.docs.test_examples import REPOSITORY

PAGE = REPOSITORY / "docs" / "features.md"
PROMISES = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("- ")]
LINK = re.compile(r"^- (?P<promise>.+) · \[test\]\(\.\./(?P<file>[\w/.]+)#(?P<test>\w+)\)$")


@pytest.mark.parametrize("line", PROMISES)
def test_a_promise_links_to_a_test_that_is_there(line):
    link = LINK.match(line)
    assert link, f"no promise with a link to its test: {line}"
    file = REPOSITORY / link["file"]
    assert file.is_file(), f"{link['file']} is not there"
    definition = rf"^ *(async )?(def|fn) {link['test']}\("
    assert re.search(definition, file.read_text(encoding="utf-8"), re.MULTILINE), (
        f"{link['test']} is not in {file.name}"
    )


def test_no_promise_is_made_twice_and_no_other_line_makes_one():
    assert len(PROMISES) > 60
    assert len({line.partition(" · ")[0] for line in PROMISES}) == len(PROMISES)
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        assert "[test]" not in line or line in PROMISES
