"""Training over epochs, and the evaluation that a run ends with."""

import copy
import time
from dataclasses import replace
from math import ceil

import torch

from harness import UserError
from harness.measuring import log_lines, tables
from harness.runs import ranks
from harness.runs.run import counted, progress_bar
from harness.runs.saving import save_checkpoint
from harness.training.optimizers import optimizer_line
from harness.training.training_state import NOT_FINITE, TrainingState
from self_models.basics.checkpoints import load_checkpoint, restore
from self_models.counting.evaluation import Average, evaluate_parts
from self_models.data.sets import augmented
from self_models.runtime.draws import shuffled
from self_models.runtime.outputs import total_spikes

LEAST = 50  # updates of an epoch, where --updates counts
FEW = 300  # updates below which a network from scratch or from a conversion hardly learns


def fit(model, data, criterion, args, run, saved=None):
    """Train for args.epochs epochs, or with --test_only evaluate. The best epoch's checkpoint is kept, and the last for --resume.

    data: (training, selection or None, test) ImageSets; saved: what resumed() returned. Returns the best epoch's figures on the
    test images, measured once, at the end. SIGINT and SIGTERM end it after the update, saved: then Interrupted is raised."""
    if args.test_only:
        return test_once(model, data[2], criterion, args, run)
    train, updates, args = length_of(data[0], args)
    state = TrainingState(model, (train, *data[1:]), args, run, updates)
    if args.resume:
        state.resume(saved)
    if args.epochs:
        lines = plan_lines(model, train, updates, args)
        run.say(*lines, optimizer_line(state.optimizer))
    run.begin()
    parallel = ranks.parallel(model)  # with one rank the model itself
    with ranks.noted_signals() as state.signals:
        if not args.epochs:
            judge_and_keep_best(state, criterion, 0)  # what it starts from is kept as it is
        while state.epoch < args.epochs:
            epoch, began = (
                state.epoch + 1,
                time.perf_counter() - state.seconds,
            )  # a resumed epoch has taken some already
            model.train()
            with progress_bar(f"epoch {epoch}/{args.epochs}", updates, state.step) as bar:
                for batch in training_batches(train, args, epoch, state.device, state.step):
                    output = batch.run(parallel, args.seed, epoch, criterion.needs_frames)
                    losses = criterion(output, batch.labels, batch.images)
                    state.optimizer.zero_grad(set_to_none=True)
                    losses["total"].backward()
                    check_step(
                        losses["total"].detach(), model, f"epoch {epoch}, update {state.step + 1}"
                    )
                    state.optimizer.step()
                    state.schedule.step()
                    model.clamp_dynamics()
                    state.count(
                        len(batch.labels),
                        figures_of(output, losses, batch),
                        time.perf_counter() - began,
                    )
                    advance(bar, state.average)
                    state.save_if_asked()
            learned = state.learned()
            judgement = judge_and_keep_best(
                state, criterion, epoch
            )  # a signal leaves only this to be made again
            seconds = time.perf_counter() - began
            record_epoch(state, epoch, learned, judgement, seconds)
            state.epoch, state.step, state.average, state.seconds = epoch, 0, Average(), 0.0
            state.save()  # after the record: a run that is stopped in between does the epoch again, and its last record counts
            state.save_if_asked()
        return finish(state, criterion)


def length_of(train, args):
    """(ImageSet of an epoch, its updates, Configuration). --updates: epochs of LEAST updates or more, and how many of them."""
    if args.updates:
        train = replace(train, passes=ceil(LEAST * args.batch_size / len(train)))
        args = args.having("found", epochs=ceil(args.updates / ceil(len(train) / args.batch_size)))
    return train, ceil(len(train) / args.batch_size), args


def plan_lines(model, train, updates, args):
    """Lines on the network, how long it trains on this ImageSet, and how large its checkpoint is; a warning if that is short."""
    weights, total = (
        sum(value.numel() for value in model.state_dict().values()),
        args.epochs * updates,
    )
    passes = f"{train.passes} times each of " if train.passes > 1 else ""
    length = f"{counted(total, 'update')} in {counted(args.epochs, 'epoch')} of {passes}{counted(len(train.images), 'image')}"
    yield f"training {args.architecture}, {weights:,} weights: {length}; checkpoint {4e-6 * weights:.1f} MB"
    if total < FEW:
        are_few = f"{counted(total, 'update')} {'is' if total == 1 else 'are'} few"
        yield f"warning: {are_few}: most networks need {FEW} or more: --updates N sets how many, instead of --epochs"


def training_batches(train, args, epoch, device, first=0):
    """Yield this rank's part of the epoch's Batches, shuffled and augmented, without the first.

    No random generator keeps a state: the order follows from seed and epoch, and how an
    image is changed from its place in the set, too. So a resumed run gets the same ones.
    """
    order = shuffled(len(train), args.seed, epoch)
    for index in order.split(args.batch_size)[first:]:
        batch = train.batch(ranks.part(index), device)
        if args.augment:
            batch = augmented(batch, args.seed, epoch, args.mirror, args.shift, args.cutout)
        yield batch


def check_step(loss, model, when):
    """Raises UserError, with weights as before the step, where the loss or a gradient is not finite on one of the ranks. They are
    judged by their sums: where those overflow, an optimiser's squares would, too."""
    values = [
        loss,
        *(parameter.grad for parameter in model.parameters() if parameter.grad is not None),
    ]
    if ranks.largest(not torch.stack([value.sum() for value in values]).isfinite().all()):
        fault = "a gradient is not finite" if loss.isfinite() else f"the loss is {loss.item()}"
        raise UserError(f"{fault} at {when}; {NOT_FINITE}")


