"""Every script, tiny, as a program; one is run by itself, from another folder."""

import importlib.util
import json
import re
import shlex
import shutil
from itertools import pairwise, product
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

from self_models.checkpoints.files import load_checkpoint
from studies.results import NETWORKS, row_of
from wfeedback.measuring.comparing import on_front
from wfeedback.runs.run import COMMANDS

PARTS = ("input", "encoder", "decoder", "classifier")


def check_quiet(process):
    """Check that a program that has no terminal shows no warning and no progress bar.

    Returns
    -------
    str
        What it printed, without the line that names the engine.
    """
    assert process.stderr == ""
    assert not re.search(r"\r|\x1b|%\||it/s|batch/s|Warning|Traceback", process.stdout)
    return re.sub(r"^engine: .*\n", "", process.stdout, flags=re.MULTILINE)


def check_spikes(record):
    """Check that each part of a network spikes, and that the sums are right."""
    spikes = record["spikes"]
    assert list(spikes) == [*PARTS, "total"]
    assert all(spikes[part] > 0 for part in PARTS)
    assert spikes["total"] == pytest.approx(sum(spikes[part] for part in PARTS))
    assert spikes["total"] == pytest.approx(sum(record["spikes_per_layer"].values()))
    assert 0 <= record["accuracy"] <= 1


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_lists_the_usual_flags_and_help_all_all_of_them(name):
    parser = importlib.import_module(name).build_parser()

    with pytest.raises(SystemExit) as stop:
        run_here(name, "--help_all")
    assert stop.value.code == 0

    short = parser.format_help()
    parser.rare = set()
    whole = parser.format_help()
    assert 40 < short.count("\n") < 0.75 * whole.count("\n")
    assert "--seed" in short
    assert "--momentum" not in short
    for action in parser._actions:
        assert action.help, action.option_strings
        for option in action.option_strings:
            assert option in whole
    is_snn = name != "ann_wFeedback"
    for flag_of_snns in ("--readout", "--update {", "--pretrained_snn"):
        assert (flag_of_snns in whole) == is_snn


# The weight of the reconstruction is that of the scripts by default.
@pytest.mark.parametrize(("kind", "trade_off"), [("ann", 10), ("snn", 1)])
def test_training_writes_what_it_says(trained, kind, trade_off):
    run = trained.ann_run if kind == "ann" else trained.snn_run
    logs = trained.folder / "logs" / kind

    (record,) = records(logs / "tiny.jsonl")
    assert record["event"] == "epoch"
    assert record["best"] == record["evaluated"]["accuracy"]
    losses = record["train"]
    total = losses["classification"] + trade_off * losses["reconstruction"]
    assert losses["total"] == pytest.approx(total, rel=1e-5)
    assert ("parts" in record["evaluated"]) == (kind == "snn")

    (line,) = re.findall("^epoch .*", (logs / "tiny.log").read_text(), re.MULTILINE)
    assert line in check_quiet(run)
    assert f"{100 * record['evaluated']['accuracy']:.2f} %" in line
    assert ("spikes per image" in line) == (kind == "snn")

    assert {path.name for path in logs.iterdir()} == {"tiny.log", "tiny.jsonl"}
    checkpoints = (trained.folder / "trained_models" / kind).glob("*.pth")
    assert {path.name for path in checkpoints} == {"tiny.pth", "tiny_last.pth"}


def test_a_checkpoint_has_the_typed_settings(trained):
    assert load_checkpoint(trained.snn)["settings"]["timesteps"] == 5


def test_an_analysis_draws_the_steps_that_it_writes_down(trained, tmp_path):
    flags = f"{DATA} --images 2 --chart_images 2 --epsilon 0.1 --output_dir {tmp_path}"

    run = run_as_program("analysis", f"--pretrained_snn {trained.snn}", flags)

    said = check_quiet(run)
    gif = tmp_path / "trained_models/snn/tiny_posthoc_analysis.gif"
    png = gif.with_suffix(".png")
    assert f"wrote {gif}, {png}, " in said
    assert not list(tmp_path.rglob("*.pth"))

    steps = records(tmp_path / "logs/snn/tiny_posthoc_analysis.jsonl", "step")
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5]
    assert steps[0]["blocked_share"] == 0  # nothing is predicted before the first step
    for record in steps:
        assert 0 <= record["blocked_share"] <= 1
        assert record["squared_error"] > 0

    assert min(imageio.imread(png).shape[:2]) > 300
    # The GIF begins with the first step that blocks.
    frames = imageio.imread(gif, index=None)
    steps_that_block = [record for record in steps if record["blocked_share"] > 0]
    assert len(frames) == len(steps_that_block)
    for frame, following in pairwise(frames):
        assert (frame != following).any()


