"""What an evaluation adds up, over batches and over processes, and what it asks of a model."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import self_models.counting.evaluation
from harness.data.sets import ImageSet
from self_models import ModelError
from self_models.counting.evaluation import Average, Evaluation, evaluate, figures_per_image
from self_models.counting.operations import OperationCounter
from self_models.kernel.engine import EventEngine
from self_models.running.chunks import AT_ONCE, chunk_length
from self_models.running.outputs import ANNOutput, SNNOutput
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

PLAN = [[2, "D"], ["U", "in"]]


def snn(**settings):
    torch.manual_seed(0)
    own = {"plan": PLAN, "image_shape": (1, 4, 6), "fc_width": 5, "labels": 3, "timesteps": 3, "update": "immediate"}
    model = InputBlockingSNN(**{**own, "readout": "membrane_linear", "default_threshold": 0.1, "epsilon": 0.3, **settings})
    return model.eval()


@pytest.fixture(scope="module")
def x():
    return torch.rand(5, 1, 4, 6, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 1, 2, 0, 1])


# --- averages


def test_averages_are_exact_and_have_no_gradient():
    """In float32 the sum would stay at 2 ** 24."""
    counts, losses = Average(), Average()
    counts.add_up({"spikes": torch.tensor([2.0**24, 1.0, 1.0])})
    counts.add_up({"spikes": torch.tensor([1.0], requires_grad=True)})
    assert counts.images == 4 and counts.means() == {"spikes": (2**24 + 3) / 4}
    losses.add(2, loss=torch.tensor(3.0, requires_grad=True))
    losses.add(1, loss=torch.tensor(0.0))
    assert losses.means() == {"loss": 2.0} and losses.sums["loss"].dtype == torch.float64
    assert not counts.sums["spikes"].requires_grad and not losses.sums["loss"].requires_grad
    resumed = Average({"spikes": torch.zeros(2)}, 3)  # as a checkpoint has it
    resumed.add(1, spikes=torch.zeros(2, device="meta"))
    assert resumed.sums["spikes"].device.type == "meta"


# --- an evaluation


def spiking_output(n):
    n = torch.tensor(n, dtype=torch.float32)
    logits, spikes = torch.stack([n, 0 * n, 0 * n - 1], 1), {"input": n, "features.1": 2 * n}
    return SNNOutput(logits, None, None, spikes, steps=n.long(), is_open=None, comparisons=3 * n)


def test_batches_of_several_sizes_are_one_evaluation():
    evaluation = Evaluation(None)
    for images in ([1, 2, 3], [4, 5, 6], [7]):
        labels = torch.zeros(len(images), dtype=torch.int64)
        evaluation.add(spiking_output(images), torch.ones(len(images), 1, 1, 2), labels, loss=images[0])
    found = evaluation.result()
    assert found["per_image"]["steps"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (found["images"], found["mean_steps"], found["comparisons"]) == (7, 4.0, 12.0)
    assert (found["median_steps"], found["p95_steps"]) == (4, pytest.approx(1 + 0.95 * 6))
    assert found["spikes"] == {"input": 4.0, "features.1": 8.0} and found["parts"]["total"] == 12
    assert found["loss"] == pytest.approx((3 * 1 + 3 * 4 + 7) / 7)


def test_images_per_second_and_what_an_ann_has_not(monkeypatch):
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(self_models.counting.evaluation.time, "perf_counter", lambda: next(clock))
    evaluation = Evaluation(None)
    errors = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 9.0]]]).reshape(2, 2, 1, 1, 2)
    output = ANNOutput(torch.tensor([[1.0, 3.0, 2.5], [0.0, 1.0, -2.0]]), None, errors)
    evaluation.add(output, torch.ones(2, 1, 1, 2), torch.tensor([1, 0]))
    found = evaluation.result()
    figures = {name: values.tolist() for name, values in found.pop("per_image").items()}
    assert figures == {"label": [1, 0], "found": [1, 1], "correct": [True, False], "margin": [0.5, 1.0], "error": [11.0, 16.0]}
    assert found == {"images": 2, "accuracy": 0.5, "error": 13.5, "seconds": 4.0, "images_per_second": 0.5}


def test_figures_of_spiking_images():
    output = spiking_output([2, 3])._replace(errors=torch.ones(2, 2, 1, 1, 2))
    found = figures_per_image(output, torch.tensor([0.25, -0.25, 0.5, 0.0]).reshape(2, 1, 1, 2), torch.tensor([0, 1]))
    assert {name: values.tolist() for name, values in found.items()} == {
        "label": [0, 1], "found": [0, 0], "correct": [True, False], "margin": [2.0, 3.0], "error": [2.0, 2.0],
        "spikes": [6.0, 9.0], "steps": [2, 3], "ink": [0.5, 0.5], "comparisons": [6.0, 9.0],
    }  # fmt: skip


# --- evaluate


def test_evaluate_has_seed_0_and_a_run_of_its_own(x):
    model = snn()
    output = model(x, seed=0)
    found = evaluate(model, x, LABELS)
    assert found["spikes"] == {name: pytest.approx(count.double().mean().item()) for name, count in output.spikes.items()}
    assert found["images"] == 5 and found["per_image"]["label"].tolist() == LABELS.tolist()
    assert found["open_share"][0] == 1 and len(found["open_share"]) == 3
    small = evaluate(model, x, LABELS, batch_size=2)
    assert small["spikes"] == found["spikes"] and small["operations"]["event_acs"] == found["operations"]["event_acs"]
    assert evaluate(model, x, LABELS, seed=1)["spikes"] != found["spikes"]
    assert not any(value.requires_grad for value in found["per_image"].values())


@pytest.mark.parametrize("is_spiking", [True, False])
def test_evaluate_runs_in_evaluation_and_leaves_the_mode(x, is_spiking):
    """Dropout of 1/2 would show; and operations are those of an SNN."""
    model = snn() if is_spiking else VGG_wFeedback(plan=PLAN, image_shape=(1, 4, 6), fc_width=5, labels=3)
    expected = evaluate(model.eval(), x, LABELS)
    assert not model.training and ("operations" in expected) == ("energy_joules" in expected) == is_spiking
    found = evaluate(model.train(), x, LABELS)
    assert model.training and found["per_image"]["margin"].tolist() == expected["per_image"]["margin"].tolist()
    with pytest.raises(ModelError):
        evaluate(model, x[:, :, :3], LABELS)
    assert model.training


@pytest.mark.parametrize(("engine", "encoding"), [("dense", "poisson"), ("dense", "direct"), ("event", "poisson")])
def test_energy_has_an_accumulate_for_each_comparison(x, engine, encoding):
    """And each event of an analog input multiplies, event by event."""
    model = snn(encoding=encoding)
    model.engine = EventEngine(model) if engine == "event" else None
    found = evaluate(model, x, LABELS)
    operations, events = found["operations"], found["operations"]["layers"]["event_acs"]
    analog = events["features.0"] if encoding == "direct" else 0.0
    by_layer, by_event = (operations["effective_acs"], operations["effective_macs"]), (sum(events.values()) - analog, analog)
    for name, (acs, macs) in {"energy_joules": by_layer, "energy_event_joules": by_event}.items():
        assert found[name] == pytest.approx(0.9e-12 * (acs + found["comparisons"]) + 4.6e-12 * macs), name
    assert events["features.0"] > 0 < operations["effective_macs"]
    assert found["comparisons"] == model(x, seed=0).comparisons.mean(dtype=torch.float64).item() > 0


def test_evaluate_takes_what_people_have(x):
    """Arrays, an ImageSet, pairs of torch's Dataset and a DataLoader: the same figures."""
    model, labels = snn(), LABELS
    expected = evaluate(model, x, labels)
    pairs = TensorDataset(x, labels)
    for data in (
        ImageSet("own", x, labels),
        pairs,
        DataLoader(pairs, batch_size=2),
        DataLoader(pairs, batch_size=5),
    ):
        found = evaluate(model, data)
        assert (found["accuracy"], found["spikes"], found["operations"]) == tuple(
            expected[name] for name in ("accuracy", "spikes", "operations")
        )
    assert evaluate(model, x.numpy(), labels.numpy())["spikes"] == expected["spikes"]
    assert not model.training and model.change(timesteps=2) is model


