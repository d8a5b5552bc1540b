"""Flags, recipes and checkpoints become a model; a log names flags without effect."""

import dataclasses
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

import wfeedback.runs.run
from self_models.checkpoints.files import load_checkpoint
from self_models.config import SNNConfig
from self_models.data.sets import ImageSet
from self_models.errors import UserError
from self_models.feedback.gates import GATES, Blocking
from self_models.settings import FRACTION, objective_setting
from self_models.vgg_wFeedback import VGG_wFeedback
from wfeedback.building.models import find_device, new_snn
from wfeedback.building.start import whiten_first_layer
from wfeedback.command_line.recipes import FOLDER, find, names
from wfeedback.commands.compare import find_network
from wfeedback.data.facts import find_facts
from wfeedback.measuring.read_logs import find_runs
from wfeedback.runs.run import PublishedPaths, log_beside, name_for_training


def test_a_made_up_setting_says_whether_post_hoc_scripts_adopt_it(trained, tmp_path, monkeypatch):
    @dataclass
    class Fresh(Blocking):
        freshness: float = objective_setting(0.5, FRACTION, "nothing", group="gate")

    monkeypatch.setitem(GATES, "fresh", Fresh)
    here = f"--timesteps 2 --output_dir {tmp_path} --gate fresh"
    typed = "--epsilon 0.4 --freshness 0.25 --latch"
    run_here("snn", f"--pretrained_ann {trained.ann} {SPIKING} {typed} --run_name x", here)

    checkpoint = tmp_path / "trained_models/snn/x.pth"
    run_undrawn("obj1", f"--pretrained_snn {checkpoint} --limit_test 8 --run_name y", here)

    (opening,) = records(tmp_path / "logs/snn/y.jsonl", "run")
    assert opening["parameters"]["freshness"] == 0.5
    log = (tmp_path / "logs/snn/y.log").read_text()
    assert "freshness=" not in log
    assert "latch=True" in log