def test_objective_1_prints_the_table_that_it_writes_down(trained, tmp_path):
    before = digests(trained.folder)

    process = run_script(
        "obj1", "--pretrained_snn", trained.snn, f"--epsilon 0 0.1 {DATA} --output_dir", tmp_path
    )

    head, *lines = check_quiet(process).splitlines()
    assert re.match(r"epsilon +accuracy +input +encoder +decoder +classifier +total", head)
    lines_of_epsilons = lines[:2]
    assert [float(line.split()[0]) for line in lines_of_epsilons] == [0, 0.1]

    # The log has the tables first, and then what was run.
    log = tmp_path / "logs/snn/tiny_epsilon_0.0_0.1.log"
    results, how, *_ = log.read_text().split("\n\nstarted ")
    assert results.splitlines() == [head, *lines][: results.count("\n") + 1]
    assert "energy" in results
    assert "  data: " in how

    evaluations = records(log.with_suffix(".jsonl"), "evaluation")
    for record, line in zip(evaluations, lines_of_epsilons, strict=True):
        check_spikes(record)
        assert record["images"] == 16
        assert record["timesteps"] == 5
        assert record["model"] == "VGG5_wFeedback_small"
        cells = [float(word.replace(",", "")) for word in line.replace("%", "").split()]
        _, accuracy, *spikes = cells
        assert accuracy == pytest.approx(100 * record["accuracy"], abs=0.01)
        assert spikes[:5] == [round(record["spikes"][part]) for part in (*PARTS, "total")]
        assert len(record["open_share"]) == 5
        assert record["open_share"][0] == 1

    free, blocked = evaluations
    assert set(free["open_share"]) == {1}
    assert blocked["open_share"] == sorted(blocked["open_share"], reverse=True)
    assert blocked["open_share"][-1] < 1
    assert blocked["spikes"]["input"] < free["spikes"]["input"]

    assert digests(trained.folder) == before
    assert not list(tmp_path.rglob("*.pth"))


def put_network(folder, checkpoint, holdout):
    """Copy a checkpoint into a folder of runs, beside a log of its held-out images."""
    kind = checkpoint.parent.name
    path = folder / f"trained_models/{kind}/x.pth"
    log = folder / f"logs/{kind}/x.jsonl"
    path.parent.mkdir(parents=True)
    log.parent.mkdir(parents=True)
    shutil.copy(checkpoint, path)
    log.write_text(json.dumps({"event": "run", "parameters": {"holdout": holdout}}))
    return path


def test_settings_are_chosen_on_the_images_that_training_held_out(trained, tmp_path):
    path = put_network(tmp_path, trained.snn, holdout=12)
    grid = "--epsilon 0 0.4 --timesteps 2 3 --readout_slew 0.1 0.5"
    picture = tmp_path / "p.png"
    here = f"--picture {picture} --output_dir {tmp_path}"

    rows, said = run_here("obj1", f"--pretrained_snn {path} {grid} {here}")

    tried = [(row["timesteps"], row["readout_slew"], row["epsilon"]) for row in rows]
    assert tried == list(product((2, 3), (0.1, 0.5), (0, 0.4)))
    assert len({row["reconstruction_error"] for row in rows}) == 8
    assert {row["images"] for row in rows} == {12}
    assert "\n12 held-out training images; *: no other has" in said
    assert imageio.imread(picture).shape[1] > 500

    # Of the rows within half a point of the best accuracy it has the fewest spikes.
    best = max(row["accuracy"] for row in rows)
    spikes_near = [row["spikes"]["total"] for row in rows if row["accuracy"] >= best - 0.005]
    row = check_recommended(rows, said, 12)
    assert row["spikes"]["total"] == min(spikes_near)
    assert row["readout_slew"] in (0.1, 0.5)


