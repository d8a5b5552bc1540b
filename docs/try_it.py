"""mkdocs runs this: the site's page "Try it" shows accurate_feedback as export.py writes it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.exporting.formats import export

NETWORK = Path(__file__).resolve().parents[1] / "trained_models/snn/accurate_feedback.pth"


def on_post_build(config):
    export(NETWORK, "page", f"{config.site_dir}/{NETWORK.stem}.html", overwrite=True)
