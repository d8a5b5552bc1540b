#!/usr/bin/env python3
"""Convert an ANN to an SNN, balance its thresholds, and fine-tune it with surrogate gradients.

Read ``train`` from top to bottom: what the run starts from, the conversion, the loss,
the optimiser, the loop over epochs and batches, and the result. Copy this file to
change them.

The flags of conversion and fine-tuning are declared below, those that other scripts
have, too, in wfeedback/command_line/flags.py. The flags of a network are declared where
its settings are: self_models/config.py, and --epsilon and what belongs to it in
self_models/feedback/gates.py.
"""  # noqa: W505

import wfeedback.idle_threads  # noqa: F401  (before torch)

from functools import partial
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR

from self_models import conversion
from self_models.data.sets import ImageSet, augmented
from self_models.plugins import ENGINE_NAMES
from self_models.running.draws import Draws
from self_models.running.known_layers import in_stages
from self_models.running.outputs import SNNOutput, total_spikes
from self_models.settings import COUNT, NOT_NEGATIVE, POSITIVE, WHOLE, Choice, Number, Switch, Text
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.arguments import Arguments
from wfeedback.building.models import (
    ann_of,
    choose_trained,
    lines_on_flags,
    named,
    new_snn,
    teacher_from,
    use_engine,
)
from wfeedback.building.start import (
    Start,
    apply_rules,
    check_flags,
    conversion_progress,
    load_ann_weights,
    load_snn,
    open_checkpoint,
    take_over_checkpoint,
)
from wfeedback.command_line.flags import (
    BARE,
    add_data_flags,
    add_flags_of_training_scripts,
    add_loss_flags,
    add_network_flags,
    add_run_flags,
    add_training_flags,
    network_class,
)
from wfeedback.command_line.parser import Parser
from wfeedback.command_line.scripts import run_script, train_each
from wfeedback.data.facts import find_facts, lines_on, sets_of_training
from wfeedback.measuring.log_lines import running
from wfeedback.runs import ranks
from wfeedback.runs.run import Run, progress_bar, run_name
from wfeedback.training.epochs import length_of, plan_lines, record_epoch, training_batches
from wfeedback.training.evaluating import (
    advance,
    evaluate_with_bar,
    keep_if_best,
    report_best,
    report_test,
)
from wfeedback.training.last_checkpoint import LastCheckpoint
from wfeedback.training.losses import (
    STEP_WEIGHTS,
    Loss,
    Teacher,
    classification_loss,
    own_losses,
    reconstruction_loss,
)
from wfeedback.training.optimizers import learning_rate_factor, make_optimizer, optimizer_line
from wfeedback.training.progress import Progress, check_gradients
from wfeedback.training.resuming import kept_flags, open_last_checkpoint

DESCRIPTION = __doc__.partition("\n")[0]
DEFAULTS = {"momentum": 0.95, "trade_off": 1.0}  # where they are not an ANN's


def build_parser(argv: list[str] | None = None) -> Parser:
    """Return the parser. argv may have a --model, whose settings are flags, too."""
    network = network_class(argv, "snn", VGG_SNN_STDB_wFeedback)
    parser = Parser(DESCRIPTION, "snn", bare=BARE)
    add_loss_flags(parser)
    add_run_flags(parser)
    add_data_flags(parser)
    add_training_flags(parser, **DEFAULTS)
    add_flags_of_training_scripts(parser)
    add_snn_flags(parser)
    parser.add_flag(
        "fine-tuning",
        "--bptt_segments",
        kind=Text(segments),
        default=0,
        help=(
            "recompute in N segments in the backward pass: memory of T/N timesteps; auto: "
            "root of T; 0: off"
        ),
        training=True,
        metavar="N|auto",
    )
    parser.add_flag(
        "fine-tuning",
        "--train",
        kind=Choice(("all", "decoder")),
        default="all",
        help="weights that are trained; decoder: all others are fixed",
        training=True,
    )
    add_network_flags(parser, network.known_settings())
    return parser


