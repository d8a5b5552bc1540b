"""Figures as lines for a reader and as records for programs."""

from harness.runlog import command_line


def running(means):
    """'accuracy 97.10 % | total 0.123 | spikes 4,123' of running means."""
    return " | ".join(
        f"{name} {100 * means[name]:.2f} %" if name == "accuracy" else f"{name} {figure(means[name])}"
        for name in ("accuracy", "classification", "reconstruction", "total", "spikes")
        if name in means
    )


def figure(value):
    """Four significant digits, thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def losses_text(means):
    return (
        f"classification {figure(means['classification'])} | reconstruction {figure(means['reconstruction'])} | "
        f"total {figure(means['total'])}, accuracy {100 * means['accuracy']:.2f} %"
    )


def epoch_line(epoch, epochs, learned, judged, best, seconds, judge):
    """One line per epoch: losses and accuracy in training and on the judging images, best, spikes, seconds."""
    spikes = f", {figure(judged['parts']['total'])} spikes per image" if "parts" in judged else ""
    return (
        f"epoch {epoch}/{epochs}: train {losses_text(learned)}; {judge} {losses_text(judged)} (best {100 * best:.2f} %)"
        f"{spikes}; {seconds:.1f} s"
    )


def report_evaluation(result, say):
    """Accuracy, reconstruction, and spikes by part of an evaluation, as lines."""
    say(f"accuracy {100 * result['accuracy']:.2f} % on {result['images']:,} images, {result['seconds']:.1f} s")
    if "error" in result:
        say(f"squared error of the last prediction, summed over an image: {figure(result['error'])}")
    if "parts" in result:
        say("spikes per image: " + ", ".join(f"{part} {figure(count)}" for part, count in result["parts"].items()))


def blocking_table(records):
    """Lines of a table: one row per evaluation record, spikes per image by part."""
    yield "epsilon  accuracy   input  encoder  decoder  classifier    total   error  open at the end"
    for record in records:
        spikes, error, share = record["spikes"], record["reconstruction_error"], record.get("open_share")
        yield (
            f"{record['epsilon']:7g}  {100 * record['accuracy']:6.2f} %  {spikes['input']:6,.0f}  {spikes['encoder']:7,.0f}  "
            f"{spikes['decoder']:7,.0f}  {spikes['classifier']:10,.0f}  {spikes['total']:7,.0f}  "
            + ("" if error is None else f"{error:6.2f}  ")
            + ("" if share is None else f"{100 * share[-1]:13.1f} %")
        )


def evaluation_record(model, result, args, **more):
    """The JSON object of an evaluation: what was run, and its figures; spikes are means per image."""
    settings = model.settings
    record = {
        "event": "evaluation",
        "model": settings["vgg_name"],
        "dataset": settings["dataset"],
        "images": result["images"],
        "timesteps": settings["timesteps"],
        "epsilon": settings.get("epsilon", 0.0),
        "accuracy": result["accuracy"],
        "reconstruction_error": result.get("error"),
        "seconds": result["seconds"],
        "images_per_second": result["images_per_second"],
        "seed": args.seed,
        "command": command_line(),
    }
    if "parts" in result:
        record |= {"mean_steps": result["mean_steps"], "spikes": result["parts"], "spikes_per_layer": result["spikes"]}
    if "open_share" in result:
        record["open_share"] = result["open_share"]
    return record | more
