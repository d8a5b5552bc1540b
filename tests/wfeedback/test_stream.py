"""A streaming network: pieces and wholes, what is forgotten, states that go on."""

import copy
import gc
import random
from types import SimpleNamespace

import pytest
import torch
from conftest import FORK, POOLED, build, check_same, inputs
from test_engines import by_steps, drawn, named, network, on_grid

from self_models import ModelError
from self_models.checkpoints.loading import on_engine
from self_models.evaluation.operations import OperationCounter
from self_models.running.loop import show_image
from wfeedback.event.engine import EventEngine

DYNAMIC = {"blocking": "dynamic", "latch": True}


def check_joined(pieces, whole, rtol=0, atol=0):
    """Check that several calls of a stream give what one call gives.

    The same spikes, and values as near as asked.
    """
    for name in ("logits_by_step", "predictions", "predicted", "is_open"):
        found = [getattr(piece, name) for piece in pieces]
        expected = getattr(whole, name)
        if expected is None:
            assert found == [None] * len(pieces), name
        else:
            torch.testing.assert_close(
                torch.cat(found), expected, rtol=rtol, atol=atol, msg=named(name)
            )
    for name, counts in whole.spikes_by_step.items():
        found = torch.cat([piece.spikes_by_step[name] for piece in pieces])
        assert torch.equal(found, counts), name


def in_event(model):
    """Copy a network so that it runs in the event engine."""
    baseline = copy.deepcopy(model)
    baseline.engine = EventEngine(baseline)
    return baseline


def streaming(numbers):
    """Yield (case, its network) of the property test, changed so that it may stream."""
    for number in numbers:
        case = drawn(number)
        case |= {
            "recorded": False,
            "predict": "frame",
            "max_pool": "or",
            "rule": "never",
            "readout": "membrane_linear",
        }
        if case["update"] == "phased":
            case["update"] = "immediate"
        if case["gate"] == "contrast":
            case["gate"] = "reconstruct"
        if case["surprise"]:  # what it leaves is rounded, and may decide a spike
            case |= {"encoding": "poisson", "leak": 1.0}
        try:
            model = network(**case)
        except ModelError:  # its settings do not go together
            continue
        yield case, model


def sums_are_exact(case):
    """Return whether all numbers of a stream of this case stay on the grid."""
    return (
        not case["surprise"]
        and not case["readout_slew"]
        and case["leak"] == case["output_leak"] == case["readout_leak"] == 1
    )


def frames_to_stream(model, run):
    """Return frames without black images, with one, and of halves of both."""
    first, _ = on_grid(model, run | {"black": 0}, seed=0)
    second, _ = on_grid(model, run | {"black": 1}, seed=1)
    half = first.shape[-2] // 2
    mixture = torch.cat([first[..., :half, :], second[..., half:, :]], -2)
    return first, second, mixture


def check_stream(case, model):
    """Check that a stream which is cut, saved and restored runs as one step by step.

    It goes from engine to engine; so does one of its first image alone. Each frame is
    shown for a while.
    """
    draw = random.Random(f"stream {case['seed']}")
    frames = frames_to_stream(model, case["run"])
    networks = [by_steps(model), copy.deepcopy(model)]
    if case["gate"] != "reconstruct":
        networks.append(in_event(model))
    tolerance = 0 if sums_are_exact(case) else 1e-4
    near = {"rtol": tolerance, "atol": tolerance}

    whole = by_steps(model).stream(7)
    stream = draw.choice(networks).stream(7)
    stream_of_one = draw.choice(networks).stream(7)
    for _ in range(8):
        frame = draw.choice(frames)
        steps = draw.randint(1, 6)
        cut = draw.randint(0, steps)
        record = draw.choice([None, {"features.1": "membrane"}])  # a recording runs dense

        wanted = whole(frame, steps, record=record)
        pieces = []
        for count in (cut, steps - cut):
            if count:
                pieces.append(stream(frame, count, record=record))
        check_joined(pieces, wanted, **near)
        if record:
            found = torch.cat([piece.recorded["features.1"]["membrane"] for piece in pieces])
            expected = wanted.recorded["features.1"]["membrane"]
            torch.testing.assert_close(found, expected, **near)

        of_one = stream_of_one(frame[:1], steps).logits_by_step
        of_first = wanted.logits_by_step[:, :1]
        torch.testing.assert_close(of_one, of_first, rtol=1e-4, atol=1e-4)

        state = copy.deepcopy(stream.state_dict())
        stream = draw.choice(networks).stream()
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
    """In the event engine, pieces are so bit for bit, whatever is rounded."""
    model = build(**settings)
    x, _ = inputs(model)
    is_exact = "on_grid" not in settings and "leak" not in settings
    run = model(x, seed=3)

    stream = in_event(model).stream(seed=3)
    whole = stream(x, steps=model.timesteps)

    check_same(whole, run, exact=is_exact)
    assert whole.spikes["input"].sum() > 0
    assert stream.steps == model.timesteps

    stream.reset()
    pieces = [stream(x, steps) for steps in (1, 4, 1, 3)]
    check_joined(pieces, whole)


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_a_long_stream_takes_no_more_memory_than_a_short_one(engine):
    model = build(
        image_shape=(1, 8, 8),
        plan=[[4, "D"], ["U", "in"]],
        surprise=2.0,
        membrane_floor=1.0,
        **DYNAMIC,
    )
    if engine == "event":
        model = in_event(model)
    images, _ = inputs(model, 3)

    stream = model.stream()
    sizes = []
    for _ in range(4):
        for frame in images.split(1):
            stream(frame, 8, frames=False)
        sizes.append(count_numbers_in_tensors())

    assert stream.steps == 96
    assert max(sizes[2:]) <= max(sizes[:2])


