"""Training that is killed, stopped, started twice, out of space, damaged, or shared by ranks: nothing is lost."""

import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
from contextlib import nullcontext
from functools import partial
from itertools import count
from math import cos, pi

import pytest
import torch
from conftest import SPIKING, TINY, digests, figures, module_of, records, refused, run_here, split
from torch import nn

import harness.training.last_checkpoint
from benchmarks.robustness.kill_resume import FLAGS, compare, kill_and_compare
from harness import UserError
from harness.command_line.scripts import run_script
from harness.measuring.read_logs import find_runs
from harness.runs import ranks
from harness.runs.ranks import Interrupted, noted_signals
from harness.runs.run import read_records
from harness.training.last_checkpoint import LastCheckpoint
from harness.training.progress import Progress, check_gradients
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.notes import say_once
from self_models.counting.evaluation import evaluate_parts

RUN = f"{FLAGS} --limit_train 48 --epochs 2 --checkpoint_minutes 0"  # 3 steps per epoch


def train(folder, *more, name="snn", flags=RUN):
    return run_here(name, flags, f"--output_dir {folder}", *more)


def after_step(monkeypatch, epoch, step, act):
    """Call act() once, at the end of this step, before the run looks for signals."""
    real = Progress.add

    def count_step(self, *args):
        real(self, *args)
        if (self.epoch + 1, self.step) == (epoch, step):
            act()

    monkeypatch.setattr(Progress, "add", count_step)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder)
    return folder


def test_killed_three_times_and_resumed(tmp_path):
    """benchmarks/robustness/kill_resume.py kills twenty times."""
    found = kill_and_compare(tmp_path, 3, seed=0, flags=f"{FLAGS} --limit_train 160 --epochs 2")
    assert found["kills"] == 3 and found["differences"] == []