def recommended_words(said):
    """Return the words of the command that obj1 recommends, after its script."""
    ((script, words),) = re.findall(r"^  python (\S+)\.py (.*)$", said, re.MULTILINE)
    assert script == COMMANDS["obj1"]
    return shlex.split(words)


def check_recommended(rows, said, holdout):
    """Check that the recommended command gives one of the rows, and return that.

    It is run on the held-out images, on which the rows were found.
    """
    words = recommended_words(said)
    (again,), _ = run_undrawn("obj1", words, f"--holdout {holdout}")
    alike = [row for row in rows if figures(row) == figures(again)]
    assert len(alike) == 1, (again, rows)
    return alike[0]


HALVED = """
from dataclasses import dataclass
from self_models.settings import FRACTION, objective_setting
from self_models.feedback.gates import GATES, Blocking


@GATES.register("halved")
@dataclass
class Halved(Blocking):
    keeps: float = objective_setting(0.9, FRACTION, "share of what is seen", group="gate")

    def next_view(self, image, prediction, view):
        return super().next_view(image * self.keeps, prediction, view)
"""
GRID = "--epsilon 0.1 0.4 --timesteps 2 3"


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    "typed",
    [
        "--model {here}/halved.py --gate halved --keeps 0.5 --readout_slew 0.2",
        "--latch --residual --blocking dynamic --no-log --encoding direct",
        "--seed 3 --batch_size 7 --engine dense --rule confidence --gap_bound 0.5",
        "--limit_test 5 --limit_train 20 --dataset MNIST",
    ],
    ids=["own gate", "switches", "seed", "images"],
)
def test_the_recommended_command_repeats_what_decides_a_figure_and_nothing_else(
    trained, tmp_path, typed
):
    # It gives the row of the table, and has no flag that would replace other files.
    (tmp_path / "halved.py").write_text(HALVED)
    typed = typed.format(here=tmp_path)
    network = f"--pretrained_snn {trained.snn} --holdout 12 --output_dir {tmp_path}"
    once = f"--run_name choice --overwrite --results_json {tmp_path}/all.json"

    rows, said = run_undrawn("obj1", network, GRID, typed, once)

    check_recommended(rows, said, 12)
    repeated = {word for word in recommended_words(said) if word.startswith("--")}
    expected = {word for word in typed.split() if word.startswith("--")}
    expected |= {"--pretrained_snn", "--output_dir", "--epsilon", "--readout_slew", "--timesteps"}
    assert repeated == expected


def test_the_recommended_command_takes_the_network_of_its_output_dir(
    trained, tmp_path, monkeypatch
):
    # A recipe's network, in a folder whose name has a space, beside another of its
    # name. The recipe asks for held-out images, which the command does not take again.
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
    # Calibration depends on it.
    folder = make_folder(tmp_path / "digits", tuple("0123456789"), 2, (28, 28))
    path = put_network(tmp_path, trained.ann, holdout=8)
    convert = "--update immediate --calibrate --balance_timesteps 6 --readout membrane_rescaled"
    flags = f"--pretrained_ann {path} --dataset {folder} --timesteps 2 3 --output_dir {tmp_path}"

    rows, said = run_undrawn("obj1", flags, convert)

    row = check_recommended(rows, said, 8)
    assert row["images"] == 8
    assert any(other["timesteps"] != row["timesteps"] for other in rows)
    # Of 20 training images 8 are held out. Also without --holdout, thresholds are not
    # balanced on those.
    assert said.count("calibrating biases: 12 images") == 2
    _, said = run_undrawn("obj1", recommended_words(said))
    assert "calibrating biases: 12 images" in said


def test_the_recommended_command_names_a_network_that_was_found_by_its_name(tmp_path):
    # The name has the number of timesteps of training, and another may be recommended.
    here = f"-a VGG5_wFeedback_small --fc_width 8 {DATA} --output_dir {tmp_path}"
    run_here("snn", f"--epochs 0 --timesteps 2 {here}")

    rows, said = run_undrawn("obj1", f"{here} --timesteps 2 --readout_slew 0.1 0.5 --holdout 8")

    check_recommended(rows, said, 8)
    words = recommended_words(said)
    path = words[words.index("--pretrained_snn") + 1]
    assert path.endswith("snn_vgg5_wfeedback_small_mnist_2_tradeoff1.0_typelast_t.pth")


