"""mkdocs runs this: the site's first page is README.md, and other pages' links to README lead there.

CONTRIBUTING.md is no page, so that links to it become plain text.
"""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
NO_PAGE = re.compile(
    r"(?<!!)\[([^]]*)\]\((?!docs/|https?:|#)[^)]*\)"
)  # a link to a file that is no page of the site


def on_page_markdown(markdown, page, **_):
    if page.file.src_uri == "index.md":
        return NO_PAGE.sub(r"\1", README.read_text(encoding="utf-8")).replace("](docs/", "](")
    markdown = re.sub(r"\[([^]]*)\]\((\.\./)*CONTRIBUTING\.md[^)]*\)", r"\1", markdown)
    return re.sub(
        r"\]\((\.\./)*README\.md",
        "](" + "../" * page.file.src_uri.count("/") + "index.md",
        markdown,
    )
