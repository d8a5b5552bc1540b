"""Losses, schedules, checkpoints, the training loop, and which epoch counts."""

import json
import os
from math import cos, log, pi
from types import SimpleNamespace

import pytest
import torch
from conftest import (
    BALANCE,
    DATA,
    PLAN,
    SPIKING,
    TINY,
    digests,
    figures,
    module_of,
    records,
    refused,
    run_here,
    same_weights,
)

import harness.training.evaluating
from ann_wFeedback import compute_losses as ann_losses
from harness import UserError
from harness.arguments import take_over
from harness.building.models import lines_on_flags
from harness.building.start import Start
from harness.runs.run import Run, original_name
from harness.runs.saving import write_whole
from harness.training.epochs import training_batches
from harness.training.evaluating import advance
from harness.training.losses import Teacher
from harness.training.optimizers import (
    OPTIONAL,
    checked_optimizer,
    learning_rate_factor,
    make_optimizer,
    optimizer_classes,
    why_unfit,
)
from self_models import load
from self_models.basics.checkpoints import load_checkpoint
from self_models.counting.evaluation import Average
from self_models.data.sets import augmented, default_holdout, load_data
from self_models.runtime.draws import EVALUATION, shuffled
from self_models.runtime.outputs import ANNOutput, SNNOutput
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from snn_wFeedback import compute_losses


def parse(name, *words):
    return module_of(name).build_parser().parse_args(words)


# 2 steps, 2 images of 2 pixels; summed over pixels: 3 and 7, then 1 and 3; means 5, then 2
ERRORS = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [1.0, 2.0]]]).reshape(2, 2, 1, 1, 2)


def output_of(logits, errors=None, **more):
    """An SNNOutput of which only this is looked at."""
    return SNNOutput(
        **{"predictions": None, "spikes": {}, "steps": None} | more, logits=logits, errors=errors
    )


@pytest.mark.parametrize(
    ("kind", "reconstruction"), [("last_t", 2), ("linear_over_t", (5 / 2 + 2) / 2), ("sum", 5 + 2)]
)
def test_losses_by_hand(kind, reconstruction):
    output = output_of(
        logits=torch.zeros(2, 4), errors=ERRORS, spikes={"input": torch.tensor([1.0, 3.0])}
    )
    labels = torch.tensor([0, 1])
    losses = compute_losses(output, None, labels, 0.5, kind, spike_penalty=0.01)
    assert compute_losses(output._replace(errors=None), None, labels, 10.0, kind).keys() == {
        "classification",
        "total",
    }
    assert losses["classification"].item() == pytest.approx(log(4))
    assert losses["reconstruction"].item() == pytest.approx(reconstruction)
    assert losses["total"].item() == pytest.approx(
        log(4) + 0.5 * reconstruction + 0.02
    )  # 2 spikes per image


@pytest.mark.parametrize(
    ("kind", "classification"),
    [
        ("last_t", log(4)),
        ("mean_t", (log(2) + log(4)) / 2),
        ("linear_over_t", (log(2) + 2 * log(4)) / 3),
    ],
)
def test_classification_loss_of_each_step_by_hand(kind, classification):
    unsure, surer = (
        torch.zeros(1, 4),
        torch.tensor([[log(3), 0.0, 0.0, 0.0]]),
    )  # surer: softmax is 1/2 for class 0
    output = output_of(logits=unsure, logits_by_step=torch.stack([surer, unsure]))
    labels = torch.tensor([0])
    losses = compute_losses(output, None, labels, 1.0, "last_t", classification_type=kind)
    assert (
        losses["classification"].item() == losses["total"].item() == pytest.approx(classification)
    )
    # In an evaluation nobody says what counts: it is the last output.
    judged = compute_losses(output, None, labels, 1.0, "last_t")
    assert judged["classification"].item() == pytest.approx(log(4))
    assert judged["total"].item() == pytest.approx(log(4))


