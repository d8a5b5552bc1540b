"""What a network costs beside its ANN, in tables, and how spikes follow difficulty."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import DATA, REPOSITORY, run_here, sparse_network

from self_models import load, load_data
from self_models.evaluation.evaluate import evaluate
from self_models.evaluation.operations import (
    Convention,
    conventions,
)
from studies.results import ledger_of
from wfeedback.commands.energy import in_eight_bits
from wfeedback.drawing import plots
from wfeedback.energy.ledger import EXECUTIONS, Entry, Ledger, ledger
from wfeedback.energy.tables import verdicts
from wfeedback.measuring.comparing import difficulty_correlations
from wfeedback.measuring.tables import as_text

SMALL = [[2, "D"], ["U", "in"]]


FOUR_IMAGES = {
    "spikes": torch.tensor([10.0, 20.0, 30.0, 40.0]),
    "ink": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "margin": -torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "correct": torch.tensor([True, True, True, False]),
}


def test_difficulty_takes_ink_out():
    found = difficulty_correlations(FOUR_IMAGES)
    assert found["small margin"]["spikes"] == pytest.approx(1)
    assert found["small margin"]["spikes_per_ink"] is None  # 10 for each image
    assert found["wrong"]["spikes"] > 0
    assert "reconstruction error" not in found


def test_difficulty_by_the_reconstruction_error():
    error = torch.tensor([1.0, 3.0, 2.0, 4.0])
    found = difficulty_correlations(FOUR_IMAGES | {"error": error})
    # Ranks 1, 3, 2, 4 against 1, 2, 3, 4: 1 - 6 (0 + 1 + 1 + 0) / (4 (16 - 1)) = 0.8.
    assert found["reconstruction error"] == {"spikes": pytest.approx(0.8), "spikes_per_ink": None}


def test_a_black_image_has_no_spikes_per_ink():
    with_black_image = FOUR_IMAGES | {
        "ink": torch.tensor([0.0, 2.0, 3.0, 4.0]),
        "spikes": torch.tensor([0.0, 2.0, 6.0, 12.0]),
    }
    found = difficulty_correlations(with_black_image)
    # Spikes per ink are 0, 1, 2, 3, and the first is not 0 / 0.
    assert found["small margin"]["spikes_per_ink"] == pytest.approx(1)


@pytest.fixture(scope="module")
def quick():
    """Load a trained network and test images, and make its ledger. Read only."""
    test = load_data("MNIST", limit_test=32)[2]
    model = load(REPOSITORY / "trained_models/snn/quick_feedback.pth")
    return SimpleNamespace(model=model, test=test, ledger=ledger(model, test, name="quick"))


def test_a_ledger_costs_what_an_evaluation_says(quick):
    convention = conventions()["arithmetic_45nm"]
    event_driven, layer_by_layer = EXECUTIONS

    figures = evaluate(quick.model, quick.test)

    found = quick.ledger
    assert found.accuracy == figures["accuracy"]
    assert found.total("spikes") == pytest.approx(figures["parts"]["total"])
    event_joules = found.joules(convention, event_driven)
    assert event_joules == pytest.approx(figures["energy_event_joules"])
    layer_joules = found.joules(convention, layer_by_layer)
    assert layer_joules == pytest.approx(figures["energy_joules"])
    parts = {entry.part for entry in found.entries}
    assert len(parts) == 4  # no layer of the decoder spikes
    joules_of_parts = [found.joules(convention, event_driven, part) for part in parts]
    assert sum(joules_of_parts) == pytest.approx(event_joules)

    # From the record of an evaluation follows the same.
    read = ledger_of({**figures, "spikes_per_layer": figures["spikes"]}, quick.model)
    assert read.entries
    for one in conventions().values():
        expected = found.joules(one, event_driven)
        assert read.joules(one, event_driven) == pytest.approx(expected)
        assert read.ann_joules(one, 8) == pytest.approx(found.ann_joules(one, 8))


def test_a_ledger_says_whether_neurons_leak(quick):
    leaky = ledger(small(leak=0.75), torch.rand(2, 1, 4, 6), LABELS[:2])
    assert leaky.leaks
    assert not quick.ledger.leaks


def test_the_ann_beside_it_by_hand(quick):
    # One pass of 16 D 32 32 D and 256 256 10 on 28x28 pixels. Of an image of n x n
    # pixels a 3x3 convolution with zeros around it multiplies (3 n - 2)² times. D is a
    # convolution of 2x2 with a stride of 2.
    features = (
        (28 * 3 - 2) ** 2 * 16
        + 14 * 14 * (16 * 16 * 4)
        + (14 * 3 - 2) ** 2 * (16 * 32 + 32 * 32)
        + 7 * 7 * 32 * 32 * 4
    )
    classifier = 7 * 7 * 32 * 256 + 256 * 256 + 256 * 10
    macs = features + classifier
    convention = conventions()["arithmetic_45nm"]
    # A MAC costs 4.6 pJ, and 0.23 pJ in 8 bits.
    assert quick.ledger.ann_joules(convention) == pytest.approx(4.6e-12 * macs)
    assert quick.ledger.ann_joules(convention, 8) == pytest.approx(0.23e-12 * macs)


def test_at_the_break_even_it_costs_what_its_ann_costs(quick):
    found = quick.ledger
    spikes_per_neuron = found.total("spikes") / found.neurons
    for convention in conventions().values():
        factor = found.break_even(convention) / spikes_per_neuron
        entries = []
        for entry in found.entries:
            counts = {}
            for name in ("spikes", "synops", "rate", "reached"):
                counts[name] = factor * getattr(entry, name)
            entries.append(replace(entry, **counts))
        at_break_even = replace(found, entries=entries)
        joules = at_break_even.joules(convention, EXECUTIONS[0])
        assert joules == pytest.approx(found.ann_joules(convention, 8))


# An addition costs 100 pJ, a multiply-add 1000, and an access to a memory of n words n
# pJ.
ROUND_PRICES = Convention(
    title="",
    source="",
    year=0,
    technology="",
    leaves_out="",
    picojoules={"add": 100, "multiply_add": 1000, "add_int8": 3, "multiply_add_int8": 10},
    memory={"bytes": [4, 4000], "picojoules": [1, 1000]},
)


def one_layer(is_real=False, leaks=False):
    """Make the ledger of a layer of 3 neurons with 12 weights and 4 sources."""
    entry = Entry(
        "features.1",
        "encoder",
        real=is_real,
        neurons=3,
        weights=12,
        sources=4,
        one_pass=10,
        spikes=2,
        synops=5,
        acs=7,
        macs=6,
        updates=30,
        reached=11,
        biases=9,
        comparisons=8,
    )
    return Ledger("", 1, 1.0, 10, 10.0, leaks, [entry])


# 9 biases, each an addition; 8 comparisons, each an addition that reads a pixel and its
# prediction
BIASES_AND_COMPARISONS = 9 * 100 + 8 * (100 + 2 * 3)


# 5 synapses, each a weight, and a potential read and written; 2 events written and read
EVENT_DRIVEN = BIASES_AND_COMPARISONS + 5 * (100 + 12 + 2 * 3) + 2 * 2 * 3


# 13 operations, each a weight and an input; 30 potentials read and written
LAYER_BY_LAYER = BIASES_AND_COMPARISONS + 7 * 100 + 6 * 1000 + 13 * (12 + 4) + 30 * 2 * 3


@pytest.mark.parametrize(
    ("is_real", "leaks", "event", "layer"),
    [
        pytest.param(False, False, EVENT_DRIVEN, LAYER_BY_LAYER, id="spikes"),
        # 5 synapses multiply in place of adding.
        pytest.param(True, False, EVENT_DRIVEN + 5 * 900, LAYER_BY_LAYER, id="real values"),
        # Potentials are kept by a multiplication, of the 11 that are reached, or of all
        # 30.
        pytest.param(False, True, EVENT_DRIVEN + 11 * 900, LAYER_BY_LAYER + 30 * 900, id="leaks"),
    ],
)
def test_a_layers_energy_by_hand(is_real, leaks, event, layer):
    found = one_layer(is_real, leaks)
    event_driven, layer_by_layer = EXECUTIONS
    assert 1e12 * found.joules(ROUND_PRICES, event_driven) == pytest.approx(event)
    assert 1e12 * found.joules(ROUND_PRICES, layer_by_layer) == pytest.approx(layer)


def test_the_energy_of_an_anns_layer_by_hand():
    # 10 multiply-adds, each with a weight and an input, and 3 outputs written.
    picojoules = 1e12 * one_layer().ann_joules(ROUND_PRICES)
    assert picojoules == pytest.approx(10 * (1000 + 12 + 4) + 3 * 3)


def test_the_energy_of_an_anns_layer_in_8_bits_by_hand():
    # 12 weights of a byte lie in 3 words, which cost 3 pJ to read, and a byte is a
    # quarter of that. Inputs and outputs lie in one word, the least that there is.
    picojoules = 1e12 * one_layer().ann_joules(ROUND_PRICES, 8)
    assert picojoules == pytest.approx(10 * (10 + 3 / 4 + 1 / 4) + 3 * 1 / 4)


def test_a_network_is_compared_with_its_ann_in_8_bits():
    """It costs 2 J, its ANN 1 J in 8 bits and 4 J in 32."""
    ledger = SimpleNamespace(
        images=1,
        neurons=1,
        joules=lambda convention, execution: 2.0,
        ann_joules=lambda convention, bits=32: {8: 1.0, 32: 4.0}[bits],
        total=lambda name: 0,
        break_even=lambda convention: None,
    )

    heading = verdicts("net", ledger, {"rate": conventions()["rate"]})[0]

    assert "It costs" not in heading
    assert "costs more than its ANN in 8 bits under: " in heading


def test_a_picture_of_energies_grows_with_the_networks(tmp_path, monkeypatch):
    sizes = []

    class SizeIsKnownError(Exception):
        """What follows is not of interest here."""

    def note_size(path, size, *_, **__):
        sizes.append(size)
        raise SizeIsKnownError

    monkeypatch.setattr(plots, "chart", note_size)
    prices = conventions()

    for names in (["a"], ["a", "b", "c"]):
        with pytest.raises(SizeIsKnownError):
            plots.save_energies(tmp_path / "x.png", dict.fromkeys(names), prices)

    # 4.2 inches for each convention; 1.6 for the head, and half an inch a network
    assert sizes[0] == (4.2 * len(prices), pytest.approx(2.1))
    assert sizes[1] == (4.2 * len(prices), pytest.approx(3.1))


def test_the_tables_of_a_network_by_the_script(trained, tmp_path):
    flags = f"{trained.snn} --against {trained.ann} {DATA} --output_dir {tmp_path}"

    ledgers, said = run_here("energy", flags, f"--picture {tmp_path / 'x.png'}")
    _, as_json = run_here("energy", flags, "--format json")
    _, as_csv = run_here("energy", flags, "--format csv")

    heading = said.splitlines()[0]
    assert heading.startswith("network")
    assert "with memory, 45 nm" in heading
    assert f"\n{trained.snn}, means over 16 images; event-driven it costs " in said
    assert (tmp_path / "x.png").stat().st_size > 5000
    record = json.loads(as_json)[str(trained.snn)]
    # In 8 bits the ANN is nearly what it was.
    assert abs(record["ann_accuracy"] - record["ann_8_bits_accuracy"]) <= 2 / 16
    expected = ledgers[str(trained.snn)].ann_joules(conventions()["rate"])
    assert record["joules"]["rate"]["ann"] == expected
    first_table = as_csv.split("\n\n")[0]
    assert len(next(csv.reader(first_table.splitlines()))) == 6


def test_numbers_of_a_markdown_table_stand_on_the_right():
    rows = [["network", "a_b, %"], ["x_1", 1.25]]
    assert as_text(rows, "md") == "| network | a_b, % |\n| --- | ---: |\n| x_1 | 1.25 |"


def test_eight_bits_are_integers_times_a_scale():
    model = load(REPOSITORY / "trained_models/ann/ann_feedback.pth")
    test = load_data("MNIST", limit_test=200)[2]

    in_8_bits = in_eight_bits(model, test.batch(torch.arange(128)).images)

    weight = in_8_bits.features[0].weight[0]
    steps = weight / (weight.abs().max() / 127)
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    accuracy = evaluate(model, test)["accuracy"]
    assert evaluate(in_8_bits, test)["accuracy"] == pytest.approx(accuracy, abs=0.01)
    # The decoder's predictions are nearly the same, too.
    x = test.batch(torch.arange(8)).images
    with torch.no_grad():
        predictions = in_8_bits(x).predictions
        expected = model(x).predictions
    assert (predictions - expected).abs().mean() < 0.02
    assert expected.std() > 0.02


@pytest.fixture(scope="module")
def x():
    return torch.rand(5, 1, 4, 6, generator=torch.Generator().manual_seed(1))


def small(**settings):
    """Make a network that blocks, for images of 4x6 pixels."""
    common = {"steps": 3, "gate": "block", "epsilon": 0.3, "fc_width": 5}
    return sparse_network(SMALL, (1, 4, 6), **{**common, **settings})


LABELS = torch.tensor([0, 1, 2, 0, 1])