def test_on_the_front_are_results_that_no_other_beats_in_accuracy_and_spikes():
    def result(accuracy, spikes):
        return {"accuracy": accuracy, "spikes": {"total": spikes}}

    best = result(0.9, 90)
    few_spikes = result(0.8, 80)
    more_spikes_than_best = result(0.9, 100)
    beaten_by_few_spikes = result(0.7, 85)

    front = on_front(
        [more_spikes_than_best, best, few_spikes, beaten_by_few_spikes, result(0.8, 80)]
    )

    # Of equal results each is there.
    assert front == [best, few_spikes, few_spikes]


@pytest.mark.parametrize(
    ("name", "more", "words"), [("obj2", "", "mean timesteps"), ("obj3", "--images 1", "contrast")]
)
def test_objectives_2_and_3_evaluate_and_draw(trained, tmp_path, name, more, words):
    flags = f"--pretrained_snn {trained.snn} {DATA} {more} --run_name x --output_dir {tmp_path}"

    run = run_as_program(name, flags)

    head, *_ = check_quiet(run).splitlines()
    assert words in head
    found = records(tmp_path / "logs/snn/x.jsonl", "evaluation")
    assert len(found) > 1
    for record in found:
        assert 1 <= record["mean_steps"] <= 5
        check_spikes(record)
    assert list(tmp_path.rglob("*.png"))
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize("kind", ["ann", "snn"])
def test_test_only_evaluates_once_and_writes_no_checkpoint(trained, tmp_path, kind):
    before = digests(trained.folder)
    path = trained.ann if kind == "ann" else trained.snn

    run = run_as_program(
        kind, f"--pretrained_{kind} {path} --test_only {DATA} --output_dir {tmp_path}"
    )

    line = r"^accuracy [\d.]+ % on 16 images, [\d.]+ s\n"
    assert re.search(line, check_quiet(run), re.MULTILINE)
    (log,) = tmp_path.rglob("*.jsonl")
    assert log.name == "tiny_test.jsonl"
    (record,) = records(log)
    assert record["event"] == "evaluation"
    assert record["images"] == 16
    after_training = records(trained.folder / f"logs/{kind}/tiny.jsonl")[0]["evaluated"]
    assert record["accuracy"] == after_training["accuracy"]
    assert record["reconstruction_error"] == after_training["error"]
    assert not list(tmp_path.rglob("*.pth"))
    assert digests(trained.folder) == before
    if kind == "snn":
        check_spikes(record)
        name = row_of(NETWORKS["baseline"], record)["name"]
        assert name == "baseline of feedback (chosen on test images)"


def test_segments_change_no_figure_and_bfloat16_a_little(trained, tmp_path):
    start = f"--pretrained_ann {trained.ann} {SPIKING} --output_dir {tmp_path}"
    run_here("snn", f"{start} --run_name plain")
    run_here("snn", f"{start} --run_name segments --bptt_segments auto")
    run_here("snn", f"{start} --run_name rounded --precision bfloat16")

    totals = {}
    for name in ("plain", "segments", "rounded"):
        (epoch,) = records(tmp_path / f"logs/snn/{name}.jsonl", "epoch")
        totals[name] = epoch["train"]["total"]
    assert totals["segments"] == pytest.approx(totals["plain"], rel=1e-4)
    assert totals["rounded"] == pytest.approx(totals["plain"], rel=0.05)
    assert totals["rounded"] != totals["plain"]


