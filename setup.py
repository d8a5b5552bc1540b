"""What pyproject.toml cannot say: scripts, recipes, MNIST, recordings of N-MNIST, a few trained networks and records are
installed as they lie here, in wfeedback/."""

from tempfile import TemporaryDirectory

from setuptools import find_packages, setup

NETWORKS = (
    "quick_feedback",
    "quick_baseline",
    "accurate_feedback",
    "snn_feedback",
)  # those of README and python.md
RECORDS = [
    f"{name}{seed}" for name in NETWORKS[:2] for seed in ("", "_1", "_2", "_3", "_4")
]  # that compare.md compares

with (
    TemporaryDirectory() as build
):  # a build/ that stays here would hand on modules that have been deleted since
    setup(
        packages=[*find_packages(include=["self_models*", "harness*"]), "wfeedback"],
        package_dir={"wfeedback": "."},  # the Python files beside this one, and:
        package_data={
            "self_models.counting": ["conventions/*.toml"],
            "self_models.engines.event": ["c/*.c", "c/*.h"],
            "harness.exporting": ["page/*", "c/*", "c/arduino/*"],
            "wfeedback": [
                "data/mnist/*",
                "data/nmnist/*",
                "data/nmnist/*/*",
                "recipes/*.toml",
                *(f"trained_models/snn/{name}.pth" for name in NETWORKS),
                *(f"logs/published/snn/{name}.jsonl" for name in RECORDS),
            ],
        },
        options={"build": {"build_base": build}},
    )
