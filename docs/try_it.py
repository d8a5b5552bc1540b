"""mkdocs runs this: the site's page "Try it" shows accurate_feedback as export.py writes it."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from harness.exporting.files import export


def on_post_build(config):
    export(
        REPOSITORY / "trained_models/snn/accurate_feedback.pth",
        "page",
        f"{config.site_dir}/accurate_feedback.html",
        overwrite=True,
    )
