"""Every script, tiny, as the program that the user runs; one in a process of its own, from another folder."""

import importlib.util
import json
import re
import shlex
import shutil
from itertools import product
from pathlib import Path

import imageio.v3 as imageio
import pytest
import torch
from conftest import (
    DATA,
    REPOSITORY,
    SCRIPTS,
    SPIKING,
    TINY,
    digests,
    figures,
    make_folder,
    records,
    run_as_program,
    run_here,
    run_script,
    run_undrawn,
)

from harness.measuring.comparing import on_front
from harness.runs.run import COMMANDS
from results import NETWORKS, row_of
from self_models.basics.checkpoints import load_checkpoint

PARTS = ("input", "encoder", "decoder", "classifier")


def quiet(process):
    """Nothing on standard error, and no progress bar on standard output, where it is no terminal."""
    assert process.stderr == ""
    assert not re.search(r"\r|\x1b|%\||it/s|batch/s|Warning|Traceback", process.stdout)
    return re.sub(r"^engine: .*\n", "", process.stdout, flags=re.MULTILINE)


def check_spikes(record):
    spikes = record["spikes"]
    assert list(spikes) == [*PARTS, "total"] and 0 <= record["accuracy"] <= 1
    assert spikes["total"] == pytest.approx(sum(spikes[part] for part in PARTS)) and all(
        spikes[part] > 0 for part in PARTS
    )
    assert spikes["total"] == pytest.approx(sum(record["spikes_per_layer"].values()))


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_lists_the_flags(name, capsys):
    parser = __import__(name).build_parser()
    with pytest.raises(SystemExit) as stop:
        run_here(name, "--help_all")
    assert stop.value.code == 0
    short = parser.format_help()
    parser.rare = set()
    shown = parser.format_help()
    assert (
        40 < short.count("\n") < 0.75 * shown.count("\n")
        and "--seed" in short
        and "--momentum" not in short
    )
    for action in parser._actions:
        assert all(option in shown for option in action.option_strings)
        assert action.help, action.option_strings
    assert (
        ("--readout" in shown)
        == ("--update {" in shown)
        == ("--pretrained_snn" in shown)
        == (name != "ann_wFeedback")
    )


def test_training_writes_what_it_says(trained):
    for kind, run in (("ann", trained.ann_run), ("snn", trained.snn_run)):
        (record,) = records(trained.folder / f"logs/{kind}/tiny.jsonl")
        (line,) = re.findall(
            "^epoch .*", (trained.folder / f"logs/{kind}/tiny.log").read_text(), re.MULTILINE
        )
        assert line in quiet(run) and f"{100 * record['evaluated']['accuracy']:.2f} %" in line
        assert record["event"] == "epoch" and record["best"] == record["evaluated"]["accuracy"]
        assert ("spikes per image" in line) == ("parts" in record["evaluated"]) == (kind == "snn")
        learned = record["train"]
        total = (
            learned["classification"] + (10 if kind == "ann" else 1) * learned["reconstruction"]
        )  # --trade_off by default
        assert learned["total"] == pytest.approx(total, rel=1e-5)
        assert {path.name for path in (trained.folder / "logs" / kind).iterdir()} == {
            "tiny.log",
            "tiny.jsonl",
        }
        files = {
            path.name
            for path in (trained.folder / "trained_models" / kind).iterdir()
            if path.suffix == ".pth"
        }
        assert files == {"tiny.pth", "tiny_last.pth"}
    assert load_checkpoint(trained.snn)["settings"]["timesteps"] == 5


def test_analysis(trained, tmp_path):
    flags = f"--pretrained_snn {trained.snn} {DATA} --images 2 --chart_images 4 --epsilon 0.1 --output_dir {tmp_path}"
    said = quiet(run_as_program("analysis", flags))
    gif, png = (
        tmp_path / f"trained_models/snn/tiny_posthoc_analysis.{kind}" for kind in ("gif", "png")
    )
    frames = imageio.imread(gif, index=None)
    assert all((frames[t] != frames[t + 1]).any() for t in range(len(frames) - 1))
    assert min(imageio.imread(png).shape[:2]) > 300 and f"wrote {gif}, {png}, " in said
    steps = records(tmp_path / "logs/snn/tiny_posthoc_analysis.jsonl", "step")
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5]
    assert steps[0]["blocked_share"] == 0  # nothing is predicted before the first step
    assert len(frames) == sum(
        step["blocked_share"] > 0 for step in steps
    )  # the GIF begins with the first that blocks
    assert all(
        0 <= record["blocked_share"] <= 1 and record["squared_error"] > 0 for record in steps
    )
    assert not list(tmp_path.rglob("*.pth"))


