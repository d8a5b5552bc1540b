"""A network that is left on: pieces and wholes, hand-worked traces of what is forgotten, states that go on, what is refused."""

import copy

import pytest
import torch
from test_event_engine import DEEP, FORK, POOLED, TWIN, build, check_same, inputs

from self_models.basics.errors import ModelError
from self_models.network.neurons import SpikingNeuron
from self_models.network.surrogates import SURROGATES
from self_models.running.steps import accumulated
from self_models.running.stream import turned
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

DYNAMIC = {"blocking": "dynamic", "latch": True}
SETTINGS = [
    {}, DYNAMIC, {"cls": VGG_SNN_STDB_wFeedback}, {"plan": DEEP, **DYNAMIC}, {"plan": FORK, "update": "delayed", **DYNAMIC},
    {"plan": TWIN, "epsilon": 0.0, "update": "delayed"}, POOLED, {"leak": 0.5, **DYNAMIC}, {"feedback_interval": 3, **DYNAMIC},
    {"image_shape": (3, 12, 10), "together": True, **DYNAMIC}, {"blocking": "dynamic", "residual": True}, {"encoding": "direct"},
    {"readout_leak": 0.5, **DYNAMIC}, {"readout": "spike_count_rescaled", "update": "delayed", **DYNAMIC},
    {"initial_potential": 0.5, **DYNAMIC},
]  # fmt: skip
FORGETTING = [{"output_leak": 0.5}, {"membrane_floor": 0.25}, {"surprise": 2.0}, {"surprise": 0.75, "output_leak": 0.75}]


def in_pieces(stream, frames, pieces):
    """The outputs of a stream that sees these frames for so many steps each: one per call of it, call by call."""
    return [stream(frame, steps) for frame, steps in zip(frames, pieces, strict=True)]


def joined(outputs, name):
    values = [getattr(one, name) for one in outputs]
    return None if values[0] is None else torch.cat(values)


def check_joined(pieces, whole, exact=True):
    """Calls of a stream show, one after the other, what another one shows, bit for bit."""
    for name in ("logits_by_step", "predictions", "predicted", "is_open"):
        found, expected = joined(pieces, name), getattr(whole, name)
        assert found is expected is None or torch.equal(found, expected), name
    for name, counts in whole.spikes_by_step.items():
        assert torch.equal(torch.cat([one.spikes_by_step[name] for one in pieces]), counts), name


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_stream_on_one_image_is_a_run_however_it_is_cut(settings):
    model = build(**settings)
    x, _ = inputs(model)
    run, stream = model(x, seed=3), model.stream(seed=3)
    whole = stream(x, steps=model.timesteps)
    check_same(whole, run)
    assert whole.spikes["input"].sum() > 0 and stream.steps == model.timesteps
    stream.reset()
    check_joined(in_pieces(stream, [x] * 4, (1, 4, 1, 3)), run)


@pytest.mark.parametrize("forgetting", [{}, *FORGETTING], ids=str)
def test_a_stream_goes_on_from_its_state_and_each_image_is_its_own(forgetting):
    """Saved in between, and an image alone or in a batch: nothing differs."""
    model = build(**DYNAMIC, **forgetting)
    x, _ = inputs(model, 6)
    frames, pieces = (x[:3], x[3:], x[3:].clone()), (5, 4, 6)
    frames[2][:, :, :14] = x[:3, :, :14]  # a part changes
    stream = model.stream(seed=1)
    expected = in_pieces(stream, frames, pieces)
    assert all(counts.sum() > 0 for one in expected for counts in one.spikes.values())
    other = model.stream()
    for at in (1, 2):
        stream.reset()
        in_pieces(stream, frames[:at], pieces[:at])
        other.load_state_dict(copy.deepcopy(stream.state_dict()))
        assert (other.seed, other.steps) == (1, sum(pieces[:at]))
        for found, wanted in zip(in_pieces(other, frames[at:], pieces[at:]), expected[at:], strict=True):
            check_same(found, wanted)
    alone = model.stream(seed=1)
    for found, wanted in zip(in_pieces(alone, [frame[:1] for frame in frames], pieces), expected, strict=True):
        assert torch.equal(found.logits_by_step, wanted.logits_by_step[:, :1])


# --- what is forgotten, by hand


def test_an_output_leaks_by_hand():
    drives = torch.tensor([[[1.0]], [[0.0]], [[2.0]]])
    start = torch.tensor([[4.0]])
    for at_once in (False, True):
        assert accumulated(start, drives, 4, 0.5, at_once).flatten().tolist() == [2, 2, 1, 2.5]
        assert accumulated(start, drives, 4, 1.0, at_once).flatten().tolist() == [4, 5, 5, 7]


