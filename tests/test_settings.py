"""A setting is declared once: a made-up gate with a made-up setting, and all that must know of it; then --resume."""

from dataclasses import dataclass

import pytest
import torch
from conftest import ANN, OBJ1, PLAN, SNN, SPIKING, digests, images, records, refused, run_here
from test_survive import train

from harness.command_line.flags import snn_parser
from self_models.basics import ModelError
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import FRACTION, setting
from self_models.objectives.gates import GATES, Blocking
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


@dataclass
class Strict(Blocking):
    """As Blocking, within a part of epsilon."""

    strictness: float = setting(0.5, FRACTION, "part of epsilon that counts", group="gate")

    def next_view(self, image, guess, view):
        blocking = Blocking(self.epsilon * self.strictness, self.together, self.blocking, self.latch, self.residual)
        return blocking.next_view(image, guess, view)


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setitem(GATES, "strict", Strict)


def build(cls, **settings):
    torch.manual_seed(0)
    common = {"plan": PLAN, "fc_width": 12, "timesteps": 8, "update": "immediate", "readout": "membrane_linear"}
    return cls(**common, default_threshold=0.2, **settings).eval()


def test_the_constructor_knows_a_made_up_setting(strict):
    model = build(VGG_SNN_STDB_wFeedback, gate="strict", epsilon=0.4, strictness=0.5)
    x = images(3)
    found, expected = (network(x, seed=1) for network in (model, build(InputBlockingSNN, epsilon=0.2)))
    assert torch.equal(found.is_open, expected.is_open) and not found.is_open.all()
    assert (model.settings["strictness"], model.gate.strictness) == (0.5, 0.5)
    model.change(strictness=1)
    assert model(x, seed=1).is_open.sum() < found.is_open.sum() and model.settings["strictness"] == 1.0
    for wrong, words in (
        ({"gate": "strict", "strictness": 2}, "strictness: 2 is not a number at least 0 and at most 1"),
        ({"gate": "strict", "strictness": "much"}, "strictness: 'much' is not"),
        ({"gate": "block", "strictness": 0.5}, "strictness is a setting of gate strict, which is not chosen"),
        ({"strictnes": 0.5}, "no setting 'strictnes'"),
    ):
        with pytest.raises(ModelError, match=words):
            build(VGG_SNN_STDB_wFeedback, **wrong)
    with pytest.raises(ModelError, match="strictness"):
        model.change(strictness=-1)
    assert model.settings["strictness"] == 1.0  # nothing has changed


def test_flags_help_checkpoint_and_resume_know_a_made_up_setting(strict, trained, tmp_path):
    parser = snn_parser("")
    parser.rare = set()  # as --help_all does
    shown = parser.format_help()
    assert (
        "--strictness" in shown
        and "part of epsilon that counts (0 to 1; default: 0.5)" in shown
        and "contrast,once,strict}" in shown
    )
    assert "--strictness: 2.0 is not a number at least 0 and at most 1" in refused(SNN, "--strictness 2")
    here = f"--pretrained_ann {trained.ann} {SPIKING} --gate strict --epsilon 0.4 --output_dir {tmp_path}"
    run_here(SNN, here, "--strictness 0.25 --run_name x")
    path = tmp_path / "trained_models/snn/x.pth"
    settings = load_checkpoint(path)["settings"]
    assert (settings["gate"], settings["strictness"], settings["epsilon"]) == ("strict", 0.25, 0.4)
    again = f"--resume --epochs 2 --run_name x --output_dir {tmp_path}"
    line = refused(SNN, again, "--strictness 0.5")
    assert "strictness" in line and "same flags" in line
    run_here(SNN, again)
    assert load_checkpoint(tmp_path / "trained_models/snn/x_last.pth")["settings"]["strictness"] == 0.25
    opens = {}
    for name, flags in (("own", ""), ("typed", "--strictness 1"), ("other", "--gate block")):
        run_here(SNN, f"--pretrained_snn {path} --test_only --limit_test 16 --run_name {name} --output_dir {tmp_path}", flags)
        (record,) = records(tmp_path / f"logs/snn/{name}.jsonl", "evaluation")
        opens[name] = record["open_share"][-1]
    assert "strictness=0.25" in (tmp_path / "logs/snn/own.log").read_text()
    assert opens["own"] > opens["typed"] == opens["other"]
    line = refused(SNN, f"--pretrained_ann {trained.ann} {SPIKING} --strictness 0.5 --output_dir {tmp_path}")
    assert "--strictness does nothing with --gate open: it counts with strict; leave it out" in line


