"""A streaming network: pieces and wholes, what is forgotten, states that go on, training of sequences."""

import contextlib
import copy
import functools
import gc
import json
import os
import random
import shlex
import signal
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from conftest import (
    BASELINE,
    FORK,
    PLAN,
    POOLED,
    SNN,
    build,
    check_same,
    images,
    inputs,
    records,
    run_here,
    split,
)
from test_engines import by_steps, drawn, named, network, on_grid
from test_survive import RUN, SNN_RUN, after_step, check_same_training, compare, stopped, succeed, train

import harness.training.fit
from harness.training.fit import in_sequence
from harness.training.losses import Criterion
from self_models.basics import ModelError
from self_models.basics.checkpoints import load_checkpoint
from self_models.kernel.engine import EventEngine
from self_models.loading import on_engine
from self_models.network.neurons import HeldDropout
from self_models.objectives.gates import GATES, Blocking
from self_models.running.draws import EVALUATION, Draws, draws_for
from self_models.running.stream import SequenceState, with_image
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

DYNAMIC = {"blocking": "dynamic", "latch": True}
CHANGES = [  # of settings in mid-stream, and whether they leave the grid
    (lambda snn: snn.change(output_leak=0.5).set_leak(0.5), True), (lambda snn: snn.change(membrane_floor=0.25), False),
    (lambda snn: snn.change(latch=False), False), (lambda snn: snn.change(blocking="dynamic"), False),
    (lambda snn: snn.set_thresholds([theta / 2 for theta in snn.thresholds]), False),
    (lambda snn: snn.change(readout_leak=0.5), True),
    (lambda snn: snn.change(gate="block", epsilon=0.3), False), (lambda snn: snn.change(residual=True), False),
    (lambda snn: snn.change(epsilon=0.0), False), (lambda snn: snn.change(gate="open"), False),
]  # fmt: skip


def check_joined(pieces, whole, rtol=0, atol=0):
    """Calls of a stream show, one after the other, what another one shows: the same spikes, and values as near as asked."""
    for name in ("logits_by_step", "predictions", "predicted", "is_open"):
        found, expected = [getattr(one, name) for one in pieces], getattr(whole, name)
        if expected is not None:
            torch.testing.assert_close(torch.cat(found), expected, rtol=rtol, atol=atol, msg=named(name))
        assert all(one is None for one in found) == (expected is None), name
    for name, counts in whole.spikes_by_step.items():
        assert torch.equal(torch.cat([one.spikes_by_step[name] for one in pieces]), counts), name


def in_event(model):
    """The same network in the event engine."""
    baseline = copy.deepcopy(model)
    baseline.engine = EventEngine(baseline)
    return baseline


