"""Configurations of networks, and parts of one's own that are passed as objects."""

import dataclasses
import pydoc

import pytest
import torch
from conftest import DATA, refused

import self_models
from self_models import ModelError, load
from self_models.checkpoints.files import CheckpointError
from self_models.config import ANNConfig, SNNConfig
from self_models.feedback.gates import Blocking
from self_models.feedback.readouts import Membrane
from self_models.feedback.stopping import Rule
from self_models.neurons.spiking import SpikingNeuron
from self_models.running.draws import Draws
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.runs.saving import save_checkpoint

SMALL = {"architecture": "VGG4_wFeedback_tiny", "fc_width": 8, "timesteps": 4}
SPIKING = {**SMALL, "default_threshold": 0.1, "update": "immediate"}


@dataclasses.dataclass
class Tight(Blocking):
    """A gate like `block`, with a part of the tolerance only."""

    part: float = 0.5

    def is_predicted(self, image, prediction):
        return (prediction - image).abs() < self.part * self.epsilon


@dataclasses.dataclass
class AfterTwo(Rule):
    """A rule by which every image stops after two timesteps."""

    def holds(self, run):
        return torch.full((len(run.logits),), run.steps >= 2)


class Faint(SpikingNeuron):
    """A neuron that sends nothing."""

    def forward(self, current, state=None):
        spikes, state = super().forward(current, state)
        return torch.zeros_like(spikes), state


def new_snn(*arguments, **keywords):
    """Make an SNN, always with the same weights."""
    torch.manual_seed(0)
    return VGG_SNN_STDB_wFeedback(*arguments, **keywords).eval()


def run(model):
    """Run three images, which are always the same."""
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(images, draws=Draws(0, 0, torch.arange(3)))


def test_a_configuration_and_keyword_arguments_make_the_same_network():
    values = {**SPIKING, "gate": "block", "epsilon": 0.2}
    without_architecture = dict(values)
    architecture = without_architecture.pop("architecture")

    by_config = new_snn(SNNConfig(**values))
    by_keywords = new_snn(**values)
    by_position = new_snn(architecture, **without_architecture)

    assert by_config.settings == by_keywords.settings == by_position.settings
    assert by_config.settings["vgg_name"] == "VGG4_wFeedback_tiny"
    assert torch.equal(run(by_config).logits, run(by_keywords).logits)


def test_keyword_arguments_hold_in_place_of_the_configurations():
    model = new_snn(SNNConfig(**SPIKING), timesteps=7)

    assert model.timesteps == 7


def test_an_ann_takes_its_own_configuration():
    model = VGG_wFeedback(ANNConfig(architecture="VGG4_wFeedback_tiny", fc_width=8, norm="scale"))

    assert model.settings["norm"] == "scale"
    with pytest.raises(ModelError, match="VGG_wFeedback takes ANNConfig, not SNNConfig"):
        VGG_wFeedback(SNNConfig(**SPIKING))


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("epsilon", -1, "epsilon: -1 is not a number from 0"),
        ("timesteps", 2.5, "timesteps: 2.5 is not a whole number from 1"),
        ("gate", "blok", "gate: unknown name 'blok': did you mean block?"),
        ("architecture", "VGG6", "architecture: "),
        ("latch", 1, "latch: 1 is neither True nor False"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_field(field, value, line):
    with pytest.raises(ModelError) as error:
        SNNConfig(**{**SPIKING, field: value})

    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "name", "line"),
    [
        (SNNConfig, "epsilom", "SNNConfig has no setting 'epsilom': did you mean epsilon? "),
        (ANNConfig, "nrom", "ANNConfig has no setting 'nrom': did you mean norm? "),
    ],
)
def test_a_name_that_is_no_setting_brings_the_one_that_is_like_it(config, name, line):
    with pytest.raises(TypeError) as error:
        config(**{name: 0.2})

    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [ANNConfig, SNNConfig])
def test_help_shows_each_field_with_its_meaning_and_default(config):
    text = pydoc.render_doc(config, renderer=pydoc.plaintext)

    assert config is getattr(self_models, config.__name__)
    for field in dataclasses.fields(config):
        declared = field.metadata["setting"]
        assert field.metadata["help"] == declared.help
        assert f"{field.name} : " in text
        assert f"default {field.default!r}" in text
        assert declared.help[1:] in text  # its first letter may be a capital there


def test_a_gate_of_ones_own_is_passed_as_an_object():
    # Half of the tolerance of 0.4 is the tolerance of 0.2 of the gate block.
    own = new_snn(**SPIKING, readout="membrane", gate=Tight(epsilon=0.4))
    halved = new_snn(**SPIKING, readout="membrane", gate="block", epsilon=0.2)

    assert own.settings["gate"] == "Tight"
    assert own.settings["epsilon"] == 0.4
    assert own.settings["part"] == 0.5
    output = run(own)
    expected = run(halved)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.is_open, expected.is_open)


def test_a_part_of_ones_own_changes_with_the_network():
    model = new_snn(**SPIKING, gate=Tight(epsilon=0.4))

    model.change(part=0.25)
    assert model.gate.part == model.settings["part"] == 0.25
    assert model.gate.epsilon == 0.4

    model.change(gate="block", epsilon=0.3)
    assert type(model.gate) is Blocking
    assert "part" not in model.settings

    model.change(gate=Tight(epsilon=0.1), rule=AfterTwo())
    assert model.settings["gate"] == "Tight"
    assert model.settings["rule"] == "AfterTwo"
    assert run(model).steps.tolist() == [2, 2, 2]


def test_an_object_of_another_kind_of_part_is_refused():
    with pytest.raises(ModelError, match="gate: give a name, or an object of a class derived"):
        new_snn(**SPIKING, gate=AfterTwo())


def test_a_setting_that_the_passed_gate_has_is_refused():
    with pytest.raises(ModelError, match="epsilon: the gate that is passed has it"):
        new_snn(**SPIKING, gate=Tight(), epsilon=0.2)


def test_load_asks_for_parts_that_the_checkpoint_names_and_nobody_registered(tmp_path):
    model = new_snn(**SPIKING, gate=Tight(epsilon=0.4), readout=Membrane(), neuron=Faint)
    path = tmp_path / "own.pth"
    save_checkpoint(path, model)

    with pytest.raises(
        CheckpointError, match=r"gate of .*, Tight, .*load\(path, gate=Tight\("
    ) as error:
        load(path)
    with pytest.raises(
        CheckpointError, match=r"neuron of .*, Faint, .*load\(path, neuron=Faint\)"
    ):
        load(path, gate=Tight(epsilon=0.4))
    line = refused("obj1", f"--pretrained_snn {path} --output_dir {tmp_path} {DATA}")
    assert line == f"error: {error.value}"  # scripts say the same

    again = load(path, gate=Tight(epsilon=0.4), neuron=Faint)
    assert again.settings == model.settings
    assert torch.equal(run(again).logits, run(model).logits)


def test_a_neuron_of_ones_own_is_that_of_every_layer():
    model = new_snn(**SPIKING, neuron=Faint)

    for neuron in model.neurons().values():
        assert type(neuron) is Faint
    for name, counts in run(model).spikes.items():
        if name != "input":
            assert not counts.any()
