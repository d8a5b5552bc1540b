"""Training over epochs: schedule, evaluation, the best and the last checkpoint, resuming."""

import time
from math import isfinite

from tqdm import tqdm

from harness.checkpoints import load_checkpoint, restore, save_checkpoint
from harness.data import augmented
from harness.errors import UserError
from harness.loops import evaluate, train_one_epoch
from harness.report import epoch_line, evaluation_record, numbers_only, report_evaluation, running, save_results_json
from harness.schedules import make_optimizer, make_schedule
from harness.seeds import seed_from, shuffled
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


def fit(model, data, objective, args, run):
    """Train for args.epochs epochs; the best epoch's checkpoint is kept, and the last for --resume.

    data: (training, selection or None, test) ImageSets. The best epoch is chosen on selection, and its test figures are
    measured once at the end; without selection it is chosen on the test images. Returns the figures of the best epoch.
    """
    train, selection, test = data
    judge = selection or test
    device = next(model.parameters()).device
    steps = -(-len(train) // args.batch_size)
    optimizer = make_optimizer(model, args)
    schedule = make_schedule(optimizer, args, steps)
    first, best = resume(model, optimizer, schedule, args, run) if args.resume else (1, None)
    for epoch in range(first, args.epochs + 1):
        began = time.perf_counter()
        with bar(f"epoch {epoch}/{args.epochs}", steps) as progress:
            learned = train_one_epoch(
                model,
                training_batches(train, args, epoch, device),
                objective,
                optimizer,
                schedule,
                args.seed,
                epoch,
                lambda number, average: show(progress, number, average, run, every=args.train_acc_batches),
            )
        judged = numbers_only(evaluate_with_bar(model, judge, objective, args, run))
        if not isfinite(judged["total"]) or not all(value.isfinite().all() for value in model.state_dict().values()):
            raise UserError(
                f"the loss is {judged['total']} after epoch {epoch}, step {steps}, or a weight is not finite: training stopped, "
                "the last checkpoint is kept; try a lower --learning_rate or --trade_off"
            )
        is_best = best is None or judged["accuracy"] > best["accuracy"]
        best = {"epoch": epoch, **judged} if is_best else best
        if is_best:
            save_checkpoint(run.best_path, model, epoch=epoch, accuracy=judged["accuracy"])
        save_checkpoint(
            run.last_path,
            model,
            epoch=epoch,
            best=best,
            optimizer=optimizer.state_dict(),
            schedule=schedule.state_dict(),
        )
        seconds = time.perf_counter() - began
        judge_name = "held out" if selection else "test"
        run.say(epoch_line(epoch, args.epochs, learned, judged, best["accuracy"], seconds, judge_name))
        run.record(event="epoch", epoch=epoch, train=learned, evaluated=judged, best=best["accuracy"], seconds=seconds)
    if not selection:
        run.say(f"best: epoch {best['epoch']}, test accuracy {100 * best['accuracy']:.2f} %, {run.best_path}")
        if args.results_json:  # the JSON lines have these figures with their epoch
            save_results_json(args.results_json, [evaluation_record(model, best, args)])
        return best
    run.say(f"best: epoch {best['epoch']}, held-out accuracy {100 * best['accuracy']:.2f} %, {run.best_path}")
    restore(model, load_checkpoint(run.best_path), run.best_path)
    return test_once(model, test, objective, args, run)


def training_batches(train, args, epoch, device):
    """The epoch's Batches, shuffled, and augmented if the flags say so; they follow from seed and epoch alone."""
    batches = train.batches(args.batch_size, device, shuffled(len(train), args.seed, epoch))
    if not args.augment:
        return batches
    return (augmented(batch, seed_from(args.seed, epoch, number)) for number, batch in enumerate(batches))


def test_once(model, test, objective, args, run):
    """Evaluate on the test images, report, record, and return the figures."""
    is_spiking = isinstance(model, VGG_SNN_STDB_wFeedback)
    result = evaluate_with_bar(model, test, objective, args, run, count_operations=is_spiking)
    report_evaluation(result, run.say)
    record = evaluation_record(model, result, args)
    run.record(**record)
    if args.results_json:
        save_results_json(args.results_json, [record])
    return result


def evaluate_with_bar(model, images, objective, args, run, count_operations=False):
    """evaluate() with a progress bar; --test_acc_every_batch also logs each batch."""
    device = next(model.parameters()).device
    every = 1 if args.test_acc_every_batch else None
    with bar("evaluating", -(-len(images) // args.batch_size)) as progress:
        return evaluate(
            model,
            images.batches(args.batch_size, device),
            objective,
            args.seed,
            lambda number, average: show(progress, number, average, run, every, "test batch"),
            count_operations,
        )


def bar(label, total):
    """A tqdm bar that leaves nothing behind, and nothing at all where standard error is no terminal."""
    return tqdm(total=total, desc=label, disable=None, leave=False, unit="batch", dynamic_ncols=True)


def show(progress, number, average, run, every=None, label="batch"):
    """Move the bar on; its figures, and the log's line each `every` batches, are running means."""
    progress.update()
    if not progress.disable and number % 10 == 0:
        progress.set_postfix_str(running(average.means()))
    if every and number % every == 0:
        run.note(f"  {label} {number}: {running(average.means())}")


def resume(model, optimizer, schedule, args, run):
    """Go on from a last checkpoint; returns the next epoch and the best figures so far."""
    path = run.last_path if args.resume == "last" else args.resume
    saved = load_checkpoint(path)
    if "optimizer" not in saved:
        raise UserError(f"{path} has no optimiser state: --resume wants the checkpoint named ..._last.pth")
    restore(model, saved, path)
    changed = [name for name, value in model.settings.items() if saved.get("settings", {}).get(name, value) != value]
    if changed:
        raise UserError(f"{path} was trained with other settings ({', '.join(changed)}); --resume wants the same flags again")
    try:
        kinds = [state["param_groups"][0].keys() for state in (saved["optimizer"], optimizer.state_dict())]
        if kinds[0] != kinds[1]:
            raise ValueError("it comes from another kind of optimiser")
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        first, best = saved["epoch"] + 1, saved["best"] if path == run.last_path else None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit this run's optimiser ({error}); use the flags it was trained with") from None
    if first > args.epochs:
        raise UserError(f"{path} has trained {saved['epoch']} epochs already: raise --epochs {args.epochs} to go on")
    run.say(f"resumed from {path} after epoch {saved['epoch']}")
    return first, best
