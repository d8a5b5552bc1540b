"""Make README.md the site's first page; mkdocs runs this.

Links of other pages to README lead there. CONTRIBUTING.md and the pages of studies/ are
no pages of the site: a link to the first becomes plain text, and one to the others
plain text with the path of the file.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

README = Path(__file__).resolve().parents[1] / "README.md"
# A link to a file that is no page of the site
NO_PAGE = re.compile(r"(?<!!)\[([^]]*)\]\((?!docs/|https?:|#)[^)]*\)")
TO_README = re.compile(r"\]\((\.\./)*README\.md")
TO_CONTRIBUTING = re.compile(r"\[([^]]*)\]\((\.\./)*CONTRIBUTING\.md[^)]*\)")
TO_STUDIES = re.compile(r"\[([^]]*)\]\((?:\.\./)+(studies/[^)#]*)[^)]*\)")


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    """Return a page's text as the site is to have it."""
    if page.file.src_uri == "index.md":
        readme = README.read_text(encoding="utf-8")
        return NO_PAGE.sub(r"\1", readme).replace("](docs/", "](")
    up_to_first_page = "../" * page.file.src_uri.count("/")
    markdown = TO_CONTRIBUTING.sub(r"\1", markdown)
    markdown = TO_STUDIES.sub(r"\1 (`\2`)", markdown)
    return TO_README.sub(f"]({up_to_first_page}index.md", markdown)