def test_objective_1(trained, tmp_path):
    before = digests(trained.folder)
    process = run_script(
        "obj1", "--pretrained_snn", trained.snn, f"--epsilon 0 0.1 {DATA} --output_dir", tmp_path
    )
    table = quiet(process).splitlines()
    assert re.match(r"epsilon +accuracy +input +encoder +decoder +classifier +total", table[0])
    assert [float(line.split()[0]) for line in table[1:3]] == [0, 0.1]
    log = tmp_path / "logs/snn/tiny_epsilon_0.0_0.1.jsonl"
    results, how, *_ = (
        log.with_suffix(".log").read_text().split("\n\nstarted ")
    )  # tables first, then what was run
    assert (
        results.splitlines() == table[: results.count("\n") + 1]
        and "energy" in results
        and "  data: " in how
    )
    free, blocked = records(log, "evaluation")
    for record, line in zip((free, blocked), table[1:3], strict=True):
        check_spikes(record)
        assert (record["images"], record["timesteps"], record["model"]) == (
            16,
            5,
            "VGG5_wFeedback_small",
        )
        figures = [float(word.replace(",", "")) for word in line.replace("%", "").split()]
        assert figures[1] == pytest.approx(100 * record["accuracy"], abs=0.01)
        assert figures[2:7] == [round(record["spikes"][part]) for part in (*PARTS, "total")]
        assert len(record["open_share"]) == 5 and record["open_share"][0] == 1
    assert set(free["open_share"]) == {1} and blocked["open_share"] == sorted(
        blocked["open_share"], reverse=True
    )
    assert blocked["open_share"][-1] < 1 and blocked["spikes"]["input"] < free["spikes"]["input"]
    assert digests(trained.folder) == before and not list(tmp_path.rglob("*.pth"))


def test_settings_are_chosen_on_the_images_that_training_held_out(trained, tmp_path):
    """The log beside the checkpoint says how many; the last line is the command for one combination."""
    path, log = tmp_path / "trained_models/snn/x.pth", tmp_path / "logs/snn/x.jsonl"
    for file in (path, log):
        file.parent.mkdir(parents=True)
    shutil.copy(trained.snn, path)
    log.write_text(json.dumps({"event": "run", "parameters": {"holdout": 12}}))
    grid = f"--epsilon 0 0.4 --timesteps 2 3 --readout_slew 0.1 0.5 --picture {tmp_path}/p.png"
    rows, said = run_here("obj1", f"--pretrained_snn {path} {grid} --output_dir {tmp_path}")
    tried = [(row["timesteps"], row["readout_slew"], row["epsilon"]) for row in rows]
    assert (
        tried == [*product((2, 3), (0.1, 0.5), (0, 0.4))]
        and len({row["reconstruction_error"] for row in rows}) == 8
    )
    assert {row["images"] for row in rows} == {12}
    assert (
        "\n12 held-out training images; *: no other has" in said
        and imageio.imread(tmp_path / "p.png").shape[1] > 500
    )
    near = [
        row["spikes"]["total"]
        for row in rows
        if row["accuracy"] >= max(row["accuracy"] for row in rows) - 0.005
    ]
    row = check_recommended(rows, said, 12)
    assert row["spikes"]["total"] == min(near) and row["readout_slew"] in (0.1, 0.5)


def recommended_words(said):
    """The words of the command that obj1 recommends, after its script."""
    ((script, words),) = re.findall(r"^  python (\S+)\.py (.*)$", said, re.MULTILINE)
    assert script == COMMANDS["obj1"]
    return shlex.split(words)


def check_recommended(rows, said, holdout):
    """The recommended command, on the held-out images, gives a row, which is returned."""
    words = recommended_words(said)
    (again,), _ = run_undrawn("obj1", words, f"--holdout {holdout}")
    alike = [row for row in rows if figures(row) == figures(again)]
    assert len(alike) == 1, [figures(again), *map(figures, rows)]
    return alike[0]


