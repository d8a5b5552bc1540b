"""What the pages say as a Markdown parser sees it."""

import re

import pytest
from conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
DELIMITER = re.compile(r"\|( *:?-+:? *\|)+$")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_has_its_head(page):
    """A table is a head, a delimiter row and rows of as many cells; after a blank line rows would be plain text."""
    for block in re.findall(r"(?:^\|.*\n?)+", page.read_text(), re.MULTILINE):
        head, *rows = block.splitlines()
        assert rows and DELIMITER.match(rows[0]), f"no head: {head}"
        assert {row.count("|") for row in rows} == {head.count("|")}, head
