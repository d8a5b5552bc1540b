"""What the pages say as a Markdown parser sees it, and the site that is made of them."""

import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

import results
from harness.command_line import reference
from self_models.objectives.encoders import ENCODINGS
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
DELIMITER = re.compile(r"\|( *:?-+:? *\|)+$")
REGISTRIES = [*VGG_SNN_STDB_wFeedback.parts.values(), ENCODINGS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_has_its_head(page):
    """A table is a head, a delimiter row and rows of as many cells; after a blank line rows would be plain text."""
    for block in re.findall(r"(?:^\|.*\n?)+", page.read_text(), re.MULTILINE):
        head, *rows = block.splitlines()
        assert rows and DELIMITER.match(rows[0]), f"no head: {head}"
        assert {row.count("|") for row in rows} == {head.count("|")}, head


@pytest.mark.parametrize("page", [results.README, results.TABLES])
def test_make_results_finds_its_marks(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    assert [text.count(mark) for mark in results.MARKS] == [1, 1] and text.index(results.MARKS[0]) < text.index(results.MARKS[1])


def test_the_page_of_all_flags_is_what_is_declared():
    """`python -m harness.command_line.reference` writes it anew."""
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the site, built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_asks_no_other_host(site):
    asking = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?((?:https?:)?//[^\"> ]*)")
    pages = list(site.rglob("*.html"))
    assert len(pages) == len(PAGES) + 1  # README.md is none of them, 404.html is one, and the page of Try it
    for page in pages:
        assert not asking.findall(page.read_text(encoding="utf-8")), page


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_the_site_names_every_part(site, registry):
    """Each registered name stands on the page of the objectives' parts, beside a link to its class or function."""
    page = (site / "api/objectives.html").read_text(encoding="utf-8")
    for name, part in registry.items():
        made = getattr(part, "send", part)  # an input code's function
        link = f'<code>{name}</code> <a class="autorefs autorefs-internal"[^>]*href="#{made.__module__}.{made.__qualname__}"'
        assert re.search(link, page), name
