"""How flags and checkpoints become a model, on which device, and which engine evaluates it."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import PLAN

from harness import UserError
from harness.building.models import adopted, find_device, new_snn, settings_from, teacher_from, use_engine
from harness.building.start import with_gate
from harness.building.whitening import whiten_first_layer
from harness.command_line.flags import snn_parser
from harness.data.facts import with_facts
from harness.data.sets import ImageSet
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


def parse(words=""):
    return snn_parser("").parse_args(words.split())


def resolved(words):
    return with_gate(with_facts(parse(words)))


@pytest.mark.parametrize(
    ("words", "saved", "expected"),
    [
        ("", {"settings": {"timesteps": 7, "leak": 0.5}}, {"timesteps": 7, "leak": 0.5, "gate": "open", "selected_on": None}),
        ("--timesteps 3", {"settings": {"timesteps": 7, "leak": 0.5}}, {"timesteps": 3, "leak": 0.5}),
        ("", {"settings": {"vgg_name": "VGG5", "plan": PLAN}}, {"architecture": "VGG5", "plan": PLAN}),
        ("-a VGG9", {"settings": {"vgg_name": "VGG5", "plan": PLAN}}, {"architecture": "VGG9", "plan": None}),
        ("", {"settings": {"update": "immediate", "fc_width": 9}}, {"update": "delayed", "fc_width": 9}),  # not among the names
        ("", {"model": "InputBlockingSNN", "settings": {"timesteps": 7}}, {"gate": "block"}),  # its class's default
        ("", {"model": "Unknown", "settings": {"timesteps": 7}}, {"gate": "open"}),
        ("", {"settings": {"labels": 3, "leak": 1}, "selected_on": "held-out"}, {"selected_on": "held-out"}),
        ("", {"settings": {"leak": 1}, "selected_on": "elsewhere"}, {"selected_on": None}),
        ("", {}, {"selected_on": "test", "plan": None, "timesteps": 50}),  # the original's
    ],
)
def test_a_checkpoints_settings_hold_unless_typed(words, saved, expected):
    args = adopted(parse(words), saved, VGG_SNN_STDB_wFeedback, VGG_SNN_STDB_wFeedback.declared().keys() - {"update"})
    assert {name: getattr(args, name) for name in expected} == expected
    if "settings" in saved:
        assert args.facts.get("labels") == saved["settings"].get("labels")
    else:
        assert not hasattr(args, "facts")


@pytest.mark.parametrize(
    ("words", "gate", "typed", "there", "left_out"),
    [
        ("", "open", [], {"timesteps": 50, "labels": 10}, ("epsilon", "latch", "grid")),
        ("--epsilon 0.2 --latch", "block", ["epsilon", "latch"], {"epsilon": 0.2, "latch": True}, ("grid",)),
        ("--epsilon 0 --leak 0.5", "open", ["leak"], {"leak": 0.5}, ("epsilon",)),  # nothing is asked for, so nothing is idle
        ("--gate open --epsilon 0.2", "open", ["gate", "epsilon"], {}, ("epsilon",)),
        ("--gate once --grid 4", "once", ["gate", "grid"], {"grid": 4, "epsilon": 0.1}, ("latch",)),
        ("--rule both --gap_bound 2", "open", ["rule", "gap_bound"], {"gap_bound": 2.0, "entropy_bound": 0.05}, ()),
    ],
)
def test_the_flags_that_count_are_the_constructors(words, gate, typed, there, left_out):
    args = resolved(words)
    found = settings_from(VGG_SNN_STDB_wFeedback, args)
    assert args.gate == gate and found["gate"] == gate and sorted(args.typed) == sorted(typed)
    assert there.items() <= found.items() and not found.keys() & set(left_out)


def test_whitened_patches_are_uncorrelated_and_of_variance_1():
    """What the first half of the filters makes of patches within the images; the second half is the first's negative. A few
    patterns are those of most variance."""
    torch.manual_seed(0)
    smooth = F.interpolate(torch.randn(30, 3, 4, 4), size=12, mode="bicubic").mul(60).add(120).clamp(0, 255)
    noisy = (smooth + 30 * torch.randn(30, 3, 12, 12)).clamp(0, 255).to(torch.uint8)
    train, whole = ImageSet("CIFAR10", noisy, None), torch.eye(27)
    for width in (54, 12):
        model = VGG_wFeedback(plan=[[width], []], image_shape=(3, 12, 12), fc_layers=0, whitening=True)
        said, half = whiten_first_layer(model, train), width // 2
        assert said.startswith(f"whitening: {half} patterns of 3x3 pixels have ") and said.endswith("of 30 images' variance")
        filters = model.features[0].weight
        found = F.conv2d(train.whole().images, filters).transpose(0, 1).flatten(1)
        torch.testing.assert_close(found[:half].cov(correction=0), whole[:half, :half], atol=0.02, rtol=0)
        assert torch.equal(filters[half:], -filters[:half]) and not filters.requires_grad
    patches = F.unfold(train.whole().images, 3).transpose(1, 2).flatten(0, 1).t().cov(correction=0)
    least = torch.linalg.eigvalsh(patches)[-6] + 5e-4
    torch.testing.assert_close(1 / filters[5].square().sum(), least, rtol=1e-3, atol=0)


def test_the_seed_draws_the_weights():
    first, same, other = (new_snn(resolved(f"-a VGG5_wFeedback_small --fc_width 8 --seed {seed}")) for seed in (3, 3, 4))
    draws = [torch.cat([value.flatten() for value in model.state_dict().values()]) for model in (first, same, other)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("words", "cls"),
    [("", "VGG_SNN_STDB_wFeedback"), ("--epsilon 0.1", "InputBlockingSNN"), ("--gate contrast", "ContrastAttentionSNN"),
     ("--gate once --encoding direct --readout membrane_linear", "InputBlockingSNN")],
)  # fmt: skip
def test_the_gate_names_the_class(words, cls):
    assert type(new_snn(resolved(f"-a VGG5_wFeedback_small --fc_width 8 {words}"))).__name__ == cls


def test_nobody_teaches_where_nothing_is_trained():
    assert teacher_from(parse("--test_only --teacher_ann nowhere.pth")) is None and teacher_from(parse()) is None


# --- devices and engines


@pytest.mark.parametrize(
    ("flags", "there", "rank", "expected"),
    [
        ({}, "", 0, "cpu"), ({}, "cuda mps", 0, "cuda:0"), ({}, "mps", 0, "mps"), ({"gpu": False}, "cuda mps", 0, "cpu"),
        ({"gpu": False, "device": "cuda"}, "cuda", 0, "cpu"), ({"device": "cpu"}, "cuda", 0, "cpu"),
        ({"devices": 1}, "cuda", 0, "cuda:1"), ({}, "cuda", 1, "cuda:1"), ({"engine": "event"}, "cuda", 0, "cpu"),
        ({"engine": "event", "device": "cpu"}, "", 0, "cpu"), ({"engine": "dense"}, "cuda", 0, "cuda:0"),
        ({"device": "cuda"}, "mps", 0, "--device cuda: there is none here; choose auto or cpu"),
        ({"device": "mps"}, "cuda", 0, "--device mps: there is none here; choose auto or cpu"),
        ({"devices": 2}, "cuda", 0, "--devices 2: there are GPUs 0 to 1 here"),
        ({"devices": 1}, "cuda", 1, "--devices 1 (rank 1 of this machine): there are GPUs 0 to 1 here"),
        ({"engine": "event", "device": "cuda"}, "cuda", 0, "--engine event runs on the CPU: leave out --device cuda, or use"),
        ({}, "mps", 1, "several processes cannot share work on mps, whose tensors gloo does not carry: add --device cpu"),
        ({"device": "cpu"}, "mps", 1, "cpu"),
    ], ids=str,
)  # fmt: skip
def test_the_device_that_the_flags_ask_for(monkeypatch, flags, there, rank, expected):
    """On a machine with two CUDA GPUs, or a Mac, or neither; rank 1 is one of two processes."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr("harness.processes.ranks.count", lambda: 1 + rank)
    monkeypatch.setattr("harness.processes.ranks.local_rank", lambda: rank)
    args = SimpleNamespace(**{"device": "auto", "gpu": True, "devices": 0} | flags)
    if " " in expected:
        with pytest.raises(UserError) as error:
            find_device(args)
        assert str(error.value).startswith(expected)
    else:
        assert str(find_device(args)) == expected
        is_cuda = "cuda" in expected
        assert chosen == ([int(expected[-1])] if is_cuda else []) and torch.backends.cudnn.allow_tf32 is not is_cuda