HALVED = """
from dataclasses import dataclass
from self_models.basics.settings import FRACTION, objective_setting
from self_models.objectives.gates import GATES, Blocking


@GATES.register("halved")
@dataclass
class Halved(Blocking):
    keeps: float = objective_setting(0.9, FRACTION, "share of what is seen", group="gate")

    def next_view(self, image, prediction, view):
        return super().next_view(image * self.keeps, prediction, view)
"""
GRID = "--epsilon 0.1 0.4 --timesteps 2 3"
RECOMMENDED = {  # what the command must repeat
    "own gate": "--model {here}/halved.py --gate halved --keeps 0.5 --readout_slew 0.2",
    "switches": "--latch --together --blocking dynamic --no-log --encoding direct",
    "seed": "--seed 3 --batch_size 7 --engine dense --rule confidence --gap_bound 0.5",
    "images": "--limit_test 5 --limit_train 20 --dataset MNIST",
}


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("flags", RECOMMENDED.values(), ids=RECOMMENDED)
def test_the_recommended_command_gives_the_row_of_the_table(trained, tmp_path, flags):
    """It repeats what decides a figure, and nothing that would replace other files."""
    (tmp_path / "halved.py").write_text(HALVED)
    typed = flags.format(here=tmp_path)
    once = f"--run_name choice --overwrite --results_json {tmp_path}/all.json"
    rows, said = run_here(
        "obj1",
        f"--pretrained_snn {trained.snn} --holdout 12 {GRID} {typed} {once}",
        f"--output_dir {tmp_path}",
    )
    check_recommended(rows, said, 12)
    repeated = {word for word in recommended_words(said) if word.startswith("--")}
    asked = {word for word in typed.split() if word.startswith("--")}
    asked |= {"--pretrained_snn", "--output_dir", "--epsilon", "--readout_slew", "--timesteps"}
    assert repeated == asked


def test_the_recommended_command_takes_the_network_of_its_output_dir(
    trained, tmp_path, monkeypatch
):
    """A recipe's network, in a folder whose name has a space, beside another of its name.

    The recipe asks for held-out images, which the command does not take again.
    """
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('[snn]\ndataset = "MNIST"\n[evaluation]\nholdout = 12\n')
    saved = load_checkpoint(trained.snn)
    for folder, factor in (("my runs", 1.0), (".", 0.5)):
        path = Path(folder, "trained_models/snn/mine.pth")
        path.parent.mkdir(parents=True)
        weights = {name: factor * value for name, value in saved["state_dict"].items()}
        torch.save(saved | {"state_dict": weights}, path)
    here = ["--preset", "mine.toml", "--output_dir", "my runs", "--limit_test", "7"]
    rows, said = run_undrawn("obj1", here, GRID)
    assert check_recommended(rows, said, 12)["images"] == 12
    (tested,), _ = run_undrawn("obj1", recommended_words(said))
    assert tested["images"] == 7


def test_an_ann_is_converted_for_each_number_of_timesteps(trained, tmp_path):
    """Calibration depends on it.

    Without --holdout, thresholds are not balanced on images that were held out.
    """
    folder = make_folder(tmp_path / "digits", tuple("0123456789"), 2, (28, 28))
    path, log = tmp_path / "trained_models/ann/x.pth", tmp_path / "logs/ann/x.jsonl"
    for file in (path, log):
        file.parent.mkdir(parents=True)
    shutil.copy(trained.ann, path)
    log.write_text(json.dumps({"event": "run", "parameters": {"holdout": 8}}))
    flags = f"--pretrained_ann {path} --dataset {folder} --timesteps 2 3"
    flags += " --update immediate --calibrate --balance_timesteps 6 --readout membrane_rescaled"
    flags += f" --output_dir {tmp_path}"
    rows, said = run_here("obj1", flags)
    row = check_recommended(rows, said, 8)
    other = [each for each in rows if each["timesteps"] != row["timesteps"]]
    assert row["images"] == 8 and other and said.count("calibrating biases: 12 images") == 2
    assert "calibrating biases: 12 images" in run_undrawn("obj1", recommended_words(said))[1]


