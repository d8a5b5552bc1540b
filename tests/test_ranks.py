"""Several gloo processes on one run: the same figures as one process, one writer, and a rank that dies."""

import copy
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ANN, OBJ1, REPOSITORY, SNN, TINY, digests, figures, records, run_here, split
from test_survive import after_step
from torch import nn

import harness.training.fit
from harness.command_line.scripts import run_script
from harness.processes import ranks
from self_models.basics.checkpoints import load_checkpoint

# Batches of 16, and one of what is left over, have parts of one size, so that the mean of their means is the batch's
ANN_RUN = (
    f"{TINY} --epochs 3 --limit_train 34 --augment --dropout 0.3 --select held-out --holdout 20 "
    "--average_weights mean --average_from 0.5 --checkpoint_minutes 0 --train_acc_batches 1"
)
# SGD: Adam divides by a gradient's size, so that rounded ones can move a weight as far as any, and flip spikes
SNN_RUN = (
    "-a VGG5_wFeedback_small --fc_width 16 --timesteps 4 --update immediate --readout membrane_rescaled --epsilon 0.2 "
    "--default_threshold 0.3 --spike_penalty 1e-5 --learn_threshold --trade_off 0.02 --optimizer SGD -lr 1e-3 --lr_interval 1 "
    "--epochs 3 --limit_train 36 --limit_test 16 --batch_size 16 --augment --dropout 0.3 --holdout 20 --checkpoint_minutes 0"
)
# The ranks add up the same numbers in another order: losses differ by float32 rounding, by 1e-7 where it was measured
TOLERANCE = 1e-5


def rank_main(name, flags, environment, folder, act):
    """A rank's process: the script with these flags; what it says goes to files in folder."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    rank = environment["RANK"]
    sys.argv = [f"{name}.py", *flags]
    sys.stdout, sys.stderr = (open(folder / f"{stream}{rank}", "w") for stream in ("out", "err"))  # noqa: SIM115
    if act:
        act(int(rank))
    run_script(lambda: __import__(name).main(flags))


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
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {key: str(value) for key, value in environment.items()}
        processes.append(context.Process(target=rank_main, args=(name, split(flags), environment, folder, act)))
        processes[-1].start()
    for process in processes:
        process.join(120)
    said = [[(folder / f"{stream}{rank}").read_text() for stream in ("out", "err")] for rank in range(count)]
    return [process.exitcode for process in processes], said


def succeed(count, folder, name, *flags):
    statuses, said = in_ranks(count, folder, name, *flags)
    assert statuses == [0] * count, said
    return said


def check_same_training(folder, other, kind="snn"):
    """The epochs of two runs have learned the same, apart from rounding. Returns what the second's have learned."""
    here, there = ([one["train"] for one in records(place / f"logs/{kind}/x.jsonl", "epoch")] for place in (folder, other))
    torch.testing.assert_close(there, here, rtol=TOLERANCE, atol=1e-6)
    return there