@pytest.mark.parametrize(
    ("update", "spikes", "membranes"),
    [("delayed", [0, 0, 0, 1, 0], [-0.5, 0.25, 1.5, 0.5, -0.5]), ("immediate", [0, 0, 1, 0, 0], [-0.5, 0.25, 0.5, 0.5, -0.5])],
)
def test_a_membrane_does_not_fall_below_its_floor_by_hand(update, spikes, membranes):
    """theta 1, floor 0.5, drives -2 .75 1.25 0 -3; what learns takes the same steps, and where V lies on its floor no gradient
    goes back."""
    neuron = SpikingNeuron(SURROGATES.find("Linear")(0.3, 0.01), update, floor=0.5)
    drive = torch.tensor([-2.0, 0.75, 1.25, 0, -3]).view(5, 1)
    with torch.no_grad():
        found, _, _, potentials = neuron.traced(drive, steps=5)
    assert (found.flatten().tolist(), potentials.flatten().tolist()) == (spikes, membranes)
    drive.requires_grad_()
    learned, state, _ = neuron(drive, steps=5)
    assert learned.flatten().tolist() == spikes and state.v.item() == membranes[-1]
    _, state, _ = neuron(drive[:4], steps=4)
    state.v.sum().backward()
    assert drive.grad[0].item() == 0 and drive.grad[3].item() == 1


@pytest.mark.parametrize("update", ["delayed", "immediate"])
def test_the_gradient_through_a_floor_is_autograds(update):
    """Against the same dynamics written as operations, whose spikes have the same surrogate gradient."""

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            ctx.save_for_backward(v)
            return (v > 0).to(v.dtype)

        @staticmethod
        def backward(ctx, grad):
            return grad * 0.3 * (1 - ctx.saved_tensors[0].abs()).clamp(min=0)

    neuron = SpikingNeuron(SURROGATES.find("Linear")(0.3, 0.01), update, 0.8, 0.9, True, True, floor=0.3)
    drive = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(12, 7, generator=torch.Generator().manual_seed(1))
    ours = drive.clone().requires_grad_()
    spikes, state, _ = neuron(ours, steps=12)
    ((spikes * weight).sum() + state.v.sum()).backward()
    theirs, theta, leak = (value.detach().clone().requires_grad_() for value in (drive, neuron.threshold, neuron.leak))
    v, total = torch.zeros(7), 0
    for t, now in enumerate(theirs):
        deciding = v if update == "delayed" else leak * v + now
        s = Spike.apply(deciding / theta - 1)
        v = leak * v + now - theta * s.detach()
        v = torch.maximum(v, -0.3 * theta)
        total = total + (s * weight[t]).sum()
    (total + v.sum()).backward()
    for found, expected in ((ours, theirs), (neuron.threshold, theta), (neuron.leak, leak)):
        torch.testing.assert_close(found.grad, expected.grad)


def test_surprise_by_hand():
    """Of the second image's 4 active pixels one was predicted to be dark: r = 1/4, and with gain 2 one half is kept of outputs,
    membranes and traces, of the opened pixel's nothing."""
    model = build(epsilon=0.25, surprise=2.0, image_shape=(1, 4, 4), plan=[[2, "D"], ["U", "in"]], **DYNAMIC)
    stream = model.stream()
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0] = 1
    stream(image)
    state = stream.state_dict()
    state["trace"] = image.clone()  # all is predicted
    state |= {"is_open": image > 1, "predicted": image > -1, "logits": torch.full((1, 10), 3.0)}
    name = "membranes.features.1"
    state[name] = torch.full_like(state[name], 0.125)
    stream.load_state_dict(state)
    after = image.clone()
    after[0, 0, 0, 0], after[0, 0, 3, 3] = 0, 1  # one goes, one comes
    run = turned(model, stream._run, after)
    assert run.logits.unique().tolist() == [1.5] and run.memory["features.1"].v.unique().tolist() == [0.0625]
    expected = torch.zeros(4, 4)
    expected[0] = torch.tensor([0, 0.5, 0.5, 0.5])
    assert torch.equal(run.trace[0, 0], expected)
    open_now = torch.zeros(4, 4, dtype=torch.bool)
    open_now[0, 1:], open_now[3, 3] = True, True  # whose prediction has faded, and the new one; the one that went is dark again
    assert torch.equal(run.view.is_open[0, 0], open_now)
    assert turned(model, stream._run, image) is stream._run


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


def test_what_a_stream_refuses_leaves_it_as_it_was():
    model = build(**DYNAMIC)
    x, _ = inputs(model)
    stream, other = model.stream(), model.stream()
    stream(x, 3), other(x, 3)
    for call, words in (
        (lambda: stream(x[:2]), r"this stream has 5 images at once, not 2: call reset\(\)"),
        (lambda: stream(x[..., :9]), r"images must be a tensor or array \(B, 1, 28, 28\)"),
        (lambda: stream(x, 0), "steps: 0 is not a whole number"),
        (lambda: model.stream(-1), "seed: -1 is not"),
        (lambda: stream.load_state_dict({}), "seed: None is not"),
        (lambda: stream.load_state_dict(other.state_dict() | {"logits": torch.zeros(5, 3)}), "another network's stream"),
        (
            lambda: build(plan=TWIN, epsilon=0.0).stream().load_state_dict(other.state_dict()),
            "another network's stream",
        ),
        (lambda: build(gate="contrast").stream()(x), "gate contrast is for one image"),
        (lambda: build(surprise=2.0), "surprise: .* blocking dynamic"),
        (lambda: build(membrane_floor=-1), "membrane_floor: -1 is not"),
        (lambda: build(output_leak=1.5), "output_leak: 1.5 is not"),
    ):
        with pytest.raises(ModelError, match=words):
            call()
    check_same(stream(x, 4), other(x, 4))
    model.train()
    with pytest.raises(ModelError, match=r"call eval\(\)"):
        stream(x)


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
