"""Nothing is lost when training is killed, stopped, started twice, or out of space."""

import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import cos, pi

import pytest
import torch
from conftest import (
    SPIKING,
    TINY,
    digests,
    figures,
    module_of,
    records,
    refused,
    run_here,
    run_undrawn,
    split,
)
from torch import nn

import wfeedback.training.last_checkpoint
from benchmarks.robustness.kill_resume import FLAGS, compare, kill_and_compare
from self_models.checkpoints.files import load_checkpoint
from self_models.errors import UserError
from self_models.evaluation.evaluate import evaluate_parts
from self_models.notes import say_once
from wfeedback.command_line.scripts import run_script
from wfeedback.measuring.read_logs import find_runs
from wfeedback.runs import ranks
from wfeedback.runs.ranks import Interrupted, noted_signals
from wfeedback.runs.run import read_records
from wfeedback.training.last_checkpoint import LastCheckpoint
from wfeedback.training.progress import Progress, check_gradients

# 48 images in batches of 16: an epoch has 3 steps.
RUN = f"{FLAGS} --limit_train 48 --epochs 2 --checkpoint_minutes 0"


def train(folder, *more):
    """Train a spiking network in this folder; return its result and what it printed."""
    return run_here("snn", RUN, f"--output_dir {folder}", *more)


def after_step(monkeypatch, epoch, step, act):
    """Call act() once, at the end of this step, before the run looks for signals."""
    add = Progress.add

    def add_and_act(self, *args):
        add(self, *args)
        if (self.epoch + 1, self.step) == (epoch, step):
            act()

    monkeypatch.setattr(Progress, "add", add_and_act)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Train a run that nothing disturbs; return its folder."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder)
    return folder


def test_a_run_killed_three_times_and_resumed_is_the_run_that_was_never_killed(tmp_path):
    # benchmarks/robustness/kill_resume.py kills twenty times.
    found = kill_and_compare(tmp_path, 3, seed=0, flags=f"{FLAGS} --limit_train 96 --epochs 2")

    assert found["kills"] == 3
    assert found["differences"] == []


# A signal within an epoch is tested below: ranks are stopped, and one process goes on.
@pytest.mark.parametrize(
    ("interrupted_call", "saved_epoch", "saved_step"),
    [(1, 0, 3), (3, 2, 0)],
    ids=["evaluation after the last step of epoch 1", "final test"],
)
def test_a_signal_in_an_evaluation_is_waited_for_and_resume_goes_on(
    alone, tmp_path, monkeypatch, capsys, interrupted_call, saved_epoch, saved_step
):
    calls = count(1)

    def evaluate_and_interrupt(*args):
        if next(calls) == interrupted_call:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate_parts(*args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr("wfeedback.training.evaluating.evaluate_parts", evaluate_and_interrupt)
        run_script(lambda: train(tmp_path))

    assert stop.value.code == 128 + signal.SIGINT
    said = capsys.readouterr().err
    assert "stopped by SIGINT " in said
    assert said.count("\n") == 1
    last = load_checkpoint(tmp_path / "trained_models/snn/x_last.pth")
    assert last["epoch"] == saved_epoch
    assert last["step"] == saved_step

    train(tmp_path, "--resume")

    assert compare(alone, tmp_path) == []


@pytest.fixture
def handlers():
    """Return the handlers of SIGINT and SIGTERM, which a test must put back."""
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


def test_signals_are_noted_and_a_second_interrupt_does_not_wait(handlers):
    with noted_signals() as signals:
        assert signals.caught == 0
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            assert signals.caught == number
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)

    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_of_several_ranks_each_waits_when_the_interrupt_is_sent_again(monkeypatch, handlers):
    monkeypatch.setattr(ranks, "count", lambda: 2)

    with noted_signals() as signals:
        for _ in range(3):  # torchrun sends it again
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.caught == signal.SIGINT

    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_signal_where_there_is_nothing_to_save_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: os.kill(os.getpid(), signal.SIGTERM))

    assert stop.value.code == 128 + signal.SIGTERM == 143
    assert capsys.readouterr().err == "interrupted\n"