def test_distillation_loss_by_hand():
    """Teacher 3 : 1 and student 1 : 1 at temperature 3: KL = 3/4 log(3/2) + 1/4 log(1/2)."""
    taught, image = torch.tensor([[3 * log(3), 0.0]]), torch.zeros(1)
    teacher = Teacher(
        lambda images: ANNOutput(taught.repeat(len(images), 1), None, None), 0.25, 3.0
    )
    labels = torch.tensor([1])
    weights = {"trade_off": 0.0, "trade_off_type": "last_t"}
    divergence = 0.25 * 3**2 * (0.75 * log(1.5) + 0.25 * log(0.5))
    output = output_of(logits=torch.zeros(1, 2))
    losses = compute_losses(output, image, labels, **weights, teacher=teacher)
    assert (
        losses["classification"].item()
        == losses["total"].item()
        == pytest.approx(0.75 * log(2) + divergence)
    )
    twice = output_of(logits=torch.zeros(2, 2))  # the same image twice: a mean over the batch
    both = compute_losses(twice, image.repeat(2), torch.tensor([1, 1]), **weights, teacher=teacher)
    assert both["total"].item() == pytest.approx(losses["total"].item())
    of_ann = ann_losses(output, image, labels, 0.0, teacher=teacher)
    assert of_ann["total"].item() == pytest.approx(losses["total"].item())
    output = output._replace(
        logits_by_step=torch.stack([taught, output.logits])
    )  # first the student agrees
    losses = compute_losses(
        output, image, labels, **weights, classification_type="mean_t", teacher=teacher
    )
    assert losses["total"].item() == pytest.approx(
        (0.75 * (log(1 + 3**3) + log(2)) + divergence) / 2
    )
    judged = compute_losses(output, image, labels, **weights)  # as an evaluation does
    assert judged["total"].item() == pytest.approx(log(2))


def optimizer_of(model, args):
    """Make the optimiser that flags name, as the scripts do."""
    options = {name: getattr(args, name) for name in OPTIONAL}
    return make_optimizer(
        args.optimizer, model, args.learning_rate, args.bias_lr_factor, **options
    )


