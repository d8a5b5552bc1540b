"""Losses, schedules, checkpoints, the training loop, and which epoch counts."""

import json
import os
from dataclasses import dataclass
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

import wfeedback.training.evaluating
from ann_wFeedback import compute_losses as ann_losses
from self_models import load
from self_models.checkpoints.files import load_checkpoint
from self_models.data.sets import augmented, default_holdout, load_data
from self_models.errors import UserError
from self_models.evaluation.evaluate import Average
from self_models.running.draws import EVALUATION, shuffled
from self_models.running.outputs import ANNOutput, SNNOutput
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from snn_wFeedback import compute_losses
from wfeedback.arguments import take_over
from wfeedback.building.models import lines_on_flags
from wfeedback.building.start import Start
from wfeedback.runs.run import Run, original_name, progress_bar
from wfeedback.runs.saving import write_whole
from wfeedback.training.epochs import training_batches
from wfeedback.training.evaluating import advance
from wfeedback.training.losses import Teacher, classification_loss
from wfeedback.training.optimizers import (
    OPTIONAL,
    checked_optimizer,
    learning_rate_factor,
    make_optimizer,
    optimizer_classes,
    why_unfit,
)


def parse(name, *words):
    return module_of(name).build_parser().parse_args(words)


# 2 steps, 2 images of 2 pixels. Sums over pixels are 3 and 7, then 1 and 3, so means
# over images are 5, then 2.
ERRORS = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [1.0, 2.0]]]).reshape(2, 2, 1, 1, 2)


def output_of(logits, errors=None, spikes=None, logits_by_step=None):
    """Make an SNNOutput of which nothing else is looked at."""
    return SNNOutput(
        logits=logits,
        predictions=None,
        errors=errors,
        spikes=spikes or {},
        steps=None,
        logits_by_step=logits_by_step,
    )


@pytest.mark.parametrize(
    ("kind", "reconstruction"),
    [
        ("last_t", 2),
        # Step t of 2 has the weight t / 2, in a mean over steps.
        ("linear_over_t", (5 * 1 / 2 + 2 * 2 / 2) / 2),
        ("sum", 5 + 2),
    ],
)
def test_losses_by_hand(kind, reconstruction):
    spikes = {"input": torch.tensor([1.0, 3.0])}  # 2 per image
    output = output_of(logits=torch.zeros(2, 4), errors=ERRORS, spikes=spikes)
    labels = torch.tensor([0, 1])

    losses = compute_losses(output, None, labels, 0.5, kind, spike_penalty=0.01)

    # Four classes are equally likely.
    assert losses["classification"].item() == pytest.approx(log(4))
    assert losses["reconstruction"].item() == pytest.approx(reconstruction)
    total = log(4) + 0.5 * reconstruction + 0.01 * 2
    assert losses["total"].item() == pytest.approx(total)


@pytest.mark.parametrize("kind", ["last_t", "linear_over_t", "sum"])
def test_without_errors_there_is_no_reconstruction_loss(kind):
    output = output_of(logits=torch.zeros(2, 4), spikes={"input": torch.tensor([1.0, 3.0])})
    losses = compute_losses(output, None, torch.tensor([0, 1]), 10.0, kind)
    assert losses.keys() == {"classification", "total"}


@pytest.mark.parametrize(
    ("kind", "classification"),
    [
        ("last_t", log(4)),
        ("mean_t", (log(2) + log(4)) / 2),
        ("linear_over_t", (1 * log(2) + 2 * log(4)) / (1 + 2)),
    ],
)
def test_classification_loss_of_each_step_by_hand(kind, classification):
    unsure = torch.zeros(1, 4)  # of class 0, as of each, the probability is 1/4
    surer = torch.tensor([[log(3), 0.0, 0.0, 0.0]])  # 3 / (3 + 1 + 1 + 1) = 1/2
    output = output_of(logits=unsure, logits_by_step=torch.stack([surer, unsure]))
    labels = torch.tensor([0])

    losses = compute_losses(output, None, labels, 1.0, "last_t", classification_type=kind)
    judged = compute_losses(output, None, labels, 1.0, "last_t")

    assert losses["classification"].item() == pytest.approx(classification)
    assert losses["total"].item() == losses["classification"].item()
    # In an evaluation nobody says what counts: it is the last output.
    assert judged["classification"].item() == pytest.approx(log(4))
    assert judged["total"].item() == pytest.approx(log(4))


def test_labels_are_not_smoothed_unless_it_is_asked_for():
    surer = torch.tensor([[log(3), 0.0, 0.0, 0.0]])  # 1/2, 1/6, 1/6, 1/6
    labels = torch.tensor([0])

    plain = classification_loss(output_of(logits=surer), None, labels)
    smoothed = classification_loss(output_of(logits=surer), None, labels, smoothing=1.0)

    assert plain.item() == pytest.approx(log(2))
    # All four labels count alike: (log 2 + 3 log 6) / 4
    assert smoothed.item() == pytest.approx((log(2) + 3 * log(6)) / 4)