def test_checkpoints_within_an_epoch_are_saved_when_due_and_change_nothing(
    alone, tmp_path, monkeypatch
):
    seconds = 0
    saved = []
    add = Progress.add
    save_checkpoint = wfeedback.training.last_checkpoint.save_checkpoint

    def add_slowly(self, *args):
        nonlocal seconds
        add(self, *args)
        seconds += 40

    def save_and_note(*args, **more):
        saved.append((more["epoch"], more["step"]))
        save_checkpoint(*args, **more)

    monkeypatch.setattr(Progress, "add", add_slowly)
    monkeypatch.setattr("wfeedback.training.last_checkpoint.save_checkpoint", save_and_note)
    monkeypatch.setattr(
        "wfeedback.training.last_checkpoint.time.monotonic", lambda: float(seconds)
    )

    train(tmp_path, "--checkpoint_minutes 1")

    # Each of the 3 steps of an epoch takes 40 seconds. So a minute is over after step
    # 2, at 80 seconds; at step 3 only 40 more are, and the end of an epoch saves
    # anyhow. The second save after epoch 2 is that of the finished run.
    assert saved == [(0, 2), (1, 0), (1, 2), (2, 0), (2, 0)]
    assert compare(alone, tmp_path) == []


@pytest.mark.parametrize("killed_epoch", [1, 2])
def test_a_run_killed_between_a_record_and_its_state_does_that_epoch_again(
    alone, tmp_path, monkeypatch, killed_epoch
):
    # The killed run replaces another. If it dies before its own first checkpoint, it
    # must not take the other's last checkpoint for its own.
    train(tmp_path, "--seed 1")
    log = tmp_path / "logs/snn/x.jsonl"
    save = LastCheckpoint.save
    calls = count(1)

    def save_unless_killed(self):
        if next(calls) == killed_epoch:
            raise ZeroDivisionError
        return save(self)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(LastCheckpoint, "save", save_unless_killed)
        train(tmp_path, "--overwrite")

    # A line that was only half written is no record.
    before = read_records(log)
    with log.open("a") as file:
        file.write('{"event": "epoch", "epo')
    assert read_records(log) == before

    _, said = train(tmp_path, "--resume")

    begins = f"{tmp_path}/trained_models/snn/x_last.pth is not there yet: the run begins\n"
    assert (begins in said) == (killed_epoch == 1)
    assert compare(alone, tmp_path) == []
    (run,) = find_runs(["x"], tmp_path)
    assert run.name == "x"
    assert len(run.epochs) == 2
    assert len(run.evaluations) == 1


def test_a_raised_number_of_epochs_stretches_the_schedule_from_its_first_step_on(
    alone, tmp_path, monkeypatch
):
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    (last,) = tmp_path.rglob("*_last.pth")
    line = refused("snn", RUN, f"--resume --output_dir {tmp_path}")
    assert "has trained 2 epochs already" in line

    rates = []
    bests = []
    restore = LastCheckpoint.restore

    def restore_and_note(self, saved, path):
        restore(self, saved, path)
        rates.append(self.optimizer.param_groups[0]["lr"])
        bests.append(self.progress.best)

    monkeypatch.setattr(LastCheckpoint, "restore", restore_and_note)
    train(tmp_path, f"--resume {last} --epochs 3 --run_name other")
    train(tmp_path, "--resume --epochs 3")

    # 6 of 9 steps are over, of which the first 5 % are the warm-up: the rest of the
    # schedule is half a cosine that falls from the learning rate, 2e-3, to 0.
    share_of_cosine = (6 / 9 - 0.05) / 0.95
    rate = 2e-3 * (1 + cos(pi * share_of_cosine)) / 2
    assert rates == [pytest.approx(rate), pytest.approx(rate)]
    # The best epoch of the other run is one of its own, the run itself keeps its best.
    assert bests[0] is None
    assert bests[1]["epoch"] <= 2


def test_a_second_run_into_the_same_place_is_refused_until_the_first_ends(
    alone, tmp_path, monkeypatch
):
    here = f"--output_dir {tmp_path} --overwrite"
    network = f"--pretrained_snn {alone}/trained_models/snn/x.pth"
    lines = []

    def try_a_second_run():
        lines.append(refused("snn", RUN, here))
        lines.append(refused("obj1", f"{network} --limit_test 8 --run_name x", here))

    after_step(monkeypatch, epoch=1, step=2, act=try_a_second_run)
    train(tmp_path)

    assert len(lines) == 2
    for line in lines:
        assert "is being written by another process: " in line
    assert compare(alone, tmp_path) == []


