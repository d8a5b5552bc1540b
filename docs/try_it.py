"""Make the site's page "Try it" of accurate_feedback; mkdocs runs this.

It is the page that `wfeedback export` writes.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wfeedback.export.formats import export

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

NETWORK = Path(__file__).resolve().parents[1] / "trained_models/snn/accurate_feedback.pth"


def on_post_build(config: "MkDocsConfig") -> None:
    """Write the page into the site."""
    export(NETWORK, "page", f"{config.site_dir}/{NETWORK.stem}.html", overwrite=True)