def count_numbers_in_tensors():
    """Count the numbers of all tensors that there are, and keep none of them."""
    gc.collect()
    count = 0
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor:
            count += thing.numel()
    return count


def test_surprise_by_hand():
    """Of the second image's 4 active pixels one was predicted to be dark: r = 1/4.

    With gain 2 one half, 1 - 2 r, is kept of outputs, membranes and traces; of the
    trace of the pixel that has opened nothing.
    """
    model = build(
        epsilon=0.25, surprise=2.0, image_shape=(1, 4, 4), plan=[[2, "D"], ["U", "in"]], **DYNAMIC
    )
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0] = 1
    second_image = image.clone()
    second_image[0, 0, 0, 0] = 0  # one pixel goes
    second_image[0, 0, 3, 3] = 1  # another comes
    stream = model.stream()
    stream(image)
    state = stream.state_dict()
    state["readout_sum"] = image.clone()  # all is predicted
    state["is_open"] = torch.zeros_like(image, dtype=torch.bool)
    state["predicted"] = torch.ones_like(image, dtype=torch.bool)
    state["logits"] = torch.full((1, 10), 3.0)
    state[MEMBRANES] = torch.full_like(state[MEMBRANES], 0.125)
    stream.load_state_dict(state)
    before = stream._run

    # The same image again changes nothing.
    same = copy.copy(before)
    show_image(model, same, image)
    for name, value in vars(same).items():
        assert value is vars(before)[name]

    run = copy.copy(same)
    show_image(model, run, second_image)
    assert run.logits.unique().tolist() == [3.0 / 2]
    assert run.graph_state.layer_states["features.1"].v.unique().tolist() == [0.125 / 2]
    dark = [0, 0, 0, 0]
    assert run.readout_sum[0, 0].tolist() == [[0, 0.5, 0.5, 0.5], dark, dark, dark]
    is_open = [
        [False, True, True, True],  # the first is dark again, the others' prediction has faded
        [False, False, False, False],
        [False, False, False, False],
        [False, False, False, True],  # the new one
    ]
    assert run.view.is_open[0, 0].tolist() == is_open


MEMBRANES = "membranes.features.1"
OTHER = "another network's stream"


@pytest.fixture(params=["dense", "event"])
def two_streams(request):
    """Begin two streams of one network with the same images."""
    model = build(**DYNAMIC)
    images, _ = inputs(model)
    if request.param == "event":
        model = in_event(model)
    stream = model.stream()
    other = model.stream()
    stream(images, 3)
    other(images, 3)
    return SimpleNamespace(model=model, images=images, stream=stream, other=other)


def test_images_that_a_stream_refuses_leave_it_as_it_was(two_streams):
    stream = two_streams.stream
    images = two_streams.images

    changed = (
        r"the number, dtype or device of the images of this stream changed .*: call reset\(\)"
    )
    with pytest.raises(ModelError, match=changed):
        stream(images[:2])
    with pytest.raises(ModelError, match=r"images must be a tensor or array \(B, 1, 28, 28\)"):
        stream(images[..., :9])
    with pytest.raises(ModelError, match="steps: 0 is not a whole number"):
        stream(images, 0)

    check_same(stream(images, 4), two_streams.other(images, 4))


