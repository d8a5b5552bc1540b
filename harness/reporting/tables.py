"""The page's tables: results, flags that differ, mistakes. The first row is the head; of what is not known None."""

from harness.measuring.classes import MOST_CLASSES, accuracy_by_class, worst_pairs
from harness.reporting import charts

NOT_COMPARED = "run_name output_dir overwrite resume log test_only results_json preset_flags tensorboard"


def results_table(runs, styles, names):
    """Rows of all evaluations. names: of the settings that labels say."""
    yield ("run", "run with", "accuracy in %", "95 % interval", "images", "spikes per image", "energy, event by event, µJ",
           "energy, layer by layer, µJ", "mean steps")  # fmt: skip
    for run, style in zip(runs, styles, strict=True):
        for result in run.results:
            energies = result.energy_event_joules, result.energy_joules
            yield (
                style.title,
                result.label(names) or None,
                f"{100 * result.accuracy:.2f}",
                "{:.2f} to {:.2f}".format(*(100 * end for end in result.interval)),
                f"{result.images:,} ({result.where})",
                f"{result.spikes['total']:,.0f}" if result.spikes else None,
                *(None if energy is None else f"{1e6 * energy:.3g}" for energy in energies),
                None if result.mean_steps is None else f"{result.mean_steps:.2f}",
            )


def flags_tables(runs, styles):
    """kind -> rows, of the ANNs and of the SNNs, where there are several: a row for each run, a column for each flag that differs
    between them, None where one has no such flag."""
    tables = {}
    for kind in ("ANNs", "SNNs"):
        some = [(run.parameters, style) for run, style in zip(runs, styles, strict=True) if run.is_spiking == (kind == "SNNs")]
        names = sorted({name for parameters, _ in some for name in parameters} - set(NOT_COMPARED.split()))
        names = [name for name in names if len({parameters.get(name) for parameters, _ in some}) > 1]
        if len(some) > 1:
            tables[kind] = [["run", *names], *([style.title, *map(parameters.get, names)] for parameters, style in some)]
    return tables


def worst_classes(runs, styles):
    """Rows of a table of the most frequent mistakes of runs with more classes."""
    for style, result in charts.last_with_classes(runs, styles):
        names, accuracies = result.classes, accuracy_by_class(result.confusion)
        if len(names) > MOST_CLASSES:
            for of, to, count, share in worst_pairs(result.confusion):
                yield style.title, names[of], f"{100 * accuracies[of]:.1f}", names[to], f"{count:,}", f"{100 * share:.1f}"