# A teacher's odds of 3 : 1 and a student's of 1 : 1 at temperature 3, with a share of
# 0.25: 0.25 * 3² times the divergence 3/4 log(3/2) + 1/4 log(1/2).
TAUGHT = torch.tensor([[3 * log(3), 0.0]])
UNDECIDED = torch.zeros(1, 2)
DIVERGENCE = 0.25 * 3**2 * (0.75 * log(1.5) + 0.25 * log(0.5))


@pytest.fixture
def teacher():
    """Make a teacher that answers TAUGHT for each image."""

    def teach(images):
        return ANNOutput(TAUGHT.repeat(len(images), 1), None, None)

    return Teacher(teach, 0.25, 3.0)


@pytest.mark.parametrize("count", [1, 2])
def test_distillation_loss_by_hand(teacher, count):
    """Of one image, and of the same one twice: it is a mean over the batch."""
    output = output_of(logits=UNDECIDED.repeat(count, 1))
    labels = torch.ones(count, dtype=torch.int64)

    losses = compute_losses(output, torch.zeros(count), labels, 0.0, "last_t", teacher=teacher)
    of_ann = ann_losses(output, torch.zeros(count), labels, 0.0, teacher=teacher)

    expected = 0.75 * log(2) + DIVERGENCE
    assert losses["classification"].item() == pytest.approx(expected)
    assert losses["total"].item() == losses["classification"].item()
    assert of_ann["total"].item() == pytest.approx(expected)


def test_distillation_loss_of_each_step_by_hand(teacher):
    # In the first step the student agrees with the teacher, with odds of 27 : 1 for
    # class 0.
    by_step = torch.stack([TAUGHT, UNDECIDED])
    output = output_of(logits=UNDECIDED, logits_by_step=by_step)
    image = torch.zeros(1)
    labels = torch.tensor([1])

    losses = compute_losses(
        output, image, labels, 0.0, "last_t", classification_type="mean_t", teacher=teacher
    )
    judged = compute_losses(output, image, labels, 0.0, "last_t")  # as an evaluation does

    expected = (0.75 * log(1 + 3**3) + (0.75 * log(2) + DIVERGENCE)) / 2
    assert losses["total"].item() == pytest.approx(expected)
    assert judged["total"].item() == pytest.approx(log(2))


def optimizer_of(model, args):
    """Make the optimiser that flags name, as the scripts do."""
    options = {name: getattr(args, name) for name in OPTIONAL}
    return make_optimizer(
        args.optimizer, model, args.learning_rate, args.bias_lr_factor, **options
    )