@pytest.mark.parametrize(
    ("engine", "images", "reason", "line"),
    [
        ("auto", 1999, "", "engine: dense (few images)"),
        ("auto", 2000, "", "engine: event, or dense for batches that spike too much for it"),
        ("auto", 2000, "no numba", "engine: dense (no numba)"),
        ("auto", 2000, "no form: use --engine dense", "engine: dense (no form)"),
        ("event", 1, "", "engine: event"),
        ("event", 1, "no numba", "no numba"),
        ("dense", 9999, "", "engine: dense"),
        ("reference", 9999, "", "engine: reference"),
    ],
)
def test_the_engine_that_evaluates_is_said(monkeypatch, engine, images, reason, line):
    """10,000 steps of images are worth the time that the event engine takes to load; the image that warms it up is nobody's."""

    class Engine:
        def __init__(self, chooses):
            self.chooses, self.runs, self.seen = chooses, {"event": 0}, []

        def __call__(self, x, seed):
            self.runs["event"] += 1
            self.seen.append(x.shape)

    def engine_for(model, chooses):
        return (None, reason) if reason else (Engine(chooses), "")

    monkeypatch.setattr("harness.building.models.event_engine_for", engine_for)
    monkeypatch.setattr("self_models.fast.batched.why_not", lambda model: "")
    model, args = SimpleNamespace(image_shape=(1, 4, 4), frames=0, engine=None), SimpleNamespace(engine=engine, timesteps=5)
    if reason and engine == "event":
        with pytest.raises(UserError, match=line):
            use_engine(model, args, images)
        return
    assert use_engine(model, args, images) == line and (model.engine is None) == (": event" not in line)
    assert model.batched == (engine != "reference")
    if model.engine:
        assert model.engine.chooses == (engine == "auto") and model.engine.runs == {"event": 0}
        assert model.engine.seen == [(1, 1, 4, 4)]
