"""Training over epochs: schedule, evaluation, the best and the last checkpoint."""

import copy
import time

from harness.data.sets import augmented
from harness.measuring.measures import counts_operations
from harness.measuring.report import (
    best_line,
    class_lines,
    epoch_line,
    evaluation_record,
    result_lines,
    running,
    save_results_json,
    silent_outputs,
)
from harness.runs import ranks
from harness.runs.health import HELPS_AGAINST_SILENCE
from harness.runs.runlog import progress_bar
from harness.runs.saving import save_checkpoint
from harness.runs.signals import noted_signals
from harness.training import schedules
from harness.training.epoch import Progress, train_one_epoch
from harness.training.training_state import TrainingState
from self_models.basics.checkpoints import load_checkpoint, restore
from self_models.counting.evaluation import evaluate_parts
from self_models.running.draws import shuffled


def fit(model, data, criterion, args, run, saved=None):
    """Train for args.epochs epochs; the best epoch's checkpoint is kept, and the last for --resume. data: (training, selection or
    None, test) ImageSets; saved: what resumed() returned. The best epoch is chosen on what
    args.selected_on says, see harness/data/facts.py. Its test figures are measured once at the end, and returned. SIGINT and
    SIGTERM end it after the update, saved: then Interrupted is raised."""
    train, updates, args = schedules.length_of(data[0], args)
    data = (train, *data[1:])
    optimizer = schedules.make_optimizer(model, args)
    schedule = schedules.make_schedule(optimizer, args, updates)
    training = TrainingState(model, data, criterion, args, run, optimizer, schedule)
    if args.resume:
        training.resume(saved)
    if args.epochs:
        run.say(*schedules.plan_lines(model, train, updates, args))
    run.begin()
    parallel = ranks.parallel(model)
    with noted_signals(patient=ranks.count() > 1) as training.signals:
        if not args.epochs:
            judged(training, 0)
        while training.epoch < args.epochs:
            fit_one_epoch(training, parallel, updates)
        return finish(training)


def fit_one_epoch(training, parallel, updates):
    """The rest of the epoch that training has come to, its evaluation, checkpoints and lines."""
    model, args, run = training.model, training.args, training.run
    epoch, began = training.epoch + 1, time.perf_counter() - training.seconds

    def after_step(number, average):
        training.seconds = time.perf_counter() - began
        if number % args.train_acc_batches == 0:
            run.note(f"  batch {number}: {running(training.progress.gather().means())}")
        advance(bar, average)
        training.save_if_asked(training.wants_saving())

    batches = training_batches(training.data[0], args, epoch, training.device, training.progress.step)
    how = training.criterion, training.optimizer, training.schedule, args.seed, epoch
    with progress_bar(f"epoch {epoch}/{args.epochs}", updates, training.progress.step) as bar:
        learned = train_one_epoch(model, batches, *how, after_step, training.progress, parallel)
    by_layer = learned.pop("spikes_by_layer", ())
    layers = zip(model.layers if by_layer else (), by_layer, strict=True)
    silent = [name for name, mean in layers if not mean and name != "input"]
    judgement = judged(training, epoch)  # a signal leaves only this to be made again
    seconds = time.perf_counter() - began
    record = {"event": "epoch", "epoch": epoch, "train": learned, **judgement, "selected_on": args.selected_on}
    record |= {"seconds": seconds} | ({"silent": silent} if silent else {}) | dynamics(model)
    lines = [f"warning: epoch {epoch}: layer {name} sent no spike in the whole epoch: {HELPS_AGAINST_SILENCE}" for name in silent]
    lines.append(epoch_line(epoch, args.epochs, learned, seconds, **judgement, on=args.selected_on))
    run.record(*lines, **record)
    training.epoch, training.progress, training.seconds = epoch, Progress(), 0.0
    training.save()  # after the record: a run that is stopped in between does the epoch again, and its last record counts
    training.save_if_asked()


