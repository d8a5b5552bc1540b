"""What pyproject.toml cannot say: the scripts, MNIST and a few trained networks are installed as they lie here, in wfeedback/."""

from setuptools import find_packages, setup

NETWORKS = ("quick_feedback", "quick_twin", "accurate_feedback", "snn_feedback")  # those of README and docs/python.md

setup(
    packages=[*find_packages(include=["self_models*", "harness*"]), "wfeedback"],
    package_dir={"wfeedback": "."},  # the Python files beside this one, and:
    package_data={
        "harness.reporting": ["page.html", "page.css", "page.js", "player.html"],
        "wfeedback": ["data/mnist/*", *(f"trained_models/snn/{name}.pth" for name in NETWORKS)],
    },
)
