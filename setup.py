"""Say what is installed beside the modules, which pyproject.toml cannot.

Scripts, recipes, MNIST, recordings of N-MNIST, a few trained networks and records are
installed as they lie here, in wfeedback/home/.
"""

from tempfile import TemporaryDirectory

from setuptools import find_packages, setup

# Networks that README and docs/reference/python.md use.
NETWORKS = ("quick_feedback", "quick_baseline", "accurate_feedback", "snn_feedback")
# Records that docs/how_to/compare.md compares: five seeds of two networks.
RECORDS = []
for network in ("quick_feedback", "quick_baseline"):
    RECORDS.append(network)
    RECORDS += [f"{network}_{seed}" for seed in range(1, 5)]

DATA = ["data/mnist/*", "data/nmnist/*", "data/nmnist/*/*", "recipes/*.toml"]
DATA += [f"trained_models/snn/{name}.pth" for name in NETWORKS]
DATA += [f"logs/published/snn/{name}.jsonl" for name in RECORDS]

# A build/ that stayed here would hand on modules that have been deleted since.
with TemporaryDirectory() as build:
    setup(
        packages=[*find_packages(include=["self_models*", "wfeedback*"]), "wfeedback.home"],
        package_dir={"wfeedback.home": "."},  # the Python files beside this one, and DATA
        package_data={
            "self_models.evaluation": ["conventions/*.toml"],
            "wfeedback.event": ["c/*.c", "c/*.h"],
            "wfeedback.export": ["page/*", "c/*", "c/arduino/*"],
            "wfeedback.home": DATA,
        },
        options={"build": {"build_base": build}},
    )