def test_steps_at_once_keep_to_the_bound_on_memory(monkeypatch):
    model, large = snn(timesteps=50), torch.empty(4, 3, 224, 224)
    monkeypatch.setitem(AT_ONCE, "cpu", 6 * 2 * model.wiring.largest)
    assert [chunk_length(model, images, 50, False) for images in (large[:2], large, torch.empty(100, 1))] == [6, 3, 1]
    model.change(rule="confidence")
    assert chunk_length(model, large[:2], 50, True) == 1  # images that are sure leave the batch before long
    monkeypatch.setitem(AT_ONCE, "cpu", 100 * 2 * model.wiring.largest)
    assert chunk_length(model, large[:2], 50, True) == 4
    monkeypatch.setitem(AT_ONCE, "cpu", 6 * 2 * model.wiring.largest)
    model.train().set_bptt_segments(4)
    assert chunk_length(model, large, 50, False) == 13


# --- operations


def test_shares_of_one_neuron_and_of_none():
    result = OperationCounter(snn()).result(1)
    assert result["activation_sparsity"] == 1 and result["dense"] == 0 and result["layers"]["active_share"] == {}
    counter = OperationCounter(snn())
    counter.spikes, counter.neurons = {"input": 0, "features.1": 1}, {"input": 0, "features.1": 1}
    result = counter.result(1)
    assert result["activation_sparsity"] == 0 and result["layers"]["active_share"] == {"input": 0, "features.1": 1}