# --- training


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folder of the runs of one process; kind -> the weights with which it began."""
    folder, begun, real = tmp_path_factory.mktemp("alone"), {}, harness.training.fit.train_one_epoch
    for name, kind, flags in ((ANN, "ann", ANN_RUN), (SNN, "snn", SNN_RUN)):

        def train_one_epoch(model, *args, kind=kind):
            begun.setdefault(kind, copy.deepcopy(model.state_dict()))
            return real(model, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("harness.training.fit.train_one_epoch", train_one_epoch)
            run_here(name, flags, f"--run_name x --output_dir {folder}")
    return folder, begun


@pytest.mark.parametrize(("count", "name", "kind", "flags"), [(2, ANN, "ann", ANN_RUN), (4, SNN, "snn", SNN_RUN)])
def test_ranks_give_the_loss_curve_of_one_process(alone, tmp_path, count, name, kind, flags):
    said = succeed(count, tmp_path / "said", name, flags, f"--run_name x --output_dir {tmp_path / 'run'}")
    folder, begun = alone
    learned = check_same_training(folder, tmp_path / "run", kind)
    assert len({figures["total"] for figures in learned}) == 3
    assert [record["event"] for record in records(tmp_path / f"run/logs/{kind}/x.jsonl")] == ["epoch"] * 3 + ["evaluation"]
    for file in ("x", "x_last"):  # of the ANN, averaged weights with statistics of their own, and the weights
        saved = [load_checkpoint(run / f"trained_models/{kind}/{file}.pth") for run in (folder, tmp_path / "run")]
        assert saved[0]["epoch"] == saved[1]["epoch"]
        for key, value in begun[kind].items():
            first, second = (one["state_dict"][key] for one in saved)
            assert (second - first).norm() <= 1e-4 * (first - value).norm(), key
    # one writer: the same files, and not a word from the other ranks
    assert digests(tmp_path / "run").keys() == {path for path in digests(folder) if f"/{kind}/" in path}
    assert said[0][0].count("epoch ") >= 3 and [words for words in said[1:] if any(words)] == []


def test_a_loss_that_does_not_reach_every_weight(tmp_path):
    """Nothing asks the decoder."""
    gate = "--gate once --encoding direct --guess interpolation --readout membrane_linear --spike_penalty 0"
    flags = f"{SNN_RUN.replace('--epsilon 0.2 ', '')} {gate} --limit_train 34 --epochs 2 --run_name x --output_dir"
    run_here(SNN, flags, tmp_path / "one")
    succeed(2, tmp_path / "said", SNN, flags, tmp_path / "two")
    check_same_training(tmp_path / "one", tmp_path / "two")


def test_ranks_resume_what_other_numbers_of_ranks_began(alone, tmp_path):
    """Stopped in the middle of epoch 2 of two ranks by a signal to one of them; on with four, and with one."""
    statuses, said = in_ranks(
        2, tmp_path / "said", SNN, SNN_RUN, f"--run_name x --output_dir {tmp_path / 'run'}", act=stop_second
    )
    assert statuses == [143, 143]
    assert "stopped by SIGTERM after epoch 2, update 1, saved" in said[0][1] and said[1][1] == ""
    saved = load_checkpoint(tmp_path / "run/trained_models/snn/x_last.pth")
    assert (saved["epoch"], saved["step"], saved["average"]["images"]) == (1, 1, 16)
    succeed(4, tmp_path / "said", SNN, SNN_RUN, f"--resume --epochs 2 --run_name x --output_dir {tmp_path / 'run'}")
    run_here(SNN, SNN_RUN, f"--resume --run_name x --output_dir {tmp_path / 'run'}")
    check_same_training(alone[0], tmp_path / "run")


def stop_second(rank):
    """Send SIGTERM to rank 1 alone, in its first step of epoch 2."""
    if rank == 1:
        after_step(pytest.MonkeyPatch(), 2, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(tmp_path):
    statuses, said = in_ranks(2, tmp_path / "said", ANN, ANN_RUN, f"--output_dir {tmp_path / 'run'}", act=spoil_second)
    assert statuses == [2, 2]
    for rank, where in enumerate(("the loss itself", "the output of layer classifier.1 (ReLU)")):
        assert said[rank][1].startswith(f"error (rank {rank}): ") and said[rank][1].count("\n") == 1
        assert f"at epoch 1, update 1: first not finite: {where}" in said[rank][1]
    assert list(tmp_path.rglob("*.pth")) == []


def spoil_second(rank):
    """The classifier's first nonlinearity yields nan on rank 1."""
    if rank == 1:
        real = nn.ReLU.forward
        nn.ReLU.forward = lambda self, x: real(self, x) * (torch.nan if x.dim() == 2 else 1)


