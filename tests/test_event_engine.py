"""The event engine gives what the dense engine gives. Weights on a grid make every sum exact, so that equal means equal."""

import re
import threading

import numpy as np
import pytest
import torch
from conftest import (
    BASELINE,
    BIAS,
    COUNT,
    COUNTED,
    DATA,
    DEEP,
    MAXIMUM,
    OBJ1,
    OBJ3,
    PLAN,
    POOLED,
    REPOSITORY,
    SNN,
    SPIKING,
    STEPS,
    TOTALS,
    UNKNOWN,
    become,
    build,
    check_same,
    figures,
    inputs,
    records,
    refused,
    run_here,
    run_undrawn,
    spiked,
)
from torch import nn

import self_models.kernel.kept
from self_models import ModelError
from self_models.counting.evaluation import evaluate
from self_models.counting.operations import OperationCounter
from self_models.kernel.engine import EventEngine
from self_models.kernel.kept import Kept, memory_of
from self_models.kernel.tables import graph_of, settings_of
from self_models.loading import load
from self_models.objectives.gates import GATES, Blocking
from self_models.running.draws import Draws
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN

FEEDBACK = REPOSITORY / "trained_models/snn/snn_feedback.pth"


@torch.no_grad()
def both(model, count=COUNT):
    """Output of the dense and of the event engine, and the spikes of each, layer -> (T, B, ...)."""
    x, u = inputs(model, count)
    return model(x, u), EventEngine(model)(x, u)


