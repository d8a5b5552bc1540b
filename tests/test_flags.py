"""A setting is declared once; flags, recipes and checkpoints become a model; the log names typed flags without effect."""

import functools
import importlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    ANALYSIS,
    ANN,
    BALANCE,
    DATA,
    OBJ1,
    OBJ2,
    OBJ3,
    REPOSITORY,
    SNN,
    SPIKING,
    STREAM,
    digests,
    images,
    records,
    refused,
    run_here,
    run_undrawn,
    tiny,
)
from test_survive import train

from harness import UserError
from harness.building.models import find_device, new_snn
from harness.building.start import whiten_first_layer
from harness.command_line.flags import training_parser
from harness.command_line.recipes import FOLDER, find, names
from harness.data.facts import with_facts
from harness.data.sets import ImageSet
from self_models.basics import ModelError
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import FRACTION, objective_setting, setting
from self_models.objectives.gates import GATES, Blocking
from self_models.vgg_wFeedback import VGG_wFeedback
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


def small(cls, **settings):
    return tiny(cls, timesteps=8, readout="membrane_linear", **settings)


def test_the_constructor_knows_a_made_up_setting(strict):
    model = small(VGG_SNN_STDB_wFeedback, gate="strict", epsilon=0.4, strictness=0.5)
    x = images(3)
    found, expected = (network(x, seed=1) for network in (model, small(InputBlockingSNN, epsilon=0.2)))
    assert torch.equal(found.is_open, expected.is_open) and not found.is_open.all()
    assert (model.settings["strictness"], model.gate.strictness) == (0.5, 0.5)
    model.change(strictness=1)
    assert model(x, seed=1).is_open.sum() < found.is_open.sum() and model.settings["strictness"] == 1.0
    with pytest.raises(ModelError, match="strictness: 2 is not a number from 0 to 1"):
        small(VGG_SNN_STDB_wFeedback, gate="strict", strictness=2)
    with pytest.raises(ModelError, match="strictness"):
        model.change(strictness=-1)
    assert model.settings["strictness"] == 1.0  # nothing has changed
    assert "strictness" not in small(VGG_SNN_STDB_wFeedback, gate="block", strictness=0.5).settings
    with pytest.raises(ModelError, match="strictness belongs to a gate or read-out that is not chosen"):
        model.change(gate="block", strictness=0.25)


def test_a_name_that_nobody_has_registered_asks_for_its_file():
    advice = ", or add the --model FILE.py that registers it"
    assert f"--gate: unknown name 'patient': choose from open, block, contrast{advice} (" in refused(SNN, "--gate patient")
    assert advice in refused(SNN, "--activation mine") and advice not in refused(SNN, "--engine mine")


def test_a_made_up_setting_says_whether_post_hoc_scripts_adopt_it(trained, tmp_path, monkeypatch):
    @dataclass
    class Fresh(Blocking):
        freshness: float = objective_setting(0.5, FRACTION, "nothing", group="gate")

    monkeypatch.setitem(GATES, "fresh", Fresh)
    here = f"--timesteps 2 --output_dir {tmp_path} --gate fresh"
    run_here(SNN, f"--pretrained_ann {trained.ann} {SPIKING} --epsilon 0.4 --freshness 0.25 --latch --run_name x", here)
    run_here(OBJ1, f"--pretrained_snn {tmp_path}/trained_models/snn/x.pth --limit_test 8 --run_name y", here)
    (opening,), log = records(tmp_path / "logs/snn/y.jsonl", "run"), (tmp_path / "logs/snn/y.log").read_text()
    assert opening["parameters"]["freshness"] == 0.5 and "freshness=" not in log and "latch=True" in log


# --- --resume


@pytest.mark.parametrize("name", [ANN, SNN])
def test_resume_of_a_run_that_is_not_there(tmp_path, monkeypatch, name):
    """Where nothing says what to train: by default it would be 43 million weights for 100 epochs."""
    monkeypatch.setattr("harness.building.models.build", None)
    typed = f"--run_name digits --resume --epochs 2 --seed 1 --device cpu --output_dir {tmp_path}"
    assert f"{name[:3]}/digits_last.pth is not there, and no flag says what to train: " in refused(name, typed)
    assert "--resume: " in refused(name, f"--seeds 0 1 --run_name digits --resume --output_dir {tmp_path}")
    assert digests(tmp_path) == {}