def test_a_rank_that_dies_under_torchrun(tmp_path):
    """The others end with a line that says how to go on; one process goes on."""
    more = f"--epochs 200 --train_acc_batches 1 --checkpoint_minutes 1e-5 --run_name x --output_dir {tmp_path}"
    flags = split([SNN_RUN, more])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(REPOSITORY / f"{SNN}.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*launch, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    log = tmp_path / "logs/snn/x.log"
    while process.poll() is None and not (log.exists() and "epoch 3/200" in log.read_text()):
        time.sleep(0.01)
    if process.poll() is None:
        os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    line = next((line for line in said.splitlines() if line.startswith("error (rank 0): ")), said)
    assert "rank 0 lost the others" in line and "torchrun --nproc_per_node 2" in line and line.endswith("--resume")
    saved = load_checkpoint(tmp_path / "trained_models/snn/x_last.pth")
    assert saved["epoch"] >= 2
    epochs, after = saved["epoch"] + 2, f"epoch {saved['epoch']}"
    if saved["step"]:
        after = f"epoch {saved['epoch'] + 1}, update {saved['step']}"
    _, printed = run_here(SNN, *flags, f"--epochs {epochs} --resume")
    assert f"resumed from {tmp_path / 'trained_models/snn/x_last.pth'} after {after}" in printed
    assert [record["epoch"] for record in records(tmp_path / "logs/snn/x.jsonl", "epoch")] == list(range(1, epochs + 1))


def rank_of(launcher, rank):
    """Process id of a rank that the launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(child) for child in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes())


# --- evaluation


def test_ranks_evaluate_every_image_once(trained, tmp_path):
    """Each rank all of them: figures to the last digit."""
    flags = f"--pretrained_snn {trained.snn} --epsilon 0 0.2 --limit_test 41 --batch_size 20 --run_name x --output_dir"
    run_here(OBJ1, flags, tmp_path / "one")
    said = succeed(2, tmp_path / "said", OBJ1, flags, tmp_path / "two")
    one, two = (figures(records(tmp_path / f"{count}/logs/snn/x.jsonl")) for count in ("one", "two"))
    assert [record["images"] for record in two if record["event"] == "evaluation"] == [41, 41]
    assert one == two
    assert digests(tmp_path / "one").keys() == digests(tmp_path / "two").keys()
    assert said[1] == ["", ""]


def main(flags):
    """Each of two ranks trains on its part of each batch, filled up where it is smaller, normalised by that part alone."""
    rank = ranks.rank()
    assert ranks.largest(3 + 2 * rank) == 5 and ranks.gathered(rank) == [0, 1] and ranks.from_first(lambda: rank) == 0
    assert [ranks.part(torch.arange(10, 10 + size)).tolist() for size in (4, 3, 1)] == [
        [[10, 11], [10, 11], [10]], [[12, 13], [12, 10], [10]],
    ][rank]  # fmt: skip


def test_what_ranks_tell_each_other_and_have_of_a_batch(tmp_path):
    succeed(2, tmp_path, "test_ranks")
    succeed(2, tmp_path, ANN, ANN_RUN, f"--norm batch --limit_train 33 --epochs 1 --run_name x --output_dir {tmp_path}")
    (epoch,) = records(tmp_path / "logs/ann/x.jsonl", "epoch")
    assert 0 < epoch["train"]["total"] < 1e4


def test_ranks_that_do_not_find_each_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = r"^error: the ranks did not find each other \(.*\); see docs/how_to/long_runs.md$"
    with pytest.raises(SystemExit, match=words), ranks.process_group():
        pass


def test_what_says_that_a_rank_is_lost(monkeypatch):
    lost = [RuntimeError(f"a {one} b") for one in ("Gloo", "NCCL", "Connection", "socket", "Broken pipe", "timed out")]
    lost.append(torch.distributed.DistBackendError("it"))
    for count in (1, 2):
        monkeypatch.setattr("harness.processes.ranks.count", lambda count=count: count)
        assert [ranks.lost_contact(error) for error in lost] == [count == 2] * 7
        assert not ranks.lost_contact(RuntimeError("shapes differ"))