@pytest.fixture
def limit_file_size():
    """Return a function that limits the size of files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    _, hard_limit = before

    def limit_size(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard_limit))

    yield limit_size
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("full", "share"),
    [(".pth", 0.999), (".jsonl", 0)],
    ids=["at the end of a checkpoint", "in the records"],
)
def test_a_full_disk_keeps_the_last_good_checkpoint(
    alone, tmp_path, monkeypatch, limit_file_size, full, share
):
    size_of_a_checkpoint = (alone / "trained_models/snn/x_last.pth").stat().st_size
    limit = int(share * size_of_a_checkpoint)
    _, no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    with monkeypatch.context() as patch:
        if full == ".jsonl":  # else a checkpoint is the first that finds the disk full
            patch.setattr(LastCheckpoint, "save_if_due", lambda *_: None)
        after_step(patch, epoch=2, step=1, act=lambda: limit_file_size(limit))
        line = refused("snn", RUN, f"--output_dir {tmp_path}")
    limit_file_size(no_limit)

    assert "cannot write" in line
    assert full in line
    assert "File too large" in line
    assert load_checkpoint(tmp_path / "trained_models/snn/x_last.pth")["epoch"] >= 1
    assert list(tmp_path.rglob("*.tmp")) == []

    train(tmp_path, "--resume")

    assert compare(alone, tmp_path) == []


@pytest.mark.parametrize("witness", ["a damaged log", "the best checkpoint alone"])
def test_resume_without_any_last_checkpoint_does_not_begin_anew(alone, tmp_path, witness):
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "trained_models/snn/x_last.pth"
    log = tmp_path / "logs/snn/x.jsonl"
    last.unlink()
    if witness == "a damaged log":
        log.write_bytes(b"\xff\n" + log.read_bytes())
    else:
        log.unlink()
    before = digests(tmp_path)

    line = refused("snn", RUN, f"--resume --output_dir {tmp_path}")

    assert str(last) in line
    assert "--overwrite" in line
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("flag", "value"),
    [("optimizer", "SGD"), ("timesteps", "6"), ("limit_train", "64"), ("gate", "open")],
)
def test_resume_wants_the_same_recipe_network_and_images(alone, flag, value):
    # Also where the shapes fit: the run would not be the one that is gone on with.
    line = refused("snn", RUN, f"--{flag} {value} --epochs 3 --resume --output_dir {alone}")

    assert flag in line
    assert "same flags" in line


@pytest.fixture
def layer_with_gradient():
    """Return a function that makes a layer whose weights alone have a gradient."""

    def make_layer(gradient):
        layer = nn.Linear(2, 1)
        layer.weight.grad = torch.tensor([gradient])
        return layer

    return make_layer


def test_large_gradients_are_finite(layer_with_gradient):
    check_gradients(torch.tensor(1.0), layer_with_gradient([1e30, -2.0]), "epoch 1")


@pytest.mark.parametrize(
    ("loss", "gradient", "fault"),
    [(torch.nan, [1.0, 1.0], "loss"), (1.0, [torch.inf, -torch.inf], "gradient")],
    ids=["loss", "gradient"],
)
def test_what_is_not_finite_is_refused(layer_with_gradient, loss, gradient, fault):
    with pytest.raises(UserError, match=fault):
        check_gradients(torch.tensor(loss), layer_with_gradient(gradient), "epoch 1")


def test_a_silent_layer_is_warned_of_once_an_epoch(tmp_path):
    log = tmp_path / "logs/snn/x.jsonl"
    network = f"-a VGG5_wFeedback_small --fc_width 16 {SPIKING}"
    flags = f"{network} --epochs 2 --run_name x --output_dir {tmp_path}"

    _, said = run_here("snn", flags, "--default_threshold 1e6")

    neurons = [
        "features.1",
        "features.4",
        "features.7",
        "generate.2",
        "generate.5",
        "classifier.1",
        "classifier.4",
    ]
    assert said.count("warning: epoch 2: layer ") == len(neurons)
    assert [record["silent"] for record in records(log)] == [neurons, neurons]

    run_here("snn", flags, "--default_threshold 0.1 --overwrite")

    assert "silent" not in records(log)[0]


# Batches of 16, and one of what is left over, have parts of one size, so that the mean
# of their means is the batch's. SGD, because Adam divides by a gradient's size, so that
# rounded ones can move a weight as far as any, and flip spikes.
SNN_RUN = (
    "-a VGG5_wFeedback_small --fc_width 16 --timesteps 4 --update immediate"
    " --readout membrane_rescaled --epsilon 0.2 --default_threshold 0.3"
    " --spike_penalty 1e-5 --learn_threshold --trade_off 0.02"
    " --optimizer SGD -lr 1e-3 --lr_interval 1 --epochs 3"
    " --limit_train 36 --limit_test 16 --batch_size 16 --augment --dropout 0.3 --holdout 20"
    " --checkpoint_minutes 0"
)


def rank_main(name, flags, environment, folder, act):
    """Run a script as a rank's process, what it says going to files in folder."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    rank = environment["RANK"]
    module = module_of(name)
    sys.argv = [module.__file__, *flags]
    sys.stdout = (folder / f"out{rank}").open("w")
    sys.stderr = (folder / f"err{rank}").open("w")
    if act:
        act(int(rank))
    run_script(lambda: module.main(flags))