def test_the_recommended_command_names_a_network_that_was_found_by_its_name(tmp_path):
    """The name has the number of timesteps of training, and another may be recommended."""
    here = f"-a VGG5_wFeedback_small --fc_width 8 {DATA} --output_dir {tmp_path}"
    run_here("snn", f"--epochs 0 --timesteps 2 {here}")
    found = f"{here} --timesteps 2 --readout_slew 0.1 0.5 --holdout 8"
    rows, said = run_here("obj1", found)
    check_recommended(rows, said, 8)
    words = recommended_words(said)
    name = "snn_vgg5_wfeedback_small_mnist_2_tradeoff1.0_typelast_t.pth"
    assert words[words.index("--pretrained_snn") + 1].endswith(name)


def test_the_front_by_hand():
    points = ((0.9, 100), (0.9, 90), (0.8, 80), (0.7, 85), (0.8, 80))
    front = on_front(
        [{"accuracy": accuracy, "spikes": {"total": spikes}} for accuracy, spikes in points]
    )
    assert [(record["accuracy"], record["spikes"]["total"]) for record in front] == [
        (0.9, 90),
        (0.8, 80),
        (0.8, 80),
    ]


@pytest.mark.parametrize(
    ("name", "more", "words"), [("obj2", "", "mean timesteps"), ("obj3", "--images 1", "contrast")]
)
def test_objectives_2_and_3(trained, tmp_path, name, more, words):
    printed = quiet(
        run_as_program(
            name,
            "--pretrained_snn",
            trained.snn,
            f"{DATA} {more} --run_name x --output_dir",
            tmp_path,
        )
    )
    assert words in printed.splitlines()[0]
    found = records(tmp_path / "logs/snn/x.jsonl", "evaluation")
    assert len(found) > 1 and all(1 <= record["mean_steps"] <= 5 for record in found)
    for record in found:
        check_spikes(record)
    assert list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize("kind", ["ann", "snn"])
def test_test_only_evaluates_once_and_writes_no_checkpoint(trained, tmp_path, kind):
    before = digests(trained.folder)
    flags = (
        f"--pretrained_{kind} {getattr(trained, kind)} --test_only {DATA} --output_dir {tmp_path}"
    )
    printed = quiet(run_as_program(kind, flags))
    assert re.search(r"^accuracy [\d.]+ % on 16 images, [\d.]+ s\n", printed, re.MULTILINE)
    (log,) = tmp_path.rglob("*.jsonl")
    (record,) = records(log)
    assert (
        record["event"] == "evaluation"
        and record["images"] == 16
        and log.name == "tiny_test.jsonl"
    )
    best = records(trained.folder / f"logs/{kind}/tiny.jsonl")[0]["evaluated"]
    assert (record["accuracy"], record["reconstruction_error"]) == (
        best["accuracy"],
        best["error"],
    )
    assert not list(tmp_path.rglob("*.pth")) and digests(trained.folder) == before
    if kind == "snn":
        check_spikes(record)
        assert (
            row_of(NETWORKS["baseline"], record)["name"]
            == "baseline of feedback (chosen on test images)"
        )


def test_segments_and_precision_by_flag(trained, tmp_path):
    """Segments change no figure; bfloat16 changes them a little."""
    totals, begun = {}, f"--pretrained_ann {trained.ann} {SPIKING} --output_dir {tmp_path}"
    for name, flags in (
        ("plain", ""),
        ("segments", "--bptt_segments auto"),
        ("rounded", "--precision bfloat16"),
    ):
        run_here("snn", f"{begun} {flags} --run_name {name}")
        totals[name] = records(tmp_path / f"logs/snn/{name}.jsonl", "epoch")[0]["train"]["total"]
    assert totals["segments"] == pytest.approx(totals["plain"], rel=1e-4)
    assert totals["plain"] != totals["rounded"] == pytest.approx(totals["plain"], rel=0.05)