def test_a_network_with_blocking_is_resumed_with_blocking_only(tmp_path):
    """It once became a plain SNN without a word. --epsilon alone stands for --gate block, and the log says so."""
    flags, path = "--readout membrane_linear", tmp_path / "trained_models/snn/x_last.pth"
    train(tmp_path, flags, "--epsilon 0.2 --latch")
    (opening,) = records(tmp_path / "logs/snn/x.jsonl", "run")
    assert opening["parameters"]["gate"] == load_checkpoint(path)["settings"]["gate"] == "block"
    train(tmp_path, flags, "--resume --epochs 3")
    saved = load_checkpoint(path)
    assert (saved["model"], saved["settings"]["epsilon"], saved["settings"]["latch"]) == ("InputBlockingSNN", 0.2, True)


# --- flags without effect


@pytest.mark.parametrize(
    ("name", "flags", "unused"),
    [
        (SNN, "--holdout 5 --dropout 0 --alpha 1 --latch --gap_bound 3", "--holdout, --dropout, --alpha, --latch, --gap_bound"),
        (OBJ1, "--contrast local --trade_off 2 --no-amsgrad --epsilon 0", "--contrast, --amsgrad"),
    ],
)
def test_one_line_names_typed_flags_of_training_and_of_parts_that_are_not_chosen(trained, tmp_path, name, flags, unused):
    more = "--test_only" if name == SNN else ""
    here = f"--pretrained_snn {trained.snn} {more} {DATA} --run_name x --output_dir {tmp_path}"
    _, said = run_undrawn(name, here, flags)
    line = f"note: without effect here: {unused}"
    assert line in said.splitlines() and line in (tmp_path / "logs/snn/x.log").read_text().splitlines()
    assert "without effect" not in run_undrawn(name, here, "--overwrite")[1]


# --- presets


@pytest.mark.parametrize("family", ["quick|stream", "accurate", "residual|fast", "fashion", "feedback|baseline"])
def test_every_preset_finds_what_it_starts_from(tmp_path, family):
    """In the order of the table: its ANN, its SNN, and an evaluation, by the name alone; training prints what it stands for."""
    small = f"--dataset MNIST --fc_width 4 --limit_test 4 --batch_size 8 --seed 7 --output_dir {tmp_path}"
    train = f"{small} --precision float32 --epochs 1 --limit_train 8 --holdout 2"
    recipes = {name: find(name, "snn") for name in names("snn") if name.startswith(tuple(family.split("|")))}
    for name in [name for name in recipes if name in names("ann")]:
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
    assert f"--preset fast_baseline needs {path}, which is not there; this makes it: {command}" in line
    idea = f"--model {REPOSITORY / 'examples/two_decoders.py'}:TwoDecoders"  # with one's own network, too
    for own in ("", idea):
        line = refused(SNN, f"--preset quick_feedback --output_dir {tmp_path} {own}")
        assert "this makes it: python ann_wFeedback.py --preset quick_feedback" in line
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


FILES = sorted(FOLDER.glob("*.toml"))
BOTH = 'architecture = "VGG5_wFeedback_small"\nfc_width = 8\ndataset = "MNIST"\nholdout = 8\naugment = true\nepochs = 1\n'
SNN_TABLE = f'[snn]\n{BOTH}timesteps = 3\nepsilon = 0.2\nlr_interval = [0.5, 0.9]\nupdate = "immediate"\n'
OWN = f"[ann]\n{BOTH}learning_rate = 5e-3\n{SNN_TABLE}[evaluation]\nepsilon = [0, 0.3]\n"


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
    of_snn = (SNN, ANALYSIS, STREAM, OBJ1, OBJ2, OBJ3) * (name in names("snn"))
    for script in ((ANN,) * (name in names("ann"))) + of_snn:
        args = parsed(script, "--preset", name, *given)
        plain = parsed(script, *shlex.split(args.preset_flags), *given)
        own = dict.fromkeys(("made_by", "preset", "preset_flags", "run_name", "teacher_ann"))
        own |= dict.fromkeys(("pretrained_ann", "pretrained_snn"))
        assert plain.values | own == args.values | own
        assert args.given == plain.given | {"preset": name} and list(args.typed) == ["preset"] + ["dataset"] * bool(given)