def scene(model, count=3):
    """Three frames, other images and then a part of the first ones, and how many steps each is shown."""
    x, _ = inputs(model, 2 * count)
    part = x[count:].clone()
    part[:, :, : x.shape[2] // 2] = x[:count, :, : x.shape[2] // 2]
    return (x[:count], x[count:], part), (6, 6, 6)


def streaming(numbers):
    """(case, its network) of these numbers: those of the property test, as far as they may stream."""
    for case in map(drawn, numbers):
        case |= {"recorded": False, "predict": "frame", "max_pool": "or", "rule": "never", "readout": "membrane_linear"}
        case["update"] = case["update"].replace("phased", "immediate")
        case["gate"] = "open" if case["gate"] == "open" else "block"
        if case["surprise"]:  # what it leaves is rounded, and may decide a spike
            case |= {"encoding": "poisson", "leak": 1.0}
        with contextlib.suppress(ModelError):
            yield case, network(**case)


def check_stream(case, model):
    """A stream that is cut, saved and restored by any engine is one that runs step by step; so is one of its first image alone.
    Settings change in between; each frame is shown for a while, among them a part of another and one that is black."""
    draw, interval = random.Random(f"stream {case['seed']}"), model.settings["feedback_interval"]
    (x, _), (y, _) = (on_grid(model, case["run"] | {"black": black}, black) for black in (0, 1))
    part = torch.cat([x[..., : x.shape[-2] // 2, :], y[..., x.shape[-2] // 2 :, :]], -2)
    ways = {"reference": by_steps, "dense": copy.deepcopy, "event": in_event}
    networks, plain = {name: way(model) for name, way in ways.items()}, by_steps(model)
    whole, (stream, alone) = plain.stream(7), (networks[draw.choice([*ways])].stream(7) for _ in range(2))
    near = case["surprise"] or case["readout_slew"] or {case["leak"], case["output_leak"], case["readout_leak"]} != {1.0}
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if near else {"rtol": 0, "atol": 0}
    for _ in range(8):
        frame, steps = draw.choice((x, y, part)), draw.randint(1, 6)
        at, wanted = draw.randint(0, steps), whole(frame, steps)
        check_joined([stream(frame, count) for count in (at, steps - at) if count], wanted, **tolerance)
        torch.testing.assert_close(alone(frame[:1], steps).logits_by_step, wanted.logits_by_step[:, :1], rtol=1e-4, atol=1e-4)
        if whole.steps % interval == 0:  # else spikes wait for the decoder
            state, stream = copy.deepcopy(stream.state_dict()), networks[draw.choice([*ways])].stream()
            stream.load_state_dict(state)
            if draw.random() < 0.4:
                change, is_near = draw.choice(CHANGES)
                for one in (plain, *networks.values()):
                    with contextlib.suppress(ModelError):  # of a network or gate that has no such setting: nothing changes
                        change(one)
                tolerance = {"rtol": 1e-4, "atol": 1e-4} if is_near else tolerance


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_a_stream_is_the_same_however_it_is_cut_saved_and_run(first):
    for case, model in streaming(range(first, first + 20)):
        try:
            check_stream(case, model)
        except Exception as error:
            error.add_note(f"of {case}")
            raise


@pytest.mark.parametrize("engine", ["dense", "event"])
@pytest.mark.parametrize("settings", [{}, {"on_grid": False}, {"encoding": "direct", "leak": 0.9}, POOLED], ids=str)
def test_a_stream_on_one_image_is_a_run(settings, engine):
    """Pieces bit for bit, also where a product of many steps would be rounded otherwise than one of each."""
    model = build(**settings)
    x, _ = inputs(model)
    run, stream = model(x, seed=3), (in_event(model) if engine == "event" else model).stream(seed=3)
    whole = stream(x, steps=model.timesteps)
    check_same(whole, run, exact=not {"on_grid", "leak"} & settings.keys())
    assert whole.spikes["input"].sum() > 0 and stream.steps == model.timesteps
    stream.reset()
    check_joined([stream(x, steps) for steps in (1, 4, 1, 3)], whole)


def test_a_stream_goes_on_in_the_other_engine_while_it_is_recorded():
    """And back; between two steps of the decoder it is told what to do, and stays as it is."""
    model = build(**DYNAMIC, plan=FORK, feedback_interval=2, leak=0.5)
    streams, (frames, _) = (in_event(model).stream(3), model.stream(3)), scene(model)
    for call, frame in enumerate((*frames, *frames)):
        asked = {"features.1": ("spikes", "membrane"), "input": "spikes"} if call % 2 else None
        found, wanted = (stream(frame, 4, record=asked) for stream in streams)
        check_same(found, wanted, exact=False)
    stream, other = in_event(model).stream(3), in_event(model).stream(3)
    stream(frames[0], 3), other(frames[0], 3)
    with pytest.raises(ModelError, match="or begin or end to record it, after a multiple of 2 timesteps, not 3"):
        stream(frames[0], record=asked)
    check_same(stream(frames[0]), other(frames[0]))


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_a_long_stream_takes_no_more_memory_than_a_short_one(engine):
    model = build(image_shape=(1, 8, 8), plan=[[4, "D"], ["U", "in"]], surprise=2.0, membrane_floor=1.0, **DYNAMIC)
    stream, (frames, _) = (in_event(model) if engine == "event" else model).stream(), scene(model, 1)
    sizes = []
    for _ in range(4):
        for frame in frames * 3:
            stream(frame, 8, frames=False)
        gc.collect()
        sizes.append(sum(one.numel() for one in gc.get_objects() if type(one) is torch.Tensor))
    assert stream.steps == 288 and max(sizes[2:]) <= max(sizes[:2])


def test_between_two_steps_of_the_decoder_a_floor_lifts_and_weights_stay():
    """A floor that is set for one step has lifted all membranes, whichever layers it runs; spikes that wait for the decoder
    have met the weights of their step, which the event engine cannot know."""
    dense = build(feedback_interval=3, **DYNAMIC)
    event, (frames, _) = in_event(dense), scene(dense)
    streams = [(model, model.stream(3)) for model in (dense, event)]
    for model, stream in streams:
        stream(frames[0], 6)
        model.change(membrane_floor=0.0)
        stream(frames[0])
        model.change(membrane_floor=None)
    outputs = [stream(frames[0], 4) for _, stream in streams]
    check_same(outputs[1], outputs[0], exact=False)
    for model, _ in streams:
        model.features[2].weight.data.mul_(2)
    streams[0][1](frames[0])
    with pytest.raises(ModelError, match=r"weights have changed while spikes wait .* multiple of so many timesteps"):
        streams[1][1](frames[0])


def test_another_gate_opens_all_pixels_though_no_setting_of_the_kernel_changes():
    """Of a gate that blocks nothing any more, what it has closed stays closed until a gate is there that does not react."""
    dense = build(epsilon=0.5)
    event, (frames, _) = in_event(dense), scene(dense)
    streams = [(model, model.stream(3)) for model in (dense, event)]
    calls = [({}, 0), ({"epsilon": 0.0}, 0), ({"gate": "open"}, 1)]
    for settings, frame in calls:
        found, wanted = [stream(frames[frame], 4) for model, stream in streams if model.change(**settings)][::-1]
        check_same(found, wanted, exact=False)
        opens = wanted.is_open is None or bool(wanted.is_open[-1].all())
        assert opens == (settings == {"gate": "open"})


def test_ages_of_neurons_outlive_an_image():
    """Two images in a row have the gradient of one whose steps they are, as far as the second one's weights go."""
    model = build(VGG_SNN_STDB_wFeedback, activation="STDB", beta=0.5, dropout=0.0, fc_dropout=0.0).train()
    (x, _), first = inputs(model), SequenceState(4)
    model(x, seed=1, place=first)
    assert any(name.startswith("ages.") for name in first.after)
    whole = model.start(x, draws_for(x, seed=1))
    for t in range(8):
        model.step(whole, x, whole.draws.at_step(t, model.image_shape))
        if t == 3:  # no gradient goes from an image to those before it
            whole.memory = {name: state and state._replace(v=state.v.detach()) for name, state in whole.memory.items()}
            whole.logits, whole.readout_sum = whole.logits.detach(), whole.readout_sum.detach()
    second, weights = (
        model(x, seed=1, place=SequenceState(4, first.after)),
        [model.features[0].weight, model.classifier[0].weight],
    )
    found, wanted = (torch.autograd.grad(logits.square().sum(), weights) for logits in (second.logits, whole.logits))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert wanted[0].any()


# --- what is forgotten, by hand


def test_surprise_by_hand():
    """Of the second image's 4 active pixels one was predicted to be dark: r = 1/4, and with gain 2 one half is kept of outputs,
    membranes and traces, of the opened pixel's nothing."""
    model = build(epsilon=0.25, surprise=2.0, image_shape=(1, 4, 4), plan=[[2, "D"], ["U", "in"]], **DYNAMIC)
    stream = model.stream()
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0] = 1
    stream(image)
    state = stream.state_dict()
    state["readout_sum"] = image.clone()  # all is predicted
    state |= {"is_open": image > 1, "predicted": image > -1, "logits": torch.full((1, 10), 3.0)}
    name = "membranes.features.1"
    state[name] = torch.full_like(state[name], 0.125)
    stream.load_state_dict(state)
    after = image.clone()
    after[0, 0, 0, 0], after[0, 0, 3, 3] = 0, 1  # one goes, one comes
    run = with_image(model, stream._run, after)
    assert run.logits.unique().tolist() == [1.5] and run.memory["features.1"].v.unique().tolist() == [0.0625]
    expected = torch.zeros(4, 4)
    expected[0] = torch.tensor([0, 0.5, 0.5, 0.5])
    assert torch.equal(run.readout_sum[0, 0], expected)
    open_now = torch.zeros(4, 4, dtype=torch.bool)
    open_now[0, 1:], open_now[3, 3] = True, True  # whose prediction has faded, and the new one; the one that went is dark again
    assert torch.equal(run.view.is_open[0, 0], open_now)
    assert with_image(model, stream._run, image) is stream._run


def test_what_is_dark_where_it_was_lit_opens_and_is_forgotten():
    """Without surprise a change opens what no longer fits, and the rest stays as it is."""
    model = build(**DYNAMIC)
    x, _ = inputs(model, 2)
    stream = model.stream()
    before = stream(x[:1], 9)
    part = x[:1].clone()
    part[..., :7, :] = x[1:, :, :7]
    after = stream(part, 1)
    changed = (part != x[:1])[0]
    wrong = (before.predictions[-1, 0].clamp(0, 1) - part[0]).abs() >= model.gate.epsilon
    assert torch.equal(after.is_open[0, 0][changed], wrong[changed]) and wrong[changed].any()
    closed = ~wrong & ~changed
    assert not after.is_open[0, 0][closed].any() and closed.any()


# --- bounds and refusals

V, OTHER = "membranes.features.1", "another network's stream"
DAMAGED = [  # what replaces a part of a state, and the words in which it is refused
    (lambda s: {"is_open": s["is_open"].float()}, "is_open is float32, strided, on cpu, and must be bool"),
    (lambda s: {V: s[V].double()}, f"{V} is float64, .* must be float32"),
    (lambda s: {"image": (255 * s["image"]).byte()}, "image is uint8"),
    (lambda s: {"logits": s["logits"].to_sparse()}, "logits is float32, sparse_coo"),
    (lambda s: {"readout_sum": s["readout_sum"].to("meta")}, "readout_sum is float32, strided, on meta"),
    (lambda s: {V: s[V] * torch.nan}, f"{V} is not finite"),
    (lambda s: {"logits": s["logits"] + torch.inf}, "logits is not finite"),
    (lambda s: {"image": s["image"] + 7}, r"images must be .*; these lie in \[7, "),
    (lambda s: {"image": 3}, OTHER),
    (lambda s: {"image": s["image"].numpy()}, f"image of shape .*: this is the state of {OTHER}"),
    (lambda s: {"logits": torch.zeros(5, 3)}, OTHER),
    (lambda s: {"steps": 2**31}, "steps: 2147483648 is not a whole number"),
    (lambda s: {"steps": True}, "steps: True is not"),
    (lambda s: {"steps": -1}, "steps: -1 is not"),
    (lambda s: dict.fromkeys(s.keys() - {"seed", "steps"}), "there is no image"),
    (lambda s: dict.fromkeys(s), "seed: None is not"),
]


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_what_a_stream_refuses_leaves_it_as_it_was(engine):
    model = build(**DYNAMIC)
    (x, _), model = inputs(model), in_event(model) if engine == "event" else model
    stream, other = model.stream(), model.stream()
    stream(x, 3), other(x, 3)
    state, without = other.state_dict(), build(plan=BASELINE, epsilon=0.0)
    for call, words in (
        (lambda: stream(x[:2]), r"this stream began with 5 images at once, not 2 images at once: call reset\(\)"),
        (lambda: stream(x[..., :9]), r"images must be a tensor or array \(B, 1, 28, 28\)"),
        (lambda: stream(x, 0), "steps: 0 is not a whole number"),
        (lambda: model.stream(-1), "seed: -1 is not"),
        (lambda: stream.load_state_dict(None), "a state is a dict"),
        (lambda: without.stream().load_state_dict(state), OTHER),
        (lambda: build(gate="contrast").stream()(x), "gate contrast is for one image"),
        (lambda: build(membrane_floor=-1), "membrane_floor: -1 is not"),
        (lambda: build(output_leak=1.5), "output_leak: 1.5 is not"),
    ):
        with pytest.raises(ModelError, match=words):
            call()
    for changed, words in DAMAGED:
        damaged = {name: value for name, value in (state | changed(state)).items() if value is not None}
        with pytest.raises(ModelError, match=words):
            stream.load_state_dict(damaged)
    check_same(stream(x, 4), other(x, 4))
    model.train()
    with pytest.raises(ModelError, match=r"call eval\(\)"):
        stream(x)


@pytest.mark.parametrize("engine", ["dense", "reference", "event"])
@pytest.mark.parametrize("plan", [PLAN, FORK])
def test_what_stays_until_reset(engine, plan):
    """feedback_interval, and the kind of numbers; put back, the stream goes on as if nothing had been."""
    model = on_engine(build(plan=plan, update="delayed", **DYNAMIC), engine)
    (x, _), stream, other = inputs(model), model.stream(), model.stream()
    stream(x, 3), other(x, 3)
    state = stream.state_dict()
    model.change(feedback_interval=2)
    for call in (lambda: stream(x), lambda: stream(x, record={"input": "spikes"}), stream.state_dict):
        with pytest.raises(ModelError, match=r"^this stream began with feedback_interval 1, not .* 2: call reset\(\) to begin"):
            call()
    with pytest.raises(ModelError, match="steps: 3 is no multiple of feedback_interval 2: this is another network's state"):
        stream.load_state_dict(state)
    state["steps"] = 4  # no spikes wait then
    model.stream().load_state_dict(state)
    model.change(feedback_interval=1).double()
    with pytest.raises(ModelError, match=r"^this stream began with float32 on cpu, not float64 on cpu: call reset\(\)"):
        stream(x)
    model.float()
    check_same(stream(x, 4), other(x, 4))
    model.change(feedback_interval=2)
    stream.reset()
    assert torch.equal(stream(x, 4).logits, model.stream()(x, 4).logits)


def test_neurons_that_get_a_hook_in_mid_stream_are_called_from_then_on():
    """Though before they took many steps at once."""
    model = build(**DYNAMIC)
    (x, _), stream = inputs(model), model.stream()
    stream(x, 3)
    model.features[1].register_forward_hook(lambda neuron, given, output: (0 * output[0], output[1]))
    assert stream(x, 2).spikes["features.1"].tolist() == [0] * len(x)


def test_a_stopping_rule_is_not_asked_and_settings_may_change_in_between():
    model = build(**DYNAMIC, rule="confidence", gap_bound=-1.0)
    x, _ = inputs(model)
    assert model(x, seed=0).steps.unique().tolist() == [1]
    stream, other = model.stream(), model.stream()
    before, _ = stream(x, 5), other(x, 5)
    assert before.steps.unique().tolist() == [5] and before.logits.any()
    whole = other(x).logits
    model.change(output_leak=0.5)
    assert torch.equal(stream(x).logits, whole - 0.5 * before.logits)


def test_the_benchmark_of_streams():
    lines = run_here("benchmarks.speed.stream", "--engines dense --streams 2 --lengths 2 --steps 32 --settle 32 --every 8")[1]
    rest, changing = map(json.loads, lines.splitlines())
    assert changing["spikes_per_step"] > 4 * rest["spikes_per_step"] and rest["steps_per_second"] > 0
    assert max(rest["grown_mb"], changing["grown_mb"]) < 100


class Count(NamedTuple):
    steps: torch.Tensor  # (B,)


@dataclass
class Counting(Blocking):
    """As `block`; it counts steps for itself."""

    def start(self, image):
        return super().start(image)._replace(known=Count(torch.zeros(len(image))))

    def next_view(self, image, prediction, view):
        return super().next_view(image, prediction, view)._replace(known=Count(view.known.steps + 1))

    def on_image_change(self, image, prediction, view, changed):
        return super().on_image_change(image, prediction, view, changed)._replace(known=view.known)


def test_what_a_gate_knows_stays_with_the_stream_and_is_not_saved(monkeypatch):
    """Also where an image surprises, after which images that are judged anew go on beside others."""
    monkeypatch.setitem(GATES, "counting", Counting)
    model = build(gate="counting", blocking="dynamic", surprise=1.0, epsilon=0.3)
    stream, (x, other) = model.stream(), images(4, model.image_shape).chunk(2)
    for shown in (x, torch.stack([x[0], other[1]])):
        stream(shown, 3)
    assert stream._run.view.known.steps.tolist() == [6, 7]  # the one that was surprised was judged anew
    with pytest.raises(ModelError, match=r"what Counting knows \(view.known\) is not saved with a stream"):
        stream.state_dict()


SEQUENCE = "--sequence 2 --blocking dynamic --latch --surprise 1 --epsilon 0.2"


def in_places(model, frames, pieces, seed=1):
    """The outputs of Places one after the other, on draws as a stream with this seed has them; and the Places."""
    place, found, places = SequenceState(0), [], []
    for x, steps in zip(frames, pieces, strict=True):
        place = SequenceState(steps, place.after)
        found.append(model(x, draws=Draws(seed, EVALUATION, torch.arange(len(x))), frames=False, place=place))
        places.append(place)
    return found, places


# --- what goes on, and what does not


def test_two_images_by_hand():
    """One neuron that gets w x, theta 1, and one output that keeps a half per step. x = 0.6 for three steps: V' = .6 1.2 .8, a
    spike in the second; O = 0 1 .5. Then x = 0.5 for two: V' = .8 + .5 = 1.3, a spike, and .3 + .5 = .8; O = 1.25 .625.
    The surrogate is 0.3 (1 - |v|), v = V' - 1. Of the last O with respect to w, V = .8 and O = .5 being given:
    .5 * .3 (1 - .3) * .5 + .3 (1 - .2) * (.5 + .5) = .2925; to the output's weight: .5, of the second image's spike alone."""
    common = {"image_shape": (1, 1, 1), "kernel_size": 1, "fc_layers": 0, "dropout": 0, "encoding": "direct"}
    model = VGG_SNN_STDB_wFeedback(plan=[[1], []], labels=1, update="immediate", timesteps=3, output_leak=0.5, **common).train()
    for weight in model.parameters():
        weight.data.fill_(1)
    (first, second), places = in_places(model, [torch.tensor(x).view(1, 1, 1, 1) for x in (0.6, 0.5)], (3, 2))
    torch.testing.assert_close(first.logits_by_step.flatten(), torch.tensor([0, 1, 0.5]))
    torch.testing.assert_close(second.logits_by_step.flatten(), torch.tensor([1.25, 0.625]))
    assert [one.after["steps"] for one in places] == [3, 5] and second.spikes["features.1"].tolist() == [1]
    second.logits.sum().backward()
    gradients = [weight.grad.item() for weight in model.parameters() if weight.grad is not None]
    assert gradients == pytest.approx([0.2925, 0.5])
    assert not any(value.requires_grad for place in places for name, value in place.after.items() if name != "steps")


@pytest.mark.parametrize("settings", [{}, DYNAMIC, {"dropout": 0.3, "surprise": 1.0, **DYNAMIC}], ids=str)
def test_a_first_image_is_a_run_of_training(settings):
    """Bit for bit, with its gradients; of T steps."""
    model = build(**settings).train()
    x, _ = inputs(model)
    draws, found = Draws(1, 2, torch.arange(len(x))), []
    for more in ({}, {"place": SequenceState(model.timesteps)}):
        model.zero_grad()
        output = model(x, draws=draws, frames=False, **more)
        Criterion(0.1, "linear_over_t", 1e-3, "mean_t")(output, torch.zeros(len(x), dtype=torch.int64))["total"].backward()
        found.append([output.logits_by_step.detach(), *(weight.grad for weight in model.parameters() if weight.requires_grad)])
    assert all(torch.equal(one, other) and one.any() for one, other in zip(*found, strict=True))


def test_a_later_image_in_segments():
    """Whose steps are computed again in the backward pass: the same gradients, but for rounding."""
    found = []
    for segments in (0, 2):
        model = build(**DYNAMIC, dropout=0.3, surprise=1.0).train()
        model.set_bptt_segments(segments)
        outputs, _ = in_places(model, *scene(model))
        outputs[1].logits.square().sum().backward()
        found.append([weight.grad for weight in model.classifier.parameters() if weight.requires_grad])
    assert all(gradient.any() for gradient in found[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ["dense", "event"])
@pytest.mark.parametrize("settings", [{"membrane_floor": 0.25}, {"leak": 0.5, "output_leak": 0.75, "surprise": 0.75}], ids=str)
def test_an_image_after_others_is_seen_as_in_a_stream(settings, engine):
    dense = build(**DYNAMIC, **settings)
    model, (frames, pieces) = in_event(dense) if engine == "event" else dense, scene(dense)
    with torch.no_grad():
        found, _ = in_places(model, frames, pieces)
    stream = model.stream(seed=1)
    for one, x, steps in zip(found, frames, pieces, strict=True):
        check_same(stream(x, steps, frames=False), one)
    if engine == "event":
        assert model.engine.runs["dense"] == 0
    trained, _ = in_places(dense.train(), frames, pieces) if dense.settings["dropout"] == 0 else (found, None)
    for one, other in zip(found, trained, strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-4)


def test_each_image_has_dropout_masks_of_its_own():
    model, place, used = build(dropout=0.5).train(), SequenceState(0), []
    x, _ = inputs(model)
    drops = [module for module in model.modules() if isinstance(module, HeldDropout) and module.p]
    for module in drops:
        module.register_forward_hook(lambda module, given, output: used.append((module, output[1])))
    for number in (1, 2):
        draws, place = Draws(0, 1, torch.arange(len(x)) + number * len(x)), SequenceState(model.timesteps, place.after)
        used.clear()
        model(x, draws=draws, frames=False, place=place)
        assert {module for module, _ in used} == {*drops}
        for module, mask in used:
            assert torch.equal(mask, draws.mask(module.layer, module.p, mask.shape[1:]))


# --- which images come after which, and for how long


def batches_of(*sizes):
    return [SimpleNamespace(index=range(size), _replace=lambda place: place) for size in sizes]


def test_an_image_comes_after_that_of_the_batch_before():
    """By threes, from batch 2 of an epoch on: the next of them begins anew, as does a last one that is smaller."""
    found = []
    for place in in_sequence(batches_of(4, 4, 4, 4, 4, 4, 3), 3, lambda number: number, first=2):
        found.append((place.steps, place.before))
        place.after = f"after {place.steps}"
    none = None
    assert found == [(2, none), (3, none), (4, "after 3"), (5, "after 4"), (6, none), (7, "after 6"), (8, none)]
    assert list(in_sequence(batches_of(4, 3), 1, None)) == [None, None]


@pytest.mark.parametrize("timesteps", [1, 5, 6])
def test_steps_are_half_of_t_to_one_and_a_half_and_follow_from_seed_and_epoch(tmp_path, monkeypatch, timesteps):
    found, real = [], harness.training.fit.train_one_epoch

    def noted(model, batches, *more):
        batches = list(batches)
        found.append([batch.place.steps for batch in batches])
        return real(model, batches[:1], *more)

    monkeypatch.setattr(harness.training.fit, "train_one_epoch", noted)
    small = f"-a VGG5_wFeedback_small --fc_width 4 --timesteps {timesteps} --limit_train 200 --limit_test 8 --batch_size 1"
    for seed in (0, 1) if timesteps == 6 else (0,):
        run_here(SNN, f"{small} --sequence 2 --holdout 8 --epochs 2 --seed {seed} --overwrite --output_dir {tmp_path}")
    for steps in found:
        assert len(steps) == 200 and {*steps} == {*range(-(-timesteps // 2), 3 * timesteps // 2 + 1)}
        assert sum(steps) / 200 == pytest.approx(timesteps, rel=0.1)
    assert timesteps == 1 or all(one != other for number, one in enumerate(found) for other in found[:number])


# --- the script


def test_a_run_goes_on_where_a_sequence_has_ended(tmp_path, monkeypatch, capsys):
    """Of three updates an epoch two are a sequence: a signal in the first waits for the second, one in the third does not."""
    flags = f"{RUN} {SEQUENCE} --dropout 0.3 --augment"
    train(tmp_path / "alone", flags=flags)
    for at, saved in (((1, 1), (0, 2)), ((2, 3), (1, 3))):
        folder = tmp_path / f"killed_{saved[0]}"
        monkeypatch.setattr(sys, "argv", [f"{SNN}.py", *split([flags]), "--output_dir", str(folder)])
        with monkeypatch.context() as patch:
            after_step(patch, *at, functools.partial(os.kill, os.getpid(), signal.SIGTERM))
            stopped(folder, signal.SIGTERM, flags=flags)
        last = load_checkpoint(folder / "trained_models/snn/x_last.pth")
        assert (last["epoch"], last["step"]) == saved
        run_here(SNN, *shlex.split(capsys.readouterr().err.rpartition("go on with: ")[2])[2:])
        assert compare(tmp_path / "alone", folder) == []


def test_ranks_learn_from_sequences_as_one_process_does(tmp_path):
    flags = f"{SNN_RUN} {SEQUENCE} --epochs 2"
    run_here(SNN, flags, f"--run_name x --output_dir {tmp_path / 'alone'}")
    succeed(2, tmp_path / "said", SNN, flags, f"--run_name x --output_dir {tmp_path / 'run'}")
    check_same_training(tmp_path / "alone", tmp_path / "run")
    held_out = [[one["evaluated"]["accuracy"] for one in records(tmp_path / f"{name}/logs/snn/x.jsonl", "epoch")]
                for name in ("alone", "run")]  # fmt: skip
    assert held_out[0] == held_out[1]


@pytest.mark.parametrize("select", ["held-out", "test --holdout 0"])
def test_the_best_epoch_is_the_best_at_sequences_and_its_test_figures_are_of_single_images(tmp_path, monkeypatch, select):
    seen, real = [], harness.training.fit.evaluate_parts

    def evaluate(model, batches, *more):
        kept = []
        result = real(model, (kept.append(batch) or batch for batch in batches), *more)
        seen.append([(batch.place.steps, bool(batch.place.before)) if batch.place else None for batch in kept])
        return result

    monkeypatch.setattr(harness.training.fit, "evaluate_parts", evaluate)
    train(tmp_path, f"{SEQUENCE} --epochs 1 --select {select}")
    steps = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["settings"]["timesteps"]
    assert seen[0][:2] == [(steps, False), (steps, True)][: len(seen[0])] and len(seen) == 2 and {*seen[1]} == {None}