@dataclass
class Rank:
    """What became of a process that was one rank of several."""

    status: int
    out: str
    err: str


def free_port():
    """Find a port of this machine that nobody uses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run_in_ranks(count, folder, name, *flags, act=None):
    """Run a script in several processes, as torchrun would.

    Parameters
    ----------
    count : int
        Number of processes.
    folder : Path
        Folder of the files that take what the processes say.
    name : str
        Name of the script.
    *flags : str or Path
        Flags of the script.
    act : callable, optional
        Called with the rank in each process, before the script runs.

    Returns
    -------
    list of Rank
        In the order of the ranks.
    """
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")  # one import for all
    context.set_forkserver_preload(["benchmarks.robustness.kill_resume"])
    common = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }

    processes = []
    for rank in range(count):
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = context.Process(
            target=rank_main, args=(name, split(flags), environment, folder, act)
        )
        process.start()
        processes.append(process)
    for process in processes:
        process.join(120)

    found = []
    for rank, process in enumerate(processes):
        out = (folder / f"out{rank}").read_text()
        err = (folder / f"err{rank}").read_text()
        found.append(Rank(process.exitcode, out, err))
    return found


def run_successful_ranks(count, folder, name, *flags):
    """Run a script in several processes, all of which must succeed."""
    found = run_in_ranks(count, folder, name, *flags)
    for rank in found:
        assert rank.status == 0, rank
    return found


def send_signal_within_epoch_2(number, rank):
    """Send this signal to rank 1 alone, in its first step of epoch 2."""
    if rank == 1:
        after_step(pytest.MonkeyPatch(), 2, 1, lambda: os.kill(os.getpid(), number))


def test_ranks_resume_what_other_numbers_of_ranks_began(tmp_path):
    flags = f"--run_name x --output_dir {tmp_path / 'run'}"
    terminate = partial(send_signal_within_epoch_2, signal.SIGTERM)

    # Two ranks begin; a signal to one of them stops both, and the first one alone says
    # so.
    first, second = run_in_ranks(2, tmp_path / "said", "snn", SNN_RUN, flags, act=terminate)
    assert first.status == second.status == 128 + signal.SIGTERM == 143
    assert "stopped by SIGTERM in epoch 2 of 3, after update 1, saved" in first.err
    assert second.err == ""
    saved = load_checkpoint(tmp_path / "run/trained_models/snn/x_last.pth")
    assert (saved["epoch"], saved["step"], saved["average"]["images"]) == (1, 1, 16)

    # Four go on to the end of epoch 2, of which one writes; and then one process.
    resumed = f"--resume --epochs 2 {flags}"
    found = run_successful_ranks(4, tmp_path / "said", "snn", SNN_RUN, resumed)
    for rank in found[1:]:
        assert rank.out == rank.err == ""
    run_here("snn", SNN_RUN, f"--resume {flags}")

    # One process alone learns the same; it adds the same numbers up in another order.
    run_here("snn", SNN_RUN, f"--run_name x --output_dir {tmp_path / 'one'}")
    learned = {}
    for run in ("one", "run"):
        epochs = records(tmp_path / f"{run}/logs/snn/x.jsonl", "epoch")
        learned[run] = [epoch["train"] for epoch in epochs]
    torch.testing.assert_close(learned["run"], learned["one"], rtol=1e-5, atol=1e-6)
    assert digests(tmp_path / "one").keys() == digests(tmp_path / "run").keys()


def spoil_rank_1(rank):
    """Let the classifier's first nonlinearity yield nan on rank 1."""
    if rank != 1:
        return
    forward = nn.ReLU.forward

    def forward_nan(self, x):
        if x.dim() == 2:
            return forward(self, x) * torch.nan
        return forward(self, x)

    nn.ReLU.forward = forward_nan


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(tmp_path):
    flags = f"--output_dir {tmp_path / 'run'}"

    found = run_in_ranks(2, tmp_path / "said", "ann", TINY, flags, act=spoil_rank_1)

    assert len(found) == 2
    for number, rank in enumerate(found):
        assert rank.status == 2
        assert rank.err.startswith(f"error (rank {number}): ")
        assert rank.err.count("\n") == 1
        assert " at epoch 1, update 1; training stopped" in rank.err
    assert list(tmp_path.rglob("*.pth")) == []


