"""A streaming network: pieces and wholes, what is forgotten, states that go on."""

import contextlib
import copy
import gc
import random

import pytest
import torch
from conftest import FORK, POOLED, build, check_same, inputs
from test_engines import by_steps, drawn, named, network, on_grid

from self_models import ModelError
from self_models.counting.operations import OperationCounter
from self_models.engines.event.engine import EventEngine
from self_models.loading import on_engine
from self_models.runtime.loop import show_image

DYNAMIC = {"blocking": "dynamic", "latch": True}


def check_joined(pieces, whole, rtol=0, atol=0):
    """Calls of a stream show, one after the other, what another one shows: the same spikes, and values as near as asked."""
    for name in ("logits_by_step", "predictions", "predicted", "is_open"):
        found, expected = [getattr(one, name) for one in pieces], getattr(whole, name)
        if expected is not None:
            torch.testing.assert_close(
                torch.cat(found), expected, rtol=rtol, atol=atol, msg=named(name)
            )
        assert all(one is None for one in found) == (expected is None), name
    for name, counts in whole.spikes_by_step.items():
        assert torch.equal(torch.cat([one.spikes_by_step[name] for one in pieces]), counts), name


def in_event(model):
    """The same network in the event engine."""
    baseline = copy.deepcopy(model)
    baseline.engine = EventEngine(baseline)
    return baseline


def streaming(numbers):
    """(case, its network) of these numbers: those of the property test, as far as they may stream."""
    for case in map(drawn, numbers):
        case |= {
            "recorded": False,
            "predict": "frame",
            "max_pool": "or",
            "rule": "never",
            "readout": "membrane_linear",
        }
        case["update"] = case["update"].replace("phased", "immediate")
        case["gate"] = case["gate"].replace("contrast", "reconstruct")
        if case["surprise"]:  # what it leaves is rounded, and may decide a spike
            case |= {"encoding": "poisson", "leak": 1.0}
        with contextlib.suppress(ModelError):
            yield case, network(**case)