def test_a_teacher_changes_what_is_learned_unless_it_counts_nothing(trained, tmp_path):
    """The teacher may be of another plan; it changes no setting of the SNN, and has no dropout."""
    run_here(
        "ann", f"{TINY} -a VGG5_small --fc_width 8 --run_name teacher --output_dir {tmp_path}"
    )
    teacher, wild = tmp_path / "trained_models/ann/teacher.pth", tmp_path / "wild.pth"
    saved = load_checkpoint(teacher)
    torch.save(saved | {"settings": saved["settings"] | {"dropout": 0.9}}, wild)
    (alone,) = records(trained.folder / "logs/snn/tiny.jsonl", "epoch")
    learned = {}
    for name, path, weight in (
        ("mute", teacher, 0),
        ("taught", teacher, 0.9),
        ("wild", wild, 0.9),
    ):  # wild: in training mode
        flags = f"--teacher_ann {path} --distillation {weight} --run_name {name} --output_dir {tmp_path}"
        run_here("snn", f"--pretrained_ann {trained.ann} {SPIKING} {flags}")
        (record,) = records(tmp_path / f"logs/snn/{name}.jsonl", "epoch")
        learned[name] = figures(record)
    assert (
        learned["mute"] == figures(alone)
        and learned["mute"]["train"] != learned["taught"]["train"]
    )
    assert learned["wild"] == learned["taught"]


def test_default_names_lead_from_one_script_to_the_next(tmp_path):
    """Without --pretrained_snn the post-hoc scripts take the checkpoint that the flags name, as in the original; --no-log writes
    no log."""
    here = f"-a VGG5_wFeedback_small --fc_width 8 --timesteps 2 {DATA} --output_dir {tmp_path}"
    name = "snn_vgg5_wfeedback_small_mnist_2_tradeoff1.0_typelast_t"
    run_here("snn", f"--epochs 1 --no-log {here}")
    assert digests(tmp_path).keys() == {
        f"trained_models/snn/{name}{ending}.pth" for ending in ("", "_last")
    }
    run_here("obj1", here)
    assert len(records(tmp_path / f"logs/snn/{name}_epsilon_0.1.jsonl", "evaluation")) == 1


LION = '''class Lion(torch.optim.Optimizer):
    """m <- beta m + (1 - beta) g;   w <- w - lr sign(m)"""

    def __init__(self, parameters, lr, beta=0.9):
        super().__init__(parameters, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    m = self.state[weight].setdefault("m", torch.zeros_like(weight))
                    m.lerp_(weight.grad, 1 - group["beta"])
                    weight.sub_(group["lr"] * m.sign())


def compute_losses('''
NOISE = """noise = torch.rand(len(batch.labels)) < 0.1
                        other = torch.randint(10, batch.labels.shape)
                        batch = batch._replace(labels=torch.where(noise, other, batch.labels))
                        draws = Draws("""
SIZE = """losses["magnitude"] = output.logits.square().mean()
    total = total + 1e-3 * losses["magnitude"]
    losses["total"] = total"""


def test_a_copy_of_the_script_gets_a_loss_an_optimiser_and_label_noise_of_its_own(
    trained, tmp_path, monkeypatch
):
    """In the copy alone. The log tells of them, and the run goes on after it was stopped."""
    text = (REPOSITORY / "snn_wFeedback.py").read_text()
    begin = text.index("make_optimizer(\n            args.optimizer,")
    end = text.index("        factor = learning_rate_factor(")
    text = text[:begin] + "Lion(model.parameters(), args.learning_rate)\n" + text[end:]
    text = text.replace("def compute_losses(", LION)
    text = text.replace('losses["total"] = total', SIZE)
    text = text.replace("draws = Draws(args.seed, epoch,", f"{NOISE}args.seed, epoch,")
    (tmp_path / "mine.py").write_text(text)
    spec = importlib.util.spec_from_file_location("mine", tmp_path / "mine.py")
    mine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mine)
    flags = f"--pretrained_ann {trained.ann} {SPIKING} --run_name mine --output_dir {tmp_path}"
    monkeypatch.setattr("sys.argv", [str(tmp_path / "mine.py")])
    mine.main(flags.split())
    mine.main(f"--run_name mine --output_dir {tmp_path} --resume --epochs 2".split())
    log = (tmp_path / "logs/snn/mine.log").read_text()
    assert re.search("optimiser: Lion, learning_rate=.* .in place of --optimizer Adam.", log)
    assert re.search(r"epoch 1/1: train classification .* [|] magnitude [\d.,]+ [|] total", log)
    assert re.search("git revision: .*, script mine.py of digest [0-9a-f]{16}; seed", log)
    first, second = records(tmp_path / "logs/snn/mine.jsonl", "epoch")
    for epoch in (first, second):
        parts = epoch["train"]
        assert parts["total"] > parts["classification"] + 1e-3 * parts["magnitude"] > 0
        assert epoch["evaluated"]["magnitude"] > 0
