"""Training over epochs: schedule, evaluation, the best and the last checkpoint."""

import copy
import json
import signal
import time

from harness.data.sets import augmented
from harness.drawing.board import Board, NoBoard
from harness.measuring.evaluation import evaluate
from harness.measuring.report import (
    best_line,
    epoch_line,
    evaluation_record,
    numbers_only,
    report_evaluation,
    running,
    save_results_json,
)
from harness.processes import ranks
from harness.processes.signals import Interrupted, noted_signals
from harness.runs.checkpoints import save_checkpoint
from harness.runs.commands import resume_command
from harness.runs.health import silence
from harness.runs.progress import progress_bar
from harness.training.epoch import Progress, train_one_epoch
from harness.training.forecast import forecast, plan_line, slow_precision_line
from harness.training.schedules import make_optimizer, make_schedule
from harness.training.state import TrainingState
from self_models.basics.checkpoints import load_checkpoint, restore
from self_models.counting.evaluation import Average
from self_models.running.draws import shuffled
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


def fit(model, data, criterion, args, run, declared, saved=None):
    """Train for args.epochs epochs; the best epoch's checkpoint is kept, and the last for --resume.

    data: (training, selection or None, test) ImageSets; declared: name -> Setting of all flags; saved: what taken_up returned.
    The best epoch is chosen on what args.selected_on says, see selection.py; for 'last epoch' it is the last. Its test figures
    are measured once at the end, and returned; where the test images choose, those of the best epoch are. SIGINT and SIGTERM
    end it after the step, saved: then Interrupted is raised.
    """
    steps = -(-len(data[0]) // args.batch_size)
    optimizer = make_optimizer(model, args)
    training = TrainingState(declared, model, optimizer, make_schedule(optimizer, args, steps), args, run)
    if args.resume:
        training.resume(saved)
    writes_board = args.tensorboard and ranks.is_first()
    board = Board(run.place.board_path, training.epoch, args.seed) if writes_board else NoBoard()
    if warning := slow_precision_line(args.precision, next(model.parameters()).device):
        run.say(warning)
    run.say(plan_line(model, len(data[0]), steps, args))
    run.begin()
    parallel, foretell = ranks.parallel(model), forecast(steps, args.epochs, run.say)
    with board, noted_signals(patient=ranks.count() > 1) as signals:
        while training.epoch < args.epochs:
            fit_one_epoch(training, parallel, data, criterion, steps, signals, foretell, board)
        return finish(training, data[2], criterion, signals)


def fit_one_epoch(training, parallel, data, criterion, steps, signals, foretell, board):
    """The rest of the epoch that training has come to, its evaluation, checkpoints and lines; board: a Board."""
    model, args, run = training.model, training.args, training.run
    epoch, began = training.epoch + 1, time.perf_counter() - training.seconds

    def after_step(number, average):
        training.seconds = time.perf_counter() - began
        if number % args.train_acc_batches == 0:
            run.note(f"  batch {number}: {running(training.progress.gather()[0].means())}")
        foretell()
        advance(bar, average)
        heed(signals.caught or training.wants_saving(), training)

    with progress_bar(f"epoch {epoch}/{args.epochs}", steps, training.progress.step) as bar:
        learned = train_one_epoch(
            model,
            training_batches(data[0], args, epoch, next(model.parameters()).device, training.progress.step),
            criterion,
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
    judgement = judged(training, data, criterion, epoch, signals)  # a signal leaves only this to be made again
    seconds = time.perf_counter() - began
    record = {"event": "epoch", "epoch": epoch, "train": learned, **judgement, "selected_on": args.selected_on}
    record |= {"seconds": seconds} | ({"silent": silent} if silent else {})
    lines = [*silence(silent, epoch), epoch_line(epoch, args.epochs, learned, seconds, **judgement, on=args.selected_on)]
    training.lines += lines
    training.json_lines.append(json.dumps(record))
    shown = data[2] if args.selected_on == "test" else data[1] or data[0]
    board.add(epoch, model, board_figures(learned, judgement.get("evaluated"), args.selected_on), shown)  # again after a kill
    training.epoch, training.progress, training.seconds = epoch, Progress(), 0.0
    training.save()  # first, since the logs can be put right from it
    for line in lines:
        run.say(line)
    run.record(**record)
    heed(signals.caught, training)


def board_figures(learned, evaluated, selected_on):
    """An epoch's figures in the groups that a board shows: training, the images that judge, their spikes by layer."""
    figures = {"training": learned, selected_on: evaluated or {}, "spikes": (evaluated or {}).get("spikes", {})}
    return {
        f"{group}/{name}": value
        for group, values in figures.items()
        for name, value in values.items()
        if isinstance(value, (int, float))
    }


def judged(training, data, criterion, epoch, signals):
    """Evaluate the epoch on the images that choose, and keep its checkpoint if it is the best so far, or if none choose.
    Returns its figures `evaluated` and the accuracy `best` so far; nothing if none choose."""
    model, args, run, best = training.model, training.args, training.run, training.best
    found, images = {}, data[2] if args.selected_on == "test" else data[1]
    if images:
        found = evaluate_with_bar(model, images, criterion, args, run, False, lambda: heed(signals.caught, training))
        found = numbers_only(found)
    training.check_finite(found.get("total", 0.0))
    if not images or best is None or found["accuracy"] > best["accuracy"]:
        training.best = best = {"epoch": epoch, **found}
        accuracy = {"accuracy": found["accuracy"]} if images else {}
        save_checkpoint(run.place.best_path, model, epoch=epoch, **accuracy, selected_on=args.selected_on)
    return {"evaluated": found, "best": best["accuracy"]} if images else {}


def heed(wish, training):
    """Save where a rank wishes it, and raise Interrupted where the wish is a signal. wish: 0 none, 1 (True) a checkpoint, else
    the signal's number; every rank must ask."""
    wish = ranks.largest(wish)
    if wish:
        training.save()
    if wish > 1:
        ranks.largest(0)  # nobody goes before the first rank has saved
        done = f"stopped by {signal.Signals(wish).name} after epoch {training.where()}, saved in {training.run.place.last_path}"
        raise Interrupted(wish, f"{done}; go on with: {resume_command()}")


def finish(training, test, criterion, signals):
    """Report the best epoch, on the test images unless they have chosen it; returns its figures."""
    model, args, run, best = training.model, training.args, training.run, training.best
    run.say(f"{best_line(best, args.selected_on)}, {run.place.best_path}")
    if args.selected_on != "test":
        model = copy.deepcopy(model)  # the last checkpoint keeps the last epoch's weights
        restore(model, ranks.from_first(lambda: load_checkpoint(run.place.best_path)), run.place.best_path)
        best = test_once(model, test, criterion, args, run, lambda: heed(signals.caught, training))
        training.json_lines.append(json.dumps(evaluation_record(model, best, args)))
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


def test_once(model, test, criterion, args, run, after_batch=None):
    """Evaluate on the test images, report, record, and return the figures."""
    run.begin()
    is_spiking = isinstance(model, VGG_SNN_STDB_wFeedback)
    result = evaluate_with_bar(model, test, criterion, args, run, is_spiking, after_batch)
    report_evaluation(result, run.say)
    record = evaluation_record(model, result, args)
    run.record(**record)
    if args.results_json:
        save_results_json(args.results_json, [record])
    return result


def evaluate_with_bar(model, images, criterion, args, run, count_operations=False, after_batch=None):
    """evaluate() with a progress bar; --test_acc_every_batch also logs each batch. after_batch: called after each of them."""
    device = next(model.parameters()).device

    def on_batch(number, average):
        advance(bar, average)
        if args.test_acc_every_batch:
            run.note(f"  test batch {number}: {running(Average.of(ranks.gathered(average.to_cpu())).means())}")
        if after_batch:
            after_batch()

    with progress_bar("evaluating", -(-len(images) // args.batch_size)) as bar:
        batches = images.batches(args.batch_size, device)
        return evaluate(model, batches, criterion, args.seed, on_batch, count_operations)


def advance(bar, average):
    """Move the bar on; its figures are running means of this rank."""
    if not bar.disable and bar.n % 10 == 9 and average.images:
        bar.set_postfix_str(running(average.means()), refresh=False)
    bar.update()
