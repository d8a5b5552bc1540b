"""What pages and examples showed before modules moved goes on working for one release.

`tests/documented/` has docs/how_to/extend.md and examples/ as they were in version 0.5.
"""

import re
import subprocess
import sys
from importlib import import_module

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
    refractory = run_own(block_with("class Refractory")["Refractory"])
    usual = run_own(InputBlockingSNN, epsilon=0)
    assert refractory.spikes["input"].sum() < usual.spikes["input"].sum()


def test_gate_rule_and_readout_of_ones_own():
    for text in ("class Relative", "class Settled", "class MembraneScaled"):
        block_with(text)
    model = tiny(
        InputBlockingSNN,
        plan=SETTINGS["plan"],
        readout="membrane_scaled",
        gate="relative",
        rule="settled",
        lead=0.1,
        timesteps=9,
    )

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
    ("file", "cls"), [("adaptive_threshold.py", "AdaptiveSNN"), ("two_decoders.py", "TwoDecoders")]
)
def test_an_example_of_a_network(file, cls):
    module = imported(FOLDER / file)
    output = run_own(getattr(module, cls))
    assert output.predictions.isfinite().all()


def test_an_example_of_a_gate():
    imported(FOLDER / "neighbours.py")
    output = run_own(InputBlockingSNN, gate="neighbours", epsilon=0.3)
    assert output.predictions.isfinite().all()


def test_an_example_of_a_loss():
    imported(FOLDER / "prediction_variance.py")
    loss = LOSSES["variance"](steps=2)
    assert loss.value(run_own(InputBlockingSNN), None, None) >= 0


def test_the_residual_example_is_imported_as_it_was():
    assert imported(FOLDER / "residual.py").Block(2)(torch.zeros(1, 2, 4, 4)).shape == (1, 2, 4, 4)


def moved_modules():
    """Return the old paths of modules, without those that only run."""
    return [path for path in moved.MOVED if not path.endswith("__main__")]


def name_defined_in(module):
    """Return the first name that a module defines, and does not import."""
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) == module.__name__:
            return name
    raise AssertionError(f"{module.__name__} defines nothing")


@pytest.mark.parametrize("old", moved_modules())
def test_a_module_is_found_under_its_old_path(old):
    """With a warning that names the new one."""
    new = import_module(moved.MOVED[old])
    name = name_defined_in(new)

    with pytest.warns(DeprecationWarning, match=f"{old} is now {new.__name__}: import {name}"):
        found = getattr(import_module(old), name)

    assert found is getattr(new, name)


@pytest.mark.parametrize(("old", "name"), moved.NAMES)
def test_a_name_that_left_its_module_is_found_there(old, name):
    new = moved.NAMES[old, name]

    with pytest.warns(DeprecationWarning, match=new):
        found = getattr(import_module(old), name)

    assert found is getattr(import_module(new), name)


def test_old_paths_are_found_by_a_process_that_imports_nothing_else():
    code = "import harness.data.events, self_models.network.plans as plans; print(plans.PLANS)"
    words = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY)
    assert "VGG5_wFeedback" in done.stdout, done.stderr