def add_snn_flags(parser: Parser) -> None:
    """Add the flags of SNNs, which the scripts that evaluate have, too."""
    parser.add_flag(
        "checkpoint",
        "--pretrained_snn",
        kind=Text(),
        default="",
        help="SNN checkpoint; flags that you type override its settings",
        metavar="PATH",
        common=True,
    )
    parser.add_flag(
        "engine",
        "--engine",
        kind=Choice(ENGINE_NAMES),
        default="auto",
        help=(
            "of evaluation; dense: PyTorch, layer by layer; event: the event-driven kernel in"
            " C, on the CPU; reference: step(), step by step; auto: event if the kernel can, "
            "else dense"
        ),
        common=True,
    )
    parser.add_flag(
        "conversion",
        "--scaling_factor",
        kind=POSITIVE,
        default=0.7,
        help="factor on balanced thresholds",
        common=True,
    )
    parser.add_flag(
        "conversion",
        "--balance_images",
        kind=COUNT,
        default=128,
        help="training images for threshold balancing (original: 512)",
    )
    parser.add_flag(
        "conversion",
        "--balance_timesteps",
        kind=COUNT,
        default=100,
        help="timesteps for threshold balancing (original: 1000)",
    )
    parser.add_flag(
        "conversion",
        "--balance_percentile",
        kind=Number(float, 0, 100, above=True),
        default=100.0,
        help=(
            "percentile of a layer's input currents that becomes its threshold; 100: the maximum"
        ),
    )
    parser.add_flag(
        "conversion",
        "--calibrate",
        kind=Switch(),
        default=False,
        help=(
            "shift biases until each channel's mean rate over T timesteps is the ANN's, on "
            "--balance_images images; not with --update delayed"
        ),
    )
    parser.add_flag(
        "fine-tuning",
        "--trade_off_type",
        kind=Choice(STEP_WEIGHTS),
        default="last_t",
        help="timesteps whose errors count",
    )
    parser.add_flag(
        "fine-tuning",
        "--classification_type",
        kind=Choice(STEP_WEIGHTS),
        default="last_t",
        help=(
            "timesteps whose logits count in training; mean_t: all alike, which early exit needs"
        ),
        training=True,
    )
    parser.add_flag(
        "fine-tuning",
        "--spike_penalty",
        kind=NOT_NEGATIVE,
        default=0.0,
        help="loss per spike",
        training=True,
        common=True,
    )


def segments(text: str) -> int | str:
    """Return 'auto', or a whole number from 0. Raises ValueError for another text."""
    if text == "auto":
        return text
    return WHOLE.parse(text)


def main(argv: list[str] | None = None) -> dict | list[dict]:
    """Train once, or once for each of --seeds."""
    return train_each(train, build_parser(argv), argv, "snn")


def convert(
    model: VGG_SNN_STDB_wFeedback, start: Start, train_set: ImageSet, args: Arguments, run: Run
) -> None:
    """Give the SNN the weights of a trained ANN, and thresholds that fit them.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network, which gets them.
    start : Start
        The ANN's checkpoint.
    train_set : ImageSet
        Its first images are what thresholds are balanced on.
    args : Arguments
        Flags of the run.
    run : Run
        Whose log tells of it.
    """
    has_bounds = load_ann_weights(model, start, args, run)
    biases = conversion.biases_of(model)  # in the unit of the ANN's activations
    count = min(args.balance_images, len(train_set))
    device = next(model.parameters()).device
    batch = train_set.batch(torch.arange(count), device)
    draws = Draws(args.seed, 0, batch.index)  # of epoch 0: those of training begin at 1
    draws_at_step = partial(draws.at_step, shape=model.image_shape, device=device)

    # Thresholds are bounds that training has found, or levels of activations, or the
    # largest current that arrives at each layer.
    if has_bounds:
        conversion.fit_thresholds(model)
        run.say(
            f"thresholds are the bounds of {start.path}, nothing is balanced; "
            f"membranes begin at {model.settings['initial_potential']:g} of them"
        )
    elif model.timing.is_phased:
        conversion.fit_levels(model, batch.images)
        conversion.fit_thresholds(model)
        run.say(
            f"thresholds fit the activations of {count} training images "
            f"in {model.timesteps} levels (phased)"
        )
    else:
        steps = args.balance_timesteps
        line = "threshold {:.4f}"
        with conversion_progress(
            "balancing thresholds", line, model, count, steps, 1, run
        ) as callbacks:
            conversion.balance_thresholds(
                model, batch.images, draws_at_step, steps, args.balance_percentile, *callbacks
            )

    thresholds = []
    for name, neuron in model.neurons().items():
        factor = args.scaling_factor if in_stages(name) else 1  # the original scales by 0.7
        thresholds.append(factor * neuron.threshold.item())
    model.set_thresholds(thresholds)
    conversion.fit_biases(model, biases)  # to the thresholds as they are now

    if args.calibrate:  # T timesteps round rates off: biases make up for what is lost on average
        ann = ann_of(args.pretrained_ann, args)
        rates = conversion.rates_of(ann, model, batch.images)
        line = "mean rates of its channels off by {:.4f}, now by {:.4f}"
        rounds = conversion.ROUNDS + 1
        with conversion_progress(
            "calibrating biases", line, model, count, model.timesteps, rounds, run
        ) as callbacks:
            conversion.calibrate_biases(model, rates, batch.images, draws_at_step, *callbacks)