def test_preset_list_shows_what_is_known_of_each_recipe(capsys):
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(OBJ1).main(["--preset", "list"])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert stop.value.code == 0 and list(rows) == [path.stem for path in FILES]
    for name, line in rows.items():
        assert line.endswith((FOLDER / f"{name}.toml").read_text().splitlines()[0].removeprefix("# "))
    assert re.search(r" 98.66 +3,598 +5 minutes +\d\.\d MB ", rows["quick_feedback"]) and " - " in rows["own"]


def test_what_is_typed_holds_instead():
    assert parsed(ANN, "--preset", "residual_feedback", "--epochs", "3").epochs == 3
    args = parsed(SNN, "--preset", "own", "--epochs", "3", "--timesteps", "4", "--no-latch")
    assert (args.updates, args.timesteps, args.latch) == (None, 4, False)
    assert not {"--updates", "--timesteps", "--latch"} & {*args.preset_flags.split()}  # which the log's first line says
    assert "--epsilon 0.2 --scaling_factor " in args.preset_flags
    args = parsed(OBJ1, "--preset", "fast_feedback")  # which takes its own table, and no other
    assert args.epsilon == [0.5] and args.given == {"preset": "fast_feedback", "epsilon": [0.5]}


# --- one of somebody's own


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(OWN)
    return tmp_path


def test_a_file_of_ones_own_is_trained_converted_and_evaluated(own):
    line = refused(SNN, "--preset mine.toml")
    assert "needs trained_models/ann/mine.pth, " in line and "makes it: python ann_wFeedback.py --preset mine.toml" in line
    said = run_here(ANN, f"--preset mine.toml {DATA}")[1]
    assert said.startswith("preset mine.toml: --architecture VGG5_wFeedback_small --fc_width 8 --dataset MNIST --holdout 8 ")
    said = run_here(SNN, f"--preset {own}/mine.toml {DATA} {BALANCE}")[1]
    assert "; from trained_models/ann/mine.pth\n" in said and "--lr_interval '0.5 0.9'" in said
    records = run_here(OBJ1, f"--preset mine.toml {DATA.split('--limit_test')[0]} --limit_test 16")[0]
    assert [record["epsilon"] for record in records] == [0, 0.3] and records[0]["timesteps"] == 3


def test_a_start_is_a_recipe_beside_it_or_a_path(own):
    """Of the same seed; one that is typed takes its place."""
    Path("longer.toml").write_text(f'{SNN_TABLE}pretrained_ann = "mine"\n')
    args = parsed(SNN, "--preset", "longer.toml", "--seed", "2")
    assert args.run_name == "longer_2" and args.pretrained_ann == "trained_models/ann/mine_2.pth"
    assert args.made_by == {args.pretrained_ann: "python ann_wFeedback.py --preset mine.toml --seed 2"}
    Path("other.toml").write_text(f'{SNN_TABLE}pretrained_snn = "longer"\nteacher_ann = "quick_baseline"\n')
    args = parsed(SNN, "--preset", "other.toml")
    assert (args.pretrained_snn, args.pretrained_ann) == ("trained_models/snn/longer.pth", "")
    assert args.teacher_ann == "trained_models/ann/quick_baseline.pth"
    Path("other.toml").write_text(f'{SNN_TABLE}pretrained_snn = "x.pth"\n')
    args = parsed(SNN, "--preset", "other.toml")
    assert args.pretrained_snn == args.given["pretrained_snn"] == "x.pth" and not args.made_by
    assert parsed(SNN, "--preset", "other.toml", "--pretrained_ann", "y.pth").pretrained_snn == ""


