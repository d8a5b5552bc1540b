"""Recipes are files: what --preset stands for, one of somebody's own, and what is said of one that cannot be."""

import functools
import importlib
import shlex
from pathlib import Path

import pytest
import torch
from conftest import ANALYSIS, ANN, BALANCE, DATA, OBJ1, OBJ2, OBJ3, SNN, SPIKING, STREAM, refused, run_here

from harness.command_line.presets import FOLDER, find, names
from self_models.basics.checkpoints import load_checkpoint

FILES = sorted(FOLDER.glob("*.toml"))
OWN = "\n".join(
    [
        'architecture = "VGG5_wFeedback_small"\nfc_width = 8\ndataset = "MNIST"\nholdout = 8\naugment = true',
        "[ann]\nepochs = 1\nlearning_rate = 5e-3\n[snn]\nepochs = 1\ntimesteps = 3",
        'gate = "block"\nepsilon = 0.2\nlr_interval = [0.5, 0.9]\nupdate = "immediate"\n[evaluation]\nepsilon = [0, 0.3]\n',
    ]
)


parser_of = functools.cache(lambda script: importlib.import_module(script).build_parser())


def parsed(script, *words):
    return parser_of(script).parse_args(words)


# --- those that came with the program


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_each_recipe_says_why_and_counts_as_its_flags_typed_do(name):
    """Its ANN's script knows each flag, its SNN's, and all that evaluate."""
    why = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()[:3]
    assert why[0].startswith("# ") and why[1].startswith("# ") and why[2] == ""
    given = ["--dataset", "MNIST"] * (name == "own")
    for script in (ANN, SNN, ANALYSIS, STREAM, OBJ1, OBJ2, OBJ3) if name in names("snn") else (ANN,):
        args = parsed(script, "--preset", name, *given)
        plain = parsed(script, *shlex.split(args.preset_flags), *given)
        own = dict.fromkeys(("made_by", "preset", "preset_flags", "run_name", "teacher_ann"))
        own |= dict.fromkeys(("pretrained_ann", "pretrained_snn"))
        assert plain.values | own == args.values | own
        assert args.given == plain.given | {"preset": name} and list(args.typed) == ["preset"] + ["dataset"] * bool(given)


def test_what_is_typed_holds_instead():
    assert parsed(ANN, "--preset", "residual_feedback", "--epochs", "3").epochs == 3
    args = parsed(SNN, "--preset", "own", "--epochs", "3", "--timesteps", "4", "--no-latch")
    assert (args.updates, args.timesteps, args.latch) == (None, 4, False)
    assert not {"--updates", "--timesteps", "--latch"} & {*args.preset_flags.split()}  # which the log's first line says
    assert "--epsilon 0.2 --readout " in args.preset_flags
    assert parsed(ANN).preset == ""


def test_an_evaluation_takes_its_own_flags_and_no_others():
    args = parsed(OBJ1, "--preset", "fast_feedback")
    assert args.epsilon == [0.5] and args.given == {"preset": "fast_feedback", "epsilon": [0.5]}
    assert parsed(ANALYSIS, "--preset", "fast_feedback").epsilon == 0.5


def test_an_snn_s_recipe_means_to_the_ann_s_script_the_ann_that_it_comes_from():
    assert find("deep_feedback", "ann").path.stem == "deep_baseline"  # by way of the SNN of deep_base
    args = parsed(ANN, "--preset", "deep_feedback")
    assert args.run_name == "deep_baseline" and Path(args.pretrained_ann).stem == Path(args.teacher_ann).stem == "deep_base"


# --- one of somebody's own


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(OWN)
    return tmp_path


def test_a_file_of_ones_own_is_trained_converted_and_evaluated(own):
    line = refused(SNN, "--preset mine.toml")
    assert "wants trained_models/ann/mine.pth, " in line and "makes it: python ann_wFeedback.py --preset mine.toml" in line
    said = run_here(ANN, f"--preset mine.toml {DATA}")[1]
    assert said.startswith("preset mine.toml: --architecture VGG5_wFeedback_small --fc_width 8 --dataset MNIST --holdout 8 ")
    said = run_here(SNN, f"--preset {own}/mine.toml {DATA} {BALANCE}")[1]
    assert "; from trained_models/ann/mine.pth\n" in said and "--lr_interval '0.5 0.9'" in said
    records = run_here(OBJ1, f"--preset mine.toml {DATA.split('--limit_test')[0]} --limit_test 16")[0]
    assert [record["epsilon"] for record in records] == [0, 0.3] and records[0]["timesteps"] == 3


