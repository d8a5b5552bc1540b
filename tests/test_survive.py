"""Training that is killed, stopped, started twice, out of space, or damaged: nothing is lost, and one line says what to do."""

import functools
import json
import os
import resource
import shlex
import shutil
import signal
import sys
from itertools import count
from math import cos, pi
from types import SimpleNamespace

import pytest
import torch
from conftest import OBJ1, PLAN, SNN, SPIKING, digests, flip, images, records, refused, run_here, split
from filelock import FileLock

import ann_wFeedback
import harness.training.epoch
import harness.training.fit
import harness.training.state
from benchmarks.robustness.kill_resume import FLAGS, compare, kill_and_compare
from benchmarks.shared import same
from harness import UserError
from harness.command_line.scripts import run_script
from harness.data.sets import load_data
from harness.measuring.evaluation import evaluate
from harness.processes.signals import Interrupted, noted_signals
from harness.runs.checkpoints import keep
from harness.runs.commands import resume_command
from harness.runs.health import FiniteCheck, first_not_finite
from harness.runs.runlog import RunLog
from harness.training.epoch import train_one_epoch
from harness.training.losses import Criterion
from harness.training.schedules import make_optimizer
from self_models.basics.checkpoints import load_checkpoint
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

RUN = f"{FLAGS} --limit_train 48 --epochs 2 --checkpoint_minutes 0"  # 3 steps per epoch


def train(folder, *more, name=SNN, flags=RUN):
    return run_here(name, flags, f"--output_dir {folder}", *more)


def after_step(monkeypatch, epoch, step, act):
    """Call act() once, at the end of this step, before the run looks for signals."""
    real = harness.training.fit.train_one_epoch

    def train_one_epoch(*args):
        def on_batch(number, average):
            if (args[6], number) == (epoch, step):
                act()
            args[7](number, average)

        return real(*args[:7], on_batch, *args[8:])

    monkeypatch.setattr("harness.training.fit.train_one_epoch", train_one_epoch)


def in_evaluation(monkeypatch, number, act):
    """Call act() as the run's evaluation of this number begins."""
    calls = []

    def ask(*args):
        calls.append(args)
        if len(calls) == number:
            act()
        return evaluate(*args)

    monkeypatch.setattr("harness.training.fit.evaluate", ask)


def stopped(folder, number, *more, flags=RUN):
    """Train in this process as a script does; it must end as a signal ends it. Returns what it says."""
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: train(folder, *more, flags=flags))
    assert stop.value.code == 128 + number


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder)
    return folder


# --- killed and stopped


def test_a_checkpoint_that_is_kept_already_leaves_nothing_over(tmp_path):
    """A run was killed once its last checkpoint had its second name, and before the next took its first one."""
    (tmp_path / "x_last.pth").write_text("one")
    for _ in range(2):
        keep(tmp_path / "x_last.pth", tmp_path / "x_last_previous.pth")
    assert {path.name for path in tmp_path.iterdir()} == {"x_last.pth", "x_last_previous.pth"}


def test_killed_three_times_and_resumed(tmp_path):
    """benchmarks/robustness/kill_resume.py kills twenty times."""
    found = kill_and_compare(tmp_path, 3, seed=0, flags=f"{FLAGS} --limit_train 160 --epochs 2")
    assert found["kills"] == 3 and found["differences"] == []


