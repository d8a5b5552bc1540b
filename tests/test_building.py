"""How flags and checkpoints become a model, on which device, and which engine evaluates it."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import DATA, PLAN, SNN, run_here

from ann_wFeedback import whiten_first_layer
from harness import UserError
from harness.building.models import find_device, new_snn, use_engine
from harness.command_line.flags import snn_parser
from harness.data.facts import with_facts
from harness.data.sets import ImageSet
from self_models.basics.checkpoints import load_checkpoint
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


@pytest.mark.parametrize(
    ("flags", "cls", "changed"),
    [
        ("", "VGG_SNN_STDB_wFeedback", {}),
        ("--timesteps 3 --leak 0.5", "VGG_SNN_STDB_wFeedback", {"timesteps": 3, "leak": 0.5}),
        ("--epsilon 0", "VGG_SNN_STDB_wFeedback", {}),  # nothing is asked for
        ("--epsilon 0.2 --latch", "InputBlockingSNN", {"gate": "block", "epsilon": 0.2, "latch": True}),
        ("--gate contrast", "ContrastAttentionSNN", {"gate": "contrast"}),
        ("--gate once --grid 4 --encoding direct", "InputBlockingSNN", {"gate": "once", "grid": 4, "encoding": "direct"}),
        ("--rule confidence --gap_bound 2", "VGG_SNN_STDB_wFeedback", {"rule": "confidence", "gap_bound": 2.0}),
    ],
)
def test_a_checkpoints_settings_hold_unless_typed(trained, tmp_path, flags, cls, changed):
    run_here(SNN, f"--pretrained_snn {trained.snn} {flags} --epochs 1 --select test {DATA} --run_name x --output_dir {tmp_path}")
    before, after = load_checkpoint(trained.snn), load_checkpoint(tmp_path / "trained_models/snn/x.pth")
    assert after["model"] == cls and (before["settings"] | changed).items() <= after["settings"].items()


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
    words = ["-a", "VGG5_wFeedback_small", "--fc_width", "8", "--seed"]
    first, same, other = (new_snn(with_facts(snn_parser("").parse_args([*words, seed]))) for seed in "334")
    draws = [torch.cat([value.flatten() for value in model.state_dict().values()]) for model in (first, same, other)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


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
    for name, value in (("deterministic", False), ("benchmark", True), ("allow_tf32", True)):
        monkeypatch.setattr(torch.backends.cudnn, name, value)
    monkeypatch.setattr("harness.processes.ranks.count", lambda: 1 + rank)
    monkeypatch.setattr("harness.processes.ranks.local_rank", lambda: rank)
    args = SimpleNamespace(**{"device": "auto", "gpu": True, "devices": 0} | flags)
    if " " in expected:
        with pytest.raises(UserError) as error:
            find_device(args)
        assert str(error.value).startswith(expected)
    else:
        assert str(find_device(args)) == expected
        cudnn, is_cuda = torch.backends.cudnn, "cuda" in expected
        assert chosen == ([int(expected[-1])] if is_cuda else [])
        assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (is_cuda, not is_cuda, not is_cuda)


@pytest.mark.parametrize(
    ("engine", "images", "line"),
    [
        ("auto", 1999, "engine: dense (few images)"),  # 10,000 steps are worth the time that the event engine takes to load
        ("auto", 2000, "engine: dense (no numba)"),
        ("event", 1, "no numba"),
        ("dense", 9999, "engine: dense"),
        ("reference", 9999, "engine: reference"),
    ],
)
def test_the_engine_that_evaluates_is_said(monkeypatch, engine, images, line):
    monkeypatch.setattr("harness.building.models.event_engine_for", lambda *_: (None, "no numba"))
    model, args = VGG_SNN_STDB_wFeedback(plan=PLAN, fc_width=4), SimpleNamespace(engine=engine, timesteps=5)
    if engine == "event":
        with pytest.raises(UserError, match=line):
            use_engine(model, args, images)
    else:
        assert use_engine(model, args, images) == line and model.engine is None
        assert model.batched == (engine != "reference")