def rates(lr_schedule, epochs, steps_per_epoch, warm_up=0.05):
    """The learning rate of each optimiser step, of a rate of 1."""
    args = parse(
        "ann", *f"--epochs {epochs} --lr_schedule {lr_schedule} --warm_up {warm_up}".split()
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    factor = learning_rate_factor(
        args.lr_schedule,
        epochs * steps_per_epoch,
        args.lr_interval,
        args.lr_reduce,
        args.warm_up,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    seen = []
    for _ in range(epochs * steps_per_epoch):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_schedules_by_hand():
    assert rates("step", 10, 2) == pytest.approx([1] * 12 + [0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    assert rates("step", 1, 10) == pytest.approx(
        [1] * 6 + [0.1] * 2 + [0.01, 0.001]
    )  # a short run has its full rate, too
    assert rates("triangle", 4, 3, 0.25) == pytest.approx(
        [1 / 4, 2 / 4, 3 / 4, *(1 - step / 9 for step in range(9))]
    )
    assert rates("triangle", 1, 4, 0) == [1, 3 / 4, 2 / 4, 1 / 4]
    seen = rates("cosine", 10, 10)  # 100 steps, 5 of them to warm up
    assert seen[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert seen[50] == pytest.approx((1 + cos(pi * 0.45 / 0.95)) / 2)
    assert seen[5:] == sorted(seen[5:], reverse=True) and 0 < seen[-1] < 0.001


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_thresholds_gains_and_biases_have_no_weight_decay_and_biases_a_rate_of_their_own(name):
    model = VGG_SNN_STDB_wFeedback(plan=PLAN, fc_width=4, learn_threshold=True)
    optimizer = optimizer_of(
        model, parse("snn", "--optimizer", name, "-lr", "0.5", "--weight_decay", "0.1")
    )
    weights, scalars = optimizer.param_groups
    made = optimizer.defaults
    assert made["fused"] and made.get("amsgrad", True) and made.get("momentum", 0.95) == 0.95
    assert type(optimizer).__name__ == name and weights["lr"] == scalars["lr"] == 0.5
    assert (weights["weight_decay"], scalars["weight_decay"]) == (0.1, 0)
    assert {id(parameter) for parameter in scalars["params"]} == {
        id(n.threshold) for n in model.neurons().values()
    }
    ann = VGG_wFeedback(plan=PLAN, fc_width=4, norm="scale")
    gains = optimizer_of(ann, parse("ann", "--optimizer", name)).param_groups[1]["params"]
    assert {id(one) for one in gains} == {
        id(one) for name, one in ann.named_parameters() if name.endswith("gain")
    } and gains
    flags = parse(
        "ann",
        *f"--optimizer {name} --nesterov -lr 0.5 --weight_decay 0.1 --bias_lr_factor 64".split(),
    )
    biases = optimizer_of(
        torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)), flags
    )
    found = [
        ([*map(len, group["params"])], group["lr"], group["weight_decay"])
        for group in biases.param_groups
    ]
    assert found == [([2], 0.5, 0.1), ([2], 0.5, 0), ([2, 2], 32, 0)] and biases.defaults.get(
        "nesterov", True
    )


USABLE = [name for name, cls in optimizer_classes().items() if not why_unfit(name, cls)]
MADE_WITH = "-lr 0.25 --weight_decay 0.125 --momentum 0.5 --nesterov --no-amsgrad"


def step_with(model, optimizer, seed):
    """Take a step on random gradients."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in filter(lambda each: each.requires_grad, model.parameters()):
        parameter.grad = torch.randn(parameter.shape, generator=draw)
    optimizer.step()


@pytest.mark.parametrize("name", USABLE)
def test_an_optimiser_by_its_name_has_the_flags_that_it_shares(name):
    """It trains weights, thresholds of no dimension, and biases; its state_dict goes on as it would have."""
    args = parse("snn", "--optimizer", name, *MADE_WITH.split())
    first, second = (
        VGG_SNN_STDB_wFeedback(plan=PLAN, fc_width=4, learn_threshold=True, bias=True)
        for _ in range(2)
    )
    second.load_state_dict(first.state_dict())
    trained = [value for value in first.parameters() if value.requires_grad]
    before = [value.clone() for value in trained]
    optimizer, other = optimizer_of(first, args), optimizer_of(second, args)
    assert type(optimizer) is getattr(torch.optim, name) and optimizer.defaults["lr"] == 0.25
    flags = {"weight_decay": 0.125, "momentum": 0.5, "nesterov": True, "amsgrad": False}
    for flag in OPTIONAL:
        assert optimizer.defaults.get(flag, flags[flag]) == flags[flag], flag
    assert [len(group["params"]) for group in optimizer.param_groups] == [12, 7, 7]
    if "weight_decay" in optimizer.defaults:
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.125, 0, 0]

    step_with(first, optimizer, 1)
    step_with(second, other, 1)
    assert len(trained) == 26 and not any(map(torch.equal, before, trained))
    resumed = optimizer_of(second, args)
    resumed.load_state_dict(other.state_dict())
    step_with(first, optimizer, 2)
    step_with(second, resumed, 2)
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_all_optimisers_but_four_are_taken():
    """Of those that PyTorch 2.6 had; others may have come since."""
    adaptive = {"Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "NAdam", "RAdam"}
    assert {*USABLE} >= adaptive | {"ASGD", "RMSprop", "Rprop", "SGD"}
    assert {*optimizer_classes()} - {*USABLE} <= {"LBFGS", "Muon", "Optimizer", "SparseAdam"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LBFGS", "LBFGS computes the loss several times in a step, by a closure"),
        ("SparseAdam", "SparseAdam takes sparse gradients only"),
        ("Muon", "Muon takes matrices only"),
        ("Optimizer", "Optimizer is what the optimisers are derived from"),
        ("rmsprop", "has no optimiser 'rmsprop': did you mean RMSprop?"),
        ("lr_scheduler", "has no optimiser 'lr_scheduler': choose from"),
    ],
)
def test_an_optimiser_that_cannot_train_is_refused_in_a_line_that_says_why(tmp_path, name, words):
    said = refused("ann", f"--optimizer {name} {TINY} --output_dir {tmp_path}")
    if name == "Muon" and not hasattr(torch.optim, name):  # PyTorch has it since 2.9
        words = "has no optimiser 'Muon'"
    assert "argument --optimizer: " in said and words in said
    assert "choose from Adadelta, Adafactor, Adagrad, Adam, Adamax, AdamW, ASGD" in said
    assert not list(tmp_path.iterdir())


def test_an_optimiser_of_another_version_of_pytorch_is_refused():
    """As a last checkpoint may name it, whose flags hold."""
    args = parse("ann")
    take_over(args, {"optimizer": "Later"}, "checkpoint")
    with pytest.raises(UserError, match="has no optimiser 'Later': choose from Adadelta"):
        optimizer_of(VGG_wFeedback(plan=PLAN, fc_width=4), args)
    with pytest.raises(ValueError, match="SparseAdam takes sparse"):
        checked_optimizer("SparseAdam")


def test_a_run_with_another_optimiser_is_named_resumed_and_tells_idle_flags(tmp_path):
    """Of two epochs the second learns the same in a run that is resumed, as the weights say."""
    typed = "--optimizer RMSprop --momentum 0.5 --no-amsgrad --nesterov"
    command = f"{TINY.replace('--epochs 1', '')} {typed} --output_dir {tmp_path} --run_name"
    _, said = run_here("ann", f"{command} whole --epochs 2")
    made = "optimiser: RMSprop, learning_rate=0.005, weight_decay=0.0005, momentum=0.5"
    for line in ("note: without effect here: --amsgrad, --nesterov", made):
        assert line in (tmp_path / "logs/ann/whole.log").read_text().splitlines(), line
        assert line in said.splitlines(), line
    run_here("ann", f"{command} parts --epochs 1")
    again = f"--run_name parts --output_dir {tmp_path} --resume --epochs 2"
    assert "other settings (optimizer)" in refused("ann", again, "--optimizer Adam")
    run_here("ann", again)
    files = tmp_path / "trained_models/ann"
    assert same_weights(files / "whole_last.pth", files / "parts_last.pth")


@pytest.mark.parametrize(
    ("flags", "idle"),
    [
        ("--momentum 0.5 --amsgrad --nesterov", "--momentum, --nesterov"),
        ("--optimizer SGD --amsgrad --nesterov --momentum 0.5", "--amsgrad"),
        ("--optimizer SGD --nesterov --momentum 0", "--nesterov"),
        ("--optimizer Rprop --weight_decay 0", "--weight_decay"),
        ("--optimizer AdamW --weight_decay 0.1 --amsgrad", None),
    ],
)
def test_a_line_names_typed_flags_that_the_optimiser_does_not_have(flags, idle):
    args = parse("ann", *flags.split())
    lines = list(lines_on_flags(args, VGG_wFeedback(plan=PLAN, fc_width=4), Start()))
    assert lines == ([] if idle is None else [f"note: without effect here: {idle}"])


def test_label_smoothing_by_hand():
    """3 classes, a quarter spread: the target is 5/6, 1/12, 1/12. An evaluation judges by the label alone."""
    logits, labels = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0])
    logs = logits[0].log_softmax(0).tolist()
    output = output_of(logits=logits)
    expected = -(5 / 6 * logs[0] + (logs[1] + logs[2]) / 12)
    smoothed = ann_losses(output, None, labels, 0.0, label_smoothing=0.25)
    assert smoothed["total"].item() == pytest.approx(expected)
    judged = ann_losses(output, None, labels, 0.0)  # as an evaluation does
    assert judged["total"].item() == pytest.approx(-logs[0])


COMMON = {  # shared/design.md, section 7
    "seed": 0,
    "dataset": "MNIST",
    "batch_size": 64,
    "learning_rate": 1e-4,
    "epochs": 100,
    "lr_interval": [0.6, 0.8, 0.9],
    "lr_reduce": 10,
    "optimizer": "Adam",
    "weight_decay": 5e-4,
    "amsgrad": True,
    "kernel_size": 3,
    "devices": 0,
    "architecture": "VGG5_wFeedback",
    "pretrained_ann": "",
    "log": True,
    "gpu": True,
}
OF_SNN = COMMON | {
    "pretrained_snn": "",
    "timesteps": 50,
    "leak": 1.0,
    "scaling_factor": 0.7,
    "default_threshold": 1.0,
    "activation": "Linear",
    "alpha": 0.3,
    "beta": 0.01,
    "momentum": 0.95,
    "dropout": 0.3,
    "test_acc_every_batch": False,
    "train_acc_batches": 200,
    "trade_off": 1.0,
    "trade_off_type": "last_t",
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "ann",
            COMMON
            | {
                "momentum": 0.9,
                "dropout": 0.2,
                "timesteps": 1,
                "trade_off": 10.0,
                "test_only": False,
            },
        ),
        ("snn", OF_SNN | {"test_only": False}),
        ("analysis", OF_SNN | {"test_only": True}),
        ("obj1", OF_SNN | {"test_only": True, "epsilon": [0.1]}),
    ],
)
def test_defaults_are_the_originals(name, expected):
    args = parse(name)
    assert {flag: getattr(args, flag) for flag in expected} == expected


def test_names_are_the_originals():
    assert (
        original_name("ann", parse("ann")) == "ann_vgg5_wfeedback_t1_mnist_tradeoff10.0_lr0.0001"
    )
    assert (
        original_name("snn", parse("snn")) == "snn_vgg5_wfeedback_mnist_50_tradeoff1.0_typelast_t"
    )


def test_log_begins_with_results_and_with_what_is_not_by_default(trained):
    """All parameters are in its .jsonl, and where each comes from."""
    result, head, *_ = (trained.folder / "logs/ann/tiny.log").read_text().split("\n\n")
    assert (
        "accuracy " in result.splitlines()[0]
        and "learning_rate=0.005" in head
        and "lr_interval=" not in head
    )
    for words in (
        "started 20",
        "command: ann_wFeedback.py",
        "versions: Python",
        "seed: 0",
        "git revision: ",
    ):
        assert words in head, words
    opening = json.loads((trained.folder / "logs/ann/tiny.jsonl").read_text().splitlines()[0])
    assert (opening["event"], opening["began"], opening["seed"]) == ("run", "started", 0)
    assert opening["parameters"].keys() >= (vars(parse("ann")).keys() - {"seeds"}) | {
        "selected_on"
    }
    assert (opening["parameters"]["limit_train"], opening["origins"]["limit_train"]) == (
        32,
        "typed",
    )
    assert (
        opening["versions"].keys() == {"Python", "torch", "torchvision"}
        and opening["git_revision"]
    )


def test_the_log_leaves_out_flags_of_training_where_nothing_is_trained(trained, tmp_path):
    """They are in the .jsonl, as all parameters are, but would mislead at the top of the log."""
    idle = "--epochs 7 --weight_decay 0.1"
    here = f"--test_only --limit_test 4 --batch_size 3 --run_name x --output_dir {tmp_path}"
    run_here("ann", f"--pretrained_ann {trained.ann} {idle} {here}")
    (opening,) = records(tmp_path / "logs/ann/x.jsonl", "run")
    log = (tmp_path / "logs/ann/x.log").read_text()
    assert opening["parameters"].items() > {"epochs": 7, "weight_decay": 0.1}.items()
    assert "batch_size=3" in log and "epochs=" not in log and "weight_decay=" not in log


def test_the_last_result_stands_first_in_the_log(tmp_path):
    """As of a run that goes on with more epochs; what is said in between stays behind both."""
    with Run("snn", "x", parse("snn", "--output_dir", str(tmp_path)), trains=True) as run:
        run.say("begins")
        run.result("accuracy 1 %", epoch=1)
        run.say("goes on")
        run.result("accuracy 2 %", epoch=2)
    log = (tmp_path / "logs/snn/x.log").read_text()
    assert log.startswith("accuracy 2 %\n\naccuracy 1 %\n\nstarted 20")
    assert log.endswith("\nbegins\ngoes on\n")


def test_a_network_without_a_decoder_is_given_one_in_training_only(baseline, tmp_path):
    grown = f"-a VGG5_wFeedback_linear --pretrained_snn {baseline} --output_dir {tmp_path} {DATA} --readout membrane_linear"
    assert "generate.0.weight is missing" in refused("snn", grown, "--test_only")
    assert "--trade_off above 0" in refused("snn", grown, "--train decoder --trade_off 0")
    _, said = run_here(
        "snn", grown, "--train decoder --epochs 1 -lr 0.1 --epsilon 0.1 --latch --run_name grown"
    )
    run_here("snn", grown, "--epochs 1 -lr 1e-9 --epsilon 0.1 --latch --run_name start")
    here = tmp_path / "trained_models/snn"
    baseline, grown, start = (
        load_checkpoint(path)["state_dict"]
        for path in (baseline, here / "grown.pth", here / "start.pth")
    )
    decoder = [name for name in grown if name.startswith("generate") and name.endswith("weight")]
    assert "has no decoder: this one starts at random" in said and decoder
    for name in decoder:
        assert not torch.allclose(grown[name], start[name], atol=1e-3), name
    for name, value in baseline.items():
        assert torch.equal(grown[name], value), name
        torch.testing.assert_close(start[name], value, atol=1e-6, rtol=0)


def test_train_decoder_leaves_thresholds_and_leaks_of_the_rest_as_they_are(trained, tmp_path):
    """Though --learn_threshold and --learn_leak are given: those of the decoder alone learn."""
    learn = "--train decoder --learn_threshold --learn_leak --epochs 1 -lr 0.01"
    here = f"{DATA} --leak 0.9 --run_name x --output_dir {tmp_path}"
    run_here("snn", f"--pretrained_snn {trained.snn} {learn} {here}")
    before = load(trained.snn, leak=0.9).state_dict()
    after = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["state_dict"]
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in after if name.startswith("generate")}
    assert changed > {"generate.2.threshold", "generate.2.leak"}


def test_evaluation_takes_the_next_free_name(trained, tmp_path):
    flags = (
        f"--pretrained_ann {trained.ann} --test_only {DATA} --run_name x --output_dir {tmp_path}"
    )
    run_here("ann", flags)
    first = digests(tmp_path)
    run_here("ann", flags)
    assert (
        digests(tmp_path).items() > first.items() and (tmp_path / "logs/ann/x_2.jsonl").is_file()
    )
    run_here("ann", flags, "--overwrite")
    assert (
        not (tmp_path / "logs/ann/x_3.jsonl").exists()
        and digests(tmp_path)["logs/ann/x.log"] != first["logs/ann/x.log"]
    )
    (tmp_path / "trained_models/snn").mkdir(parents=True)
    (tmp_path / "trained_models/snn/x.gif").touch()  # a picture takes a name, too
    with Run("snn", "x", parse("obj1", "--output_dir", str(tmp_path)), trains=False) as run:
        run.begin()
        assert run.name == "x_2"


def test_a_file_is_whole_at_any_time(tmp_path, monkeypatch):
    """The old one stays when writing fails, and until a whole new one takes its name, in one move."""
    path, moved, move = tmp_path / "x.pth", [], os.replace
    write_whole(path, lambda file: file.write(b"old"))
    for raised, expected in (
        (RuntimeError("enforce fail"), UserError),
        (KeyboardInterrupt, KeyboardInterrupt),
    ):

        def write(file, raised=raised):
            file.write(b"ne")
            raise raised

        with pytest.raises(expected):
            write_whole(path, write)
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.pth"]
    look = lambda new, old: (moved.append((new.read_bytes(), old.read_bytes())), move(new, old))  # noqa: E731
    monkeypatch.setattr(os, "replace", look)
    write_whole(path, lambda file: file.write(b"new"))
    assert (
        moved == [(b"new", b"old")]
        and path.read_bytes() == b"new"
        and os.listdir(tmp_path) == ["x.pth"]
    )


def original(saved, **beside):
    """The file that the original would have written for our checkpoint."""
    state = {
        f"module.{name}": value
        for name, value in saved["state_dict"].items()
        if name.endswith(".weight")
    }
    return {"accuracy": 97.0, "epoch": 3, "state_dict": state, **beside}


def test_ann_of_the_original_loads(trained, tmp_path):
    """Its calibration wrote the thresholds into the ANN's file as well; they are found again, not taken over."""
    path = tmp_path / "original.pth"
    torch.save(original(load_checkpoint(trained.ann), thresholds=[1000.0] * 7), path)
    for name, checkpoint in (("ours", trained.ann), ("theirs", path)):
        run_here(
            "ann",
            f"--pretrained_ann {checkpoint} --test_only {TINY} --run_name {name} --output_dir {tmp_path}",
        )
    ours, theirs = (
        figures(records(tmp_path / f"logs/ann/{name}.jsonl")) for name in ("ours", "theirs")
    )
    assert ours == theirs
    run_here(
        "snn", TINY, SPIKING, f"--pretrained_ann {path} --run_name own --output_dir {tmp_path}"
    )
    found, expected = (
        load_checkpoint(path)["state_dict"]
        for path in (tmp_path / "trained_models/snn/own.pth", trained.snn)
    )
    thresholds = [name for name in expected if name.endswith(".threshold")]
    assert len(thresholds) == 7 and all(
        torch.equal(found[name], expected[name]) for name in thresholds
    )


def test_snn_of_the_original_loads_with_its_thresholds_as_they_are(trained, tmp_path):
    saved, path = load_checkpoint(trained.snn), tmp_path / "snn.pth"
    thresholds = [
        value.item() for name, value in saved["state_dict"].items() if name.endswith(".threshold")
    ]
    torch.save(original(saved, thresholds=thresholds, leak=0.9, timesteps=5), path)
    typed = f"-a VGG5_wFeedback_small --fc_width 16 {SPIKING} --run_name x --output_dir {tmp_path}".replace(
        BALANCE, ""
    )
    run_here("snn", f"--pretrained_snn {path} -lr 1e-30 --weight_decay 0", typed)
    model = load(tmp_path / "trained_models/snn/x.pth")
    assert model.thresholds == pytest.approx(thresholds)
    assert [layer.leak.item() for layer in model.neurons().values()] == pytest.approx(
        [0.9] * len(thresholds)
    )


def test_an_ann_with_all_that_deep_plans_need(tmp_path):
    """Whitened, begun as identities, normalised, in steps, without hidden layers: what a run of two epochs learns, one of one
    epoch that is resumed by its name learns; its first layer is that of epoch 1; its checkpoint says what it is, and evaluates
    the same."""
    made = "--whitening --init dirac --norm batch --no-norm_scale --activation_ann qcfs --qcfs_levels 8 --fc_layers 0"
    made += " --optimizer SGD --nesterov --momentum 0.8 --label_smoothing 0.1 --bias_lr_factor 8"
    command = f"-a VGG5_wFeedback_small -lr 5e-3 --lr_interval 1 --select test {DATA} {made} --output_dir {tmp_path} --run_name"
    best, _ = run_here("ann", f"{command} whole --epochs 2")
    run_here("ann", f"{command} parts --epochs 1")
    files = tmp_path / "trained_models/ann"
    first = load_checkpoint(files / "parts_last.pth")["state_dict"]
    run_here("ann", f"--run_name parts --output_dir {tmp_path} --resume --epochs 2")
    assert same_weights(files / "whole_last.pth", files / "parts_last.pth")
    here = load_checkpoint(files / "whole_last.pth")["state_dict"]
    assert (
        torch.equal(here["features.0.weight"], first["features.0.weight"])
        and here["features.1.num_batches_tracked"] == 4
    )
    scales = {
        f"{place}.weight"
        for place in ("features.1", "features.4", "features.7", "generate.2", "generate.5")
    }
    assert {name for name in here if torch.equal(here[name], first[name])} == {
        "features.0.weight",
        *scales,
    }
    assert not load(files / "whole.pth").features[0].weight.requires_grad
    again, _ = run_here(
        "ann", f"--pretrained_ann {files / 'whole.pth'} --test_only {DATA} --output_dir {tmp_path}"
    )
    assert again["accuracy"] == best["accuracy"] and again["total"] == pytest.approx(best["total"])


def test_each_epoch_has_an_order_and_augments_anew():
    args = parse("ann", "--batch_size", "3")
    train = load_data("MNIST", limit_train=6)[0]
    epochs = []
    for epoch in (1, 2, 1):
        batches = [
            augmented(batch, args.seed, epoch)
            for batch in training_batches(train, args.batch_size, args.seed, epoch, "cpu")
        ]
        index = torch.cat([batch.index for batch in batches])
        assert torch.equal(index, shuffled(6, 0, epoch))
        epochs.append(torch.cat([batch.images for batch in batches])[index.argsort()])
    assert torch.equal(epochs[0], epochs[2])
    assert all(
        not torch.equal(first, second) for first, second in zip(epochs[0], epochs[1], strict=True)
    )
    plain = torch.cat([batch.images for batch in training_batches(train, 64, 0, 1, "cpu")])
    assert torch.equal(plain[shuffled(6, 0, 1).argsort()], train.whole().images)
    assert (
        parse("ann", "--epochs", str(2**31 - 1)).epochs < EVALUATION
    )  # the most that there can be: evaluations have their own


NEW = f"-a VGG5_wFeedback_small --fc_width 8 -lr 5e-3 --epochs 3 {DATA} --run_name x"  # 32 training images


@pytest.fixture
def judged(monkeypatch):
    """What each evaluation of training looked at, as positions in a whole set, and whether they are training images; the
    accuracies that it finds are 0.2, 0.5, 0.5, 0.4, …"""
    seen = []
    real = harness.training.evaluating.evaluate_parts
    found = iter([0.2, 0.5, 0.5, 0.4, 0.3])
    test_labels = load_data("MNIST")[2].labels

    def evaluate(model, batches, *more):
        kept = list(batches)
        index, labels = (
            torch.cat([getattr(batch, name) for batch in kept]) for name in ("index", "labels")
        )
        is_test = int(index.max()) < len(test_labels) and torch.equal(labels, test_labels[index])
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        seen.append(("test" if is_test else "train", index.tolist(), weights))
        return real(model, kept, *more) | {"accuracy": next(found)}

    monkeypatch.setattr("harness.training.evaluating.evaluate_parts", evaluate)
    return seen


def test_a_tenth_of_the_training_images_at_most_5000():
    assert [default_holdout(count) for count in (60000, 50000, 49999, 100, 32, 9, 1)] == [
        5000,
        5000,
        4999,
        10,
        3,
        1,
        1,
    ]
    for limit, used, held_out in ((None, 55000, 5000), (32, 32, 3)):
        train, selection, _ = load_data("MNIST", limit_train=limit, holdout=None)
        assert (len(train), len(selection), selection.start) == (used, held_out, 60000 - held_out)
        assert train.start + len(train) <= selection.start


HELD_OUT, TESTED = ("train", [59997, 59998, 59999]), ("test", list(range(16)))


@pytest.mark.parametrize(
    ("flags", "selected_on", "looked_at", "epoch"),
    [
        ("", "held-out", [HELD_OUT] * 3 + [TESTED], 2),  # of a tie the earlier
        ("--holdout 0", "last epoch", [TESTED], 3),
        ("--select test", "test", [TESTED] * 3, 2),
    ],
)
def test_which_epoch_is_kept(tmp_path, judged, flags, selected_on, looked_at, epoch):
    """That which the held-out images choose; the last where there are none; that of the test images only where told."""
    result, _ = run_here("ann", NEW, f"{flags} --output_dir {tmp_path}")
    assert [(kind, index) for kind, index, _ in judged] == looked_at
    epochs, tested = (
        records(tmp_path / "logs/ann/x.jsonl", event) for event in ("epoch", "evaluation")
    )
    best, last = (tmp_path / f"trained_models/ann/x{ending}.pth" for ending in ("", "_last"))
    assert [record["selected_on"] for record in (*epochs, *tested)] == [selected_on] * (
        3 + (selected_on != "test")
    )
    kept = load_checkpoint(best)
    assert kept["epoch"] == epoch and same_weights(best, last) == (epoch == 3)
    judged_last = judged[1 if selected_on == "test" else -1][
        2
    ]  # the test is of the epoch that is kept
    assert all(torch.equal(judged_last[name], value) for name, value in kept["state_dict"].items())
    assert result["accuracy"] == {"held-out": 0.4, "last epoch": 0.2, "test": 0.5}[selected_on]


def test_a_progress_bar_shows_figures_at_every_tenth_step():
    """Not where it is hidden, nor before there are figures; it moves on all the same."""
    shown = []

    def bar_at(number, disable=False):
        return SimpleNamespace(
            n=number,
            disable=disable,
            set_postfix_str=lambda text, refresh: shown.append((number, text)),
            update=lambda: shown.append(number),
        )

    average = Average()
    advance(bar_at(9), average)
    average.add(4, accuracy=0.5)
    for bar in (bar_at(8), bar_at(9), bar_at(10), bar_at(19, disable=True)):
        advance(bar, average)
    assert shown == [9, 8, (9, "accuracy 50.00 %"), 9, 10, 19]