def check_stream(case, model):
    """A stream that is cut, saved and restored by any engine is one that runs step by step; so is one of its first image alone.
    Each frame is shown for a while, among them a part of another and one that is black."""
    draw = random.Random(f"stream {case['seed']}")
    (x, _), (y, _) = (on_grid(model, case["run"] | {"black": black}, black) for black in (0, 1))
    part = torch.cat([x[..., : x.shape[-2] // 2, :], y[..., x.shape[-2] // 2 :, :]], -2)
    ways = {"reference": by_steps, "dense": copy.deepcopy} | (
        {} if case["gate"] == "reconstruct" else {"event": in_event}
    )
    networks, plain = {name: way(model) for name, way in ways.items()}, by_steps(model)
    whole, (stream, alone) = (
        plain.stream(7),
        (networks[draw.choice([*ways])].stream(7) for _ in range(2)),
    )
    near = (
        case["surprise"]
        or case["readout_slew"]
        or {case["leak"], case["output_leak"], case["readout_leak"]} != {1.0}
    )
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if near else {"rtol": 0, "atol": 0}
    for _ in range(8):
        frame, steps = draw.choice((x, y, part)), draw.randint(1, 6)
        at, record = (
            draw.randint(0, steps),
            draw.choice([None, {"features.1": "membrane"}]),
        )  # which runs dense
        pieces = [stream(frame, count, record=record) for count in (at, steps - at) if count]
        check_joined(pieces, wanted := whole(frame, steps, record=record), **tolerance)
        if record:
            found, expected = (
                [one.recorded["features.1"]["membrane"] for one in of] for of in (pieces, [wanted])
            )
            torch.testing.assert_close(torch.cat(found), *expected, **tolerance)
        torch.testing.assert_close(
            alone(frame[:1], steps).logits_by_step,
            wanted.logits_by_step[:, :1],
            rtol=1e-4,
            atol=1e-4,
        )
        state, stream = copy.deepcopy(stream.state_dict()), networks[draw.choice([*ways])].stream()
        stream.load_state_dict(state)


@pytest.mark.parametrize("first", [0, 10])
def test_a_stream_is_the_same_however_it_is_cut_saved_and_run(first):
    """benchmarks/robustness/random_networks.py takes any number of cases."""
    for case, model in streaming(range(first, first + 10)):
        try:
            check_stream(case, model)
        except Exception as error:
            error.add_note(f"of {case}")
            raise


@pytest.mark.parametrize(
    "settings", [{}, {"on_grid": False}, {"encoding": "direct", "leak": 0.9}, POOLED], ids=str
)
def test_a_stream_on_one_image_is_a_run(settings):
    """In the event engine, pieces bit for bit, also where a product of many steps would be rounded otherwise than one of each."""
    model = build(**settings)
    x, _ = inputs(model)
    run, stream = model(x, seed=3), in_event(model).stream(seed=3)
    whole = stream(x, steps=model.timesteps)
    check_same(whole, run, exact=not {"on_grid", "leak"} & settings.keys())
    assert whole.spikes["input"].sum() > 0 and stream.steps == model.timesteps
    stream.reset()
    check_joined([stream(x, steps) for steps in (1, 4, 1, 3)], whole)


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_a_long_stream_takes_no_more_memory_than_a_short_one(engine):
    model = build(
        image_shape=(1, 8, 8),
        plan=[[4, "D"], ["U", "in"]],
        surprise=2.0,
        membrane_floor=1.0,
        **DYNAMIC,
    )
    stream, sizes = (in_event(model) if engine == "event" else model).stream(), []
    for _ in range(4):
        for frame in inputs(model, 3)[0].split(1):
            stream(frame, 8, frames=False)
        gc.collect()
        sizes.append(sum(one.numel() for one in gc.get_objects() if type(one) is torch.Tensor))
    assert stream.steps == 96 and max(sizes[2:]) <= max(sizes[:2])


def test_surprise_by_hand():
    """Of the second image's 4 active pixels one was predicted to be dark: r = 1/4, and with gain 2 one half is kept of outputs,
    membranes and traces, of the opened pixel's nothing."""
    model = build(
        epsilon=0.25, surprise=2.0, image_shape=(1, 4, 4), plan=[[2, "D"], ["U", "in"]], **DYNAMIC
    )
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
    (
        show_image(model, same := copy.copy(stream._run), image),
        show_image(model, run := copy.copy(same), after),
    )
    assert run.logits.unique().tolist() == [1.5] and run.graph_state.layer_states[
        "features.1"
    ].v.unique().tolist() == [0.0625]
    assert run.readout_sum[0, 0].tolist() == [[0, 0.5, 0.5, 0.5], *[[0] * 4] * 3]
    open_now = torch.zeros(4, 4, dtype=torch.bool)
    open_now[0, 1:], open_now[3, 3] = (
        True,
        True,
    )  # whose prediction has faded, and the new one; the one that went is dark again
    assert torch.equal(run.view.is_open[0, 0], open_now)
    assert all(value is vars(stream._run)[name] for name, value in vars(same).items())


V, OTHER = "membranes.features.1", "another network's stream"
DAMAGED = [  # what replaces a part of a state, and the words in which it is refused
    (lambda s: {V: s[V] * torch.nan}, f"{V}: this state is damaged"),
    (lambda s: {"logits": torch.zeros(5, 3)}, f"logits: .*{OTHER}"),
    (lambda s: dict.fromkeys(s.keys() - {"seed", "steps"}), "image: this state is damaged"),
    (lambda s: {"image": None}, "image: this state is damaged"),
    (lambda s: {"image": torch.tensor(0.5)}, "image: this state is damaged"),
    (lambda s: {"logits": 3}, f"logits: .*{OTHER}"),
]


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_what_a_stream_refuses_leaves_it_as_it_was(engine):
    model = build(**DYNAMIC)
    (x, _), model = inputs(model), in_event(model) if engine == "event" else model
    stream, other = model.stream(), model.stream()
    stream(x, 3), other(x, 3)
    state, without = other.state_dict(), build(plan=[[4, "D"], []], epsilon=0.0)
    for call, words in (
        (
            lambda: stream(x[:2]),
            r"the number, dtype or device of the images of this stream changed .*: call reset\(\)",
        ),
        (lambda: stream(x[..., :9]), r"images must be a tensor or array \(B, 1, 28, 28\)"),
        (lambda: stream(x, 0), "steps: 0 is not a whole number"),
        (lambda: without.stream().load_state_dict(state), OTHER),
        (lambda: build(gate="contrast").stream()(x), "gate contrast is for one image"),
    ):
        with pytest.raises(ModelError, match=words):
            call()
    for changed, words in DAMAGED:
        with pytest.raises(ModelError, match=words):
            stream.load_state_dict(
                {
                    name: value
                    for name, value in (state | changed(state)).items()
                    if value is not None
                }
            )
    check_same(stream(x, 4), other(x, 4))
    model.train()
    with pytest.raises(ModelError, match=r"call eval\(\)"):
        stream(x)


@pytest.mark.parametrize("engine", ["dense", "reference", "event"])
def test_what_stays_until_reset(engine):
    """Settings and weights; put back, the stream goes on as if nothing had been. A rule is not asked."""
    model = on_engine(
        build(plan=FORK, update="delayed", rule="confidence", gap_bound=-1.0, **DYNAMIC), engine
    )
    (x, _), stream, other = inputs(model), model.stream(), model.stream()
    assert stream(x, 3).steps.unique().tolist() == [3] and other(x, 3)
    epsilon = model.settings["epsilon"]
    model.change(epsilon=0.05)
    with pytest.raises(
        ModelError, match=r"the settings of this stream changed since it began: call reset\(\)"
    ):
        stream(x)
    model.change(epsilon=epsilon)
    check_same(stream(x, 4), other(x, 4))
    with torch.no_grad():
        model.features[1].threshold.mul_(2)
    with pytest.raises(ModelError, match=r"the weights or modules of this stream changed"):
        stream(x)
    stream.reset()
    assert stream(x, 2).steps.tolist() == [2] * len(x)


@pytest.mark.parametrize("engine", ["dense", "reference", "event"])
@pytest.mark.parametrize(("part", "name"), [("gate", "epsilon"), ("readout", "readout_leak")])
def test_a_part_changed_in_mid_stream_is_noticed(part, name, engine):
    """Also where it is changed by itself, of which the model's settings say nothing."""
    model = on_engine(build(**DYNAMIC), engine)
    x, _ = inputs(model)
    stream, other = model.stream(), model.stream()
    stream(x, 3)
    other(x, 3)
    changed = getattr(model, part)
    before = getattr(changed, name)
    setattr(changed, name, 0.05)
    with pytest.raises(ModelError, match="the settings of this stream changed since it began"):
        stream(x)
    setattr(changed, name, before)
    check_same(stream(x, 4), other(x, 4))


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_a_stream_ends_with_a_step_of_a_fused_optimiser(engine):
    model = on_engine(build(**DYNAMIC), engine)
    (x, _), stream = inputs(model), model.stream()
    stream(x)
    weight = model.features[0].weight
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], 0.5, fused=True).step()
    with pytest.raises(ModelError, match=r"the weights or modules of this stream changed"):
        stream(x)


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_operations_are_counted_from_the_middle_of_a_stream(engine):
    """As of a stream that is counted from there by step(); an evaluation's refresh() in between loses nothing."""
    counts = []
    for model in (on_engine(build(**DYNAMIC), engine), by_steps(build(**DYNAMIC))):
        (x, _), stream = inputs(model), model.stream(seed=2)
        stream(x, 3)
        with OperationCounter(model) as counter:
            stream(x, 2)
            model.refresh()
            stream(x, 3)
        counts.append(counter.result(len(x))["event_acs"])
        assert stream(x, 1).logits.any() and stream.steps == 9
    assert counts[0] == pytest.approx(counts[1]) and counts[0] > 0