@pytest.mark.parametrize(("evaluation", "saved"), [(1, (0, 3)), (3, (2, 0))])
def test_a_signal_in_an_evaluation_is_waited_for_and_resume_goes_on(
    alone, tmp_path, monkeypatch, capsys, evaluation, saved
):
    """The first follows the last step of an epoch, the third is the final test; saved: epochs and steps. Within an epoch ranks
    are stopped, and one process goes on, below."""
    calls = count(1)

    def evaluate(*args):
        if next(calls) == evaluation:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate_parts(*args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr("harness.training.evaluating.evaluate_parts", evaluate)
        run_script(lambda: train(tmp_path))
    said = capsys.readouterr().err
    assert (
        stop.value.code == 128 + signal.SIGINT
        and "stopped by SIGINT " in said
        and said.count("\n") == 1
    )
    last = load_checkpoint(tmp_path / "trained_models/snn/x_last.pth")
    assert (last["epoch"], last["step"]) == saved
    train(tmp_path, "--resume")
    assert compare(alone, tmp_path) == []


def test_signals_are_noted_and_handlers_put_back(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with noted_signals() as signals:
        assert signals.caught == 0
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            assert signals.caught == number
        with pytest.raises(Interrupted):  # a second Ctrl-C does not wait
            os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(ranks, "count", lambda: 2)  # torchrun sends it again
    with noted_signals() as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.caught == signal.SIGINT
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(SystemExit) as stop:  # where there is nothing to save
        run_script(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert stop.value.code == 143 and capsys.readouterr().err == "interrupted\n"


def test_checkpoints_within_an_epoch(alone, tmp_path, monkeypatch):
    """After --checkpoint_minutes. They change nothing.

    Each of the 3 steps of an epoch takes 40 seconds. So a minute is over after step 2, at
    80 seconds; at step 3 only 40 more are, and the end of an epoch saves anyhow. The
    second save after epoch 2 is that of the finished run.
    """
    seconds, saved = [0], []
    count_step = Progress.add
    save_checkpoint = harness.training.last_checkpoint.save_checkpoint

    def count_slowly(self, *args):
        count_step(self, *args)
        seconds[0] += 40

    def save(*args, **more):
        saved.append((more["epoch"], more["step"]))
        save_checkpoint(*args, **more)

    monkeypatch.setattr(Progress, "add", count_slowly)
    monkeypatch.setattr("harness.training.last_checkpoint.save_checkpoint", save)
    monkeypatch.setattr(
        "harness.training.last_checkpoint.time.monotonic", lambda: float(seconds[0])
    )
    train(tmp_path, "--checkpoint_minutes 1")
    assert saved == [(0, 2), (1, 0), (1, 2), (2, 0), (2, 0)]
    assert compare(alone, tmp_path) == []


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_killed_between_a_record_and_its_state_does_that_again(
    alone, tmp_path, monkeypatch, epoch
):
    """The first epoch, before any checkpoint, of a run that was to replace another, whose last one must not be taken for its own;
    and the second. Its log has a line that was only half written."""
    train(tmp_path, "--seed 1")
    real, calls = LastCheckpoint.save, count(1)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(
            LastCheckpoint, "save", lambda self: 1 / 0 if next(calls) == epoch else real(self)
        )
        train(tmp_path, "--overwrite")
    before = read_records(tmp_path / "logs/snn/x.jsonl")
    with open(tmp_path / "logs/snn/x.jsonl", "a") as log:
        log.write('{"event": "epoch", "epo')
    assert read_records(tmp_path / "logs/snn/x.jsonl") == before
    _, said = train(tmp_path, "--resume")
    assert (
        f"{tmp_path}/trained_models/snn/x_last.pth is not there yet: the run begins\n" in said
    ) == (epoch == 1)
    assert compare(alone, tmp_path) == []
    assert [
        (run.name, len(run.epochs), len(run.evaluations)) for run in find_runs(["x"], tmp_path)
    ] == [("x", 2, 1)]


def test_a_raised_number_of_epochs_stretches_the_schedule_from_its_first_step_on(
    alone, tmp_path, monkeypatch
):
    """Of the run itself, and of another that goes on from there: its best epoch is one of its own."""
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    assert "has trained 2 epochs already" in refused(
        "snn", RUN, f"--resume --output_dir {tmp_path}"
    )
    real, rates, bests, (last,) = LastCheckpoint.restore, [], [], tmp_path.rglob("*_last.pth")

    def restore(self, saved, path):
        real(self, saved, path)
        rates.append(self.optimizer.param_groups[0]["lr"])
        bests.append(self.progress.best)

    monkeypatch.setattr(LastCheckpoint, "restore", restore)
    train(tmp_path, f"--resume {last} --epochs 3 --run_name other")
    train(tmp_path, "--resume --epochs 3")
    assert (
        rates == [pytest.approx(2e-3 * (1 + cos(pi * (6 / 9 - 0.05) / 0.95)) / 2)] * 2
    )  # after 6 of 9 steps
    assert bests[0] is None and bests[1]["epoch"] <= 2


def test_a_second_run_into_the_same_place_is_refused_until_the_first_ends(
    alone, tmp_path, monkeypatch
):
    here, judges = (
        f"--output_dir {tmp_path} --overwrite",
        f"--pretrained_snn {alone}/trained_models/snn/x.pth --limit_test 8",
    )
    tried, second = [], (("snn", RUN), ("obj1", f"{judges} --run_name x"))
    after_step(
        monkeypatch,
        1,
        2,
        lambda: tried.extend(refused(name, flags, here) for name, flags in second),
    )
    train(tmp_path)
    assert len(tried) == 2 and all(
        "is being written by another process: " in line for line in tried
    )
    assert compare(alone, tmp_path) == []


@pytest.fixture
def small_files():
    """No file may grow beyond the limit that is set: write() fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("full", "share"), [(".pth", 0.999), (".jsonl", 0)])
def test_a_full_disk_keeps_the_last_good_checkpoint(
    alone, tmp_path, monkeypatch, small_files, full, share
):
    """Full at the end of a checkpoint, or in the records: files are shorter than this share of a checkpoint from epoch 2 on."""
    size = (alone / "trained_models/snn/x_last.pth").stat().st_size
    with monkeypatch.context() as patch:
        if full == ".jsonl":
            patch.setattr(LastCheckpoint, "save_if_due", lambda *_: None)
        after_step(patch, 2, 1, lambda: small_files(int(share * size)))
        line = refused("snn", RUN, f"--output_dir {tmp_path}")
    assert "cannot write" in line and full in line and "File too large" in line
    small_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert (
        load_checkpoint(tmp_path / "trained_models/snn/x_last.pth")["epoch"] >= 1
        and list(tmp_path.rglob("*.tmp")) == []
    )
    train(tmp_path, "--resume")
    assert compare(alone, tmp_path) == []


def test_resume_without_any_last_checkpoint_does_not_begin_anew(alone, tmp_path):
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    last, log = tmp_path / "trained_models/snn/x_last.pth", tmp_path / "logs/snn/x.jsonl"
    last.unlink()
    log.write_bytes(b"\xff\n" + log.read_bytes())  # damaged, but it says enough
    for _ in range(2):
        before = digests(tmp_path)
        line = refused("snn", RUN, f"--resume --output_dir {tmp_path}")
        assert str(last) in line and "--overwrite" in line and digests(tmp_path) == before
        log.unlink(missing_ok=True)  # then the best checkpoint tells


def test_resume_wants_the_same_recipe_network_and_images(alone):
    """Also where the shapes fit: the run would not be the one that is gone on with."""
    for more in ("--optimizer SGD", "--timesteps 6", "--limit_train 64", "--gate open"):
        line = refused("snn", RUN, more, f"--epochs 3 --resume --output_dir {alone}")
        assert more.split()[0].removeprefix("--") in line and "same flags" in line


def test_what_is_finite():
    nan, inf, model = torch.nan, torch.inf, torch.nn.Linear(2, 1)  # its bias has no gradient
    for loss, gradient, fault in (
        (1.0, [1e30, -2.0], ""),
        (nan, [1.0, 1.0], "loss"),
        (1.0, [inf, -inf], "gradient"),
    ):
        model.weight.grad = torch.tensor([gradient])
        with pytest.raises(UserError, match=fault) if fault else nullcontext():
            check_gradients(torch.tensor(loss), model, "epoch 1")


def test_a_silent_layer_is_warned_of_once_an_epoch(tmp_path):
    flags = f"-a VGG5_wFeedback_small --fc_width 16 {SPIKING} --epochs 2 --run_name x --output_dir {tmp_path}"
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
    assert [record["silent"] for record in records(tmp_path / "logs/snn/x.jsonl")] == [neurons] * 2
    run_here("snn", flags, "--default_threshold 0.1 --overwrite")
    assert "silent" not in records(tmp_path / "logs/snn/x.jsonl")[0]


# Batches of 16, and one of what is left over, have parts of one size, so that the mean of their means is the batch's.
# SGD: Adam divides by a gradient's size, so that rounded ones can move a weight as far as any, and flip spikes
SNN_RUN = (
    "-a VGG5_wFeedback_small --fc_width 16 --timesteps 4 --update immediate --readout membrane_rescaled --epsilon 0.2 "
    "--default_threshold 0.3 --spike_penalty 1e-5 --learn_threshold --trade_off 0.02 --optimizer SGD -lr 1e-3 --lr_interval 1 "
    "--epochs 3 --limit_train 36 --limit_test 16 --batch_size 16 --augment --dropout 0.3 --holdout 20 --checkpoint_minutes 0"
)


def rank_main(name, flags, environment, folder, act):
    """A rank's process: the script with these flags; what it says goes to files in folder."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    rank = environment["RANK"]
    module = module_of(name)
    sys.argv = [module.__file__, *flags]
    sys.stdout, sys.stderr = (open(folder / f"{stream}{rank}", "w") for stream in ("out", "err"))  # noqa: SIM115
    if act:
        act(int(rank))
    run_script(lambda: module.main(flags))


def in_ranks(count, folder, name, *flags, act=None):
    """Run a script in that many processes, as torchrun would; act(rank): called before, in each. Returns their exit statuses, and
    what each wrote to standard output and error, which goes to files in folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")  # one import for all
    context.set_forkserver_preload(["benchmarks.robustness.kill_resume"])
    processes = []
    for rank in range(count):
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = {key: str(value) for key, value in environment.items()}
        processes.append(
            context.Process(target=rank_main, args=(name, split(flags), environment, folder, act))
        )
        processes[-1].start()
    for process in processes:
        process.join(120)
    said = [
        [(folder / f"{stream}{rank}").read_text() for stream in ("out", "err")]
        for rank in range(count)
    ]
    return [process.exitcode for process in processes], said


def succeed(count, folder, name, *flags):
    statuses, said = in_ranks(count, folder, name, *flags)
    assert statuses == [0] * count, said
    return said


def test_ranks_resume_what_other_numbers_of_ranks_began(tmp_path):
    """Stopped in the middle of epoch 2 of two ranks by a signal to one of them; on with four, and with one. One rank writes. What
    is learned is what one process learns."""
    flags = f"--run_name x --output_dir {tmp_path / 'run'}"
    statuses, said = in_ranks(
        2, tmp_path / "said", "snn", SNN_RUN, flags, act=partial(end_second, signal.SIGTERM)
    )
    assert statuses == [143, 143]
    assert (
        "stopped by SIGTERM in epoch 2 of 3, after update 1, saved" in said[0][1]
        and said[1][1] == ""
    )
    saved = load_checkpoint(tmp_path / "run/trained_models/snn/x_last.pth")
    assert (saved["epoch"], saved["step"], saved["average"]["images"]) == (1, 1, 16)
    said = succeed(4, tmp_path / "said", "snn", SNN_RUN, f"--resume --epochs 2 {flags}")
    assert said[1:] == [["", ""]] * 3
    run_here("snn", SNN_RUN, f"--resume {flags}")
    run_here("snn", SNN_RUN, f"--run_name x --output_dir {tmp_path / 'one'}")
    one, ours = (
        [record["train"] for record in records(tmp_path / f"{run}/logs/snn/x.jsonl", "epoch")]
        for run in ("one", "run")
    )
    torch.testing.assert_close(
        ours, one, rtol=1e-5, atol=1e-6
    )  # the same numbers, added up in another order
    assert digests(tmp_path / "one").keys() == digests(tmp_path / "run").keys()


def end_second(number, rank):
    """Send this signal to rank 1 alone, in its first step of epoch 2."""
    if rank == 1:
        after_step(pytest.MonkeyPatch(), 2, 1, lambda: os.kill(os.getpid(), number))


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(tmp_path):
    statuses, said = in_ranks(
        2, tmp_path / "said", "ann", TINY, f"--output_dir {tmp_path / 'run'}", act=spoil_second
    )
    assert statuses == [2, 2]
    for rank in range(2):
        assert (
            said[rank][1].startswith(f"error (rank {rank}): ") and said[rank][1].count("\n") == 1
        )
        assert " at epoch 1, update 1; training stopped" in said[rank][1]
    assert list(tmp_path.rglob("*.pth")) == []


def spoil_second(rank):
    """The classifier's first nonlinearity yields nan on rank 1."""
    if rank == 1:
        real = nn.ReLU.forward
        nn.ReLU.forward = lambda self, x: real(self, x) * (torch.nan if x.dim() == 2 else 1)


def test_a_rank_that_dies(tmp_path):
    """The other ends with a line that says how to go on; one process goes on."""
    flags = f"{SNN_RUN} --run_name x --output_dir {tmp_path}"
    statuses, said = in_ranks(
        2, tmp_path / "said", "snn", flags, act=partial(end_second, signal.SIGKILL)
    )
    assert (
        statuses == [1, -signal.SIGKILL] and "error (rank 0): rank 0 lost the others" in said[0][1]
    )
    assert said[0][1].endswith(": --resume goes on, with any number of ranks\n")
    run_here("snn", flags, "--resume")
    assert [record["epoch"] for record in records(tmp_path / "logs/snn/x.jsonl", "epoch")] == [
        1,
        2,
        3,
    ]


def test_ranks_evaluate_every_image_once(trained, tmp_path):
    """Each rank all of them: figures to the last digit."""
    flags = f"--pretrained_snn {trained.snn} --epsilon 0 0.2 --limit_test 41 --batch_size 20 --run_name x --output_dir"
    run_here("obj1", flags, tmp_path / "one")
    said = succeed(2, tmp_path / "said", "obj1", flags, tmp_path / "two")
    one, two = (
        figures(records(tmp_path / f"{count}/logs/snn/x.jsonl")) for count in ("one", "two")
    )
    assert one == two and [
        record["images"] for record in two if record["event"] == "evaluation"
    ] == [41, 41]
    assert said[1] == ["", ""]


def test_a_rank_of_no_image_of_its_own_takes_another_ranks(tmp_path):
    """The last batch is of one image, and each rank normalises by its own part. The loss does not reach every weight."""
    succeed(
        2,
        tmp_path,
        "ann",
        f"{TINY} --norm batch --trade_off 0 --limit_train 33 --run_name x --output_dir {tmp_path}",
    )
    (epoch,) = records(tmp_path / "logs/ann/x.jsonl", "epoch")
    assert 0 < epoch["train"]["total"] < 1e4


def test_ranks_that_do_not_find_each_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = r"^error: the ranks did not find each other \(.*\); see docs/how_to/long_runs.md$"
    with pytest.raises(SystemExit, match=words), ranks.process_group():
        pass


@pytest.mark.parametrize(("rank", "said"), [(0, "2 files are bad\n"), (1, "")])
def test_of_several_ranks_the_first_says_a_note(monkeypatch, capsys, rank, said):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    say_once.cache_clear()
    say_once("2 files are bad")
    say_once("2 files are bad")
    assert capsys.readouterr().err == said