STOPS = [
    (signal.SIGINT, (1, 1), (0, 1)), (signal.SIGTERM, (2, 3), (1, 3)), (signal.SIGINT, 1, (0, 3)), (signal.SIGTERM, 3, (2, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("number", "at", "saved"), STOPS)
def test_a_signal_ends_the_step_and_the_command_in_its_line_goes_on(alone, tmp_path, monkeypatch, capsys, number, at, saved):
    """at: (epoch, step), or the number of an evaluation, of which the first follows the last step of an epoch, and the third is
    the final test; saved: epochs and steps."""
    monkeypatch.setattr(sys, "argv", [f"{SNN}.py", *split([RUN]), "--overwrite", "--output_dir", str(tmp_path)])
    send = functools.partial(os.kill, os.getpid(), number)
    with monkeypatch.context() as patch:
        in_evaluation(patch, at, send) if isinstance(at, int) else after_step(patch, *at, send)
        stopped(tmp_path, number)
    said, words = capsys.readouterr().err, f"epoch {saved[0] + 1}, update {saved[1]}" if saved[1] else f"epoch {saved[0]}"
    assert f"stopped by {number.name} after {words}, saved in" in said and said.count("\n") == 1
    last = load_checkpoint(tmp_path / "trained_models/snn/x_last.pth")
    assert (last["epoch"], last["step"]) == saved
    command = shlex.split(said.rpartition("go on with: ")[2])
    assert command[:2] == ["python", f"{SNN}.py"] and command[-1] == "--resume" and "--overwrite" not in command
    run_here(SNN, *command[2:])
    assert compare(alone, tmp_path) == []


def test_an_epoch_takes_the_seconds_before_a_stop_and_after_it(tmp_path, monkeypatch):
    """By a clock that moves on by one each time that the training looks: as an epoch begins and ends, and after each of 3 steps.
    The second epoch is stopped after its second step."""
    monkeypatch.setattr("harness.training.fit.time", SimpleNamespace(perf_counter=count().__next__))
    with monkeypatch.context() as patch:
        after_step(patch, 2, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped(tmp_path, signal.SIGTERM)
    assert load_checkpoint(tmp_path / "trained_models/snn/x_last.pth")["seconds"] == 2
    train(tmp_path, "--resume")
    assert [record["seconds"] for record in records(tmp_path / "logs/snn/x.jsonl", "epoch")] == [4, 4]


def test_resume_command(monkeypatch):
    for typed, expected in (
        ("a.py --overwrite True -lr 1 --resume", "python a.py -lr 1 --resume"),
        ("a.py --resume old.pth --run_name 'my run'", "python a.py --run_name 'my run' --resume"),
        ("a.py --resume=old.pth --overwrite --no-log", "python a.py --no-log --resume"),
    ):
        monkeypatch.setattr(sys, "argv", shlex.split(typed))
        assert resume_command() == expected
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert resume_command() == "torchrun --nproc_per_node 3 a.py --no-log --resume"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    several = "--nnodes 2 --node_rank ... --rdzv_endpoint ... --nproc_per_node 3"
    assert resume_command() == f"torchrun {several} a.py --no-log --resume"


def test_signals_are_noted_and_handlers_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with noted_signals() as signals:
        assert signals.caught == 0
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            assert signals.caught == number
        with pytest.raises(Interrupted):  # a second Ctrl-C does not wait
            os.kill(os.getpid(), signal.SIGINT)
    with noted_signals(patient=True) as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.caught == signal.SIGINT
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_where_there_is_nothing_to_save(capsys):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert stop.value.code == 143 and capsys.readouterr().err == "interrupted\n"


def test_checkpoints_within_an_epoch(alone, tmp_path, monkeypatch):
    """Every --checkpoint_minutes; 0 for none. They change nothing."""
    steps, real = [], harness.training.state.save_checkpoint
    monkeypatch.setattr(
        "harness.training.state.save_checkpoint",
        lambda *args, **more: (steps.append((more["epoch"], more["step"])), real(*args, **more)),
    )
    train(tmp_path / "0")
    assert steps == [(1, 0), (2, 0), (2, 0)]  # the last one says that the final test is done
    clock = iter(range(0, 10**6, 40))
    monkeypatch.setattr("harness.training.state.time.monotonic", lambda: next(clock))
    steps.clear()
    train(tmp_path / "1", "--checkpoint_minutes 1")
    assert set(steps) > {(1, 0), (2, 0)} and {step for _, step in steps} >= {0, 2}
    assert compare(alone, tmp_path / "0") == compare(alone, tmp_path / "1") == []


def test_a_run_killed_before_its_first_checkpoint_begins_anew(alone, tmp_path, monkeypatch):
    """Also one that was to replace another, whose last checkpoint must not be taken for its own."""
    train(tmp_path, "--seed 1")
    with monkeypatch.context() as patch:
        patch.setattr("harness.training.state.TrainingState.save", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tmp_path, "--overwrite")
    line = refused(SNN, f"--run_name x --resume --output_dir {tmp_path}")
    assert "the run was stopped before it had saved; begin it with the flags that it had: " in line
    _, said = train(tmp_path, "--resume")
    assert f"{tmp_path}/trained_models/snn/x_last.pth is not there yet: the run begins\n" in said
    assert compare(alone, tmp_path) == []


def test_a_raised_number_of_epochs_stretches_the_schedule_from_its_first_step_on(alone, tmp_path, monkeypatch):
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    assert "has trained 2 epochs already" in refused(SNN, RUN, f"--resume --output_dir {tmp_path}")
    real, rates = harness.training.fit.train_one_epoch, []
    monkeypatch.setattr(
        "harness.training.fit.train_one_epoch",
        lambda *args: (rates.append(args[3].param_groups[0]["lr"]), real(*args))[1],
    )
    train(tmp_path, "--resume --epochs 3")
    assert rates == [pytest.approx(2e-3 * (1 + cos(pi * (6 / 9 - 0.05) / 0.95)) / 2)]  # after 6 of 9 steps


# --- started twice


JUDGES = "--pretrained_snn {}/trained_models/snn/x.pth --limit_test 8 --run_name x --overwrite"


def test_a_second_run_into_the_same_place_is_refused(alone):
    before = digests(alone)
    with FileLock(alone / "trained_models/snn/.x.lock"):
        for name, flags in ((SNN, RUN), (SNN, f"{RUN} --resume"), (SNN, f"{RUN} --overwrite"), (OBJ1, JUDGES)):
            line = refused(name, flags.format(alone), f"--output_dir {alone}")
            assert "is being written by another process: " in line
    assert digests(alone) == before


def test_a_run_holds_its_lock_until_it_ends(tmp_path, monkeypatch):
    tried = []
    after_step(monkeypatch, 1, 2, lambda: tried.append(refused(SNN, RUN, "--overwrite", f"--output_dir {tmp_path}")))
    train(tmp_path)
    assert len(tried) == 1 and "is being written by another process: " in tried[0]


# --- no space, no folder


@pytest.fixture
def small_files():
    """No file may grow beyond the limit that is set: write() fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("full", [0.999, "log", "gone"])
def test_what_cannot_be_written_keeps_the_last_good_checkpoint(alone, tmp_path, monkeypatch, small_files, full):
    """The disk is full at the end of a checkpoint, or in a log; or the folder is gone, perhaps with its disk."""
    place, gone, size = tmp_path / "place", tmp_path / "gone", (alone / "trained_models/snn/x_last.pth").stat().st_size
    with monkeypatch.context() as patch:
        if full == "log":
            real = harness.training.state.TrainingState.save
            patch.setattr("harness.training.state.TrainingState.save", lambda self: (real(self), small_files(9)))
        else:
            after_step(patch, 2, 1, lambda: place.rename(gone) if full == "gone" else small_files(int(full * size)))
        line = refused(SNN, RUN, f"--output_dir {place}")
    assert "cannot write" in line and ("x.log" if isinstance(full, str) else ".pth") in line
    assert ("No such file or directory" if full == "gone" else "File too large") in line
    assert full != "log" or "last checkpoint is kept" in line
    small_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    if full == "gone":
        assert not place.exists()
        gone.rename(place)
    assert load_checkpoint(place / "trained_models/snn/x_last.pth")["epoch"] >= 1 and list(place.rglob("*.tmp")) == []
    train(place, "--resume")
    assert compare(alone, place) == []


# --- damaged files


DAMAGES = {"flipped": lambda raw: flip(raw, len(raw) // 3), "cut short": lambda raw: raw[:-100], "gone": None}


@pytest.mark.parametrize(("damage", "hard_links"), [("flipped", True), ("gone", True), ("cut short", False)])
def test_the_checkpoint_before_a_damaged_one_is_offered_and_kept(alone, tmp_path, monkeypatch, damage, hard_links):
    """The damaged one does not take the good one's place when the run goes on, by the checkpoint's path alone."""
    with monkeypatch.context() as patch:
        after_step(patch, 2, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped(tmp_path, signal.SIGTERM)
    last, previous = (tmp_path / f"trained_models/snn/x_last{ending}.pth" for ending in ("", "_previous"))
    last.write_bytes(DAMAGES[damage](last.read_bytes())) if DAMAGES[damage] else last.unlink()
    line = refused(SNN, RUN, f"--resume --output_dir {tmp_path}")
    assert str(last) in line and line.endswith(f"--resume {previous}")
    good, held, real = load_checkpoint(previous), [], harness.training.state.save_checkpoint
    if not hard_links:
        monkeypatch.setattr("os.link", lambda *paths: os.stat("/there is no such file"))
    monkeypatch.setattr(
        "harness.training.state.save_checkpoint",
        lambda *args, **more: (real(*args, **more), held.append(load_checkpoint(previous))),
    )
    train(tmp_path, f"--resume {previous}", flags="")  # which names the run
    assert same(held[0], good) and compare(alone, tmp_path) == []


def test_resume_without_any_last_checkpoint_does_not_begin_anew(alone, tmp_path):
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    last, log = tmp_path / "trained_models/snn/x_last.pth", tmp_path / "logs/snn/x.log"
    last.unlink()
    log.write_bytes(b"\xff\n" + log.read_bytes())  # damaged, but it says enough
    for _ in range(2):
        before = digests(tmp_path)
        line = refused(SNN, RUN, f"--resume --output_dir {tmp_path}")
        assert str(last) in line and "--overwrite" in line and digests(tmp_path) == before
        log.unlink(missing_ok=True)  # then the best checkpoint tells


def test_resume_wants_the_same_recipe_network_and_images(alone):
    """Also where the shapes fit: the run would not be the one that is gone on with."""
    recipe = ("-lr 0.5", "--trade_off 7", "--weight_decay 0.1", "--optimizer SGD", "--spike_penalty 1", "--timesteps 6")
    for more in (*recipe, "--batch_size 8", "--seed 1", "--limit_train 64", "--no-augment", "--holdout 4", "--select test"):
        line = refused(SNN, RUN, more, f"--epochs 3 --resume --output_dir {alone}")
        name = more.split()[0].removeprefix("--").removeprefix("no-").replace("-lr", "learning_rate")
        assert name in line and "same flags" in line


def test_resume_wants_weights_and_images_of_the_checkpoints_network(alone, tmp_path):
    """What has no flag comes from the checkpoint; where it is not its own, its weights or the data set tell."""
    saved, path = load_checkpoint(alone / "trained_models/snn/x_last.pth"), tmp_path / "other.pth"
    weight = saved["state_dict"]
    fewer = {"classifier.6.weight": weight["classifier.6.weight"][:7]}
    smaller = {"classifier.0.weight": weight["classifier.0.weight"][:, :800]}
    for changed, weights, words in (
        ({"plan": PLAN}, {}, f"{path} is damaged: its settings are of another InputBlockingSNN: "),
        ({"labels": 7}, fewer, "was trained on"),
        ({"labels": 7, "classes": list("abcdefg")}, fewer, "was trained on"),
        ({"image_shape": (1, 20, 20)}, smaller, "--dataset MNIST has grey images of 28x28 pixels, and the network takes"),
    ):
        other = {"settings": saved["settings"] | changed, "state_dict": weight | weights}
        torch.save(saved | other, path)
        assert words in refused(SNN, f"--run_name y --epochs 3 --resume {path} --output_dir {tmp_path}")


def test_a_log_loses_what_its_run_will_do_again(alone, tmp_path):
    """By hand; epochs that the checkpoint knows, its evaluation, and the user's own words stay."""
    lines = ["head", "", "epoch 1/3: a", "mine", "epoch 2/3: b", "epoch 20/3: c", "warning: epoch 3: d", "epoch 3/3: e"]
    told = [{"event": "epoch", "epoch": 1}, {"event": "evaluation"}, {"event": "epoch", "epoch": 2}, {"event": "evaluation"}]
    told += [{"event": "mine"}, {"event": "epoch", "epoch": 3}, {"event": "evaluation"}]
    run = SimpleNamespace(place=SimpleNamespace(log_path=tmp_path / "log", json_path=tmp_path / "json"), _writes=True)
    for finished, held in ((True, told[:5]), (False, [*told[:3], told[4]])):
        run.place.log_path.write_text("\n".join([*lines, "epo"]))
        run.place.json_path.write_bytes(b"\xff\n" + "\n".join(map(json.dumps, told)).encode() + b"\n{")
        for _ in range(2):
            RunLog.take_back(run, 2, finished)
            assert run.place.log_path.read_text().splitlines() == lines[:5]
            first, *found = run.place.json_path.read_bytes().splitlines()
            assert first == b"\xff" and list(map(json.loads, found)) == held


# --- networks that fail


def network(activation):
    torch.manual_seed(0)
    small = {"plan": PLAN, "fc_width": 8, "timesteps": 3, "image_shape": (1, 12, 12), "default_threshold": 0.05}
    return VGG_SNN_STDB_wFeedback(update="immediate", readout="membrane", activation=activation, **small)


def test_what_is_finite():
    nan, inf, model = torch.nan, torch.inf, torch.nn.Linear(2, 1)  # its bias has no gradient
    for loss, gradient, failed in (
        (1.0, [1.0, -2.0], 0), (1.0, [1e30, 1.0], 0),
        (nan, [1.0, 1.0], 1), (inf, [1.0, 1.0], 1), (1.0, [inf, -inf], 1),
    ):  # fmt: skip
        model.weight.grad = torch.tensor([gradient])
        check = FiniteCheck(torch.tensor(loss), model)
        assert (check.failed(), check.flag.item()) == (bool(failed), failed)


def step_of(model, loss=lambda output: output.logits.sum() + output.errors.sum()):
    x = images(4, (1, 12, 12))
    return lambda: loss(model(x, torch.rand(3, *x.shape, generator=torch.Generator().manual_seed(0))))


@pytest.mark.parametrize("activation", ["Linear", "STDB"])
def test_the_first_layer_that_is_not_finite_is_named(activation):
    """STDB keeps the age of the last spike, which is infinite at first."""
    model = network(activation)
    assert first_not_finite(model, step_of(model)) == "the loss itself"  # nothing is wrong
    with torch.no_grad():
        model.classifier[0].weight.fill_(3e38)  # overflows when several of its inputs fire
    assert first_not_finite(model, step_of(model)) == "the output of layer classifier.0 (Linear), call 1 of the update"
    model = network(activation)
    root = lambda output: (output.logits * 0).sqrt().sum()  # noqa: E731  its slope at 0 is infinite
    assert first_not_finite(model, step_of(model, root)) == "the gradient at layer classifier.6 (Linear)"
    with torch.no_grad():
        model.classifier[3].weight[0] = torch.nan
    assert first_not_finite(model, step_of(model)) == "weight classifier.3.weight was not finite before the update"


def epoch_of(kind, norm, bad=None, slope=True):
    """(state after it, what on_batch saw, the error) of an epoch of three batches. bad: the step, if any, in which the loss's
    slope is not finite, or the loss itself is infinite."""
    torch.manual_seed(0)
    cls, own = (VGG_wFeedback, {"norm": norm}) if norm else (VGG_SNN_STDB_wFeedback, {"timesteps": 2, "update": "immediate"})
    model = cls(plan=PLAN, fc_width=8, **own | ({} if norm else {"default_threshold": 0.05}))
    optimizer = make_optimizer(model, ann_wFeedback.build_parser().parse_args(["--optimizer", kind, "-lr", "0.01"]))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    data, criterion, seen = load_data("MNIST", limit_train=12)[0], Criterion(1.0, "last_t"), []
    steep_on = list(data.batches(4))[bad - 1].labels if bad else torch.empty(0)

    def steep(output, labels, images):
        losses = criterion(output, labels)
        more = (output.logits * 0).sqrt().sum() if slope else torch.inf
        return losses | ({"total": losses["total"] + more} if torch.equal(labels, steep_on) else {})

    steep.needs_frames = False

    def sums():
        return {name: value.double().sum().item() for name, value in model.state_dict().items()}

    def on_batch(number, average):
        seen.append((number, average.means(), schedule.last_epoch, sums()))

    error = None
    try:
        train_one_epoch(model, data.batches(4), steep, optimizer, schedule, 0, 3, on_batch)
    except UserError as raised:
        error = str(raised)
    return model.state_dict(), seen, error, sums()


STEEP = "a gradient is not finite at epoch 3, update {}: first not finite: the gradient at layer classifier.6 (Linear); "
INFINITE = "the loss is inf at epoch 3, update {}: first not finite: the loss itself; "


@pytest.mark.parametrize(("kind", "norm", "line"), [("Adam", None, STEEP), ("SGD", None, STEEP), ("Adam", "scale", INFINITE)])
def test_a_check_one_step_later_loses_nothing(kind, norm, line, monkeypatch):
    """As on a GPU: weights, a normalisation's statistics, what is saved after each step, and the line are those of a check at
    once, wherever it fails; and those of before the step that fails."""
    slope = line is STEEP
    at_once = {bad: epoch_of(kind, norm, bad, slope) for bad in (None, 1, 2, 3)}
    monkeypatch.setattr(harness.training.epoch, "looks_later", lambda model, optimizer: True)
    line += "training stopped, the last checkpoint is kept; try a lower --learning_rate or --trade_off"
    for bad, (state, seen, error, sums) in at_once.items():
        later = epoch_of(kind, norm, bad, slope)
        assert later[1:] == (seen, error, sums) and len(seen) == (bad - 1 if bad else 3)
        assert all(torch.equal(value, state[name]) for name, value in later[0].items())
        assert not seen or seen[-1][3] == sums
        if bad:
            assert error == line.format(bad) and seen == at_once[None][1][: bad - 1]


def test_a_silent_layer_is_warned_of_once_an_epoch(tmp_path):
    flags = f"-a VGG5_wFeedback_small --fc_width 16 {SPIKING} --epochs 2 --run_name x --output_dir {tmp_path}"
    _, said = run_here(SNN, flags, "--default_threshold 1e6")
    warnings = [line for line in said.splitlines() if line.startswith("warning: epoch")]
    neurons = ["features.1", "features.4", "features.7", "generate.2", "generate.5", "classifier.1", "classifier.4"]
    assert [line.split(": ")[1:3] for line in warnings] == [
        [f"epoch {epoch}", f"layer {name} sent no spike in the whole epoch"] for epoch in (1, 2) for name in neurons
    ]
    assert all("lower threshold" in line and "--learning_rate" in line and "--spike_penalty" in line for line in warnings)
    assert [line for line in (tmp_path / "logs/snn/x.log").read_text().splitlines() if "warning: epoch" in line] == warnings
    assert [record["silent"] for record in records(tmp_path / "logs/snn/x.jsonl")] == [neurons] * 2
    _, said = run_here(SNN, flags, "--default_threshold 0.1 --overwrite")
    assert "warning: epoch" not in said and "silent" not in records(tmp_path / "logs/snn/x.jsonl")[0]