# --- spike for spike


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1, "fc_layers": 0, "leak": 0.5}, {"image_shape": (2, 5, 6), "kernel_size": 5}, POOLED, MAXIMUM,
        {"plan": [[4, 5, "D", "D", 6], ["U", "U", 3, "in"]], "default_threshold": 0.125},
        {"plan": [[3, "D", 4, "D", 5, "D"], ["U", 4, "U", "U", "in"]], "latch": True, "residual": True},
        {"plan": [[4, "D", 5], [4, "U", "in"]], "feedback_interval": 3, "blocking": "dynamic", "residual": True},
        {"plan": [[4, "M", "fork", 6, "A"], [3, "U", "in"]], "feedback_interval": 2},
        {**BIAS, **MAXIMUM, **COUNTED, "encoding": "direct", "fc_layers": 0},
        {**BIAS, **COUNTED, "plan": [[4, "M", 6, "M", "M", "fork", 3], ["U", 3, "U", "U", "in"]], "image_shape": (1, 13, 14)},
        {**BIAS, "plan": [[17, "D", 67], [33, "U", 15, "in"]], "fc_width": 131, "image_shape": (1, 9, 8)},
        {**BIAS, "plan": [[128, 256], []], "image_shape": (1, 4, 5), "fc_layers": 0, "epsilon": 0.0, "encoding": "direct"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("update", ["immediate", "delayed"])
def test_same_spikes_and_same_numbers(update, settings):
    """What test_engines.py does not draw: other kernels, plans, sizes, layers that fill no whole vectors; all of them spike."""
    dense, event = both(build(**{"update": update, "timesteps": STEPS if update == "immediate" else 12, **settings}))
    check_same(dense, event)
    assert spiked(dense)


def test_leak_of_steps_without_spikes_is_applied_one_by_one():
    """One spike, then silence for five steps, then one more: leak 0.9 is no power of 2, so five products are rounded."""
    model = build(plan=[[2], []], epsilon=0.0, image_shape=(1, 3, 3), timesteps=7, leak=0.9, default_threshold=1.0)
    model.features[0].weight.data.fill_(0.625)
    x, u = torch.zeros(1, 1, 3, 3), torch.ones(7, 1, 1, 3, 3)
    x[..., 1, 1] = 0.5
    u[0, ..., 1, 1] = u[6, ..., 1, 1] = 0.25
    v = torch.tensor(0.625)
    for _ in range(6):
        v = v * torch.tensor(0.9)
    with torch.no_grad():
        for shift, spikes in ((0.0, 0), (1e-7, 18)):  # the second spike brings the membranes exactly to the threshold, or over
            model.set_thresholds([(v + 0.625).item() - shift, 1, 1])
            event = EventEngine(model)(x, u)
            assert event.spikes["features.1"].item() == model(x, u).spikes["features.1"].item() == spikes


# --- draws, batches, threads


@pytest.mark.parametrize("settings", [{"image_shape": (3, 11, 14)}, {"residual": True}])
def test_the_pixels_own_draws_are_those_of_whole_images(settings):
    """By index or seed, by the global generator, or given, even in bfloat16, which NumPy has not. The engine is first used in
    inference mode, which forbids the gradients that folding takes."""
    model = build(**settings)
    engine, x = EventEngine(model), inputs(model)[0]
    draws = Draws(2**40, 3, torch.tensor([7, 0, 123, 4, 99999]))
    u = draws.uniforms(STEPS, model.image_shape)
    with torch.inference_mode():
        found = engine(x, draws=draws)
    check_same(engine(x, u), found)
    with torch.no_grad():
        for given in ({"draws": draws}, {"seed": 3}, {}, {"uniforms": u.bfloat16()}):
            torch.manual_seed(5)
            dense = model(x, **given)
            torch.manual_seed(5)
            check_same(dense, engine(x, **given), exact=False)


def test_result_does_not_depend_on_batch_or_threads():
    model = build()
    engine, (x, u) = EventEngine(model), inputs(model, 11)
    together = engine(x, u)
    for n in (0, 10):
        alone = engine(x[n : n + 1], u[:, n : n + 1])
        assert torch.equal(alone.logits[0], together.logits[n])
        assert all(count.item() == together.spikes[name][n].item() for name, count in alone.spikes.items())
    before, found = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        callers = [threading.Thread(target=lambda: found.append(engine(x, u))) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(before)
    assert len(found) == 4
    for output in found:
        check_same(together, output)


CHANGES = {
    "Adam, fused": lambda model: torch.optim.Adam(model.parameters(), 0.5, fused=True).step(),
    "SGD, for each": lambda model: torch.optim.SGD(model.parameters(), 0.5, foreach=True).step(),
    "one weight through .data": lambda model: model.features[0].weight.data[0, 0, 1, 1].add_(2),
    "through numpy": lambda model: np.negative(array := model.features[0].weight.detach().numpy(), out=array),
    "a bias": lambda model: model.features[0].bias.data.add_(0.25),
    "a threshold": lambda model: model.features[1].threshold.data.mul_(2),
    "a leak": lambda model: model.features[1].leak.data.mul_(0.5),
    "data put in its place": lambda model: setattr(model.features[0].weight, "data", -model.features[0].weight),
    "another order of its data": lambda model: setattr(model.classifier[3].weight, "data", model.classifier[3].weight.t()),
    "a parameter in its place": lambda model: setattr(model.features[0], "weight", nn.Parameter(-model.features[0].weight)),
    "a layer in its place": lambda model: model.features.__setitem__(0, nn.Conv2d(1, 4, 3, padding=1)),
    "a start potential": lambda model: setattr(model.features[1], "initial_potential", 0.0),
    "a floor": lambda model: model.change(membrane_floor=0.0),
    "settings": lambda model: model.change(epsilon=0.05, feedback_interval=2),
}


@pytest.mark.parametrize("way", CHANGES)
def test_whatever_changes_a_network_counts_at_the_next_run(way):
    """Not all that writes to a tensor is counted by its version: fused optimisers are not, nor is what goes around autograd."""
    model = build(**BIAS, on_grid=False)
    engine, frozen, (x, u) = EventEngine(model), EventEngine(model), inputs(model)
    with torch.no_grad():
        before = engine(x, u)
        check_same(model(x, u), before, exact=False)
        frozen(x, u), setattr(frozen, "frozen", True)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    CHANGES[way](model)
    with torch.no_grad():
        after = engine(x, u)
        check_same(model(x, u), after, exact=False)
        assert not torch.equal(before.logits, after.logits)
        rooms = engine._kept.rooms
        assert engine(x, u) and engine._kept.rooms is rooms  # which are kept while nothing changes
        if way == "one weight through .data":  # frozen is a promise, which is broken here
            assert torch.equal(frozen(x, u).logits, before.logits)


# --- evaluation


@pytest.mark.parametrize(
    "settings",
    [
        {"plan": DEEP}, POOLED, {"image_shape": (1, 9, 14), "update": "delayed"}, {"image_shape": (3, 12, 10)},
        {"encoding": "direct", "default_threshold": 0.5}, {"cls": AdaptiveTimestepsSNN, "rule": "confidence", "gap_bound": 1.5},
        {"plan": [[4, "D", "fork", 6, "D", 5], ["U", 3, "in"]], "feedback_interval": 2},
        {**BIAS, **MAXIMUM, "encoding": "direct", "fc_layers": 0},
        {**BIAS, "plan": [[4, "M", "M", "fork", 6, "D", 5], ["U", 3, "U", "in"]], "feedback_interval": 2},
    ],
    ids=str,
)  # fmt: skip
def test_an_evaluation_by_either_engine_has_the_same_figures(settings):
    """With all operations; some weights are 0, so that effective ones are fewer. On the grid sums often cancel, and the engine
    counts such inputs as not 0."""
    model, found = build(on_grid=False, **settings), []
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= torch.rand(parameter.shape, generator=draw) > 0.1
    x, _ = inputs(model)
    for engine in (None, EventEngine(model)):
        model.engine = engine
        found.append(figures(evaluate(model, x, torch.arange(COUNT), batch_size=3)))
    assert found[0]["operations"]["event_acs"] > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


# --- scripts


def test_the_scripts_refuse_a_gate_without_a_form_by_name(trained, tmp_path, monkeypatch):
    """That of objective 3; auto takes the dense engine, and says why."""
    monkeypatch.setattr("harness.building.models.WORTH_IT", 0)
    flags, refusal = f"{DATA} --output_dir {tmp_path}", "the event engine has no form of the gate contrast"
    assert f"{refusal}: use --engine dense" in refused(OBJ3, "--pretrained_snn", trained.snn, f"{flags} --engine event")
    assert f"engine: dense ({refusal})" in run_undrawn(OBJ3, "--pretrained_snn", trained.snn, flags)[1]


def test_training_evaluates_on_the_engine_that_the_flag_names(trained, tmp_path):
    """After each epoch, with the weights as they are then."""
    found = {}
    for engine in ("dense", "event"):
        here = f"-lr 0.02 --engine {engine} --run_name {engine} --output_dir {tmp_path}"
        assert f"engine: {engine}\n" in run_here(SNN, f"--pretrained_ann {trained.ann} {SPIKING} --epochs 2 {here}")[1]
        found[engine] = records(tmp_path / f"logs/snn/{engine}.jsonl", "epoch")
    for dense, event in zip(found["dense"], found["event"], strict=True):
        assert dense["train"]["total"] == event["train"]["total"]
        assert event["evaluated"]["parts"]["total"] == pytest.approx(dense["evaluated"]["parts"]["total"], rel=0.01)
        assert event["evaluated"]["classification"] == pytest.approx(dense["evaluated"]["classification"], rel=0.01)
    first, second = (epoch["evaluated"]["parts"]["total"] for epoch in found["dense"])
    assert first != pytest.approx(second, rel=0.02)
    assert "--device" in refused(SNN, f"--engine event --test_only --device cuda {DATA} --output_dir {tmp_path}")


def test_auto_gives_a_batch_that_spikes_much_to_the_dense_engine():
    """By its first images' spikes: few at high thresholds, at low ones half of a wide network's. They count once."""
    model = build(VGG_SNN_STDB_wFeedback, plan=[[32, "D", 64, 64, "D"], []], timesteps=3)
    auto, (x, u) = EventEngine(model, chooses=True), inputs(model, 16)
    for threshold, runs, name in (
        (64.0, {"event": 31, "dense": 0}, "event"),
        (1 / 16, {"event": 46, "dense": 16}, "event and dense"),
    ):
        model.set_thresholds([threshold] * len(model.thresholds))
        found = []
        for engine in (auto, None):
            model.engine = engine
            with OperationCounter(model) as counter:
                model(x[:15], u[:, :15])  # few images: always event by event
                logits = model(x, u).logits
            found.append([logits, *(torch.tensor(counter.result(31)[kind]) for kind in TOTALS)])
        torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=0)
        assert (auto.runs, auto.name) == (runs, name)


ALTERED = {  # what would not be called
    "Own.forward": become(type("Own", (VGG_SNN_STDB_wFeedback,), {"forward": VGG_SNN_STDB_wFeedback.forward})),
    "Own.integrate": become(type("Own", (VGG_SNN_STDB_wFeedback,), {"integrate": VGG_SNN_STDB_wFeedback.integrate})),
    "VGG_SNN_STDB_wFeedback.integrate": lambda model: setattr(model, "integrate", lambda total, decoded, view: total),
    "a hook or forward of its own of features.1": lambda model: model.features[1].register_forward_hook(
        lambda module, given, output: (0 * output[0], *output[1:])
    ),
    "a hook or forward of its own of features.0": lambda model: model.features[0].register_forward_pre_hook(
        lambda module, given: (given[0] / 2,)
    ),
    "a hook or forward of its own of classifier.0": lambda model: setattr(model.classifier[0], "forward", lambda x: x[:, :24]),
}
REFUSED = {  # what is said of a network -> what makes it one of which that is said
    **{f"does not know {part}": change for part, change in (UNKNOWN | ALTERED).items()},
    "has no form of the gate contrast": lambda model: model.change(gate="contrast"),
    "has no form of the gate own": lambda model: model.change(gate="own"),
}


@pytest.mark.parametrize("what", REFUSED)
@torch.no_grad()
def test_what_has_no_form_is_refused_and_auto_takes_dense(what, monkeypatch):
    """Whether it was there from the beginning or came to a network that has run."""
    monkeypatch.setitem(GATES, "own", type("Own", (Blocking,), {"is_predicted": lambda self, image, guess: image > guess}))
    model = build(VGG_SNN_STDB_wFeedback, gate="block", epsilon=0.3)
    engine, auto, (x, u) = EventEngine(model), EventEngine(model, chooses=True), inputs(model)
    before = engine(x, u)
    check_same(before, auto(x, u))
    REFUSED[what](model)
    for one in (engine, EventEngine(model)):
        with pytest.raises(ModelError, match=rf"^the event engine {re.escape(what)}: use --engine dense$"):
            one(x, u)
    after, new = auto(x, u), EventEngine(model, chooses=True)
    check_same(model(x, u), after), check_same(new(x, u), after)
    assert auto.runs == {"event": COUNT, "dense": COUNT} and (auto.name, new.name) == ("event and dense", "dense")
    assert "a hook" not in what or not torch.equal(before.logits, after.logits)
    if "gate" in what:
        counts = []
        for model.engine in (auto, None):
            with OperationCounter(model) as counter:
                model(x, u)
            counts.append(counter.counts())
        assert counts[0] == counts[1] and counts[0]["spikes"]["features.1"] > 0
        model.change(gate="block", epsilon=0.3)
        check_same(before, engine(x, u))


def test_a_class_that_changes_no_step_is_run():
    EventEngine(build(type("Named", (InputBlockingSNN,), {"title": lambda self: "what the SNN does not have"}))).check()


@torch.no_grad()
def test_a_batch_of_no_images():
    for settings in ({}, {"rule": "confidence", "cls": AdaptiveTimestepsSNN}, {"epsilon": 0.0, "plan": BASELINE}):
        model = build(**settings)
        x, u = inputs(model, 0)
        for uniforms in (None, u):
            event = EventEngine(model)(x, uniforms)
            assert event.logits.shape == (0, 10) and event.logits_by_step.shape == (STEPS, 0, 10) and event.steps.shape == (0,)
            assert all(count.shape == (0,) for count in event.spikes.values())
            if "rule" not in settings:  # which the dense engine cannot do
                check_same(model(x, uniforms), event)


def test_draws_of_another_shape_are_refused():
    model, x = build(), torch.zeros(2, 1, 28, 28)
    for run in (model, EventEngine(model)):
        for shape in ((STEPS - 1, 2, 1, 28, 28), (STEPS, 3, 1, 28, 28), (STEPS, 2, 1, 5, 5)):
            with pytest.raises(ModelError, match="uniforms"):
                run(x, torch.zeros(shape))


# --- memory


@pytest.mark.parametrize(
    "settings", [BIAS, {"plan": [[4, "A", 6, "fork", "M", 5], [3, "U", "in"]]}, {"plan": MAXIMUM["plan"]}], ids=str
)
def test_memory_is_known_before_it_is_taken(settings):
    model = VGG_SNN_STDB_wFeedback(**{"plan": PLAN, "fc_width": 7, "image_shape": (3, 13, 10), "leak": 0.5, **settings})
    kept = Kept(model)
    rooms = kept.prepare()
    taken = rooms.tables.weights.nbytes + sum(len(copy) for copy, _ in kept._copies)
    states = 10_000 * (len(rooms.new(settings_of(model, rooms.tables)).memory))  # so many outweigh what folding takes
    assert memory_of(model, 10_000) == pytest.approx(taken + states, rel=0.01)


def test_a_network_of_any_size_is_measured_without_its_memory():
    """On the meta device, which has shapes and no values. By hand: the 196 places before the classifier are a phase each."""
    plan = [[64, "A", 128, "fork", "A", 256, "A", 512, "A", 512], [64, "U", "in"]]
    with torch.device("meta"):
        model = VGG_SNN_STDB_wFeedback(plan=plan, fc_width=2048, image_shape=(3, 224, 224))
        large = VGG_SNN_STDB_wFeedback(plan=plan, fc_width=65536, image_shape=(3, 224, 224))
        wide = VGG_SNN_STDB_wFeedback(plan=[[64, "A", 64], []], fc_width=2, image_shape=(3, 6000, 6000))
    first = max(connection.size for connection in graph_of(model).links.values())
    assert first == 196 * 512 * 2048
    assert memory_of(model, 1) > 4 * first
    with pytest.raises(ModelError, match="neurons of a layer, not 2,304,000,000: use --engine dense"):
        memory_of(wide, 1)
    with pytest.raises(ModelError, match=r"weights, as they are folded, not [\d,]+: use --engine dense"):
        memory_of(large, 1)


def test_a_network_larger_than_the_free_memory_is_refused_and_auto_takes_dense(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(self_models.kernel.kept, "free_memory", lambda: 10**6)
    said = refused(OBJ1, "--pretrained_snn", trained.snn, f"--engine event {DATA} --output_dir {tmp_path}")
    assert "GB for this network and 0.0 GB are free: use --engine dense" in said
    model = build()
    engine, x = EventEngine(model, chooses=True), torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(engine(x, seed=0).logits, model(x, seed=0).logits)
    assert engine.name == "dense"
    assert load(FEEDBACK).engine is None
    with pytest.raises(ModelError, match="are free: use --engine dense"):
        load(FEEDBACK, engine="event")
    monkeypatch.setattr(self_models.kernel.kept, "free_memory", lambda: None)  # nobody tells
    assert EventEngine(model, chooses=True)(x, seed=0) and load(FEEDBACK).engine