def test_a_made_up_setting_says_whether_post_hoc_scripts_adopt_it(trained, tmp_path, monkeypatch):
    @dataclass
    class Fresh(Blocking):
        freshness: float = setting(0.5, FRACTION, "nothing", group="gate", adopted=False)

    monkeypatch.setitem(GATES, "fresh", Fresh)
    here = f"--timesteps 2 --output_dir {tmp_path} --gate fresh"
    run_here(SNN, f"--pretrained_ann {trained.ann} {SPIKING} --epsilon 0.4 --freshness 0.25 --latch --run_name x", here)
    run_here(OBJ1, f"--pretrained_snn {tmp_path}/trained_models/snn/x.pth --limit_test 8 --run_name y", here)
    log = (tmp_path / "logs/snn/y.log").read_text()
    assert "freshness=0.5" in log and "latch=True" in log


# --- --resume


@pytest.mark.parametrize("name", [ANN, SNN])
def test_resume_of_a_run_that_is_not_there_names_those_that_are(tmp_path, monkeypatch, name):
    """Where nothing says what to train: by default it would be 43 million weights for 100 epochs."""
    monkeypatch.setattr("harness.building.models.build", None)
    typed = f"--run_name digits --resume --epochs 2 --seed 1 --device cpu --output_dir {tmp_path}"
    line = refused(name, typed)
    assert f"{name[:3]}/digits_last.pth is not there, and no flag says what to train: there are no runs in {tmp_path}" in line
    for other in ("ann/digts", "snn/digts", "ann/cats", "snn/cats"):
        path = tmp_path / f"trained_models/{other}_last.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    before = digests(tmp_path)
    assert refused(name, typed).endswith("what to train: did you mean digts? there are cats, digts")
    assert "--resume: " in refused(name, f"--seeds 0 1 --run_name digits --resume --output_dir {tmp_path}")
    assert digests(tmp_path) == before


def test_a_network_with_blocking_is_resumed_with_blocking_only(tmp_path):
    """It once became a plain SNN without a word. --epsilon alone stands for --gate block, and the log says so."""
    flags, path = "--readout membrane_linear", tmp_path / "trained_models/snn/x_last.pth"
    train(tmp_path, flags, "--epsilon 0.2 --latch")
    (opening,) = records(tmp_path / "logs/snn/x.jsonl", "run")
    assert opening["parameters"]["gate"] == load_checkpoint(path)["settings"]["gate"] == "block"
    for typed in ("--epsilon 0.3", "--no-latch", "--gate open", "--limit_test 8", "--precision bfloat16"):
        line = refused(SNN, f"--run_name x --resume --epochs 3 {typed} --output_dir {tmp_path}")
        assert typed.split()[0].removeprefix("--").removeprefix("no-") in line and "same flags" in line
    saved = load_checkpoint(path)
    torch.save(saved | {"model": "RampSNN"}, path)
    assert "holds 'RampSNN', a network of somebody's own" in refused(
        SNN, f"--run_name x --resume --epochs 3 --output_dir {tmp_path}"
    )
    torch.save(saved, path)
    train(tmp_path, flags, "--resume --epochs 3")
    saved = load_checkpoint(path)
    assert (saved["model"], saved["settings"]["epsilon"], saved["settings"]["latch"]) == ("InputBlockingSNN", 0.2, True)


def test_objectives_combine_by_flags(trained, tmp_path):
    """Contrast, blocking and stopping in one network."""
    flags = "--gate contrast --contrast local --epsilon 0.2 --rule both --open_bound 0.9 --gap_bound 0 --leak 0.5"
    run_here(OBJ1, f"--pretrained_snn {trained.snn}", flags, f"--limit_test 16 --run_name x --output_dir {tmp_path}")
    (record,) = records(tmp_path / "logs/snn/x.jsonl", "evaluation")
    settings = records(tmp_path / "logs/snn/x.jsonl", "run")[0]["parameters"]
    assert [settings[name] for name in ("gate", "rule", "gap_bound", "leak")] == ["contrast", "both", 0, 0.5]
    assert record["mean_steps"] < 5 and record["open_share"][-1] < 1
