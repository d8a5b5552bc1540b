"""A flag that cannot take effect is an error; in an evaluation, flags of training are one warning, and a preset's are neither."""

import importlib
import re
from pathlib import Path

import pytest
from conftest import ANALYSIS, ANN, DATA, OBJ1, OBJ2, REPOSITORY, SNN, SPIKING, digests, refused, run_here, run_undrawn

from harness import UserError
from harness.command_line.flags import ann_settings, snn_parser, snn_settings
from harness.command_line.parser import lines_on_idle
from harness.command_line.presets import find, names

FRESH = f"-a VGG5_wFeedback_small --fc_width 8 --timesteps 2 --epochs 1 {DATA}"


@pytest.mark.parametrize(
    ("name", "flags", "line"),
    [
        (ANN, "--momentum 0.5", "--momentum does nothing with --optimizer Adam: it counts with SGD; leave it out"),
        (ANN, "--no-amsgrad --optimizer SGD", "--amsgrad does nothing with --optimizer SGD: it counts with Adam; leave it out"),
        (ANN, "--warm_up 0.2", "--warm_up does nothing with --lr_schedule step: it counts with cosine or triangle; leave it out"),
        (ANN, "--optimizer SGD --nesterov --momentum 0", "--nesterov does nothing without --momentum: there is no momentum"),
        (ANN, "--average_from 0.5", "--average_from does nothing with --average_weights none: it counts with mean or ema"),
        (SNN, "--bias_lr_factor 64", "--bias_lr_factor 64 does nothing: this network has no biases; leave it out"),
        (ANN, "--shift 2", "--shift does nothing without --augment: the images stay as they are; leave it out"),
        (ANN, "--augment --shift 28", "--shift 28 moves images of 28x28 pixels out of sight; give fewer pixels"),
        (ANN, "--augment --cutout 28", "--cutout 28 can take all of an image of 28x28 pixels; give fewer pixels"),
        (ANN, "--augment --mirror alternate", "--mirror alternate does nothing with grey images, which --augment does not"),
        (ANN, "--preset baseline --lr_reduce 2", "--lr_reduce does nothing with --lr_schedule cosine"),
        (ANN, "-a VGG5_small --trade_off 2", "--trade_off does nothing with --architecture VGG5_small: it has no decoder"),
        (SNN, "--alpha 0.2", "--alpha does nothing with --activation Linear: it counts with STDB; leave it out"),
        (SNN, "--rule both --epsilon 0.1 --entropy_bound 0.1", "--entropy_bound does nothing with --rule both"),
        (SNN, "--max_pool count", "--max_pool does nothing with --architecture VGG5_wFeedback_small: it has no such pool"),
        (SNN, "--latch", "--latch does nothing with --gate open: it counts with block or contrast; leave it out"),
        (SNN, "--distillation 0.7", "--distillation does nothing without --teacher_ann: there is no trained ANN"),
        (SNN, "--gate open --epsilon 0.1", "--epsilon does nothing with --gate open: it counts with block or contrast or once"),
    ],
)
def test_a_flag_that_another_makes_idle(tmp_path, name, flags, line):
    size = "" if "preset" in flags else "-a VGG5_wFeedback_small "
    assert line in refused(name, f"{size}--fc_width 8 {flags} {DATA} --output_dir {tmp_path}")
    assert digests(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "flags", "line"),
    [
        *((SNN, f"--pretrained_snn {{snn}} {flag}", f"{flag.split()[0]} does nothing with --pretrained_snn {{snn}}: ")
          for flag in ("--balance_images 8", "--balance_timesteps 12", "--scaling_factor 0.3", "--default_threshold 2")),
        (OBJ1, "--pretrained_snn {snn} --balance_images 8", "--balance_images does nothing with --pretrained_snn {snn}: "),
        (ANALYSIS, "--pretrained_snn {snn} --pretrained_ann {ann}", "--pretrained_ann does nothing with --pretrained_snn {snn}"),
        (SNN, f"--pretrained_ann {{ann}} {SPIKING} --default_threshold 2",
         "--default_threshold does nothing with --pretrained_ann {ann}: its conversion balances"),
        (ANN, "--test_only", "error: --test_only wants a trained network: give --pretrained_ann PATH"),
        (SNN, "--test_only", "error: --test_only wants a trained network: give --pretrained_ann PATH or --pretrained_snn PATH"),
    ],
)  # fmt: skip
def test_a_flag_that_a_checkpoint_makes_idle_or_must_have(trained, tmp_path, name, flags, line):
    flags, line = (text.format(ann=trained.ann, snn=trained.snn) for text in (flags, line))
    found = refused(name, f"{flags} {DATA} --output_dir {tmp_path}")
    assert line in found and (found.endswith("; leave it out") or "--test_only" in flags)
    assert digests(tmp_path) == {}


def test_a_plan_of_ones_own_is_asked_and_not_its_name():
    words, plan = ["-a", "VGG5_wFeedback", "--max_pool", "count"], [[4, "M", 6], []]
    assert lines_on_idle(snn_parser("").parse_args(words).with_settled(plan=plan), snn_settings()) == []
    args = snn_parser("").parse_args([*words, "--trade_off", "1"]).with_settled(plan=plan)
    with pytest.raises(UserError, match="--trade_off does nothing with --architecture VGG5_wFeedback: it has no decoder"):
        lines_on_idle(args, snn_settings())


