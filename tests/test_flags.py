"""A setting is declared once; flags, recipes and checkpoints become a model; the log names typed flags without effect."""

import functools
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    BALANCE,
    DATA,
    REPOSITORY,
    SPIKING,
    digests,
    module_of,
    records,
    refused,
    run_here,
    run_undrawn,
)

import harness.runs.run
from compare import find_network
from harness import UserError
from harness.building.models import find_device, new_snn
from harness.building.start import whiten_first_layer
from harness.command_line.recipes import FOLDER, find, names
from harness.data.facts import find_facts
from harness.measuring.read_logs import find_runs
from harness.runs.run import PublishedPaths, log_beside, name_for_training
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import FRACTION, objective_setting
from self_models.data.sets import ImageSet
from self_models.objectives.gates import GATES, Blocking
from self_models.vgg_wFeedback import VGG_wFeedback


def test_a_made_up_setting_says_whether_post_hoc_scripts_adopt_it(trained, tmp_path, monkeypatch):
    @dataclass
    class Fresh(Blocking):
        freshness: float = objective_setting(0.5, FRACTION, "nothing", group="gate")

    monkeypatch.setitem(GATES, "fresh", Fresh)
    here = f"--timesteps 2 --output_dir {tmp_path} --gate fresh"
    run_here(
        "snn",
        f"--pretrained_ann {trained.ann} {SPIKING} --epsilon 0.4 --freshness 0.25 --latch --run_name x",
        here,
    )
    run_here(
        "obj1",
        f"--pretrained_snn {tmp_path}/trained_models/snn/x.pth --limit_test 8 --run_name y",
        here,
    )
    (opening,), log = (
        records(tmp_path / "logs/snn/y.jsonl", "run"),
        (tmp_path / "logs/snn/y.log").read_text(),
    )
    assert (
        opening["parameters"]["freshness"] == 0.5
        and "freshness=" not in log
        and "latch=True" in log
    )


@pytest.mark.parametrize(
    ("name", "flags", "unused"),
    [
        (
            "snn",
            "--holdout 5 --dropout 0 --alpha 1 --latch --gap_bound 3",
            "--holdout, --dropout, --alpha, --latch, --gap_bound",
        ),
        (
            "obj1",
            "--contrast local --trade_off 2 --no-amsgrad --epsilon 0",
            "--contrast, --amsgrad",
        ),
        ("obj1", "--scaling_factor 0.4 --calibrate", "--scaling_factor, --calibrate"),
        ("obj1", "--pretrained_snn {baseline} --gate block", "--gate"),
    ],
)
def test_one_line_names_typed_flags_of_training_and_of_parts_not_chosen(
    trained, baseline, tmp_path, name, flags, unused
):
    more = "--test_only" if name == "snn" else ""
    here = f"--pretrained_snn {trained.snn} {more} {DATA} --run_name x --output_dir {tmp_path}"
    _, said = run_undrawn(name, here, flags.format(baseline=baseline))
    line = f"note: without effect here: {unused}"
    log = (tmp_path / "logs/snn/x.log").read_text()
    assert line in said.splitlines() and line in log.splitlines()
    assert "scaling_factor=" not in log  # where it lists what differs from the defaults
    assert "without effect" not in run_undrawn(name, here, "--overwrite")[1]


NO_EFFECT = "note: --default_threshold has no effect: "
OF_SNN = NO_EFFECT + "the thresholds are those of {snn}"
OF_ANN = NO_EFFECT + "the conversion of {ann} finds the thresholds"


@pytest.mark.parametrize(
    ("name", "flags", "line"),
    [
        ("snn", "--test_only --pretrained_snn {snn} --default_threshold 9", OF_SNN),
        ("obj1", "--pretrained_snn {snn} --default_threshold 9", OF_SNN),
        ("obj1", "--pretrained_ann {ann} --default_threshold 9 --timesteps 2 {BALANCE}", OF_ANN),
        ("obj1", "--preset {here}/high.toml", OF_SNN),
        ("obj1", "--pretrained_snn {snn}", ""),
    ],
)
def test_a_threshold_that_a_network_does_not_take_is_told(trained, tmp_path, name, flags, line):
    """Also where a recipe says it: nothing else would tell who wrote it."""
    snn = f'pretrained_snn = "{trained.snn}"'
    (tmp_path / "high.toml").write_text(f"[snn]\n[evaluation]\n{snn}\ndefault_threshold = 9\n")
    known = {"snn": trained.snn, "ann": trained.ann, "here": tmp_path, "BALANCE": BALANCE}
    said = run_undrawn(
        name, flags.format(**known), f"{DATA} --run_name x --output_dir {tmp_path}"
    )[1]
    told = [each for each in said.splitlines() if each.startswith(NO_EFFECT)]
    assert told == ([line.format(**known)] if line else [])