@pytest.mark.parametrize(
    ("name", "flags", "unused"),
    [
        (
            "snn",
            "--test_only --holdout 5 --dropout 0 --alpha 1 --latch --gap_bound 3",
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
    ids=["training and parts", "contrast and training", "conversion", "a gate without a decoder"],
)
def test_one_line_names_typed_flags_of_training_and_of_parts_not_chosen(
    trained, baseline, tmp_path, name, flags, unused
):
    here = f"--pretrained_snn {trained.snn} {DATA} --run_name x --output_dir {tmp_path}"

    _, said = run_undrawn(name, here, flags.format(baseline=baseline))

    line = f"note: without effect here: {unused}"
    log = (tmp_path / "logs/snn/x.log").read_text()
    assert line in said.splitlines()
    assert line in log.splitlines()
    # The log lists what differs from the defaults; what has no effect is not among it.
    assert "scaling_factor=" not in log

    test_only = "--test_only" if name == "snn" else ""
    _, said = run_undrawn(name, here, f"{test_only} --overwrite")
    assert "without effect" not in said


NO_EFFECT = "note: --default_threshold has no effect: "
OF_SNN = NO_EFFECT + "the thresholds are those of {snn}"
OF_ANN = NO_EFFECT + "the conversion of {ann} finds the thresholds"


@pytest.mark.parametrize(
    ("name", "flags", "line"),
    [
        ("snn", "--test_only --pretrained_snn {snn} --default_threshold 9", OF_SNN),
        ("obj1", "--pretrained_snn {snn} --default_threshold 9", OF_SNN),
        ("obj1", "--pretrained_ann {ann} --default_threshold 9 --timesteps 2 {BALANCE}", OF_ANN),
        # Also where a recipe says it: nothing else would tell who wrote it.
        ("obj1", "--preset {here}/high.toml", OF_SNN),
    ],
    ids=["snn", "obj1", "conversion", "recipe"],
)
def test_a_threshold_that_a_network_does_not_take_is_told(trained, tmp_path, name, flags, line):
    network = f'pretrained_snn = "{trained.snn}"'
    (tmp_path / "high.toml").write_text(f"[snn]\n[evaluation]\n{network}\ndefault_threshold = 9\n")
    known = {"snn": trained.snn, "ann": trained.ann, "here": tmp_path, "BALANCE": BALANCE}
    here = f"{DATA} --run_name x --output_dir {tmp_path}"

    _, said = run_undrawn(name, flags.format(**known), here)

    told = [each for each in said.splitlines() if each.startswith(NO_EFFECT)]
    assert told == [line.format(**known)]


def test_a_threshold_that_nobody_typed_is_not_told(trained, tmp_path):
    here = f"{DATA} --run_name x --output_dir {tmp_path}"

    _, said = run_undrawn("obj1", f"--pretrained_snn {trained.snn}", here)

    assert NO_EFFECT not in said


def test_a_threshold_that_a_new_decoder_takes_is_not_told(baseline, tmp_path):
    # The checkpoint has the thresholds of encoder and classifier alone.
    here = f"{DATA} --epochs 0 --holdout 0 --run_name x --output_dir {tmp_path}"
    grown = "-a VGG5_wFeedback_small --readout membrane --default_threshold 9"

    _, said = run_here("snn", f"--pretrained_snn {baseline} {grown} {here}")

    assert "has no decoder: this one starts at random" in said
    assert NO_EFFECT not in said
    state = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["state_dict"]
    decoder = {name: value for name, value in state.items() if name.startswith("generate")}
    thresholds = [value for name, value in decoder.items() if "thr" in name]
    assert thresholds
    assert all(threshold == 9 for threshold in thresholds)


def names_in_order(recipes):
    """Sort the names of recipes: each after the one whose network it starts from."""
    ordered = []
    left = dict(recipes)
    while left:
        ready = [
            name
            for name, recipe in left.items()
            if recipe.starts.get("pretrained_snn") not in left
        ]
        assert ready, left
        for name in ready:
            ordered.append(name)
            del left[name]
    return ordered


@pytest.mark.parametrize(
    "family", [("quick", "stream"), ("fashion",)], ids=["quick and stream", "fashion"]
)
def test_every_preset_finds_what_it_starts_from(tmp_path, family):
    # Between them, the two families have every way to begin. A name is enough.
    recipes = {name: find(name, "snn") for name in names("snn") if name.startswith(family)}
    here = f"--dataset MNIST --seed 7 --output_dir {tmp_path}"
    small = f"--fc_width 4 --limit_test 4 --batch_size 8 {here}"
    train = f"{small} --precision float32 --epochs 1 --limit_train 8 --holdout 2"

    for name in recipes:
        if name in names("ann"):
            run_here("ann", f"{train} --preset {name}")
    for name in names_in_order(recipes):
        recipe = recipes[name]
        balance = ""
        if "pretrained_ann" in recipe.starts:
            balance = "--balance_images 4 --balance_timesteps 3"
        _, said = run_here("snn", f"{train} --preset {name} {balance}")
        run_undrawn("obj1", f"{small} --preset {name}")

        # Training prints what the preset stands for.
        assert re.match(f"preset {name}: --.*; from ", said)
        assert "random weights" not in said
        assert (tmp_path / f"trained_models/snn/{recipe.run}_7.pth").is_file()


def test_the_committed_checkpoints_serve_until_the_user_has_trained_his_own(tmp_path):
    words = ["obj1", "--preset", "fast_feedback", "--output_dir", str(tmp_path)]

    # The path may be relative to the working directory.
    found = Path(parsed(*words).pretrained_snn).resolve()
    assert found == REPOSITORY / "trained_models/snn/fast_feedback.pth"

    own = tmp_path / "trained_models/snn/fast_feedback.pth"
    own.parent.mkdir(parents=True)
    own.touch()
    assert parsed(*words).pretrained_snn == str(own)


@pytest.fixture
def clone(tmp_path, monkeypatch, trained):
    """Go into a clone whose network `tiny` came with the program; return its root."""
    for kind, checkpoint in (("ann", trained.ann), ("snn", trained.snn)):
        committed = PublishedPaths(kind, "tiny")
        for folder in (committed.files, committed.logs):
            (tmp_path / folder.relative_to(REPOSITORY)).mkdir(parents=True)
        shutil.copy(checkpoint, tmp_path / "trained_models" / kind)
        shutil.copy(trained.folder / f"logs/{kind}/tiny.jsonl", tmp_path / "logs/published" / kind)
    monkeypatch.setattr(wfeedback.runs.run, "HOME", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_in_a_clone_leaves_what_came_with_the_program_as_it_is(clone):
    before = digests(clone)
    flags = f"-a VGG5_wFeedback_small --fc_width 8 --epochs 1 {DATA} --holdout 8 --run_name tiny"

    # The run takes another name, and says so.
    _, said = run_here("ann", flags)
    assert said.startswith("tiny came with the program: this run is called tiny_own\n")
    files = digests(clone)
    assert before.items() < files.items()
    new_files = files.keys() - before.keys()
    assert {path for path in new_files if "/ann/" in path} == {
        "logs/ann/tiny_own.jsonl",
        "logs/ann/tiny_own.log",
        "trained_models/ann/tiny_own.pth",
        "trained_models/ann/tiny_own_last.pth",
    }

    # From then on this is the run that --resume and --overwrite mean.
    line = refused("ann", flags)
    assert "trained_models/ann/tiny_own.pth exists: --resume goes on with that run" in line
    line = refused("ann", "--run_name tiny --resume")
    assert "tiny_own_last.pth has trained 1 epoch already" in line
    run_here("ann", flags, "-lr 0.1 --overwrite")
    assert before.items() < digests(clone).items()
    assert files != digests(clone)


def test_compare_and_report_find_the_users_run_first(clone):
    published_ann = clone / "logs/published/ann/tiny.jsonl"
    published_snn = clone / "logs/published/snn/tiny.jsonl"

    network = find_network("tiny", 0, ".")
    assert network.log.resolve() == published_snn
    assert network.is_published
    assert log_beside("trained_models/snn/tiny.pth") == published_snn
    assert [run.path for run in find_runs(["tiny"], ".")] == [published_ann, published_snn]

    own = clone / "logs/snn/tiny_own.jsonl"
    own.parent.mkdir()
    shutil.copy(published_snn, own)

    network = find_network("tiny", 0, ".")
    assert network.log.resolve() == own
    assert not network.is_published
    assert network.checkpoint == Path("trained_models/snn/tiny_own.pth")
    assert [run.path for run in find_runs(["tiny"], ".")] == [own]
    assert log_beside("trained_models/snn/tiny.pth") == published_snn
    assert log_beside("trained_models/snn/tiny_own.pth") == own


def test_the_log_beside_an_ann_is_its_own(clone):
    published = clone / "logs/published/ann/tiny.jsonl"

    # Not that of an SNN of the same name, whether or not that has a checkpoint.
    assert log_beside("trained_models/ann/tiny.pth", "ann") == published
    (clone / "trained_models/snn/tiny.pth").unlink()
    assert log_beside("trained_models/ann/tiny.pth", "ann") == published

    # A run of the user's counts without its last checkpoint, too.
    own = clone / "logs/ann/tiny.jsonl"
    own.parent.mkdir()
    shutil.copy(published, own)
    assert log_beside("trained_models/ann/tiny.pth", "ann") == own


@pytest.mark.parametrize(
    ("name", "name_of_run"),
    [("tiny", "tiny_own"), ("tiny_1", "tiny_own_1"), ("fine_2nd", "fine_2nd_own")],
)
def test_a_run_with_the_name_of_a_published_network_is_called_own_before_its_seed(
    clone, name, name_of_run
):
    for published in ("tiny_1", "fine_2nd"):
        shutil.copy("trained_models/snn/tiny.pth", f"trained_models/snn/{published}.pth")
        shutil.copy("logs/published/snn/tiny.jsonl", f"logs/published/snn/{published}.jsonl")

    assert name_for_training("snn", name, ".") == name_of_run


def test_a_name_is_free_elsewhere_and_once_the_user_has_trained_it_himself(clone):
    shutil.copy("trained_models/snn/tiny.pth", "trained_models/snn/tiny_1.pth")
    shutil.copy("logs/published/snn/tiny.jsonl", "logs/published/snn/tiny_1.jsonl")

    assert name_for_training("snn", "tiny_2", ".") == "tiny_2"  # no such seed came with it
    assert name_for_training("snn", "tiny", "runs") == "tiny"

    (clone / "trained_models/snn/tiny_last.pth").touch()
    assert name_for_training("snn", "tiny", ".") == "tiny"


def test_a_recipes_network_is_the_users_before_the_programs(tmp_path, monkeypatch):
    monkeypatch.setattr(wfeedback.runs.run, "HOME", tmp_path)
    monkeypatch.chdir(tmp_path)
    published = tmp_path / "trained_models/snn/quick_feedback.pth"
    log = tmp_path / "logs/published/snn/quick_feedback.jsonl"
    for path in (published, log):
        path.parent.mkdir(parents=True)
        path.touch()
    words = ["obj1", "--preset", "quick_feedback"]

    assert parsed(*words).pretrained_snn == "trained_models/snn/quick_feedback.pth"

    published.with_stem("quick_feedback_own").touch()
    assert parsed(*words).pretrained_snn == "trained_models/snn/quick_feedback_own.pth"


RECIPES = sorted(path.stem for path in FOLDER.glob("*.toml"))
COMMON = """
architecture = "VGG5_wFeedback_small"
fc_width = 8
dataset = "MNIST"
holdout = 8
augment = true
epochs = 1
"""
SNN_TABLE = f"""
[snn]
{COMMON}
timesteps = 3
epsilon = 0.2
lr_interval = [0.5, 0.9]
update = "immediate"
"""
OWN_RECIPE = f"""
[ann]
{COMMON}
learning_rate = 5e-3
{SNN_TABLE}
[evaluation]
epsilon = [0, 0.3]
"""


@functools.cache
def parser_of(script):
    """Build the parser of a script, once."""
    return module_of(script).build_parser()


def parsed(script, *words):
    return parser_of(script).parse_args(words)


SCRIPTS = ("ann", "snn", "analysis", "stream", "obj1", "obj2", "obj3")


def recipes_with_scripts():
    """Pair each recipe with each script that takes it."""
    pairs = []
    for recipe in RECIPES:
        for script in SCRIPTS:
            kind = "ann" if script == "ann" else "snn"
            if recipe in names(kind):
                pairs.append((recipe, script))
    return pairs


# Of these a recipe tells more than its flags, or something else.
TOLD_BY_A_RECIPE = (
    "made_by",
    "preset",
    "preset_flags",
    "run_name",
    "teacher_ann",
    "pretrained_ann",
    "pretrained_snn",
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_says_why_in_two_lines(recipe):
    first, second, third, *_ = (FOLDER / f"{recipe}.toml").read_text("utf-8").splitlines()

    assert first.startswith("# ")
    assert second.startswith("# ")
    assert third == ""


@pytest.mark.parametrize(("recipe", "script"), recipes_with_scripts())
def test_a_recipe_counts_as_its_flags_typed_do(recipe, script):
    typed = ["--dataset", "MNIST"] if recipe == "own" else []

    by_recipe = parsed(script, "--preset", recipe, *typed)
    by_flags = parsed(script, *shlex.split(by_recipe.preset_flags), *typed)

    values = dict(vars(by_recipe))
    expected = dict(vars(by_flags))
    for name in TOLD_BY_A_RECIPE:
        values.pop(name, None)
        expected.pop(name, None)
    assert values == expected
    assert by_recipe.given == by_flags.given | {"preset"}
    assert list(by_recipe.typed) == (["preset", "dataset"] if typed else ["preset"])


def test_preset_list_shows_what_is_known_of_each_recipe(capsys):
    with pytest.raises(SystemExit) as stop:
        module_of("obj1").main(["--preset", "list"])

    assert stop.value.code == 0
    _, *lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert list(rows) == RECIPES
    # accuracy in %, spikes, time to train, size of the checkpoint
    assert re.search(r" 98.66 +3,598 +5 minutes +\d\.\d MB ", rows["quick_feedback"])
    assert " - " in rows["own"]


def test_what_is_typed_holds_instead_of_a_recipes_value():
    args = parsed("ann", "--preset", "residual_feedback", "--epochs", "3")
    assert args.epochs == 3

    args = parsed("snn", "--preset", "own", "--epochs", "3", "--timesteps", "4", "--no-latch")
    assert args.updates is None
    assert args.timesteps == 4
    assert args.latch is False


def test_an_evaluation_takes_the_recipes_table_of_evaluation_and_no_other():
    args = parsed("obj1", "--preset", "fast_feedback")

    assert args.epsilon == [0.5]
    assert args.given == {"preset", "epsilon"}


@pytest.fixture
def own_recipe(tmp_path, monkeypatch):
    """Go into a folder with the recipe mine.toml."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(OWN_RECIPE)


@pytest.mark.usefixtures("own_recipe")
def test_a_start_may_be_a_recipe_beside_it_of_the_same_seed():
    Path("longer.toml").write_text(f'{SNN_TABLE}pretrained_ann = "mine"\n')

    args = parsed("snn", "--preset", "longer.toml", "--seed", "2")

    assert args.run_name == "longer_2"
    assert args.pretrained_ann == "trained_models/ann/mine_2.pth"
    made_by = "python ann_wFeedback.py --preset mine.toml --seed 2"
    assert args.made_by == {args.pretrained_ann: made_by}


@pytest.mark.usefixtures("own_recipe")
def test_a_start_may_be_an_snn_and_a_teacher_one_that_came_with_the_program():
    Path("longer.toml").write_text(f'{SNN_TABLE}pretrained_ann = "mine"\n')
    starts = 'pretrained_snn = "longer"\nteacher_ann = "quick_baseline"\n'
    Path("other.toml").write_text(SNN_TABLE + starts)

    args = parsed("snn", "--preset", "other.toml")

    assert args.pretrained_snn == "trained_models/snn/longer.pth"
    assert args.pretrained_ann == ""
    assert args.teacher_ann == "trained_models/ann/quick_baseline.pth"


@pytest.mark.usefixtures("own_recipe")
def test_a_start_may_be_a_path_and_one_that_is_typed_takes_its_place():
    Path("other.toml").write_text(f'{SNN_TABLE}pretrained_snn = "x.pth"\n')

    args = parsed("snn", "--preset", "other.toml")
    assert args.pretrained_snn == "x.pth"
    assert "pretrained_snn" in args.given
    assert not args.made_by

    args = parsed("snn", "--preset", "other.toml", "--pretrained_ann", "y.pth")
    assert args.pretrained_snn == ""


@pytest.mark.usefixtures("own_recipe")
@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            "fc_with = 8",
            "fc_with is no flag of this script: did you mean fc_width? --help_all lists them",
        ),
        ("lr_interval = [0.5, 2.0]", "lr_interval: 2.0 is not a number from 0"),
        (
            "teacher_ann = 'baselin'",
            "teacher_ann: unknown recipe 'baselin': did you mean baseline?",
        ),
        ("augment = 1", "augment: 1 is neither True nor False"),
        ("epochs 3", "Expected '=' after a key"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_its_file(more, line):
    Path("mine.toml").write_text(f'[ann]\ndataset = "MNIST"\n{more}\n')

    said = refused("ann", f"--preset mine.toml {DATA}")

    assert f"error: mine.toml: {line}" in said
    assert not Path("logs").exists()


@pytest.mark.usefixtures("own_recipe")
def test_a_recipe_that_is_not_there_or_lacks_what_is_asked_for():
    Path("minf.toml").write_text("[project]\n")  # which is no recipe, though more alike
    line = refused("ann", "--preset min.toml")
    assert line == "error: no file 'min.toml': did you mean mine.toml? --preset list names all"

    Path("plain.toml").write_text("epochs = 1\n[ann]\n")
    line = refused("ann", "--preset plain.toml")
    assert "plain.toml: epochs stands in none of the tables [ann], [snn], [evaluation]" in line

    line = refused("snn", "--preset vgg11_plain_base")
    assert "vgg11_plain_base has no [snn]" in line


@pytest.mark.usefixtures("own_recipe")
def test_an_own_recipe_does_not_take_the_network_of_a_published_one_of_its_name():
    Path("quick_baseline.toml").write_text(OWN_RECIPE)

    line = refused("obj1", "--preset quick_baseline.toml")

    assert "needs trained_models/snn/quick_baseline.pth, which is not there" in line


@pytest.mark.parametrize(
    ("flags", "network", "changed"),
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
def test_a_checkpoints_settings_hold_unless_typed(trained, tmp_path, flags, network, changed):
    here = f"{DATA} --run_name x --output_dir {tmp_path}"

    run_here("snn", f"--pretrained_snn {trained.snn} {flags} --epochs 1 --select test {here}")

    before = load_checkpoint(trained.snn)
    after = load_checkpoint(tmp_path / "trained_models/snn/x.pth")
    assert after["model"] == network
    expected = before["settings"] | changed
    assert expected.items() <= after["settings"].items()


def smooth_images(count):
    """Make colour images whose neighbouring pixels are alike, with noise."""
    torch.manual_seed(0)
    coarse = torch.randn(count, 3, 4, 4)
    smooth = F.interpolate(coarse, size=12, mode="bicubic")
    smooth = (60 * smooth + 120).clamp(0, 255)
    noise = 30 * torch.randn(count, 3, 12, 12)
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("width", [54, 12], ids=["all patterns", "those of most variance"])
def test_whitened_patches_are_uncorrelated_and_of_variance_1(width):
    train = ImageSet("CIFAR10", smooth_images(30), None)
    model = VGG_wFeedback(plan=[[width], []], image_shape=(3, 12, 12), fc_layers=0, whitening=True)
    half = width // 2

    said = whiten_first_layer(model, train)

    assert said.startswith(f"whitening: {half} patterns of 3x3 pixels have ")
    assert said.endswith("of 30 images' variance")

    # The first half of the filters whitens patches within the images.
    filters = model.features[0].weight
    assert not filters.requires_grad
    responses = F.conv2d(train.whole().images, filters).transpose(0, 1).flatten(1)
    covariance = responses[:half].cov(correction=0)
    torch.testing.assert_close(covariance, torch.eye(half), atol=0.02, rtol=0)
    # The second half is the negative of the first.
    assert torch.equal(filters[half:], -filters[:half])


def new_weights(seed):
    """Return all weights of a new network in one vector."""
    args = parsed("snn", "-a", "VGG5_wFeedback_small", "--fc_width", "8", "--seed", seed)
    find_facts(args)
    return torch.cat([value.flatten() for value in new_snn(args).state_dict().values()])


def test_the_seed_draws_the_weights():
    weights = new_weights("3")

    assert torch.equal(weights, new_weights("3"))
    assert not torch.equal(weights, new_weights("4"))


@dataclass
class Machine:
    """What a machine pretends to have, and what was done with it.

    Attributes
    ----------
    gpus : str
        "cuda", of which it has two, "mps", or both.
    rank : int
        Rank of this process; 1 is one of two processes.
    calls : list
        "exactly" for arithmetic without shortcuts, and the GPUs that were set.
    """

    gpus: str
    rank: int
    calls: list


@pytest.fixture
def machine(monkeypatch):
    """Pretend to run on another machine, by default one without GPUs."""
    machine = Machine("", 0, [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in machine.gpus)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", machine.calls.append)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in machine.gpus)
    monkeypatch.setattr(
        "wfeedback.building.models.compute_exactly", lambda: machine.calls.append("exactly")
    )
    monkeypatch.setattr("wfeedback.runs.ranks.count", lambda: 1 + machine.rank)
    monkeypatch.setattr("wfeedback.runs.ranks.local_rank", lambda: machine.rank)
    return machine


def flags_of_device(**typed):
    """Return the flags that choose a device, with defaults where nothing is typed."""
    flags = {"device": "auto", "gpu": True, "devices": 0, **typed}
    return SimpleNamespace(**flags)


@pytest.mark.parametrize(
    ("typed", "gpus", "rank", "device", "calls"),
    [
        ({}, "", 0, "cpu", []),
        ({}, "cuda mps", 0, "cuda:0", ["exactly", 0]),
        ({}, "mps", 0, "mps", []),
        ({"gpu": False}, "cuda mps", 0, "cpu", []),
        ({"devices": 1}, "cuda", 0, "cuda:1", ["exactly", 1]),
        ({}, "cuda", 1, "cuda:1", ["exactly", 1]),
        ({"engine": "event"}, "cuda", 0, "cpu", []),
    ],
    ids=str,
)
def test_the_device_that_the_flags_ask_for(machine, typed, gpus, rank, device, calls):
    machine.gpus = gpus
    machine.rank = rank

    found = find_device(flags_of_device(**typed))

    assert str(found) == device
    assert machine.calls == calls


@pytest.mark.parametrize(
    ("typed", "gpus", "rank", "line"),
    [
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
def test_a_device_that_is_not_there_is_refused(machine, typed, gpus, rank, line):
    machine.gpus = gpus
    machine.rank = rank

    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        find_device(flags_of_device(**typed))


def test_the_flags_check_by_the_same_ranges():
    # A field and its flag are one declaration, so that they cannot drift apart.
    flags = module_of("snn").build_parser([]).settings

    for field in dataclasses.fields(SNNConfig):
        declared = field.metadata["setting"]
        if declared.option_strings(field.name):
            assert flags[declared.flag(field.name)].kind is declared.kind
