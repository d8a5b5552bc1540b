#!/usr/bin/env python3
"""Train an ANN: a VGG classifier with a decoder that predicts its input.

Read ``train`` from top to bottom: what the run starts from, the loss, the optimiser,
the loop over epochs and batches, and the result. Copy this file to change them.

The flags are declared in wfeedback/command_line/flags.py, since other scripts have
them, too; those of the network in self_models/config.py.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

from functools import partial
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR

from self_models.data.sets import augmented
from self_models.running.draws import Draws
from self_models.running.outputs import ANNOutput
from self_models.vgg_wFeedback import VGG_wFeedback
from wfeedback.arguments import Arguments
from wfeedback.building.models import lines_on_flags, load_ann, named, new_ann, teacher_from
from wfeedback.building.start import (
    check_flags,
    open_checkpoint,
    take_over_checkpoint,
    whiten_first_layer,
)
from wfeedback.command_line.flags import (
    BARE,
    add_data_flags,
    add_flags_of_training_scripts,
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
from wfeedback.training.losses import Teacher, classification_loss, reconstruction_loss
from wfeedback.training.optimizers import learning_rate_factor, make_optimizer, optimizer_line
from wfeedback.training.progress import Progress, check_gradients
from wfeedback.training.resuming import kept_flags, open_last_checkpoint

DESCRIPTION = __doc__.partition("\n")[0]


def build_parser(argv: list[str] | None = None) -> Parser:
    """Return the parser. argv may have a --model, whose settings are flags, too."""
    network = network_class(argv, "ann", VGG_wFeedback)
    parser = Parser(DESCRIPTION, "ann", bare=BARE)
    add_run_flags(parser)
    add_data_flags(parser)
    add_training_flags(parser)
    add_flags_of_training_scripts(parser)
    add_network_flags(parser, network.known_settings())
    return parser


def main(argv: list[str] | None = None) -> dict | list[dict]:
    """Train once, or once for each of --seeds."""
    return train_each(train, build_parser(argv), argv, "ann")


def compute_losses(
    output: ANNOutput,
    images: torch.Tensor,
    labels: torch.Tensor,
    trade_off: float,
    label_smoothing: float = 0.0,
    teacher: Teacher | None = None,
) -> dict[str, torch.Tensor]:
    """Compute what training minimises: a new term goes into ``losses`` and ``total``.

    Parameters
    ----------
    output : ANNOutput
        Of B images.
    images : Tensor of shape (B, C, H, W), or (B, T, C, H, W) of recordings
    labels : Tensor of shape (B,)
        Class of each image.
    trade_off : float
        Weight of the reconstruction loss.
    label_smoothing : float
        Part of each label that is spread over all classes.
    teacher : Teacher, optional
        ANN to distil from.

    Returns
    -------
    dict of {str: Tensor}
        Scalars, means over the batch: each term before its weight, and the sum,
        ``total``. Epoch lines and records show all of them.
    """
    losses = {}
    losses["classification"] = classification_loss(
        output, images, labels, smoothing=label_smoothing, teacher=teacher
    )
    total = losses["classification"]
    reconstruction = reconstruction_loss(output, "sum")  # of all feedback passes
    if reconstruction is not None:  # there is a decoder
        losses["reconstruction"] = reconstruction
        total = total + trade_off * reconstruction
    losses["total"] = total
    return losses


def train(args: Arguments) -> dict:
    """Train an ANN, or with --test_only evaluate one.

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
    name = run_name("ann", args)
    saved = open_last_checkpoint(args, "ann", name, named(args.model))  # with --resume
    check_flags(args, "ann")
    start = open_checkpoint(args, "ann", saved)
    take_over_checkpoint(args, start, "ann")
    find_facts(args)
    model = new_ann(args)
    lines_of_flags = list(lines_on_flags(args, model, start))  # refuses those without effect
    start_lines = []
    if start.kind == "ann":
        tell = None if args.test_only else start_lines.append
        load_ann(model, start.saved, start.path, tell)
    model.precision = args.precision
    teacher = teacher_from(args)
    train_set, holdout_set, test_set = sets_of_training(args, model)
    args.freeze()
    device = next(model.parameters()).device

    with Run("ann", name, args, trains=not args.test_only) as run:
        data_lines = lines_on((train_set, holdout_set, test_set), model.classes, args.test_only)
        run.say(*lines_of_flags, *data_lines, *start_lines)
        evaluate = partial(
            evaluate_with_bar,
            losses=partial(compute_losses, trade_off=args.trade_off),
            run=run,
            batch_size=args.batch_size,
            seed=args.seed,
            notes_batches=args.test_acc_every_batch,
        )
        if model.settings["whitening"] and not start.kind:
            run.say(whiten_first_layer(model, train_set))
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
                        draws = Draws(args.seed, epoch, batch.index)  # of dropout masks
                        output = parallel(batch.images, draws=draws, frames=False)
                        losses = compute_losses(
                            output,
                            batch.images,
                            batch.labels,
                            args.trade_off,
                            args.label_smoothing,
                            teacher,
                        )
                        optimizer.zero_grad(set_to_none=True)
                        losses["total"].backward()
                        update = progress.step + 1
                        check_gradients(losses["total"], model, f"epoch {epoch}, update {update}")
                        optimizer.step()
                        schedule.step()
                        model.clamp_dynamics()  # bounds of qcfs
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