def rates(lr_schedule, epochs, steps_per_epoch, warm_up=0.05):
    """Run a schedule of a rate of 1, and return the rate of each optimiser step."""
    flags = f"--epochs {epochs} --lr_schedule {lr_schedule} --warm_up {warm_up}"
    args = parse("ann", *flags.split())
    steps = epochs * steps_per_epoch
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    factor = learning_rate_factor(
        args.lr_schedule, steps, args.lr_interval, args.lr_reduce, args.warm_up
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_a_schedule_in_steps_by_hand():
    # After 60, 80 and 90 % of the steps the rate is a tenth.
    expected = [1] * 12 + [0.1] * 4 + [0.01] * 2 + [0.001] * 2
    assert rates("step", 10, 2) == pytest.approx(expected)


def test_a_short_run_in_steps_has_its_full_rate_too():
    expected = [1] * 6 + [0.1] * 2 + [0.01, 0.001]
    assert rates("step", 1, 10) == pytest.approx(expected)


def test_a_triangular_schedule_by_hand():
    # A quarter of 12 steps to warm up, then down in 9 steps.
    expected = [1 / 4, 2 / 4, 3 / 4] + [1 - step / 9 for step in range(9)]
    assert rates("triangle", 4, 3, 0.25) == pytest.approx(expected)
    assert rates("triangle", 1, 4, 0) == [1, 3 / 4, 2 / 4, 1 / 4]


def test_a_cosine_schedule_by_hand():
    seen = rates("cosine", 10, 10)  # 100 steps, 5 of them to warm up
    assert seen[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert seen[50] == pytest.approx((1 + cos(pi * 0.45 / 0.95)) / 2)
    assert seen[5:] == sorted(seen[5:], reverse=True)
    assert 0 < seen[-1] < 0.001


def ids(parameters):
    return {id(parameter) for parameter in parameters}


BOTH_OPTIMIZERS = pytest.mark.parametrize("name", ["Adam", "SGD"])


@BOTH_OPTIMIZERS
def test_thresholds_have_no_weight_decay(name):
    model = VGG_SNN_STDB_wFeedback(plan=PLAN, fc_width=4, learn_threshold=True)
    flags = f"--optimizer {name} -lr 0.5 --weight_decay 0.1"

    optimizer = optimizer_of(model, parse("snn", *flags.split()))

    weights, scalars = optimizer.param_groups
    assert weights["lr"] == 0.5
    assert weights["weight_decay"] == 0.1
    assert scalars["lr"] == 0.5
    assert scalars["weight_decay"] == 0
    assert ids(scalars["params"]) == ids(neuron.threshold for neuron in model.neurons().values())


@BOTH_OPTIMIZERS
def test_an_optimiser_is_fused_and_has_its_own_defaults(name):
    model = VGG_SNN_STDB_wFeedback(plan=PLAN, fc_width=4, learn_threshold=True)
    optimizer = optimizer_of(model, parse("snn", "--optimizer", name))
    assert type(optimizer).__name__ == name
    assert optimizer.defaults["fused"]
    if name == "Adam":
        assert optimizer.defaults["amsgrad"]
    else:
        assert optimizer.defaults["momentum"] == 0.95


@BOTH_OPTIMIZERS
def test_gains_have_no_weight_decay(name):
    model = VGG_wFeedback(plan=PLAN, fc_width=4, norm="scale")
    gains = [value for key, value in model.named_parameters() if key.endswith("gain")]

    _, scalars = optimizer_of(model, parse("ann", "--optimizer", name)).param_groups

    assert gains
    assert scalars["weight_decay"] == 0
    assert ids(scalars["params"]) == ids(gains)


@BOTH_OPTIMIZERS
def test_biases_have_no_weight_decay_and_a_rate_of_their_own(name):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    flags = f"--optimizer {name} --nesterov -lr 0.5 --weight_decay 0.1 --bias_lr_factor 64"

    optimizer = optimizer_of(model, parse("ann", *flags.split()))

    if name == "SGD":
        assert optimizer.defaults["nesterov"]
    groups = []
    for group in optimizer.param_groups:
        lengths = [len(parameter) for parameter in group["params"]]
        groups.append((lengths, group["lr"], group["weight_decay"]))
    weights = ([2], 0.5, 0.1)
    gains_of_norms = ([2], 0.5, 0)
    biases = ([2, 2], 0.5 * 64, 0)
    assert groups == [weights, gains_of_norms, biases]


USABLE = [name for name, cls in optimizer_classes().items() if not why_unfit(name, cls)]
MADE_WITH = "-lr 0.25 --weight_decay 0.125 --momentum 0.5 --nesterov --no-amsgrad"


def step_with(model, optimizer, seed):
    """Take a step on random gradients."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=draw)
    optimizer.step()


def two_equal_networks():
    """Make two SNNs of the same weights that learn all that an SNN can."""
    settings = {"plan": PLAN, "fc_width": 4, "learn_threshold": True, "bias": True}
    first = VGG_SNN_STDB_wFeedback(**settings)
    second = VGG_SNN_STDB_wFeedback(**settings)
    second.load_state_dict(first.state_dict())
    return first, second


@pytest.mark.parametrize("name", USABLE)
def test_an_optimiser_by_its_name_has_the_flags_that_it_shares(name):
    model, _ = two_equal_networks()

    optimizer = optimizer_of(model, parse("snn", "--optimizer", name, *MADE_WITH.split()))

    assert type(optimizer) is getattr(torch.optim, name)
    assert optimizer.defaults["lr"] == 0.25
    flags = {"weight_decay": 0.125, "momentum": 0.5, "nesterov": True, "amsgrad": False}
    for flag in OPTIONAL:
        assert optimizer.defaults.get(flag, flags[flag]) == flags[flag], flag
    # weights, thresholds and biases
    assert [len(group["params"]) for group in optimizer.param_groups] == [12, 7, 7]
    if "weight_decay" in optimizer.defaults:
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.125, 0, 0]


@pytest.mark.parametrize("name", USABLE)
def test_an_optimiser_goes_on_from_its_state_dict(name):
    """It trains weights, thresholds of no dimension, and biases."""
    args = parse("snn", "--optimizer", name, *MADE_WITH.split())
    whole, parts = two_equal_networks()
    trained = [value for value in whole.parameters() if value.requires_grad]
    before = [value.clone() for value in trained]

    optimizer = optimizer_of(whole, args)
    step_with(whole, optimizer, seed=1)
    assert len(trained) == 12 + 7 + 7
    assert not any(map(torch.equal, before, trained))
    step_with(whole, optimizer, seed=2)

    first = optimizer_of(parts, args)
    step_with(parts, first, seed=1)
    resumed = optimizer_of(parts, args)
    resumed.load_state_dict(first.state_dict())
    step_with(parts, resumed, seed=2)

    assert all(map(torch.equal, whole.parameters(), parts.parameters()))


def test_all_optimisers_but_four_are_taken():
    """Of those that PyTorch 2.6 had; others may have come since."""
    adaptive = {"Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "NAdam", "RAdam"}
    usable = set(USABLE)
    assert usable >= adaptive | {"ASGD", "RMSprop", "Rprop", "SGD"}
    assert set(optimizer_classes()) - usable <= {"LBFGS", "Muon", "Optimizer", "SparseAdam"}


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
    if name == "Muon" and not hasattr(torch.optim, name):  # PyTorch has it since 2.9
        words = "has no optimiser 'Muon'"

    line = refused("ann", f"--optimizer {name} {TINY} --output_dir {tmp_path}")

    assert "argument --optimizer: " in line
    assert words in line
    assert "choose from Adadelta, Adafactor, Adagrad, Adam, Adamax, AdamW, ASGD" in line
    assert not list(tmp_path.iterdir())


def test_an_optimiser_of_another_version_of_pytorch_is_refused():
    args = parse("ann")
    # As a last checkpoint may name it, whose flags hold.
    take_over(args, {"optimizer": "Later"}, "checkpoint")
    with pytest.raises(UserError, match="has no optimiser 'Later': choose from Adadelta"):
        optimizer_of(VGG_wFeedback(plan=PLAN, fc_width=4), args)


def test_an_optimiser_is_checked_by_its_name():
    with pytest.raises(ValueError, match="SparseAdam takes sparse"):
        checked_optimizer("SparseAdam")


def test_a_run_with_another_optimiser_is_named_resumed_and_tells_idle_flags(tmp_path):
    typed = "--optimizer RMSprop --momentum 0.5 --no-amsgrad --nesterov"
    command = f"{TINY.replace('--epochs 1', '')} {typed} --output_dir {tmp_path} --run_name"
    _, said = run_here("ann", f"{command} whole --epochs 2")
    log = (tmp_path / "logs/ann/whole.log").read_text()
    for line in (
        "note: without effect here: --amsgrad, --nesterov",
        "optimiser: RMSprop, learning_rate=0.005, weight_decay=0.0005, momentum=0.5",
    ):
        assert line in log.splitlines()
        assert line in said.splitlines()

    run_here("ann", f"{command} parts --epochs 1")
    again = f"--run_name parts --output_dir {tmp_path} --resume --epochs 2"
    assert "other settings (optimizer)" in refused("ann", again, "--optimizer Adam")

    run_here("ann", again)
    files = tmp_path / "trained_models/ann"
    assert same_weights(files / "whole_last.pth", files / "parts_last.pth")


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (
            "--momentum 0.5 --amsgrad --nesterov",
            ["note: without effect here: --momentum, --nesterov"],
        ),
        (
            "--optimizer SGD --amsgrad --nesterov --momentum 0.5",
            ["note: without effect here: --amsgrad"],
        ),
        ("--optimizer SGD --nesterov --momentum 0", ["note: without effect here: --nesterov"]),
        (
            "--optimizer Rprop --weight_decay 0",
            ["note: without effect here: --weight_decay"],
        ),
        ("--optimizer AdamW --weight_decay 0.1 --amsgrad", []),
    ],
)
def test_a_line_names_typed_flags_that_the_optimiser_does_not_have(flags, lines):
    args = parse("ann", *flags.split())
    model = VGG_wFeedback(plan=PLAN, fc_width=4)
    assert list(lines_on_flags(args, model, Start())) == lines


def test_label_smoothing_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0]])
    labels = torch.tensor([0])
    output = output_of(logits=logits)

    smoothed = ann_losses(output, None, labels, 0.0, label_smoothing=0.25)
    judged = ann_losses(output, None, labels, 0.0)  # as an evaluation does

    # A quarter is spread over 3 classes, so the target is 5/6, 1/12, 1/12.
    log_probabilities = logits[0].log_softmax(0).tolist()
    expected = -(5 / 6 * log_probabilities[0] + sum(log_probabilities[1:]) / 12)
    assert smoothed["total"].item() == pytest.approx(expected)
    assert judged["total"].item() == pytest.approx(-log_probabilities[0])


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


OF_ANN = COMMON | {
    "momentum": 0.9,
    "dropout": 0.2,
    "timesteps": 1,
    "trade_off": 10.0,
    "test_only": False,
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ann", OF_ANN),
        ("snn", OF_SNN | {"test_only": False}),
        ("analysis", OF_SNN | {"test_only": True}),
        ("obj1", OF_SNN | {"test_only": True, "epsilon": [0.1]}),
    ],
    ids=["ann", "snn", "analysis", "obj1"],
)
def test_defaults_are_the_originals(name, expected):
    args = parse(name)
    assert {flag: getattr(args, flag) for flag in expected} == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ann", "ann_vgg5_wfeedback_t1_mnist_tradeoff10.0_lr0.0001"),
        ("snn", "snn_vgg5_wfeedback_mnist_50_tradeoff1.0_typelast_t"),
    ],
)
def test_names_are_the_originals(name, expected):
    assert original_name(name, parse(name)) == expected


def test_log_begins_with_results_and_with_what_is_not_by_default(trained):
    result, head, *_ = (trained.folder / "logs/ann/tiny.log").read_text().split("\n\n")
    assert "accuracy " in result.splitlines()[0]
    assert "learning_rate=0.005" in head
    assert "lr_interval=" not in head
    for words in (
        "started 20",
        "command: ann_wFeedback.py",
        "versions: Python",
        "seed: 0",
        "git revision: ",
    ):
        assert words in head


def test_records_begin_with_all_parameters_and_where_each_comes_from(trained):
    opening = json.loads((trained.folder / "logs/ann/tiny.jsonl").read_text().splitlines()[0])
    assert opening["event"] == "run"
    assert opening["began"] == "started"
    assert opening["seed"] == 0
    assert opening["git_revision"]
    assert opening["versions"].keys() == {"Python", "torch", "torchvision"}
    flags = vars(parse("ann")).keys() - {"seeds"}
    assert opening["parameters"].keys() >= flags | {"selected_on"}
    assert opening["parameters"]["limit_train"] == 32
    assert opening["origins"]["limit_train"] == "typed"


def test_the_log_leaves_out_flags_of_training_where_nothing_is_trained(trained, tmp_path):
    """They are in the .jsonl, as all parameters are, but would mislead in the log."""
    idle = "--epochs 7 --weight_decay 0.1"
    here = f"--test_only --limit_test 4 --batch_size 3 --run_name x --output_dir {tmp_path}"

    run_here("ann", f"--pretrained_ann {trained.ann} {idle} {here}")

    (opening,) = records(tmp_path / "logs/ann/x.jsonl", "run")
    assert opening["parameters"]["epochs"] == 7
    assert opening["parameters"]["weight_decay"] == 0.1
    log = (tmp_path / "logs/ann/x.log").read_text()
    assert "batch_size=3" in log
    assert "epochs=" not in log
    assert "weight_decay=" not in log


def test_the_last_result_stands_first_in_the_log(tmp_path):
    """As of a run that goes on with more epochs; other lines stay behind them."""
    with Run("snn", "x", parse("snn", "--output_dir", str(tmp_path)), trains=True) as run:
        run.say("begins")
        run.result("accuracy 1 %", epoch=1)
        run.say("goes on")
        run.result("accuracy 2 %", epoch=2)

    log = (tmp_path / "logs/snn/x.log").read_text()
    assert log.startswith("accuracy 2 %\n\naccuracy 1 %\n\nstarted 20")
    assert log.endswith("\nbegins\ngoes on\n")


@pytest.fixture
def grown(baseline, tmp_path):
    """Return flags that start a network with a decoder from one that has none."""
    network = f"-a VGG5_wFeedback_linear --pretrained_snn {baseline}"
    return f"{network} --output_dir {tmp_path} {DATA} --readout membrane_linear"


def test_a_network_without_a_decoder_is_given_none_in_an_evaluation(grown):
    assert "generate.0.weight is missing" in refused("snn", grown, "--test_only")


def test_a_decoder_does_not_learn_without_a_weight_of_its_loss(grown):
    line = refused("snn", grown, "--train decoder --trade_off 0")
    assert "--trade_off above 0" in line


def test_a_network_without_a_decoder_is_given_one_in_training(grown, baseline, tmp_path):
    blocks = "--epochs 1 --epsilon 0.1 --latch"
    _, said = run_here("snn", grown, f"{blocks} --train decoder -lr 0.1 --run_name grown")
    run_here("snn", grown, f"{blocks} -lr 1e-9 --run_name start")

    assert "has no decoder: this one starts at random" in said
    files = tmp_path / "trained_models/snn"
    before = load_checkpoint(baseline)["state_dict"]
    after = load_checkpoint(files / "grown.pth")["state_dict"]
    start = load_checkpoint(files / "start.pth")["state_dict"]  # nearly, at a rate of 1e-9
    # The rest stays as it was.
    for name, value in before.items():
        assert torch.equal(after[name], value), name
        torch.testing.assert_close(start[name], value, atol=1e-6, rtol=0)
    decoder = []
    for name in after:
        if name.startswith("generate") and name.endswith("weight"):
            decoder.append(name)
    assert decoder
    for name in decoder:
        assert not torch.allclose(after[name], start[name], atol=1e-3), name


def test_train_decoder_leaves_thresholds_and_leaks_of_the_rest_as_they_are(trained, tmp_path):
    """Though --learn_threshold and --learn_leak are given; the decoder's learn."""
    learn = "--train decoder --learn_threshold --learn_leak --epochs 1 -lr 0.01"
    here = f"{DATA} --leak 0.9 --run_name x --output_dir {tmp_path}"
    run_here("snn", f"--pretrained_snn {trained.snn} {learn} {here}")

    before = load(trained.snn, leak=0.9).state_dict()
    after = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["state_dict"]
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in after if name.startswith("generate")}
    assert changed > {"generate.2.threshold", "generate.2.leak"}


def test_evaluation_takes_the_next_free_name(trained, tmp_path):
    flags = f"--pretrained_ann {trained.ann} --test_only {DATA} --run_name x"
    here = f"--output_dir {tmp_path}"
    run_here("ann", flags, here)
    first = digests(tmp_path)

    run_here("ann", flags, here)

    assert digests(tmp_path).items() > first.items()
    assert (tmp_path / "logs/ann/x_2.jsonl").is_file()

    run_here("ann", flags, here, "--overwrite")

    assert not (tmp_path / "logs/ann/x_3.jsonl").exists()
    assert digests(tmp_path)["logs/ann/x.log"] != first["logs/ann/x.log"]


def test_a_picture_takes_a_name_too(tmp_path):
    (tmp_path / "trained_models/snn").mkdir(parents=True)
    (tmp_path / "trained_models/snn/x.gif").touch()
    with Run("snn", "x", parse("obj1", "--output_dir", str(tmp_path)), trains=False) as run:
        run.begin()
        assert run.name == "x_2"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        pytest.param(RuntimeError("enforce fail"), UserError, id="fails"),
        pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="is interrupted"),
    ],
)
def test_the_old_file_stays_when_writing(tmp_path, raised, expected):
    path = tmp_path / "x.pth"
    path.write_bytes(b"old")

    def write_half(file):
        file.write(b"ne")
        raise raised

    with pytest.raises(expected):
        write_whole(path, write_half)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.pth"]