def test_a_threshold_that_a_new_decoder_takes_is_not_told(baseline, tmp_path):
    """The checkpoint has those of encoder and classifier; the decoder begins at the default."""
    here = f"{DATA} --epochs 0 --holdout 0 --run_name x --output_dir {tmp_path}"
    grown = "-a VGG5_wFeedback_small --readout membrane --default_threshold 9"
    said = run_here("snn", f"--pretrained_snn {baseline} {grown} {here}")[1]
    assert "has no decoder: this one starts at random" in said and NO_EFFECT not in said
    state = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["state_dict"]
    of_decoder = [value for name, value in state.items() if "generate" in name and "thr" in name]
    assert of_decoder and all(value == 9 for value in of_decoder)


@pytest.mark.parametrize("family", ["quick|stream", "fashion"])  # between them every way to begin
def test_every_preset_finds_what_it_starts_from(tmp_path, family):
    """In the order of the table: its ANN, its SNN, and an evaluation, by the name alone; training prints what it stands for."""
    small = f"--dataset MNIST --fc_width 4 --limit_test 4 --batch_size 8 --seed 7 --output_dir {tmp_path}"
    train = f"{small} --precision float32 --epochs 1 --limit_train 8 --holdout 2"
    recipes = {
        name: find(name, "snn")
        for name in names("snn")
        if name.startswith(tuple(family.split("|")))
    }
    for name in [name for name in recipes if name in names("ann")]:
        run_here("ann", f"{train} --preset {name}")
    while recipes:  # each after what it starts from
        name, recipe = next(
            (name, one)
            for name, one in recipes.items()
            if one.starts.get("pretrained_snn") not in recipes
        )
        balance = (
            "--balance_images 4 --balance_timesteps 3" if "pretrained_ann" in recipe.starts else ""
        )
        out = run_here("snn", f"{train} --preset {name} {balance}")[1]
        assert re.match(f"preset {name}: --.*; from ", out) and "random weights" not in out
        run_undrawn("obj1", f"{small} --preset {name}")
        assert (tmp_path / f"trained_models/snn/{recipes.pop(name).run}_7.pth").is_file()


def test_the_committed_checkpoints_serve_where_there_is_no_own(tmp_path):
    words = ["obj1", "--preset", "fast_feedback", "--output_dir", str(tmp_path)]
    committed = Path(
        parsed(*words).pretrained_snn
    ).resolve()  # relative to where one is, if that is above it
    assert committed == REPOSITORY / "trained_models/snn/fast_feedback.pth"
    own = tmp_path / "trained_models/snn/fast_feedback.pth"
    own.parent.mkdir(parents=True)
    own.touch()  # what the user has trained himself comes first
    assert parsed(*words).pretrained_snn == str(own)


