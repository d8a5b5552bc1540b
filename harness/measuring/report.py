"""Figures as lines for a reader and as records for programs."""

import json
from datetime import date

from harness.measuring.classes import accuracy_by_class, class_lines
from harness.runs.checkpoints import write_whole
from harness.runs.commands import command_line
from harness.runs.health import HELPS_AGAINST_SILENCE
from self_models.basics.images import ELSEWHERE
from self_models.basics.settings import declared
from self_models.counting.spikes import part_of
from self_models.objectives.stopping import RULES

NOT_DEFINED = "-: no correlation, since one of the two, spikes or difficulty, is the same for all images"
COLUMNS = (
    "95 %: steps that suffice for 95 % of the images; rho: Spearman's rank correlation of an image's spikes with how small its "
    "margin is after all steps; per ink: of its spikes per unit of light; faster: images per second against all steps; goal: "
    "0.7 T / mean steps"
)
LOSSES = ("classification", "reconstruction", "penalty", "_loss", "total")  # as their names end


def running(means, names=("accuracy", *LOSSES, "spikes")):
    """'accuracy 97.10 % | total 0.123 | spikes 4,123' of those of these means that there are; names: their ends."""
    accuracy = f"accuracy {100 * means.get('accuracy', 0):.2f} %"
    found = [name for end in names for name in means if name.endswith(end)]
    return " | ".join(accuracy if name == "accuracy" else f"{name} {figure(means[name])}" for name in found)


def figure(value):
    """Four significant digits, thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def numbers_only(result):
    """An evaluation's figures without the per-image tensors."""
    return {name: value for name, value in result.items() if name != "per_image"}


def losses_text(means):
    """Losses and accuracy in words; means: name -> mean per image, accuracy 0 to 1."""
    return f"{running(means, LOSSES)}, {running(means, ['accuracy'])}"


JUDGES = {"held-out": "held out", "test": "test (which chooses)"}  # what an epoch is chosen on, in its line


def epoch_line(epoch, epochs, learned, seconds, on, evaluated=None, best=0.0):
    """One line per epoch: losses and accuracy in training and, where images choose the epoch, on those, best, spikes; seconds."""
    parts = [f"epoch {epoch}/{epochs}: train {losses_text(learned)}"]
    if evaluated:
        spikes = f", {figure(evaluated['parts']['total'])} spikes per image" if "parts" in evaluated else ""
        parts.append(f"{JUDGES[on]} {losses_text(evaluated)} (best {100 * best:.2f} %){spikes}")
    return "; ".join([*parts, f"{seconds:.1f} s"])


def best_line(best, on):
    """'best: epoch 3, held-out accuracy 97.10 %' of the epoch that is kept; on: what it was chosen on."""
    if on == "last epoch":
        return f"last: epoch {best['epoch']}, nothing was chosen"
    warned = ", chosen on the test images" if on == "test" else ""
    return f"best: epoch {best['epoch']}, {on} accuracy {100 * best['accuracy']:.2f} %{warned}"


def report_evaluation(result, names, say):
    """Accuracy, in all and by class, reconstruction, and spikes by part of an evaluation, as lines; names: of the classes."""
    say(f"{running(result, ['accuracy'])} on {result['images']:,} images, {result['seconds']:.1f} s")
    if "error" in result:
        say(f"squared error of the last prediction, summed over an image: {figure(result['error'])}")
    if "parts" in result:
        say("spikes per image: " + ", ".join(f"{part} {figure(count)}" for part, count in result["parts"].items()))
    for line in (*silent_outputs(result), *class_lines(result["confusion"], names)):
        say(line)


def silent_outputs(result):
    """A warning where an SNN's outputs say nothing, since the layer before them sends no spike."""
    hidden = [layer for layer in result.get("spikes", ()) if part_of(layer) == "classifier"]
    if hidden and not result["spikes"][hidden[-1]]:
        yield (
            "warning: the classifier's last hidden layer sent no spike on any image, so all outputs are 0 and each image is read "
            f"as the first class: {HELPS_AGAINST_SILENCE}"
        )


def blocking_table(records):
    """Lines of a table: one row per evaluation record of a network, spikes per image by part; with a decoder the reconstruction
    error and the share of open input, too."""
    feedback = "   error  open at the end" if records[0]["reconstruction_error"] is not None else ""
    yield f"epsilon  accuracy   input  encoder  decoder  classifier    total{feedback}"
    for record in records:
        spikes, error, share = record["spikes"], record["reconstruction_error"], record.get("open_share")
        yield (
            f"{record['epsilon']:7g}  {100 * record['accuracy']:6.2f} %  {spikes['input']:6,.0f}  {spikes['encoder']:7,.0f}  "
            f"{spikes['decoder']:7,.0f}  {spikes['classifier']:10,.0f}  {spikes['total']:7,.0f}  "
            + ("" if error is None else f"{error:6.2f}  ")
            + ("" if share is None else f"{100 * share[-1]:13.1f} %")
        )