# --- what cannot be


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("fc_with = 8", "mine.toml: fc_with is no flag of this script: did you mean fc_width? --help_all lists them"),
        ("fc_width = 0", "mine.toml: fc_width: 0 is not a whole number from 1"),
        ("lr_interval = [0.5, 2.0]", "mine.toml: lr_interval: 2.0 is not a number from 0"),
        ("teacher_ann = 'baselin'", "mine.toml: teacher_ann: unknown recipe 'baselin': did you mean baseline?"),
        ("augment = 1", "mine.toml: augment: 1 is neither True nor False"),
        ("epochs 3", "mine.toml: Expected '=' after a key"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_its_file(own, more, line):
    Path("mine.toml").write_text(f'[ann]\ndataset = "MNIST"\n{more}\n')
    assert f"error: {line}" in refused(ANN, f"--preset mine.toml {DATA}") and not Path("logs").exists()


def test_a_recipe_that_is_not_there_or_lacks_what_is_asked_for(own):
    assert refused(ANN, "--preset min.toml") == "error: no file 'min.toml': did you mean mine.toml? --preset list names all"
    Path("plain.toml").write_text("epochs = 1\n[ann]\n")
    assert "plain.toml: epochs stands in none of the tables [ann], [snn], [evaluation]" in refused(ANN, "--preset plain.toml")
    Path("plain.toml").write_text("[snn]\n")
    assert "plain.toml has no [ann]" in refused(ANN, "--preset plain.toml")
    assert "vgg11_plain_base has no [snn]" in refused(SNN, "--preset vgg11_plain_base")
    Path("quick_baseline.toml").write_text(OWN)  # one of this name came with the program, and is another
    assert "needs trained_models/snn/quick_baseline.pth, which is not there" in refused(OBJ1, "--preset quick_baseline.toml")


@pytest.mark.parametrize(
    ("flags", "cls", "changed"),
    [
        ("--timesteps 3 --leak 0.5", "VGG_SNN_STDB_wFeedback", {"timesteps": 3, "leak": 0.5}),
        ("--epsilon 0", "VGG_SNN_STDB_wFeedback", {}),  # nothing is asked for
        ("--epsilon 0.2 --latch", "InputBlockingSNN", {"gate": "block", "epsilon": 0.2, "latch": True}),
        ("--gate contrast --rule both", "ContrastAttentionSNN", {"gate": "contrast", "rule": "both"}),
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


def test_the_seed_draws_the_weights():
    words = ["-a", "VGG5_wFeedback_small", "--fc_width", "8", "--seed"]
    first, same, other = (new_snn(with_facts(training_parser("", "snn").parse_args([*words, seed]))) for seed in "334")
    draws = [torch.cat([value.flatten() for value in model.state_dict().values()]) for model in (first, same, other)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


# --- devices


@pytest.mark.parametrize(
    ("flags", "there", "rank", "expected"),
    [
        ({}, "", 0, "cpu"), ({}, "cuda mps", 0, "cuda:0"), ({}, "mps", 0, "mps"), ({"gpu": False}, "cuda mps", 0, "cpu"),
        ({"devices": 1}, "cuda", 0, "cuda:1"), ({}, "cuda", 1, "cuda:1"), ({"engine": "event"}, "cuda", 0, "cpu"),
        ({"device": "cuda"}, "mps", 0, "--device cuda: there is none here; choose auto or cpu"),
        ({"devices": 1}, "cuda", 1, "--devices 1 (rank 1 of this machine): there are GPUs 0 to 1 here"),
    ], ids=str,
)  # fmt: skip
def test_the_device_that_the_flags_ask_for(monkeypatch, flags, there, rank, expected):
    """On a machine with two CUDA GPUs, or a Mac, or neither; rank 1 is one of two processes."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    monkeypatch.setattr("harness.building.models.compute_exactly", lambda: chosen.append("exactly"))
    monkeypatch.setattr("harness.runs.ranks.count", lambda: 1 + rank)
    monkeypatch.setattr("harness.runs.ranks.local_rank", lambda: rank)
    args = SimpleNamespace(**{"device": "auto", "gpu": True, "devices": 0} | flags)
    if " " in expected:
        with pytest.raises(UserError, match=f"^{re.escape(expected)}"):
            find_device(args)
    else:
        assert str(find_device(args)) == expected
        assert chosen == (["exactly", int(expected[-1])] if "cuda" in expected else [])