def compute_losses(
    output: SNNOutput,
    images: torch.Tensor,
    labels: torch.Tensor,
    trade_off: float,
    trade_off_type: str,
    spike_penalty: float = 0.0,
    own: dict[str, Loss] | None = None,
    classification_type: str = "last_t",
    label_smoothing: float = 0.0,
    teacher: Teacher | None = None,
) -> dict[str, torch.Tensor]:
    """Compute what training minimises: a new term goes into ``losses`` and ``total``.

    Parameters
    ----------
    output : SNNOutput
        Of B images.
    images : Tensor of shape (B, C, H, W), or (B, T, C, H, W) of recordings
    labels : Tensor of shape (B,)
        Class of each image.
    trade_off : float
        Weight of the reconstruction loss.
    trade_off_type, classification_type : {"last_t", "linear_over_t", "mean_t"}
        Which timesteps count how much, see ``step_weights`` in
        wfeedback/training/losses.py.
    spike_penalty : float
        Loss per spike.
    own : dict of {str: Loss}, optional
        Losses that a --model registers.
    label_smoothing : float
        Part of each label that is spread over all classes.
    teacher : Teacher, optional
        ANN to distil from.

    Returns
    -------
    dict of {str: Tensor}
        Scalars, means over the batch: each term before its weight (the penalty after
        it), and the sum, ``total``. Epoch lines and records show all of them.
    """
    losses = {}
    losses["classification"] = classification_loss(
        output, images, labels, classification_type, label_smoothing, teacher
    )
    total = losses["classification"]
    reconstruction = reconstruction_loss(output, trade_off_type)
    if reconstruction is not None:  # there is a decoder
        losses["reconstruction"] = reconstruction
        total = total + trade_off * reconstruction
    if spike_penalty:
        losses["penalty"] = spike_penalty * total_spikes(output.spikes).mean()
        total = total + losses["penalty"]
    for name, loss in (own or {}).items():
        losses[name] = loss.value(output, images, labels)
        total = total + loss.weight * losses[name]
    losses["total"] = total
    return losses