def operations_table(records):
    """Lines of a table: operations per image as NeuroBench counts them, event-driven, and the estimated energy."""
    yield (
        "epsilon  effective ACs  effective MACs         dense  event-driven ACs  activation sparsity  energy: layer by layer"
        "  event-driven (estimates)"
    )
    for record in records:
        operations = record["operations"]
        yield (
            f"{record['epsilon']:7g}  {operations['effective_acs']:13,.0f}  {operations['effective_macs']:14,.0f}  "
            f"{operations['dense']:12,.0f}  {operations['event_acs']:16,.0f}  {operations['activation_sparsity']:19.4f}  "
            f"{1e6 * record['energy_joules']:19.3f} uJ  {1e6 * record['energy_event_joules']:11.3f} uJ"
        )


def difficulty_lines(epsilon, correlations):
    """Rank correlations between difficulty and spikes, as lines."""
    yield f"Spearman's rank correlation with difficulty (epsilon {epsilon:g}): spikes per image; spikes per unit of ink"
    for name, rho in correlations.items():
        yield f"  {name}: {signed(rho['spikes'])}; {signed(rho['spikes_per_ink'])}"
    if any(each is None for rho in correlations.values() for each in rho.values()):
        yield NOT_DEFINED


def signed(rho):
    """'+0.250' of a correlation; a dash where there is none."""
    return "-" if rho is None else f"{rho:+.3f}"


def adaptive_table(series):
    """Lines of a table: one row per rule and bound; series: name -> list of (record, per_image)."""
    yield f"{'rule':46}  accuracy  mean steps  median  95 %  spikes     rho  per ink  images/s  faster  (goal)"
    for name, rows in series.items():
        prefix = name.rpartition(", ")[0]
        whole = series[f"{prefix}, all steps" if prefix else "all steps"][0][0]
        for record, _ in rows:
            faster = record["images_per_second"] / whole["images_per_second"]
            yield (
                f"{setting_in_words(name, record['bounds']):46}  "
                f"{100 * record['accuracy']:6.2f} %  {record['mean_steps']:10.2f}  "
                f"{record['median_steps']:6.0f}  {record['p95_steps']:4.0f}  {record['spikes']['total']:6,.0f}  "
                f"{signed(record['rank_correlation']):>6}   {signed(record['rank_correlation_per_ink']):>6}  "
                f"{record['images_per_second']:8.1f}  {faster:6.2f}  "
                f"({0.7 * record['timesteps'] / record['mean_steps']:.2f})"
            )
    yield COLUMNS
    if any(record["rank_correlation"] is None for rows in series.values() for record, _ in rows):
        yield NOT_DEFINED


def setting_in_words(rule, bounds):
    """'confidence gap_bound 2', of a rule's name and its bounds."""
    return " ".join([rule, ", ".join(f"{bound} {value:g}" for bound, value in bounds.items())]).rstrip()


def contrast_table(rows, summary):
    """Lines of a table: accuracy on clean and dimmed images with plain blocking and with contrast, then the summary."""
    yield "images        plain    contrast"
    for row in rows:
        yield f"{row['dimming']:12}  {100 * row['plain']:5.2f} %  {100 * row['contrast']:5.2f} %"
    yield f"mean of dimmed: plain {100 * summary['dimmed_plain']:.2f} %, contrast {100 * summary['dimmed_contrast']:.2f} %"
    if summary["regained"] is not None:
        yield f"contrast wins back {100 * summary['regained']:.0f} % of the accuracy that dimming costs"


def evaluation_record(model, result, args, **more):
    """The JSON object of an evaluation: what was run, and its figures.

    spikes and operations are means per image; see Evaluation.result.
    """
    settings = model.settings
    record = {
        "event": "evaluation",
        "model": settings["vgg_name"],
        "feedback": model.has_feedback,
        "dataset": settings["dataset"].removeprefix(ELSEWHERE),
        "images": result["images"],
        "timesteps": settings["timesteps"],
        "epsilon": settings.get("epsilon", 0.0),
        "objective": getattr(model, "objective", "none"),
        "engine": model.engine.name if getattr(model, "engine", None) else "dense",
        "accuracy": result["accuracy"],
        "mean_steps": result.get("mean_steps"),
        "reconstruction_error": result.get("error"),
        "seconds": result["seconds"],
        "images_per_second": result["images_per_second"],
        "seed": args.seed,
        "date": date.today().isoformat(),
        "command": command_line(),
    }
    if settings.get("rule", "never") != "never":
        record |= {"rule": settings["rule"], "bounds": {name: settings[name] for name in declared(RULES[settings["rule"]])}}
    if "parts" in result:
        record |= {"spikes": result["parts"], "spikes_per_layer": result["spikes"]}
    if "confusion" in result:  # not kept by a checkpoint of an earlier version
        record |= {"classes": model.classes, "accuracy_by_class": accuracy_by_class(result["confusion"])}
        record["confusion"] = result["confusion"]
    further = ("median_steps", "p95_steps", "comparisons", "open_share", "operations", "energy_joules", "energy_event_joules")
    record |= {name: result[name] for name in further if name in result}
    selected_on = getattr(args, "selected_on", None)  # what the network's epoch was chosen on, where it is known
    return record | ({"selected_on": selected_on} if selected_on else {}) | more


def save_results_json(path, records):
    """Write the records as one JSON list."""
    write_whole(path, lambda file: file.write(json.dumps(records, indent=1).encode()))
