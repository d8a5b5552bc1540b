"""What pages and examples showed before modules moved goes on working for one release.

`tests/documented/` has docs/how_to/extend.md and examples/ as they were in version 0.5.
"""

import re
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, images, tiny

from harness.building.models import imported
from harness.training.losses import LOSSES
from self_models import moved
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

FOLDER = REPOSITORY / "tests/documented"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", (FOLDER / "extend.md").read_text(), re.M | re.S)
SETTINGS = {"plan": [[4, "D", 6], ["U", "in"]], "readout": "membrane_rescaled"}

pytestmark = [
    pytest.mark.usefixtures("forgotten"),
    pytest.mark.filterwarnings("ignore:.* is now .*:DeprecationWarning"),
]


def run_own(cls, **settings):
    """Run a small network of a class on two images, and return its output."""
    model = tiny(cls, **SETTINGS, **settings)
    return model(images(2), seed=3)


def block_with(text):
    """Return the names that the page's block with this text defines."""
    (block,) = [block for block in BLOCKS if text in block]
    names = {"__name__": "own"}
    exec(compile(block, "own.py", "exec"), names)
    return names


def test_a_timestep_of_ones_own():
    cls = block_with("class Refractory")["Refractory"]
    output = run_own(cls)
    assert (
        output.spikes["input"].sum() < run_own(InputBlockingSNN, epsilon=0).spikes["input"].sum()
    )


def test_gate_rule_and_readout_of_ones_own():
    for text in ("class Relative", "class Settled", "class MembraneScaled"):
        block_with(text)
    settings = {"gate": "relative", "rule": "settled", "lead": 0.1, "timesteps": 9}
    model = tiny(InputBlockingSNN, plan=SETTINGS["plan"], readout="membrane_scaled", **settings)
    output = model(images(2), seed=3)
    assert output.predicted.any()
    assert output.steps.max() <= 9


def test_neurons_of_ones_own():
    cls = block_with("class HardClassifier")["HardClassifier"]
    model = tiny(cls, **SETTINGS)
    kinds = {type(neuron).__name__ for neuron in model.classifier if hasattr(neuron, "threshold")}
    assert kinds == {"HardReset"}
    assert model(images(2), seed=3).logits.isfinite().all()


def test_a_surrogate_of_ones_own():
    block_with("def atan")
    model = tiny(**SETTINGS, activation="ATan").train()
    model(images(2), seed=3).logits.square().mean().backward()
    assert model.features[0].weight.grad.any()


@pytest.mark.parametrize(
    ("name", "cls", "settings"),
    [
        ("adaptive_threshold", "AdaptiveSNN", {}),
        ("two_decoders", "TwoDecoders", {}),
        ("neighbours", None, {"gate": "neighbours", "epsilon": 0.3}),
    ],
)
def test_an_example_of_a_network(name, cls, settings):
    module = imported(FOLDER / f"{name}.py")
    output = run_own(getattr(module, cls) if cls else InputBlockingSNN, **settings)
    assert output.predictions.isfinite().all()


def test_an_example_of_a_loss():
    imported(FOLDER / "prediction_variance.py")
    loss = LOSSES["variance"](steps=2)
    assert loss.value(run_own(InputBlockingSNN), None, None) >= 0


def test_the_residual_example_is_imported_as_it_was():
    assert imported(FOLDER / "residual.py").Block(2)(torch.zeros(1, 2, 4, 4)).shape == (1, 2, 4, 4)


@pytest.mark.parametrize("old", [*moved.MOVED])
def test_a_module_is_found_under_its_old_path(old):
    """In a process that has imported nothing else, and with a warning that names the new one."""
    if old.endswith("__main__"):
        return
    new = __import__(moved.MOVED[old], fromlist=["x"])
    ours = [
        name
        for name, value in vars(new).items()
        if getattr(value, "__module__", None) == new.__name__
    ]
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new.__name__}: import {ours[0]}"):
        assert getattr(__import__(old, fromlist=["x"]), ours[0]) is getattr(new, ours[0])


def test_names_that_left_their_module_are_found_there():
    for (old, name), new in moved.NAMES.items():
        with pytest.warns(DeprecationWarning, match=new):
            found = getattr(__import__(old, fromlist=["x"]), name)
        assert found is getattr(__import__(new, fromlist=["x"]), name)


def test_old_paths_are_found_by_a_process_that_imports_nothing_else():
    code = "import harness.data.events, self_models.network.plans as plans; print(plans.PLANS)"
    words = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY)
    assert "VGG5_wFeedback" in done.stdout, done.stderr