@pytest.mark.parametrize("residual", [False, True])
def test_a_state_that_lacks_a_part_is_refused_by_its_name(residual):
    settings = DYNAMIC | ({"residual": True, "encoding": "direct"} if residual else {})
    model = build(**settings)
    images, _ = inputs(model)
    for streaming in (model, in_event(model)):
        stream = streaming.stream()
        stream(images, 1)
        state = stream.state_dict()
        streaming.stream().load_state_dict(state)
        assert ("explained" in state) == residual
        for name in state.keys() - {"image", "logits", "readout_sum", "seed", "steps"}:
            lacking = {key: value for key, value in state.items() if key != name}
            with pytest.raises(ModelError, match=f"^missing in this state: {name}; it is"):
                streaming.stream().load_state_dict(lacking)


def test_states_that_a_stream_refuses_leave_it_as_it_was(two_streams):
    stream = two_streams.stream
    images = two_streams.images
    state = two_streams.other.state_dict()
    without_image = {name: value for name, value in state.items() if name != "image"}
    only_numbers = {"seed": state["seed"], "steps": state["steps"]}

    for damaged, words in (
        (state | {MEMBRANES: state[MEMBRANES] * torch.nan}, f"{MEMBRANES}: this state is damaged"),
        (state | {"logits": torch.zeros(5, 3)}, f"logits: .*{OTHER}"),
        (only_numbers, "image: this state is damaged"),
        (without_image, "image: this state is damaged"),
        (state | {"image": torch.tensor(0.5)}, "image: this state is damaged"),
        (state | {"logits": 3}, f"logits: .*{OTHER}"),
    ):
        with pytest.raises(ModelError, match=words):
            stream.load_state_dict(damaged)

    check_same(stream(images, 4), two_streams.other(images, 4))


def test_a_stream_of_another_network_refuses_a_state(two_streams):
    without_decoder = build(plan=[[4, "D"], []], epsilon=0.0)

    with pytest.raises(ModelError, match=OTHER):
        without_decoder.stream().load_state_dict(two_streams.stream.state_dict())


def test_a_gate_for_one_image_does_not_stream():
    model = build(gate="contrast")
    images, _ = inputs(model)

    with pytest.raises(ModelError, match="gate contrast is for one image"):
        model.stream()(images)


def test_a_stream_is_refused_in_training(two_streams):
    two_streams.model.train()

    with pytest.raises(ModelError, match=r"call eval\(\)"):
        two_streams.stream(two_streams.images)


@pytest.mark.parametrize("engine", ["dense", "reference", "event"])
def test_what_stays_until_reset(engine):
    """Settings and weights; put back, the stream goes on as if nothing had been."""
    model = build(plan=FORK, update="delayed", rule="confidence", gap_bound=-1.0, **DYNAMIC)
    model = on_engine(model, engine)
    x, _ = inputs(model)
    stream = model.stream()
    other = model.stream()
    other(x, 3)
    assert stream(x, 3).steps.unique().tolist() == [3]  # the rule is not asked

    epsilon = model.settings["epsilon"]
    model.change(epsilon=0.05)
    words = r"the settings of this stream changed since it began: call reset\(\)"
    with pytest.raises(ModelError, match=words):
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
    stream = model.stream()
    other = model.stream()
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
    x, _ = inputs(model)
    stream = model.stream()
    stream(x)

    weight = model.features[0].weight
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], 0.5, fused=True).step()

    with pytest.raises(ModelError, match=r"the weights or modules of this stream changed"):
        stream(x)


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_operations_are_counted_from_the_middle_of_a_stream(engine):
    """As of a stream that is counted from there by step()."""
    additions = []
    for model in (on_engine(build(**DYNAMIC), engine), by_steps(build(**DYNAMIC))):
        x, _ = inputs(model)
        stream = model.stream(seed=2)
        stream(x, 3)

        with OperationCounter(model) as counter:
            stream(x, 2)
            model.refresh()  # as an evaluation in between would; it loses nothing
            stream(x, 3)

        additions.append(counter.result(len(x))["event_acs"])
        assert stream(x, 1).logits.any()
        assert stream.steps == 9

    by_engine, by_step = additions
    assert by_engine == pytest.approx(by_step)
    assert by_engine > 0
