"""Training over epochs: schedule, evaluation, the best and the last checkpoint."""

import copy
import json
import signal
import time
from math import isfinite

from tqdm import tqdm

from harness.command_line.commands import resume_command
from harness.command_line.errors import UserError
from harness.data.sets import augmented
from harness.measuring.evaluation import evaluate
from harness.measuring.report import epoch_line, evaluation_record, numbers_only, report_evaluation, running, save_results_json
from harness.runs import ranks
from harness.runs.checkpoints import save_checkpoint
from harness.runs.health import silence
from harness.runs.signals import Interrupted, Signals
from harness.training.epoch import Progress, train_one_epoch
from harness.training.progress import Training
from harness.training.schedules import make_optimizer, make_schedule
from self_models.basics.checkpoints import load_checkpoint, restore
from self_models.counting.evaluation import Average
from self_models.running.draws import shuffled
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


def fit(model, data, objective, args, run):
    """Train for args.epochs epochs; the best epoch's checkpoint is kept, and the last for --resume.

    data: (training, selection or None, test) ImageSets. The best epoch is chosen on selection, and its test figures are
    measured once at the end; without selection it is chosen on the test images. Returns the figures of the best epoch.
    SIGINT and SIGTERM end it after the step, saved: then Interrupted is raised.
    """
    train, selection, test = data
    steps = -(-len(train) // args.batch_size)
    optimizer = make_optimizer(model, args)
    training = Training(model, optimizer, make_schedule(optimizer, args, steps), args, run)
    if args.resume:
        training.resume()
    run.begin()
    parallel = ranks.Parallel(model)
    with Signals(patient=ranks.count() > 1) as signals:
        while training.epoch < args.epochs:
            fit_one_epoch(training, parallel, data, objective, steps, signals)
        return finish(training, selection, test, objective, signals)


def fit_one_epoch(training, parallel, data, objective, steps, signals):
    """The rest of the epoch that training has come to, its evaluation, checkpoints and lines."""
    model, args, run = training.model, training.args, training.run
    train, selection, test = data
    epoch, began = training.epoch + 1, time.perf_counter() - training.seconds

    def after_step(number, average):
        training.seconds = time.perf_counter() - began
        if number % args.train_acc_batches == 0:
            run.note(f"  batch {number}: {running(training.progress.gather()[0].means())}")
        show(progress, average)
        if asked := ranks.largest(signals.caught or training.due()):
            training.save()
            stop_if(asked, training)

    with bar(f"epoch {epoch}/{args.epochs}", steps, training.progress.step) as progress:
        learned = train_one_epoch(
            model,
            training_batches(train, args, epoch, next(model.parameters()).device, training.progress.step),
            objective,
            training.optimizer,
            training.schedule,
            args.seed,
            epoch,
            after_step,
            training.progress,
            parallel,
        )
    fired = training.progress.gather()[1].sums
    silent = [name for name, spikes in fired.items() if spikes == 0 and name != "input"]

    def after_batch():  # the epoch's steps are done, so only the evaluation has to be made again
        if asked := ranks.largest(signals.caught):
            training.save()
            stop_if(asked, training)

    judged = numbers_only(evaluate_with_bar(model, selection or test, objective, args, run, after_batch=after_batch))
    training.check_weights()
    if not isfinite(judged["total"]):
        raise UserError(
            f"the loss is {judged['total']} after epoch {epoch}, step {steps}: training stopped, the last checkpoint is kept; "
            "try a lower --learning_rate or --trade_off"
        )
    best = training.best
    if best is None or judged["accuracy"] > best["accuracy"]:
        training.best = best = {"epoch": epoch, **judged}
        save_checkpoint(run.best_path, model, epoch=epoch, accuracy=judged["accuracy"])
    seconds = time.perf_counter() - began
    text = epoch_line(epoch, args.epochs, learned, judged, best["accuracy"], seconds, "held out" if selection else "test")
    record = {"event": "epoch", "epoch": epoch, "train": learned, "evaluated": judged, "best": best["accuracy"]}
    record |= {"seconds": seconds} | ({"silent": silent} if silent else {})
    lines = [*silence(silent, epoch), text]
    training.text += lines
    training.records.append(json.dumps(record))
    training.epoch, training.progress, training.seconds = epoch, Progress(), 0.0
    training.save()  # first, since the logs can be mended from it
    for line in lines:
        run.say(line)
    run.record(**record)
    stop_if(ranks.largest(signals.caught), training)


def stop_if(asked, training):
    """Raises Interrupted where `asked`, the largest of the ranks' caught signals, is one; all is saved by then."""
    if asked > 1:  # 1 asks for a checkpoint only
        ranks.largest(0)  # nobody goes before the first rank has saved
        raise Interrupted(
            asked,
            f"stopped by {signal.Signals(asked).name} after epoch {training.where()}, saved in {training.run.last_path}; "
            f"go on with: {resume_command()}",
        )


def finish(training, selection, test, objective, signals):
    """Report the best epoch, on the test images if it was chosen on others; returns its figures."""
    model, args, run, best = training.model, training.args, training.run, training.best
    judge = "held-out" if selection else "test"
    run.say(f"best: epoch {best['epoch']}, {judge} accuracy {100 * best['accuracy']:.2f} %, {run.best_path}")
    if selection:
        model = copy.deepcopy(model)  # the last checkpoint keeps the last epoch's weights
        restore(model, ranks.from_first(lambda: load_checkpoint(run.best_path)), run.best_path)
        best = test_once(model, test, objective, args, run, lambda: stop_if(ranks.largest(signals.caught), training))
        training.records.append(json.dumps(evaluation_record(model, best, args)))
    elif args.results_json:  # the JSON lines have these figures with their epoch
        save_results_json(args.results_json, [evaluation_record(model, best, args)])
    training.finished = True
    training.save()
    return best


def training_batches(train, args, epoch, device, first=0):
    """The epoch's Batches from the one numbered `first` on, shuffled, and augmented if the flags say so; they follow from seed
    and epoch alone."""
    batches = train.batches(args.batch_size, device, shuffled(len(train), args.seed, epoch), first)
    return (augmented(batch, args.seed, epoch) for batch in batches) if args.augment else batches


def test_once(model, test, objective, args, run, after_batch=None):
    """Evaluate on the test images, report, record, and return the figures."""
    run.begin()
    is_spiking = isinstance(model, VGG_SNN_STDB_wFeedback)
    result = evaluate_with_bar(model, test, objective, args, run, is_spiking, after_batch)
    report_evaluation(result, run.say)
    record = evaluation_record(model, result, args)
    run.record(**record)
    if args.results_json:
        save_results_json(args.results_json, [record])
    return result


def evaluate_with_bar(model, images, objective, args, run, count_operations=False, after_batch=None):
    """evaluate() with a progress bar; --test_acc_every_batch also logs each batch. after_batch: called after each of them."""
    device = next(model.parameters()).device

    def on_batch(number, average):
        show(progress, average)
        if args.test_acc_every_batch:
            run.note(f"  test batch {number}: {running(Average.of(ranks.gathered(average.to_cpu())).means())}")
        if after_batch:
            after_batch()

    with bar("evaluating", -(-len(images) // args.batch_size)) as progress:
        batches = images.batches(args.batch_size, device)
        return evaluate(model, batches, objective, args.seed, on_batch, count_operations)


def bar(label, total, done=0):
    """A tqdm bar that leaves nothing behind, and nothing at all where standard error is no terminal, or but for one rank."""
    disable = None if ranks.is_first() else True
    return tqdm(total=total, initial=done, desc=label, disable=disable, leave=False, unit="batch", dynamic_ncols=True)


def show(progress, average):
    """Move the bar on; its figures are running means of this rank."""
    progress.update()
    if not progress.disable and progress.n % 10 == 0 and average.images:
        progress.set_postfix_str(running(average.means()))