def figures_of(output, losses, batch):
    """Means over a batch: accuracy, losses and, of an SNN, spikes, and `spikes_by_layer`, each layer's (layers,)."""
    figures = {"accuracy": (output.logits.argmax(1) == batch.labels).float().mean(), **losses}
    if hasattr(output, "spikes"):
        by_layer = torch.stack([*output.spikes.values()]).mean(1)
        figures |= {"spikes": total_spikes(output.spikes).mean(), "spikes_by_layer": by_layer}
    return {name: value.detach() for name, value in figures.items()}


def record_epoch(state, epoch, learned, judgement, seconds):
    """The line and the record of an epoch. learned: figures of training; judgement: what judge_and_keep_best() returned."""
    model, args = state.model, state.args
    by_layer = learned.pop("spikes_by_layer", ())
    layers = zip(model.layers if by_layer else (), by_layer, strict=True)
    silent = [name for name, mean in layers if not mean and name != "input"]
    said = "sent no spike in the whole epoch"
    lines = [
        f"warning: epoch {epoch}: layer {name} {said}: {log_lines.HELPS_AGAINST_SILENCE}"
        for name in silent
    ]
    lines.append(
        log_lines.epoch_line(
            epoch, args.epochs, learned, seconds, **judgement, on=args.selected_on
        )
    )
    record = {"event": "epoch", "epoch": epoch, "train": learned, **judgement}
    record |= {"selected_on": args.selected_on, "seconds": seconds}
    if silent:
        record["silent"] = silent
    if hasattr(model, "neurons"):
        for kind in ("threshold", "leak"):
            record[f"{kind}s"] = {
                name: getattr(neuron, kind).item() for name, neuron in model.neurons().items()
            }
    state.run.record(*lines, **record)


def judge_and_keep_best(state, criterion, epoch):
    """Keep the model if it is the best so far, or nothing chooses. Returns {'evaluated': figures, 'best': accuracy}, or {}."""
    args, run, figures, accuracy = state.args, state.run, {}, {}
    if state.judging:
        figures = evaluate_with_bar(
            state.model, state.judging, criterion, args, run, False, state.save_if_asked
        )
        figures.pop("per_image", None)
        accuracy = {"accuracy": figures["accuracy"]}
    state.check_finite(figures.get("total", 0.0))
    if not figures or state.best is None or figures["accuracy"] > state.best["accuracy"]:
        state.best = {"epoch": epoch, **figures}
        save_checkpoint(
            run.best_path, state.model, epoch=epoch, **accuracy, selected_on=args.selected_on
        )
    if not figures:
        return {}
    evaluated = {
        name: value
        for name, value in figures.items()
        if name != "confusion" or args.selected_on == "test"
    }
    return {"evaluated": evaluated, "best": state.best["accuracy"]}


def finish(state, criterion):
    """Report the best epoch, on the test images unless they have chosen it; returns its figures."""
    model, args, run, best = state.model, state.args, state.run, state.best
    tests = args.selected_on != "test"
    (run.say if tests else run.result)(
        f"{log_lines.best_line(best, args.selected_on)}, {run.best_path}", epoch=best["epoch"]
    )
    if tests:
        model = copy.deepcopy(model)  # the last checkpoint keeps the last epoch's weights
        restore(model, ranks.from_first(lambda: load_checkpoint(run.best_path)), run.best_path)
        best = test_once(
            model, state.data[2], criterion, args, run, state.save_if_asked, epoch=best["epoch"]
        )
    elif args.results_json:  # the JSON lines have these figures with their epoch
        tables.save_results_json(
            args.results_json, [log_lines.evaluation_record(model, best, args)]
        )
    state.finished = True
    state.save()
    return best


def test_once(model, test, criterion, args, run, after_batch=None, **more):
    """Evaluate on the test images, report, record, and return the figures. more: for the record."""
    run.begin()
    result = evaluate_with_bar(
        model, test, criterion, args, run, log_lines.counts_operations(model, run.say), after_batch
    )
    run.result(*log_lines.result_lines(result), **more)
    record = log_lines.evaluation_record(model, result, args, **more)
    run.record(
        *log_lines.silent_outputs(result),
        *log_lines.class_lines(result["confusion"], model.classes),
        **record,
    )
    if args.results_json:
        tables.save_results_json(args.results_json, [record])
    return result


def evaluate_with_bar(
    model,
    images,
    criterion,
    args,
    run,
    count_operations=False,
    after_batch=None,
    doing="evaluating",
):
    """evaluate_parts() with a progress bar. --test_acc_every_batch logs each batch, too; after_batch: called after each."""
    device = next(model.parameters()).device

    def on_batch(number, average):
        advance(bar, average)
        if args.test_acc_every_batch:
            run.note(f"  test batch {number}: {log_lines.running(average.means())}")
        if after_batch:
            after_batch()

    with progress_bar(doing, ceil(len(images) / args.batch_size)) as bar:
        batches = images.batches(args.batch_size, device)
        return evaluate_parts(
            model.eval(), batches, args.seed, criterion.judging(), on_batch, count_operations
        )


def advance(bar, average):
    """Move the bar on; its figures are running means of this rank."""
    if not bar.disable and bar.n % 10 == 9 and average.images:
        bar.set_postfix_str(log_lines.running(average.means()), refresh=False)
    bar.update()