def test_a_recipe_like_another_goes_on_from_it_or_from_a_checkpoint(own):
    """Both beside it; what it says itself holds, and it starts where the other does only if it does not say where."""
    Path("longer.toml").write_text('like = "mine"\nfc_width = 16\n[snn]\nepochs = 2\n')
    args = parsed(SNN, "--preset", "longer.toml", "--seed", "2")
    assert (args.fc_width, args.epochs, args.timesteps, args.given["augment"]) == (16, 2, 3, True)
    assert args.run_name == "longer_2" and args.pretrained_ann == "trained_models/ann/mine_2.pth"
    assert args.made_by == {args.pretrained_ann: "python ann_wFeedback.py --preset mine.toml --seed 2"}
    Path("other.toml").write_text('like = "mine"\n[snn]\npretrained_snn = "longer"\nteacher_ann = "quick_baseline"\n')
    args = parsed(SNN, "--preset", "other.toml")
    assert (args.pretrained_snn, args.pretrained_ann) == ("trained_models/snn/longer.pth", "")
    assert args.teacher_ann == "trained_models/ann/quick_baseline.pth"
    assert parsed(ANN, "--preset", "other.toml").run_name == "mine"
    Path("other.toml").write_text('like = "mine"\n[snn]\npretrained_snn = "x.pth"\n')
    args = parsed(SNN, "--preset", "other.toml")
    assert args.pretrained_snn == args.given["pretrained_snn"] == "x.pth" and not args.made_by
    assert parsed(SNN, "--preset", "other.toml", "--pretrained_ann", "y.pth").pretrained_snn == ""


def test_a_recipe_or_checkpoint_that_names_tensorboard_is_told_so_and_runs(own, trained, capsys):
    Path("mine.toml").write_text("tensorboard = true\n" + OWN)
    assert parsed(ANN, "--preset", "mine.toml").fc_width == 8
    run_here(SNN, f"--pretrained_ann {trained.ann} {SPIKING} --run_name x")
    last = Path("trained_models/snn/x_last.pth")
    saved = load_checkpoint(last)
    torch.save(saved | {"flags": saved["flags"] | {"tensorboard": True}}, last)
    run_here(SNN, "--resume --run_name x --epochs 2")
    told = [line for line in capsys.readouterr().err.splitlines() if "tensorboard" in line]
    assert told == [
        "note: mine.toml: tensorboard is no flag any more: it is ignored",
        f"note: {last} was trained with --tensorboard, which is no flag any more: it is ignored",
    ]


# --- what cannot be


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("fc_with = 8", "mine.toml: fc_with is no flag of this script: did you mean fc_width? --help_all lists them"),
        ("[anm]\n", "mine.toml: anm is no flag of this script: did you mean ann?"),
        ("calibrate = true", "mine.toml: calibrate is no flag of this script: "),  # of SNNs
        ("fc_width = 0", "mine.toml: fc_width: 0 is not a whole number at least 1"),
        ("augment = 1", "mine.toml: augment: 1 is neither True nor False"),
        ("optimizer = 'Adma'", "mine.toml: optimizer: unknown name 'Adma': did you mean Adam?"),
        ("architecture = 'VGG5_wFeedbck'", "mine.toml: architecture: unknown name 'VGG5_wFeedbck': did you mean VGG5_wFeedback?"),
        ("data_dir = true", "mine.toml: data_dir: True is neither text nor a number"),
        ("lr_interval = [0.5, 2.0]", "mine.toml: lr_interval: 2.0 is not a number at least 0"),
        ("teacher_ann = 'quick_twn'", "mine.toml: teacher_ann: unknown preset 'quick_twn': did you mean quick_baseline?"),
        ("like = 'baselin'", "mine.toml: like: unknown preset 'baselin': did you mean baseline?"),
        ("like = 'mine'", "mine.toml: like: mine leads back to itself"),
        ("run_name = 'ann_baseline'", "mine.toml: the ANN of recipe baseline is called ann_baseline: change the file's name, or"),
        ("pretrained_snn = 'x.pth'", "mine.toml: pretrained_snn is no flag of this script: did you mean pretrained_ann?"),
        ("ann = 3", "mine.toml: ann is no flag but a table, [ann]"),
        ("epochs 3", "mine.toml: Expected '=' after a key"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_its_file(own, more, line):
    Path("mine.toml").write_text(more if more == "ann = 3" else f'dataset = "MNIST"\n{more}\n[ann]\n')
    assert f"error: {line}" in refused(ANN, f"--preset mine.toml {DATA}") and not Path("logs").exists()


def test_a_recipe_that_is_not_there_or_lacks_what_is_asked_for(own):
    assert refused(ANN, "--preset min.toml") == "error: no file 'min.toml': did you mean mine.toml? --help names all"
    assert "unknown preset 'nnnn" in refused(ANN, f"--preset {'n' * 300}")
    Path("bytes.toml").write_bytes(b"epochs = 1 # \xe4")
    assert "bytes.toml: 'utf-8' codec can't decode byte 0xe4" in refused(ANN, "--preset bytes.toml")
    Path("round.toml").write_text('[snn]\npretrained_snn = "round"\n')
    assert "round.toml: pretrained_snn: round leads back to itself" in refused(ANN, "--preset round.toml")
    Path("plain.toml").write_text("[snn]\n")
    assert "plain.toml has no [ann]" in refused(ANN, "--preset plain.toml")
    assert "strided_base has no [snn]" in refused(SNN, "--preset strided_base")
    Path("quick_baseline.toml").write_text(OWN)
    line = "quick_baseline.toml: the SNN of recipe quick_baseline is called quick_baseline: change the file's name, or run_name"
    assert line in refused(OBJ1, "--preset quick_baseline.toml")