def dynamics(model):
    """'thresholds' and 'leaks' of an SNN: layer -> value; nothing of an ANN."""
    neurons = model.neurons().items() if hasattr(model, "neurons") else ()
    return {f"{kind}s": {name: getattr(one, kind).item() for name, one in neurons} for kind in ("threshold", "leak") if neurons}


def judged(training, epoch):
    """Evaluate the model after this epoch on the images that choose, and keep its checkpoint if it is the best so far, or if none
    choose. Returns its figures `evaluated` and the accuracy `best` so far; nothing if none choose."""
    model, args, run, best = training.model, training.args, training.run, training.best
    found, images = {}, training.judging
    if images:
        found = evaluate_with_bar(model, images, training.criterion, args, run, False, training.save_if_asked)
        del found["per_image"]
    training.check_finite(found.get("total", 0.0))
    evaluated = {name: value for name, value in found.items() if name != "confusion" or args.selected_on == "test"}
    if not images or best is None or found["accuracy"] > best["accuracy"]:
        training.best = best = {"epoch": epoch, **found}
        accuracy = {"accuracy": found["accuracy"]} if images else {}
        save_checkpoint(run.place.best_path, model, epoch=epoch, **accuracy, selected_on=args.selected_on)
    return {"evaluated": evaluated, "best": best["accuracy"]} if images else {}


def finish(training):
    """Report the best epoch, on the test images unless they have chosen it; returns its figures."""
    model, args, run, best = training.model, training.args, training.run, training.best
    tests = args.selected_on != "test"
    say = run.say if tests else run.result
    say(f"{best_line(best, args.selected_on)}, {run.place.best_path}", epoch=best["epoch"])
    if tests:
        model = copy.deepcopy(model)  # the last checkpoint keeps the last epoch's weights
        restore(model, ranks.from_first(lambda: load_checkpoint(run.place.best_path)), run.place.best_path)
        best = test_once(model, training.data[2], training.criterion, args, run, training.save_if_asked, epoch=best["epoch"])
    elif args.results_json:  # the JSON lines have these figures with their epoch
        save_results_json(args.results_json, [evaluation_record(model, best, args)])
    training.finished = True
    training.save()
    return best


def training_batches(train, args, epoch, device, first=0):
    """The epoch's Batches from this number on, shuffled and augmented; they follow from seed and epoch alone."""
    batches = train.batches(args.batch_size, device, shuffled(len(train), args.seed, epoch), first)
    if args.augment:
        how = args.mirror, args.shift, args.cutout
        return (augmented(batch, args.seed, epoch, *how) for batch in batches)
    return batches


def test_once(model, test, criterion, args, run, after_batch=None, **more):
    """Evaluate on the test images, report, record, and return the figures. more: for the record."""
    run.begin()
    result = evaluate_with_bar(model, test, criterion, args, run, counts_operations(model, run.say), after_batch)
    run.result(*result_lines(result), **more)
    record = evaluation_record(model, result, args, **more)
    run.record(*silent_outputs(result), *class_lines(result["confusion"], model.classes), **record)
    if args.results_json:
        save_results_json(args.results_json, [record])
    return result


def evaluate_with_bar(model, images, criterion, args, run, count_operations=False, after_batch=None, doing="evaluating"):
    """evaluate_parts() with a progress bar. --test_acc_every_batch logs each batch, too; after_batch: called after each."""
    device = next(model.parameters()).device

    def on_batch(number, average):
        advance(bar, average)
        if args.test_acc_every_batch:
            run.note(f"  test batch {number}: {running(average.means())}")
        if after_batch:
            after_batch()

    with progress_bar(doing, -(-len(images) // args.batch_size)) as bar:
        batches = images.batches(args.batch_size, device)
        return evaluate_parts(model.eval(), batches, args.seed, criterion.judging(), on_batch, count_operations)


def advance(bar, average):
    """Move the bar on; its figures are running means of this rank."""
    if not bar.disable and bar.n % 10 == 9 and average.images:
        bar.set_postfix_str(running(average.means()), refresh=False)
    bar.update()
