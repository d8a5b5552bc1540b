"""Evaluations of a training run: those of its epochs, and the one at its end."""

import copy
from collections.abc import Callable
from math import ceil

from torch import nn

from self_models.checkpoints.files import load_checkpoint, restore
from self_models.data.sets import ImageSet
from self_models.evaluation.evaluate import evaluate_parts
from wfeedback.measuring import log_lines, tables
from wfeedback.runs import ranks
from wfeedback.runs.run import Run, progress_bar
from wfeedback.runs.saving import save_checkpoint
from wfeedback.training.progress import Progress


def evaluate_with_bar(
    model: nn.Module,
    images: ImageSet,
    losses: Callable,
    run: Run,
    *,
    batch_size: int,
    seed: int,
    needs_frames: bool = False,
    notes_batches: bool = False,
    count_operations: bool = False,
    after_batch: Callable | None = None,
    doing: str = "evaluating",
) -> dict:
    """Evaluate a network on images, with a progress bar.

    Parameters
    ----------
    model : nn.Module
        It is in evaluation mode afterwards.
    images : ImageSet
    losses : callable
        ``losses(output, images, labels)`` returns further figures, means over a batch.
    run : Run
        Whose log gets notes.
    batch_size, seed : int
    needs_frames : bool
        Whether the losses look at predictions or blocked pixels.
    notes_batches : bool
        Whether the log gets the figures after each batch, too.
    count_operations : bool
    after_batch : callable, optional
        Is called after each batch.
    doing : str
        What the bar says.

    Returns
    -------
    dict
        See ``evaluate_parts``.
    """
    device = next(model.parameters()).device

    def on_batch(number, average):
        advance(bar, average)
        if notes_batches:
            run.note(f"  test batch {number}: {log_lines.running(average.means())}")
        if after_batch:
            after_batch()

    with progress_bar(doing, ceil(len(images) / batch_size)) as bar:
        batches = images.batches(batch_size, device)
        return evaluate_parts(
            model.eval(), batches, seed, losses, on_batch, count_operations, needs_frames
        )


def advance(bar, average) -> None:
    """Move a bar on; its figures are running means of this rank."""
    if not bar.disable and bar.n % 10 == 9 and average.images:
        bar.set_postfix_str(log_lines.running(average.means()), refresh=False)
    bar.update()


def keep_if_best(
    run: Run,
    model: nn.Module,
    progress: Progress,
    epoch: int,
    figures: dict | None,
    selected_on: str,
) -> dict:
    """Write the best checkpoint if this epoch is the best, or nothing chooses.

    Parameters
    ----------
    run : Run
        Its ``best_path`` is written.
    model : nn.Module
    progress : Progress
        Its ``best`` is set.
    epoch : int
        Number of the epoch; 0 for what the run starts from.
    figures : dict or None
        Of the images that choose; None where none do, and so the last epoch counts.
    selected_on : {"held-out", "test", "last epoch"}
        Which images choose.

    Returns
    -------
    dict
        ``evaluated``, figures for the record of the epoch, and ``best``, the best
        accuracy so far; empty where nothing chooses.
    """
    figures = dict(figures or {})
    figures.pop("per_image", None)
    is_best = progress.best is None or not figures
    if not is_best:
        is_best = figures["accuracy"] > progress.best["accuracy"]
    if is_best:
        progress.best = {"epoch": epoch, **figures}
        accuracy = {"accuracy": figures["accuracy"]} if figures else {}
        save_checkpoint(run.best_path, model, epoch=epoch, **accuracy, selected_on=selected_on)
    if not figures:
        return {}
    evaluated = dict(figures)
    if selected_on != "test":
        evaluated.pop("confusion", None)
    return {"evaluated": evaluated, "best": progress.best["accuracy"]}


def report_test(
    model: nn.Module, test_set: ImageSet, evaluate: Callable, args, run: Run, **more
) -> dict:
    """Evaluate on the test images, report and record it, and return the figures.

    Parameters
    ----------
    model : nn.Module
    test_set : ImageSet
    evaluate : callable
        ``evaluate_with_bar`` with what it needs beside a model and images.
    args : Arguments
        Flags of the run, for the record.
    run : Run
    **more
        For the record and the result, such as the number of the epoch.
    """
    run.begin()
    counts = log_lines.counts_operations(model, run.say)
    result = evaluate(model, test_set, count_operations=counts)
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


def report_best(
    model: nn.Module, test_set: ImageSet, best: dict, evaluate: Callable, args, run: Run
) -> dict:
    """Report the best epoch of a run, on the test images unless they chose it.

    Parameters
    ----------
    model : nn.Module
        With the weights of the last epoch, which stay.
    test_set : ImageSet
    best : dict
        The best epoch, see Progress.
    evaluate, args, run
        As in ``report_test``.

    Returns
    -------
    dict
        Figures of the best epoch on the test images.
    """
    line = f"{log_lines.best_line(best, args.selected_on)}, {run.best_path}"
    if args.selected_on == "test":
        run.result(line, epoch=best["epoch"])
        if args.results_json:  # the JSON lines have these figures with their epoch
            record = log_lines.evaluation_record(model, best, args)
            tables.save_results_json(args.results_json, [record])
        return best
    run.say(line, epoch=best["epoch"])
    best_model = copy.deepcopy(model)
    saved = ranks.from_first(lambda: load_checkpoint(run.best_path))
    restore(best_model, saved, run.best_path)
    return report_test(best_model, test_set, evaluate, args, run, epoch=best["epoch"])