def train(args: Arguments) -> dict:
    """Train an SNN, or with --test_only evaluate one.

    Parameters
    ----------
    args : Arguments
        The flags as typed, and those of the recipe.

    Returns
    -------
    dict
        Figures of the best epoch on the test images.
    """
    # --- the start: what checkpoint and flags imply, the network, its images
    name = run_name("snn", args)
    saved = open_last_checkpoint(args, "snn", name, named(args.model))  # with --resume
    check_flags(args, "snn")
    start = open_checkpoint(args, "snn", saved)
    take_over_checkpoint(args, start, "snn")
    find_facts(args)
    apply_rules(args, start)
    model = new_snn(args)
    lines_of_flags = list(lines_on_flags(args, model, start))  # refuses those without effect
    model.set_bptt_segments(args.bptt_segments)
    model.precision = args.precision
    choose_trained(model, args)
    teacher = teacher_from(args)
    own = own_losses(args, model)
    train_set, holdout_set, test_set = sets_of_training(args, model)
    args.freeze()
    engine_line = use_engine(model, args)
    device = next(model.parameters()).device

    # --- the loss: in evaluations the last output counts, and labels as they are
    terms = {
        # what a gate makes of the image by itself is not learned
        "trade_off": args.trade_off if model.has_feedback else 0.0,
        "trade_off_type": args.trade_off_type,
        "spike_penalty": args.spike_penalty,
        "own": own,
    }
    terms_of_training = {
        "classification_type": args.classification_type,
        "label_smoothing": args.label_smoothing,
        "teacher": teacher,
    }
    needs_frames = any(loss.needs_frames for loss in own.values())

    with Run("snn", name, args, trains=not args.test_only) as run:
        data_lines = lines_on((train_set, holdout_set, test_set), model.classes, args.test_only)
        run.say(*lines_of_flags, *data_lines, engine_line)
        evaluate = partial(
            evaluate_with_bar,
            losses=partial(compute_losses, **terms),
            run=run,
            batch_size=args.batch_size,
            seed=args.seed,
            needs_frames=needs_frames,
            notes_batches=args.test_acc_every_batch,
        )

        # --- what the network begins with
        if start.kind == "ann":
            convert(model, start, train_set, args, run)
        elif start.kind == "snn":
            load_snn(model, start, args, run, may_grow=not args.test_only)
        elif start.kind == "":
            run.say(
                "warning: no --pretrained_ann: training starts from random weights, "
                f"with every threshold at {args.default_threshold:g}"
            )
        if args.test_only:
            return report_test(model, test_set, evaluate, args, run)

        # --- the optimiser, and where a run that goes on stands
        train_set, epochs, updates_per_epoch = length_of(
            train_set, args.batch_size, args.epochs, args.updates
        )
        judging_set = test_set if args.selected_on == "test" else holdout_set
        optimizer = make_optimizer(
            args.optimizer,
            model,
            args.learning_rate,
            args.bias_lr_factor,
            weight_decay=args.weight_decay,
            momentum=args.momentum,
            nesterov=args.nesterov,
            amsgrad=args.amsgrad,
        )
        factor = learning_rate_factor(
            args.lr_schedule,
            epochs * updates_per_epoch,
            args.lr_interval,
            args.lr_reduce,
            args.warm_up,
        )
        schedule = LambdaLR(optimizer, factor)
        progress = Progress()
        last = LastCheckpoint(
            run,
            model,
            optimizer,
            schedule,
            progress,
            epochs=epochs,
            minutes=args.checkpoint_minutes,
            flags=kept_flags(args, epochs=epochs),
            files={"train": train_set.known_by, "test": test_set.known_by},
        )
        if args.resume:
            last.restore(start.run, Path(args.resume))
        if epochs:
            plan = plan_lines(model, args.architecture, train_set, epochs, updates_per_epoch)
            run.say(*plan, optimizer_line(optimizer, args.optimizer))
        run.begin()
        evaluate = partial(evaluate, after_batch=last.save_if_due)
        parallel = ranks.parallel(model)  # with one rank the model itself

        with last.noting_signals():
            if not epochs:  # what it starts from is kept as it is
                figures = evaluate(model, judging_set) if judging_set else None
                last.check_finite(figures["total"] if figures else 0.0)
                keep_if_best(run, model, progress, 0, figures, args.selected_on)

            for epoch in range(progress.epoch + 1, epochs + 1):
                model.train()
                progress.begin_epoch()
                batches = training_batches(
                    train_set, args.batch_size, args.seed, epoch, device, first=progress.step
                )
                title = f"epoch {epoch}/{epochs}"
                with progress_bar(title, updates_per_epoch, progress.step) as bar:
                    for batch in batches:
                        if args.augment:
                            batch = augmented(
                                batch, args.seed, epoch, args.mirror, args.shift, args.cutout
                            )
                        draws = Draws(args.seed, epoch, batch.index)
                        output = parallel(batch.images, draws=draws, frames=needs_frames)
                        losses = compute_losses(
                            output, batch.images, batch.labels, **terms, **terms_of_training
                        )
                        optimizer.zero_grad(set_to_none=True)
                        losses["total"].backward()
                        update = progress.step + 1
                        check_gradients(losses["total"], model, f"epoch {epoch}, update {update}")
                        optimizer.step()
                        schedule.step()
                        model.clamp_dynamics()  # thresholds and leaks that are learned
                        progress.add(output, losses, batch.labels)
                        if progress.step % args.train_acc_batches == 0:
                            run.note(f"  batch {progress.step}: {running(progress.means())}")
                        advance(bar, progress.average)
                        last.save_if_due()

                learned = progress.means()
                figures = evaluate(model, judging_set) if judging_set else None
                last.check_finite(figures["total"] if figures else 0.0)
                judged = keep_if_best(run, model, progress, epoch, figures, args.selected_on)
                record_epoch(
                    run,
                    model,
                    epoch,
                    epochs,
                    learned,
                    judged,
                    progress.elapsed(),
                    args.selected_on,
                )
                progress.end_epoch()
                # After the record: a run that is stopped in between does the epoch
                # again, and of two records of an epoch the last counts.
                last.save()
                last.save_if_due()

            # --- the result
            best = report_best(model, test_set, progress.best, evaluate, args, run)
            progress.finished = True
            last.save()
            return best


if __name__ == "__main__":
    run_script(main)