def test_the_checkpoints_settings_decide_too(trained, tmp_path):
    run_here(SNN, f"--pretrained_ann {trained.ann} {SPIKING} --activation STDB --run_name stdb --output_dir {tmp_path}")
    here = f"--epochs 1 --alpha 0.5 {DATA} --output_dir {tmp_path} --run_name"
    run_here(SNN, f"--pretrained_snn {tmp_path}/trained_models/snn/stdb.pth {here} x")
    assert "--alpha does nothing with --activation Linear" in refused(SNN, f"--pretrained_snn {trained.snn} {here} y")


def test_training_from_random_weights_is_said(trained, tmp_path):
    line = "no --pretrained_ann: training starts from random weights, with every threshold at 1\n"
    assert line in run_here(SNN, FRESH, f"--output_dir {tmp_path}")[1]
    assert line not in run_here(SNN, f"--pretrained_ann {trained.ann} {SPIKING} --run_name x --output_dir {tmp_path}")[1]
    assert line not in run_here(SNN, FRESH, f"--resume --epochs 2 --output_dir {tmp_path}")[1]


# --- evaluations


@pytest.mark.parametrize(
    ("name", "flags", "idle"),
    [
        (ANN, "--epochs 3 -lr 1 --augment", "--learning_rate, --epochs, --augment"),
        (SNN, "--holdout 5 --dropout 0 --momentum 1 --alpha 1", "--holdout, --dropout, --alpha, --momentum"),
        (OBJ1, "--epochs 3 --trade_off 2 --no-amsgrad --epsilon 0", "--epochs, --amsgrad"),
        (OBJ2, "--optimizer SGD", "--optimizer"),
    ],
)
def test_flags_of_training_in_an_evaluation_are_one_warning(trained, tmp_path, name, flags, idle):
    kind = "ann" if name == ANN else "snn"
    more = "--test_only" if name in (ANN, SNN) else ""
    here = f"--pretrained_{kind} {getattr(trained, kind)} {more} {DATA} --run_name x --output_dir {tmp_path}"
    _, said = run_undrawn(name, here, flags)
    warnings = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert [set(line.partition("do nothing: ")[2].split(", ")) for line in warnings] == [set(idle.split(", "))]
    assert warnings[0] in (tmp_path / f"logs/{kind}/x.log").read_text().splitlines()
    assert "warning" not in run_undrawn(name, here, "--overwrite")[1]


# --- presets


@pytest.mark.parametrize("family", ["quick|stream", "accurate", "residual|fast", "fashion", "feedback|baseline"])
def test_every_preset_finds_what_it_starts_from(tmp_path, family):
    """In the order of the table: its ANN, its SNN, and an evaluation, by the name alone; training prints what it stands for."""
    small = f"--dataset MNIST --fc_width 4 --limit_test 4 --batch_size 8 --seed 7 --output_dir {tmp_path}"
    train = f"{small} --precision float32 --epochs 1 --limit_train 8 --holdout 2"
    recipes = {name: find(name, "snn") for name in names("snn") if name.startswith(tuple(family.split("|")))}
    for name in dict.fromkeys(find(name, "ann").path.stem for name in recipes):
        out = run_here(ANN, f"{train} --preset {name}")[1]
        assert out.startswith(f"preset {name}: --architecture VGG")
        assert "warning" not in run_here(ANN, f"{small} --test_only --preset {name}")[1]
    while recipes:  # each after what it starts from
        name, recipe = next((name, one) for name, one in recipes.items() if one.starts.get("pretrained_snn") not in recipes)
        balance = "--balance_images 4 --balance_timesteps 3" if "pretrained_ann" in recipe.starts else ""
        out = run_here(SNN, f"{train} --preset {name} {balance}")[1]
        assert re.match(f"preset {name}: --.*; from ", out) and "random weights" not in out
        run_undrawn(OBJ1, f"{small} --preset {name}")
        assert (tmp_path / f"trained_models/snn/{recipes.pop(name).run}_7.pth").is_file()


def test_a_preset_without_its_start_says_what_makes_it(tmp_path):
    line = refused(SNN, f"--preset fast_baseline --seed 7 --output_dir {tmp_path} --dataset {tmp_path} {DATA}")
    path = tmp_path / "trained_models/snn/fast_base_7.pth"
    command = f"python snn_wFeedback.py --preset fast_base --dataset {tmp_path} --seed 7 --output_dir {tmp_path}"
    assert f"--preset fast_baseline wants {path}, which is not there; this makes it: {command}" in line
    idea = f"--model {REPOSITORY / 'examples/two_decoders.py'}:TwoDecoders"  # with one's own network, too
    for own in ("", idea):
        line = refused(SNN, f"--preset quick_feedback --output_dir {tmp_path} {own}")
        assert "this makes it: python ann_wFeedback.py --preset quick_feedback" in line and "ann_feedback.pth fits, too" in line
    assert digests(tmp_path) == {}


def test_the_committed_checkpoints_serve_where_there_is_no_own(tmp_path):
    def parsed():
        words = ["--preset", "fast_feedback", "--output_dir", str(tmp_path)]
        return importlib.import_module(OBJ1).build_parser().parse_args(words)

    committed = Path(parsed().pretrained_snn).resolve()  # relative to where one is, if that is above it
    assert committed == REPOSITORY / "trained_models/snn/fast_feedback.pth" and parsed().epsilon == [0.5]
    own = tmp_path / "trained_models/snn/fast_feedback.pth"
    own.parent.mkdir(parents=True)
    own.touch()  # what the user has trained himself comes first
    assert parsed().pretrained_snn == str(own)


def test_what_settings_need_are_flags():
    for settings in (ann_settings(), snn_settings()):
        flags = {one.flag(name): one for name, one in settings.items()}
        for one in flags.values():
            for need in one.needs:
                for value in filter(None, need.values):
                    assert flags[need.flag].kind.parse(value) == value