def test_a_whole_new_file_takes_the_name_of_the_old_in_one_move(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    write_whole(path, lambda file: file.write(b"old"))
    moves = []
    replace = os.replace

    def noted(new, old):
        moves.append((new.read_bytes(), old.read_bytes()))
        replace(new, old)

    monkeypatch.setattr(os, "replace", noted)
    write_whole(path, lambda file: file.write(b"new"))

    assert moves == [(b"new", b"old")]
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.pth"]


def original(saved, **more):
    """Make the entries of the file that the original would have written for it."""
    state = {}
    for name, value in saved["state_dict"].items():
        if name.endswith(".weight"):
            state[f"module.{name}"] = value
    return {"accuracy": 97.0, "epoch": 3, "state_dict": state, **more}


@pytest.fixture
def original_ann(trained, tmp_path):
    """Write an ANN as the original does once its calibration has added thresholds."""
    path = tmp_path / "original.pth"
    torch.save(original(load_checkpoint(trained.ann), thresholds=[1000.0] * 7), path)
    return path


def test_ann_of_the_original_loads(trained, original_ann, tmp_path):
    for name, checkpoint in (("ours", trained.ann), ("theirs", original_ann)):
        here = f"--run_name {name} --output_dir {tmp_path}"
        run_here("ann", f"--pretrained_ann {checkpoint} --test_only {TINY} {here}")

    ours = figures(records(tmp_path / "logs/ann/ours.jsonl"))
    theirs = figures(records(tmp_path / "logs/ann/theirs.jsonl"))
    assert ours == theirs


def test_thresholds_in_an_ann_of_the_original_are_found_again(trained, original_ann, tmp_path):
    here = f"--run_name own --output_dir {tmp_path}"
    run_here("snn", TINY, SPIKING, f"--pretrained_ann {original_ann} {here}")

    found = load_checkpoint(tmp_path / "trained_models/snn/own.pth")["state_dict"]
    expected = load_checkpoint(trained.snn)["state_dict"]
    thresholds = [name for name in expected if name.endswith(".threshold")]
    assert len(thresholds) == 7
    for name in thresholds:
        assert torch.equal(found[name], expected[name])


def test_snn_of_the_original_loads_with_its_thresholds_as_they_are(trained, tmp_path):
    saved = load_checkpoint(trained.snn)
    thresholds = []
    for name, value in saved["state_dict"].items():
        if name.endswith(".threshold"):
            thresholds.append(value.item())
    path = tmp_path / "snn.pth"
    torch.save(original(saved, thresholds=thresholds, leak=0.9, timesteps=5), path)

    spiking = SPIKING.replace(BALANCE, "")
    typed = f"-a VGG5_wFeedback_small --fc_width 16 {spiking} -lr 1e-30 --weight_decay 0"
    run_here("snn", f"--pretrained_snn {path} {typed} --run_name x --output_dir {tmp_path}")

    model = load(tmp_path / "trained_models/snn/x.pth")
    leaks = [neuron.leak.item() for neuron in model.neurons().values()]
    assert model.thresholds == pytest.approx(thresholds)
    assert leaks == pytest.approx([0.9] * len(thresholds))


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Train an ANN with all that deep plans need, at once and in two parts. Read only.

    Returns the folder of the checkpoints, the result of the whole run, and the weights
    after the first part.
    """
    folder = tmp_path_factory.mktemp("deep")
    files = folder / "trained_models/ann"
    network = "--whitening --init dirac --norm batch --no-norm_scale --activation_ann qcfs"
    network += " --qcfs_levels 8 --fc_layers 0"
    training = "--optimizer SGD --nesterov --momentum 0.8 --label_smoothing 0.1"
    training += " --bias_lr_factor 8 -lr 5e-3 --lr_interval 1 --select test"
    command = f"-a VGG5_wFeedback_small {network} {training} {DATA} --output_dir {folder}"
    result, _ = run_here("ann", f"{command} --run_name whole --epochs 2")
    run_here("ann", f"{command} --run_name parts --epochs 1")
    first = load_checkpoint(files / "parts_last.pth")["state_dict"]
    run_here("ann", f"--run_name parts --output_dir {folder} --resume --epochs 2")
    return SimpleNamespace(files=files, result=result, first=first)


def test_a_deep_ann_learns_in_two_parts_what_it_learns_as_a_whole(deep):
    assert same_weights(deep.files / "whole_last.pth", deep.files / "parts_last.pth")


def test_whitening_and_scales_of_norms_stay_in_training(deep):
    last = load_checkpoint(deep.files / "whole_last.pth")["state_dict"]
    assert last["features.1.num_batches_tracked"] == 4
    stayed = {name for name in last if torch.equal(last[name], deep.first[name])}
    assert stayed == {
        "features.0.weight",  # whitening
        "features.1.weight",
        "features.4.weight",
        "features.7.weight",
        "generate.2.weight",
        "generate.5.weight",
    }


def test_a_deep_anns_checkpoint_says_what_it_is_and_evaluates_the_same(deep, tmp_path):
    path = deep.files / "whole.pth"
    assert not load(path).features[0].weight.requires_grad

    flags = f"--pretrained_ann {path} --test_only {DATA} --output_dir {tmp_path}"
    again, _ = run_here("ann", flags)

    assert again["accuracy"] == deep.result["accuracy"]
    assert again["total"] == pytest.approx(deep.result["total"])


def images_of_epoch(train, epoch):
    """Augment images as an epoch does, and return them in the order of the set."""
    batches = []
    for batch in training_batches(train, 3, 0, epoch, "cpu"):
        batches.append(augmented(batch, 0, epoch))
    index = torch.cat([batch.index for batch in batches])
    images = torch.cat([batch.images for batch in batches])
    return images[index.argsort()]


def test_each_epoch_augments_anew():
    train = load_data("MNIST", limit_train=6)[0]
    first = images_of_epoch(train, 1)
    second = images_of_epoch(train, 2)
    again = images_of_epoch(train, 1)

    assert torch.equal(first, again)
    for image, other in zip(first, second, strict=True):
        assert not torch.equal(image, other)


@pytest.mark.parametrize("epoch", [1, 2])
def test_each_epoch_has_an_order_of_its_own(epoch):
    train = load_data("MNIST", limit_train=6)[0]
    order = shuffled(6, 0, epoch)

    batches = list(training_batches(train, 3, 0, epoch, "cpu"))
    augmented_batches = [augmented(batch, 0, epoch) for batch in batches]

    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images[order.argsort()], train.whole().images)
    for given in (batches, augmented_batches):
        assert torch.equal(torch.cat([batch.index for batch in given]), order)


def test_no_epoch_has_the_draws_of_an_evaluation():
    most = 2**31 - 1
    assert parse("ann", "--epochs", str(most)).epochs < EVALUATION


# 32 training images, of which 3 are held out
NEW = f"-a VGG5_wFeedback_small --fc_width 8 -lr 5e-3 --epochs 3 {DATA} --run_name x"


ACCURACIES = [0.2, 0.5, 0.5, 0.4, 0.3]


@dataclass
class Judged:
    """What an evaluation of a training looked at, and the weights that it judged."""

    part: str  # "train" or "test"
    index: list[int]
    weights: dict[str, torch.Tensor]


@pytest.fixture
def judged(monkeypatch):
    """Note each evaluation, and let them find ACCURACIES."""
    seen = []
    evaluate_parts = wfeedback.training.evaluating.evaluate_parts
    accuracies = iter(ACCURACIES)
    test_labels = load_data("MNIST")[2].labels

    def evaluate(model, batches, *more):
        batches = list(batches)
        index = torch.cat([batch.index for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        part = "train"
        if index.max() < len(test_labels) and torch.equal(labels, test_labels[index]):
            part = "test"
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        seen.append(Judged(part, index.tolist(), weights))
        return {**evaluate_parts(model, batches, *more), "accuracy": next(accuracies)}

    monkeypatch.setattr("wfeedback.training.evaluating.evaluate_parts", evaluate)
    return seen


@pytest.mark.parametrize(
    ("count", "held_out"),
    [(60000, 5000), (50000, 5000), (49999, 4999), (100, 10), (32, 3), (9, 1), (1, 1)],
)
def test_a_tenth_of_the_training_images_at_most_5000_is_held_out(count, held_out):
    assert default_holdout(count) == held_out


@pytest.mark.parametrize(("limit", "used", "held_out"), [(None, 55000, 5000), (32, 32, 3)])
def test_the_end_of_the_training_images_is_held_out(limit, used, held_out):
    train, selection, _ = load_data("MNIST", limit_train=limit, holdout=None)
    assert len(train) == used
    assert len(selection) == held_out
    assert selection.start == 60000 - held_out
    assert train.start + len(train) <= selection.start


HELD_OUT = ("train", [59997, 59998, 59999])
TESTED = ("test", list(range(16)))


@pytest.mark.parametrize(
    ("flags", "selected_on", "looked_at", "epoch", "result_from"),
    [
        # Epochs 2 and 3 are as good, so the earlier one is kept, and tested at the end.
        pytest.param("", "held-out", [HELD_OUT] * 3 + [TESTED], 2, 3, id="held-out"),
        pytest.param("--holdout 0", "last epoch", [TESTED], 3, 0, id="last epoch"),
        # Each epoch is tested, and that of the one that is kept counts.
        pytest.param("--select test", "test", [TESTED] * 3, 2, 1, id="test"),
    ],
)
def test_which_epoch_is_kept(tmp_path, judged, flags, selected_on, looked_at, epoch, result_from):
    result, _ = run_here("ann", NEW, f"{flags} --output_dir {tmp_path}")

    assert [(each.part, each.index) for each in judged] == looked_at
    assert result["accuracy"] == ACCURACIES[result_from]
    epochs = records(tmp_path / "logs/ann/x.jsonl", "epoch")
    evaluations = records(tmp_path / "logs/ann/x.jsonl", "evaluation")
    assert len(epochs) == 3
    assert len(evaluations) == (0 if selected_on == "test" else 1)
    for record in epochs + evaluations:
        assert record["selected_on"] == selected_on
    best = tmp_path / "trained_models/ann/x.pth"
    kept = load_checkpoint(best)
    assert kept["epoch"] == epoch
    for name, value in kept["state_dict"].items():
        assert torch.equal(judged[result_from].weights[name], value)
    last = tmp_path / "trained_models/ann/x_last.pth"
    assert same_weights(best, last) == (epoch == 3)


class Bar:
    """Stands in for a progress bar, and notes what happens to it."""

    def __init__(self, n, disable=False):
        self.n = n
        self.disable = disable
        self.events = []

    def set_postfix_str(self, text, refresh):
        self.events.append(text)

    def update(self):
        self.events.append("moves on")


@pytest.mark.parametrize(
    ("steps_done", "is_hidden", "events"),
    [
        (8, False, ["moves on"]),
        (9, False, ["accuracy 50.00 %", "moves on"]),
        (10, False, ["moves on"]),
        (19, True, ["moves on"]),
    ],
)
def test_a_progress_bar_shows_figures_at_every_tenth_step(steps_done, is_hidden, events):
    bar = Bar(steps_done, is_hidden)
    average = Average()
    average.add(4, accuracy=0.5)

    advance(bar, average)

    assert bar.events == events


def test_a_progress_bar_begins_with_what_is_done():
    assert progress_bar("x", total=5).n == 0
    assert progress_bar("x", total=5, done=2).n == 2


def test_a_progress_bar_shows_nothing_before_there_are_figures():
    bar = Bar(9)
    advance(bar, Average())
    assert bar.events == ["moves on"]