def test_when_a_rank_dies_the_other_says_how_to_go_on_and_one_process_does(tmp_path):
    flags = f"{SNN_RUN} --run_name x --output_dir {tmp_path}"
    kill = partial(send_signal_within_epoch_2, signal.SIGKILL)

    first, second = run_in_ranks(2, tmp_path / "said", "snn", flags, act=kill)

    assert first.status == 1
    assert second.status == -signal.SIGKILL
    assert "error (rank 0): rank 0 lost the others" in first.err
    assert first.err.endswith(": --resume goes on, with any number of ranks\n")

    run_here("snn", flags, "--resume")

    epochs = records(tmp_path / "logs/snn/x.jsonl", "epoch")
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]


def test_ranks_evaluate_every_image_once(trained, tmp_path):
    flags = (
        f"--pretrained_snn {trained.snn} --epsilon 0 0.2"
        " --limit_test 41 --batch_size 20 --run_name x"
    )

    run_undrawn("obj1", flags, f"--output_dir {tmp_path / 'one'}")
    folder = tmp_path / "two"
    _, second = run_successful_ranks(2, tmp_path / "said", "obj1", flags, f"--output_dir {folder}")

    # Figures are the same to the last digit, and no image counts twice.
    one = figures(records(tmp_path / "one/logs/snn/x.jsonl"))
    two = figures(records(tmp_path / "two/logs/snn/x.jsonl"))
    assert one == two
    evaluations = records(tmp_path / "two/logs/snn/x.jsonl", "evaluation")
    assert [evaluation["images"] for evaluation in evaluations] == [41, 41]
    assert second.out == second.err == ""


def test_a_rank_of_no_image_of_its_own_takes_another_ranks(tmp_path):
    # The last batch is of one image, and each rank normalises by its own part. With
    # --trade_off 0 the loss does not reach every weight.
    flags = f"{TINY} --norm batch --trade_off 0 --limit_train 33"

    run_successful_ranks(2, tmp_path, "ann", flags, f"--run_name x --output_dir {tmp_path}")

    (epoch,) = records(tmp_path / "logs/ann/x.jsonl", "epoch")
    assert 0 < epoch["train"]["total"] < 1e4


def test_ranks_that_do_not_find_each_other_are_told_where_to_read_on(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")

    words = r"^error: the ranks did not find each other \(.*\); see docs/how_to/long_runs.md$"
    with pytest.raises(SystemExit, match=words), ranks.process_group():
        pass


@pytest.mark.parametrize(("rank", "said"), [(0, "2 files are bad\n"), (1, "")])
def test_of_several_ranks_the_first_says_a_note_once(monkeypatch, capsys, rank, said):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    say_once.cache_clear()

    say_once("2 files are bad")
    say_once("2 files are bad")

    assert capsys.readouterr().err == said