@pytest.fixture
def clone(tmp_path, monkeypatch, trained):
    """The root of a clone, where one is: the network `tiny` came with the program, its log is published."""
    for kind, checkpoint in (("ann", trained.ann), ("snn", trained.snn)):
        committed = PublishedPaths(kind, "tiny")
        for folder in (committed.files, committed.logs):
            (tmp_path / folder.relative_to(REPOSITORY)).mkdir(parents=True)
        shutil.copy(checkpoint, tmp_path / "trained_models" / kind)
        shutil.copy(trained.folder / f"logs/{kind}/tiny.jsonl", tmp_path / "logs/published" / kind)
    monkeypatch.setattr(harness.runs.run, "HOME", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_in_a_clone_leaves_what_came_with_the_program_as_it_is(clone):
    """It takes another name, says so, and is what --resume and --overwrite mean from then on."""
    before = digests(clone)
    flags = f"-a VGG5_wFeedback_small --fc_width 8 --epochs 1 {DATA} --holdout 8 --run_name tiny"
    said = run_here("ann", flags)[1]
    assert said.startswith("tiny came with the program: this run is called tiny_own\n")
    files = digests(clone)
    assert before.items() < files.items()
    assert {path for path in files.keys() - before.keys() if "/ann/" in path} == {
        "logs/ann/tiny_own.jsonl",
        "logs/ann/tiny_own.log",
        "trained_models/ann/tiny_own.pth",
        "trained_models/ann/tiny_own_last.pth",
    }
    line = refused("ann", flags)
    assert "trained_models/ann/tiny_own.pth exists: --resume goes on with that run" in line
    line = refused("ann", "--run_name tiny --resume")
    assert "tiny_own_last.pth has trained 1 epoch already" in line
    run_here("ann", flags, "-lr 0.1 --overwrite")
    assert before.items() < digests(clone).items()
    assert files != digests(clone)


def test_compare_and_report_find_the_users_run_first(clone):
    published = clone / "logs/published/snn/tiny.jsonl"
    assert find_network("tiny", 0, ".").log.resolve() == published
    assert find_network("tiny", 0, ".").is_published
    assert log_beside("trained_models/snn/tiny.pth") == published
    assert [run.path for run in find_runs(["tiny"], ".")] == [
        clone / "logs/published/ann/tiny.jsonl",
        published,
    ]
    own = clone / "logs/snn/tiny_own.jsonl"
    own.parent.mkdir()
    shutil.copy(published, own)
    assert find_network("tiny", 0, ".").log.resolve() == own
    assert not find_network("tiny", 0, ".").is_published
    assert find_network("tiny", 0, ".").checkpoint == Path("trained_models/snn/tiny_own.pth")
    assert [run.path for run in find_runs(["tiny"], ".")] == [own]
    assert log_beside("trained_models/snn/tiny.pth") == published
    assert log_beside("trained_models/snn/tiny_own.pth") == own


def test_the_log_beside_an_ann_is_its_own(clone):
    """Not that of an SNN of the same name; and a run of the user's counts without its last checkpoint, too."""
    published = clone / "logs/published/ann/tiny.jsonl"
    assert log_beside("trained_models/ann/tiny.pth", "ann") == published
    (clone / "trained_models/snn/tiny.pth").unlink()
    assert log_beside("trained_models/ann/tiny.pth", "ann") == published
    own = clone / "logs/ann/tiny.jsonl"
    own.parent.mkdir()
    shutil.copy(published, own)
    assert log_beside("trained_models/ann/tiny.pth", "ann") == own


def test_names_of_runs_where_networks_came_with_the_program(clone):
    """The seed stays at the end. Elsewhere, and once a user has trained it himself, the name is free."""
    for name in ("tiny_1", "fine_2nd"):
        shutil.copy("trained_models/snn/tiny.pth", f"trained_models/snn/{name}.pth")
        shutil.copy("logs/published/snn/tiny.jsonl", f"logs/published/snn/{name}.jsonl")
    names = {name: name_for_training("snn", name, ".") for name in ("tiny", "tiny_1", "fine_2nd")}
    assert names == {"tiny": "tiny_own", "tiny_1": "tiny_own_1", "fine_2nd": "fine_2nd_own"}
    assert name_for_training("snn", "tiny_2", ".") == "tiny_2"  # no such seed came with it
    assert name_for_training("snn", "tiny", "runs") == "tiny"
    (clone / "trained_models/snn/tiny_last.pth").touch()
    assert name_for_training("snn", "tiny", ".") == "tiny"


def test_a_recipes_network_is_the_users_before_the_programs(tmp_path, monkeypatch):
    monkeypatch.setattr(harness.runs.run, "HOME", tmp_path)
    monkeypatch.chdir(tmp_path)
    checkpoints, logs = tmp_path / "trained_models/snn", tmp_path / "logs/published/snn"
    for path in (checkpoints / "quick_feedback.pth", logs / "quick_feedback.jsonl"):
        path.parent.mkdir(parents=True)
        path.touch()
    words = ["obj1", "--preset", "quick_feedback"]
    assert parsed(*words).pretrained_snn == "trained_models/snn/quick_feedback.pth"
    (checkpoints / "quick_feedback_own.pth").touch()
    assert parsed(*words).pretrained_snn == "trained_models/snn/quick_feedback_own.pth"


FILES = sorted(FOLDER.glob("*.toml"))
BOTH = 'architecture = "VGG5_wFeedback_small"\nfc_width = 8\ndataset = "MNIST"\nholdout = 8\naugment = true\nepochs = 1\n'
SNN_TABLE = (
    f'[snn]\n{BOTH}timesteps = 3\nepsilon = 0.2\nlr_interval = [0.5, 0.9]\nupdate = "immediate"\n'
)
OWN = f"[ann]\n{BOTH}learning_rate = 5e-3\n{SNN_TABLE}[evaluation]\nepsilon = [0, 0.3]\n"


parser_of = functools.cache(lambda script: module_of(script).build_parser())


def parsed(script, *words):
    return parser_of(script).parse_args(words)


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_each_recipe_says_why_and_counts_as_its_flags_typed_do(name):
    """Its ANN's script knows each flag, its SNN's, and all that evaluate."""
    why = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()[:3]
    assert why[0].startswith("# ") and why[1].startswith("# ") and why[2] == ""
    given = ["--dataset", "MNIST"] * (name == "own")
    of_snn = ("snn", "analysis", "stream", "obj1", "obj2", "obj3") * (name in names("snn"))
    for script in (("ann",) * (name in names("ann"))) + of_snn:
        args = parsed(script, "--preset", name, *given)
        plain = parsed(script, *shlex.split(args.preset_flags), *given)
        own = dict.fromkeys(("made_by", "preset", "preset_flags", "run_name", "teacher_ann"))
        own |= dict.fromkeys(("pretrained_ann", "pretrained_snn"))
        assert vars(plain) | own == vars(args) | own
        assert args.given == plain.given | {"preset"} and list(args.typed) == ["preset"] + [
            "dataset"
        ] * bool(given)


def test_preset_list_shows_what_is_known_of_each_recipe(capsys):
    with pytest.raises(SystemExit) as stop:
        module_of("obj1").main(["--preset", "list"])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert stop.value.code == 0 and list(rows) == [path.stem for path in FILES]
    assert (
        re.search(r" 98.66 +3,598 +5 minutes +\d\.\d MB ", rows["quick_feedback"])
        and " - " in rows["own"]
    )


def test_what_is_typed_holds_instead():
    assert parsed("ann", "--preset", "residual_feedback", "--epochs", "3").epochs == 3
    args = parsed("snn", "--preset", "own", "--epochs", "3", "--timesteps", "4", "--no-latch")
    assert (args.updates, args.timesteps, args.latch) == (None, 4, False)
    args = parsed("obj1", "--preset", "fast_feedback")  # which takes its own table, and no other
    assert args.epsilon == [0.5] and args.given == {"preset", "epsilon"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(OWN)
    return tmp_path


def test_a_start_is_a_recipe_beside_it_or_a_path(own):
    """Of the same seed; one that is typed takes its place."""
    Path("longer.toml").write_text(f'{SNN_TABLE}pretrained_ann = "mine"\n')
    args = parsed("snn", "--preset", "longer.toml", "--seed", "2")
    assert args.run_name == "longer_2" and args.pretrained_ann == "trained_models/ann/mine_2.pth"
    assert args.made_by == {
        args.pretrained_ann: "python ann_wFeedback.py --preset mine.toml --seed 2"
    }
    Path("other.toml").write_text(
        f'{SNN_TABLE}pretrained_snn = "longer"\nteacher_ann = "quick_baseline"\n'
    )
    args = parsed("snn", "--preset", "other.toml")
    assert (args.pretrained_snn, args.pretrained_ann) == ("trained_models/snn/longer.pth", "")
    assert args.teacher_ann == "trained_models/ann/quick_baseline.pth"
    Path("other.toml").write_text(f'{SNN_TABLE}pretrained_snn = "x.pth"\n')
    args = parsed("snn", "--preset", "other.toml")
    assert args.pretrained_snn == "x.pth" and "pretrained_snn" in args.given and not args.made_by
    assert (
        parsed("snn", "--preset", "other.toml", "--pretrained_ann", "y.pth").pretrained_snn == ""
    )


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            "fc_with = 8",
            "mine.toml: fc_with is no flag of this script: did you mean fc_width? --help_all lists them",
        ),
        ("lr_interval = [0.5, 2.0]", "mine.toml: lr_interval: 2.0 is not a number from 0"),
        (
            "teacher_ann = 'baselin'",
            "mine.toml: teacher_ann: unknown recipe 'baselin': did you mean baseline?",
        ),
        ("augment = 1", "mine.toml: augment: 1 is neither True nor False"),
        ("epochs 3", "mine.toml: Expected '=' after a key"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_its_file(own, more, line):
    Path("mine.toml").write_text(f'[ann]\ndataset = "MNIST"\n{more}\n')
    assert (
        f"error: {line}" in refused("ann", f"--preset mine.toml {DATA}")
        and not Path("logs").exists()
    )


def test_a_recipe_that_is_not_there_or_lacks_what_is_asked_for(own):
    assert (
        refused("ann", "--preset min.toml")
        == "error: no file 'min.toml': did you mean mine.toml? --preset list names all"
    )
    Path("plain.toml").write_text("epochs = 1\n[ann]\n")
    assert "plain.toml: epochs stands in none of the tables [ann], [snn], [evaluation]" in refused(
        "ann", "--preset plain.toml"
    )
    assert "vgg11_plain_base has no [snn]" in refused("snn", "--preset vgg11_plain_base")
    Path("quick_baseline.toml").write_text(
        OWN
    )  # one of this name came with the program, and is another
    assert "needs trained_models/snn/quick_baseline.pth, which is not there" in refused(
        "obj1", "--preset quick_baseline.toml"
    )


@pytest.mark.parametrize(
    ("flags", "cls", "changed"),
    [
        ("--timesteps 3 --leak 0.5", "VGG_SNN_STDB_wFeedback", {"timesteps": 3, "leak": 0.5}),
        (
            "--epsilon 0.2 --latch",
            "InputBlockingSNN",
            {"gate": "block", "epsilon": 0.2, "latch": True},
        ),
        (
            "--gate contrast --rule both",
            "ContrastAttentionSNN",
            {"gate": "contrast", "rule": "both"},
        ),
    ],
)
def test_a_checkpoints_settings_hold_unless_typed(trained, tmp_path, flags, cls, changed):
    here = f"{DATA} --run_name x --output_dir {tmp_path}"
    run_here("snn", f"--pretrained_snn {trained.snn} {flags} --epochs 1 --select test {here}")
    before, after = (
        load_checkpoint(trained.snn),
        load_checkpoint(tmp_path / "trained_models/snn/x.pth"),
    )
    assert (
        after["model"] == cls
        and (before["settings"] | changed).items() <= after["settings"].items()
    )


def test_whitened_patches_are_uncorrelated_and_of_variance_1():
    """What the first half of the filters makes of patches within the images; the second half is the first's negative. A few
    patterns are those of most variance."""
    torch.manual_seed(0)
    smooth = (
        F.interpolate(torch.randn(30, 3, 4, 4), size=12, mode="bicubic")
        .mul(60)
        .add(120)
        .clamp(0, 255)
    )
    noisy = (smooth + 30 * torch.randn(30, 3, 12, 12)).clamp(0, 255).to(torch.uint8)
    train, whole = ImageSet("CIFAR10", noisy, None), torch.eye(27)
    for width in (54, 12):
        model = VGG_wFeedback(
            plan=[[width], []], image_shape=(3, 12, 12), fc_layers=0, whitening=True
        )
        said, half = whiten_first_layer(model, train), width // 2
        assert said.startswith(
            f"whitening: {half} patterns of 3x3 pixels have "
        ) and said.endswith("of 30 images' variance")
        filters = model.features[0].weight
        found = F.conv2d(train.whole().images, filters).transpose(0, 1).flatten(1)
        torch.testing.assert_close(
            found[:half].cov(correction=0), whole[:half, :half], atol=0.02, rtol=0
        )
        assert torch.equal(filters[half:], -filters[:half]) and not filters.requires_grad


def test_the_seed_draws_the_weights():
    words = ["-a", "VGG5_wFeedback_small", "--fc_width", "8", "--seed"]
    models = []
    for seed in "334":
        args = parsed("snn", *words, seed)
        find_facts(args)
        models.append(new_snn(args))
    draws = [
        torch.cat([value.flatten() for value in model.state_dict().values()]) for model in models
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("flags", "there", "rank", "expected"),
    [
        ({}, "", 0, "cpu"),
        ({}, "cuda mps", 0, "cuda:0"),
        ({}, "mps", 0, "mps"),
        ({"gpu": False}, "cuda mps", 0, "cpu"),
        ({"devices": 1}, "cuda", 0, "cuda:1"),
        ({}, "cuda", 1, "cuda:1"),
        ({"engine": "event"}, "cuda", 0, "cpu"),
        ({"device": "cuda"}, "mps", 0, "--device cuda: there is none here; choose auto or cpu"),
        (
            {"devices": 1},
            "cuda",
            1,
            "--devices 1 (rank 1 of this machine): there are GPUs 0 to 1 here",
        ),
    ],
    ids=str,
)
def test_the_device_that_the_flags_ask_for(monkeypatch, flags, there, rank, expected):
    """On a machine with two CUDA GPUs, or a Mac, or neither; rank 1 is one of two processes."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    monkeypatch.setattr(
        "harness.building.models.compute_exactly", lambda: chosen.append("exactly")
    )
    monkeypatch.setattr("harness.runs.ranks.count", lambda: 1 + rank)
    monkeypatch.setattr("harness.runs.ranks.local_rank", lambda: rank)
    args = SimpleNamespace(**{"device": "auto", "gpu": True, "devices": 0} | flags)
    if " " in expected:
        with pytest.raises(UserError, match=f"^{re.escape(expected)}"):
            find_device(args)
    else:
        assert str(find_device(args)) == expected
        assert chosen == (["exactly", int(expected[-1])] if "cuda" in expected else [])