def test_a_teacher_changes_what_is_learned_unless_it_counts_nothing(trained, tmp_path):
    # It may be of another plan. It changes no setting of the SNN, and has no dropout.
    teacher = tmp_path / "trained_models/ann/teacher.pth"
    run_here(
        "ann", f"{TINY} -a VGG5_small --fc_width 8 --run_name teacher --output_dir {tmp_path}"
    )
    # Were this teacher in training mode, its dropout would change what is learned.
    with_dropout = tmp_path / "with_dropout.pth"
    saved = load_checkpoint(teacher)
    torch.save(saved | {"settings": saved["settings"] | {"dropout": 0.9}}, with_dropout)

    def learn(name, teacher, weight):
        flags = f"--teacher_ann {teacher} --distillation {weight} --run_name {name}"
        start = f"--pretrained_ann {trained.ann} {SPIKING}"
        run_here("snn", f"{start} {flags} --output_dir {tmp_path}")
        (record,) = records(tmp_path / f"logs/snn/{name}.jsonl", "epoch")
        return figures(record)

    mute = learn("mute", teacher, 0)
    taught = learn("taught", teacher, 0.9)
    taught_with_dropout = learn("taught_with_dropout", with_dropout, 0.9)

    (alone,) = records(trained.folder / "logs/snn/tiny.jsonl", "epoch")
    assert mute == figures(alone)
    assert taught["train"] != mute["train"]
    assert taught_with_dropout == taught


def test_default_names_lead_from_one_script_to_the_next(tmp_path):
    here = f"-a VGG5_wFeedback_small --fc_width 8 --timesteps 2 {DATA} --output_dir {tmp_path}"
    name = "snn_vgg5_wfeedback_small_mnist_2_tradeoff1.0_typelast_t"

    run_here("snn", f"--epochs 1 --no-log {here}")

    # --no-log writes no log.
    assert digests(tmp_path).keys() == {
        f"trained_models/snn/{name}.pth",
        f"trained_models/snn/{name}_last.pth",
    }

    # Without --pretrained_snn, the post-hoc scripts take the checkpoint that the flags
    # name, as in the original.
    run_undrawn("obj1", here)
    assert len(records(tmp_path / f"logs/snn/{name}_epsilon_0.1.jsonl", "evaluation")) == 1


OPTIMIZER = '''class Lion(torch.optim.Optimizer):
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
LABEL_NOISE = """noise = torch.rand(len(batch.labels)) < 0.1
                        other = torch.randint(10, batch.labels.shape)
                        batch = batch._replace(labels=torch.where(noise, other, batch.labels))
                        draws = Draws("""
LOSS = """losses["magnitude"] = output.logits.square().mean()
    total = total + 1e-3 * losses["magnitude"]
    losses["total"] = total"""


def write_own_script(path):
    """Copy the training script and give it a loss, an optimiser and label noise."""
    text = (REPOSITORY / "snn_wFeedback.py").read_text()
    begin = text.index("make_optimizer(\n            args.optimizer,")
    end = text.index("        factor = learning_rate_factor(")
    text = text[:begin] + "Lion(model.parameters(), args.learning_rate)\n" + text[end:]
    text = text.replace("def compute_losses(", OPTIMIZER)
    text = text.replace('losses["total"] = total', LOSS)
    text = text.replace("draws = Draws(args.seed, epoch,", f"{LABEL_NOISE}args.seed, epoch,")
    path.write_text(text)


def test_a_copy_of_the_script_gets_a_loss_an_optimiser_and_label_noise_of_its_own(
    trained, tmp_path, monkeypatch
):
    path = tmp_path / "mine.py"
    write_own_script(path)
    spec = importlib.util.spec_from_file_location("mine", path)
    mine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mine)
    monkeypatch.setattr("sys.argv", [str(path)])
    here = f"--run_name mine --output_dir {tmp_path}"

    # The run goes on after it was stopped.
    mine.main(f"--pretrained_ann {trained.ann} {SPIKING} {here}".split())
    mine.main(f"{here} --resume --epochs 2".split())

    log = (tmp_path / "logs/snn/mine.log").read_text()
    assert re.search("optimiser: Lion, learning_rate=.* .in place of --optimizer Adam.", log)
    assert re.search(r"epoch 1/1: train classification .* [|] magnitude [\d.,]+ [|] total", log)
    assert re.search("git revision: .*, script mine.py of digest [0-9a-f]{16}; seed", log)
    epochs = records(tmp_path / "logs/snn/mine.jsonl", "epoch")
    assert len(epochs) == 2
    for epoch in epochs:
        losses = epoch["train"]
        assert losses["magnitude"] > 0
        assert losses["total"] > losses["classification"] + 1e-3 * losses["magnitude"]
        assert epoch["evaluated"]["magnitude"] > 0
