"""report.py: its charts, tables and page; and lines and records of evaluations for a reader."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PLAN, SPIKING, digests, records, refused, run_here

from harness.drawing import plots
from harness.measuring import log_lines, tables
from harness.measuring.read_logs import Result, find_runs
from self_models import load_data
from self_models.counting.evaluation import evaluate_parts, spikes_over_time
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

EPOCH = {
    "event": "epoch",
    "epoch": 1,
    "train": {"accuracy": 0.5, "total": 2.0},
    "selected_on": "held-out",
    "thresholds": {"a.1": 1.0},
    "evaluated": {
        "images": 50,
        "accuracy": 0.6,
        "total": 1.5,
        "mean_steps": 5.0,
        "parts": {"input": 3.0, "total": 10.0},
        "spikes": {"input": 3.0, "features.1": 7.0},
    },
}
MEASURED = {
    "event": "evaluation",
    "dataset": "MNIST",
    "images": 100,
    "timesteps": 5,
    "epsilon": 0.1,
    "accuracy": 0.9,
    "feedback": True,
    "spikes": {"input": 1.0, "encoder": 2.0, "decoder": 0.0, "classifier": 4.0, "total": 7.0},
    "energy_joules": 2e-6,
    "energy_event_joules": 1e-6,
    "mean_steps": 5.0,
    "command": "obj1.py --epsilon 0.1",
    "confusion": [[50, 0], [10, 40]],
}


def opening(seed=0, **parameters):
    return {"event": "run", "command": "x.py --seed 1", "parameters": parameters, "seed": seed}


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    )
    return path


def reported(*flags):
    """The page's text, and what was printed."""
    _, said = run_here("report", *flags)
    return flags[-1].read_text(), said


def rows_in(text, title):
    """The cells of the table below a title of the page, by row."""
    table = re.search(f"<h2>{title}</h2>(.*?)</table>", text, re.DOTALL)[1]
    return [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]


def test_tables_of_a_page(tmp_path):
    """Results, of a training run its best epoch; and flags that differ between the runs that have them, a row each."""
    baseline = MEASURED | {
        "accuracy": 0.8,
        "spikes": {"total": 7000.0},
        "epsilon": 0.0,
        "holdout": 200,
        "feedback": False,
    }
    baseline |= {
        "gate": "mine",
        "encoding": "poisson",
        "class": "InputBlockingSNN",
    }  # of which the first is named
    worse = EPOCH | {"epoch": 2, "evaluated": {"images": 9, "accuracy": 0}}
    logs = (
        write(
            tmp_path / "snn/good.jsonl",
            opening(epsilon=0.1, run_name="a", epochs=1, leak=1.0),
            MEASURED,
        ),
        write(
            tmp_path / "snn/base.jsonl",
            opening(epsilon=0.0, run_name="b", epochs=1, facts={}),
            baseline,
        ),
        write(tmp_path / "ann/base.jsonl", opening(epochs=2, facts={"labels": 10}), EPOCH, worse),
    )
    text, said = reported(*logs, "--output", tmp_path / "page.html")
    assert said == f"wrote {tmp_path / 'page.html'}: good, snn/base, ann/base\n"
    head, *rows = rows_in(text, "Results")
    assert head[:6] == [
        "run",
        "run with",
        "images",
        "accuracy, %",
        "95 % interval",
        "spikes, all parts",
    ]
    assert rows == [
        [
            "good",
            "T = 5, ε = 0.1",
            "100 MNIST test images",
            "90.00",
            "82.56 to 94.48",
            "7",
            "1.00",
            "2.0",
            "5.00",
        ],
        [
            "snn/base",
            "T = 5, gate = mine",
            "100 200 held-out images",
            "80.00",
            "71.12 to 86.66",
            "7,000",
            "1.00",
            "2.0",
            "5.00",
        ],
        [
            "ann/base",
            "T = 5.0",
            "50 held-out images, which chose epoch 1",
            "60.00",
            "46.18 to 72.39",
            "10",
            "-",
            "-",
            "5.00",
        ],
    ]
    assert rows_in(text, "Flags that differ") == [
        ["flag", "good", "snn/base", "ann/base"],
        ["epochs", "1", "1", "2"],
        ["epsilon", "0.1", "0.0", "-"],
    ]


def test_flags_of_training_are_not_those_of_a_run_that_trained_nothing(tmp_path):
    """Nor those of conversion of one that converted nothing, nor those of losses.

    `holdout` chooses the images of an evaluation.
    """
    common = {"limit_test": 9, "trade_off": 1.0, "scaling_factor": 0.7, "learning_rate": 1e-4}
    trained = common | {"epochs": 3, "test_only": False, "trade_off": 0.1, "learning_rate": 0.1}
    trained |= {"pretrained_ann": "a.pth", "pretrained_snn": "", "scaling_factor": 0.4}
    evaluated = common | {"epochs": 100, "test_only": True, "holdout": 7, "limit_test": 5}
    evaluated |= {"pretrained_ann": "", "pretrained_snn": "b.pth"}
    other = evaluated | {"holdout": 8, "epochs": 50, "scaling_factor": 0.5}
    only_converted = trained | {"epochs": 0, "learning_rate": 0.2, "scaling_factor": 0.3}
    logs = [
        write(tmp_path / f"{name}.jsonl", opening(**parameters), MEASURED)
        for name, parameters in (
            ("trained", trained),
            ("evaluated", evaluated),
            ("other", other),
            ("converted", only_converted),
        )
    ]
    text, _ = reported(*logs, "--output", tmp_path / "page.html")
    assert text.count("<p>Each row has the images of a class") == 4  # below its confusion matrix
    assert rows_in(text, "Flags that differ") == [
        ["flag", "trained", "evaluated", "other", "converted"],
        ["epochs", "3", "-", "-", "0"],
        ["holdout", "-", "7", "8", "-"],
        ["limit_test", "9", "5", "5", "9"],
        ["pretrained_ann", "a.pth", "", "", "a.pth"],
        ["pretrained_snn", "", "b.pth", "b.pth", ""],
        ["scaling_factor", "0.4", "-", "-", "0.3"],
    ]


@pytest.mark.parametrize(("holdout", "words"), [(100, "100 held"), (200, "100 200 held")])
def test_held_out_images_are_counted_once(holdout, words):
    assert Result(MEASURED | {"holdout": holdout}).on == f"{words}-out images"


def points_of(line):
    return list(zip(*map(np.asarray, (line.get_xdata(), line.get_ydata())), strict=True))


def words_of(texts):
    return [text.get_text() for text in texts]


def test_what_charts_show(tmp_path, pictures):
    """Of two runs, one of which takes a thousand times the spikes; and of one that trains."""
    later = EPOCH | {
        "epoch": 2,
        "train": {"accuracy": 0.7, "total": 1.0, "my_loss": 0.5},
        "evaluated": None,
    }
    less, more = (
        MEASURED | {"accuracy": 0.8, "spikes": MEASURED["spikes"] | {"total": total}}
        for total in (3.0, 7000.0)
    )
    logged = {"a": (MEASURED, less), "b": (more,), "c": (EPOCH, later)}
    runs = find_runs(
        [str(write(tmp_path / f"{name}.jsonl", *lines)) for name, lines in logged.items()], "."
    )
    looks, path = plots.looks_of(run.name for run in runs), tmp_path / "x.png"
    plots.save_accuracies(
        path, {run.name: [result.record for result in run.results] for run in runs[:2]}, looks
    )
    spikes, _ = pictures[-1].axes
    (one, *_), (other, *_) = spikes.containers
    assert points_of(one) == [(3, pytest.approx(80)), (7, pytest.approx(90))] and points_of(
        other
    ) == [(7000, pytest.approx(80))]
    assert spikes.get_xscale() == "log" and (one.get_color(), one.get_marker()) != (
        other.get_color(),
        other.get_marker(),
    )
    assert words_of(pictures[-1].legends[0].get_texts()) == ["a", "b"]
    plots.save_parts(path, {"a": MEASURED, "b": less})
    assert [[bar.get_width() for bar in bars] for bars in pictures[-1].axes[0].containers] == [
        [1, 1],
        [2, 2],
        [4, 4],
    ]
    key = words_of(pictures[-1].legends[0].get_texts())
    assert key == ["input", "encoder", "classifier"]  # the decoder has no layer that spikes
    silent = MEASURED | {"spikes_per_layer": SPIKING_LAYERS}  # it has, and that sent none
    plots.save_parts(path, {"a": silent})
    assert words_of(pictures[-1].legends[0].get_texts())[2] == "decoder"
    plots.save_confusion(path, MEASURED | {"classes": ["cat", "elk"]})
    (axis,) = pictures[-1].axes
    assert axis.images[0].get_array().tolist() == [[1, 0], [0.2, 0.8]] and words_of(
        axis.texts
    ) == ["50", "", "10", "40"]
    # columns are predicted classes, rows classes: 10 elks were taken for cats
    assert [text.get_position() for text in axis.texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert words_of(axis.get_yticklabels()) == ["cat  100.0 %", "elk  80.0 %"]
    plots.save_curves(path, runs[2:], looks)
    curves = {
        axis.get_title(): {line.get_linestyle(): points_of(line) for line in axis.lines}
        for axis in pictures[-1].axes
    }
    assert curves == {
        "accuracy": {":": [(1, 0.5), (2, 0.7)], "-": [(1, 0.6)]},
        "total": {":": [(1, 2), (2, 1)], "-": [(1, 1.5)]},
        "spikes": {"-": [(1, 10)]},
        "my loss": {":": [(2, 0.5)]},
    }


def test_a_page_is_one_file_and_no_text_of_a_log_is_taken_for_html(tmp_path):
    evil = "<!--<script><i>"
    lines = (
        opening(**{evil: evil}),
        MEASURED | {"dataset": evil, "rule": evil},
        MEASURED | {"rule": "b"},
    )
    log = write(tmp_path / "logs/snn" / f"{evil}.jsonl".replace("/", ""), *lines)
    other = write(tmp_path / "logs/snn/other.jsonl", opening(**{evil: "&"}), MEASURED)
    write(tmp_path / "trained_models/snn/other_sweep.png", "a picture that the run drew")
    text, _ = reported(log, other, "--output", tmp_path / "page.html")
    assert (
        evil not in text
        and text.count("<script") == 0
        and "&lt;!--&lt;script&gt;&lt;i&gt; test images" in text
    )
    assert (
        re.findall('(?:src|href)="(.{14})', text) == ["data:image/png"] * 5
        and "<pre>x.py --seed 1</pre>" in text
    )


def test_lines_that_are_no_records_are_left_out(tmp_path):
    """As the last of a run that was killed may be."""
    odd = '{"event": "epoch", "epo', "[1, 2]", '{"event": "epoch"}', MEASURED | {"accuracy": None}
    log = write(tmp_path / "x.jsonl", EPOCH, "", *odd, {"event": "difficulty"}, MEASURED)
    (run,) = find_runs([str(log)], ".")
    assert len(run.epochs) == len(run.evaluations) == 1


def test_lines_on_bad_input(tmp_path):
    shown, log, mine = (
        tmp_path / "page.html",
        write(tmp_path / "x.jsonl", EPOCH),
        write(tmp_path / "mine.html", "mine"),
    )
    before = digests(tmp_path)
    for words, line in (
        (f"nothing --output_dir {tmp_path}", "there is no run nothing"),
        (f"{tmp_path}/gone.jsonl", "gone.jsonl is no run's log: give the path of a .jsonl"),
        (f"{log} --output {tmp_path}/page.xyz", "page.xyz: give a name that ends in .html"),
        (f"{log} --output {mine}", "--overwrite replaces it"),
    ):
        assert line in refused(
            "report", words, *([] if "--output " in str(words) else ["--output", shown])
        ), words
    assert digests(tmp_path).items() >= before.items() and not shown.exists()
    for flags in ("--overwrite --output", "--output"):  # now it is a report
        reported(log, flags, mine)
    assert not list(tmp_path.glob(".*"))


def test_learned_thresholds_are_in_the_log_as_in_the_checkpoint(trained, tmp_path):
    flags = f"{SPIKING} --learn_threshold --epochs 2 -lr 0.01 --run_name x --output_dir {tmp_path}"
    run_here("snn", f"--pretrained_ann {trained.ann}", flags)
    one, two = (record["thresholds"] for record in records(tmp_path / "logs/snn/x.jsonl", "epoch"))
    saved = torch.load(tmp_path / "trained_models/snn/x_last.pth", weights_only=False)[
        "state_dict"
    ]
    assert (
        two
        == {
            name.removesuffix(".threshold"): value.item()
            for name, value in saved.items()
            if "threshold" in name
        }
        != one
    )


def test_spikes_over_time_do_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    model = InputBlockingSNN(
        plan=PLAN, fc_width=8, timesteps=4, update="immediate", default_threshold=0.2, epsilon=0.3
    ).eval()
    digits = load_data("MNIST", limit_test=7)[2]
    (found, *others), (whole, *same) = (
        spikes_over_time(model, digits.batches(size), 0) for size in (3, 7)
    )
    assert (
        all(found[layer] == pytest.approx(whole[layer]) for layer in whole)
        and same[0][-1] < same[0][0] == 1
    )
    assert all(one == pytest.approx(other) for one, other in zip(others, same, strict=True))
    evaluated = evaluate_parts(model, digits.batches(7), seed=0)
    assert {layer: sum(steps) for layer, steps in whole.items()} == pytest.approx(
        evaluated["spikes"]
    )


SPIKING_LAYERS = {"input": 0.0, "features.1": 0.0, "generate.1": 0.0, "classifier.1": 0.0}
SPIKES = {"input": 1611.6, "encoder": 722.4, "decoder": 550.2, "classifier": 37.5, "total": 2922.2}
MEANS = {"classification": 0.12345, "reconstruction": 1234.5, "total": 24.816, "accuracy": 0.9712}
RESULT = {
    "images": 1234,
    "accuracy": 0.971,
    "seconds": 61.26,
    "images_per_second": 10.0,
    "confusion": [[1000, 20], [14, 200]],
}


def test_lines_for_a_reader(file_regression):
    """Which figure stands where, in which unit: of epochs and evaluations, and tables of all scripts."""
    said = [log_lines.running({"spikes": 4123.2, "accuracy": 0.971, "total": 0.123, "error": 3.0})]
    said.append(
        " ".join(map(tables.figure, (0.000123456, 12.3456, 999.96, 1000, 1234567.8, -4321, -0.5)))
    )
    held_out = MEANS | {"parts": {"total": 4123.4}}
    for on, judged, best in (
        ("held-out", held_out, 0.985),
        ("test", MEANS, 0),
        ("last epoch", None, 0),
    ):
        said.append(log_lines.epoch_line(2, 5, MEANS | {"total": 7.0}, 3.21, on, judged, best))
        said.append(log_lines.best_line({"epoch": 3, "accuracy": 0.971}, on))
    said += [
        *log_lines.result_lines(RESULT),
        *log_lines.class_lines(RESULT["confusion"], ["cat", "elk"]),
    ]
    layers = {
        "input": 1234.5,
        "classifier.1": 7.0,
        "classifier.4": 0.0,
    }  # the last hidden layer of the classifier is silent; no layer of the decoder spikes
    more = {
        "error": 26.284,
        "parts": {"input": 1234.5, "decoder": 0.0, "classifier": 7.0},
        "spikes": layers,
        "mean_steps": 8,
        "interval": 5,
    }
    more |= {"energy_joules": 2.5e-5, "energy_event_joules": 8.123e-7}
    said += [*log_lines.result_lines(RESULT | more), *log_lines.silent_outputs(RESULT | more)]
    matrix = [[10 * (found == label) for found in range(21)] for label in range(21)]
    matrix[3][4], matrix[3][5], matrix[7][7], matrix[7][0], matrix[8] = 30, 2, 0, 6, [0] * 21
    assert (
        log_lines.accuracy_by_class(matrix)[3] == pytest.approx(10 / 42)
        and log_lines.accuracy_by_class(matrix)[8] is None
    )
    said += log_lines.class_lines(matrix, [f"c{number}" for number in range(21)], ", epsilon 0.1")
    operations = {
        "effective_acs": 1234567.8,
        "effective_macs": 7654.3,
        "dense": 98765432.1,
        "event_acs": 4321.2,
    }
    record = {
        "epsilon": 0.25,
        "accuracy": 0.9712,
        "spikes": SPIKES,
        "reconstruction_error": 26.284,
        "open_share": [0.1234],
    }
    record |= {
        "operations": operations | {"activation_sparsity": 0.98765},
        "energy_joules": 1.2345e-6,
    }
    record |= {"energy_event_joules": 0.6789e-6}
    whole = record | {"open_share": None}
    said += tables.blocking_table(
        [record, whole, whole | {"reconstruction_error": None}]
    ) + tables.details_table([record])
    silent = {"spikes_per_layer": {"input": 1.0, "features.1": 0.0, "classifier.1": 2.0}}
    baseline = record | silent | {"accuracy": 0.5, "open_share": None}
    said += tables.blocking_table([record | {"spikes_per_layer": SPIKING_LAYERS}], baseline)
    said += tables.blocking_table([record | silent])
    wrong, margin = (
        {"spikes": 0.25, "spikes_per_ink": -0.5},
        {"spikes": None, "spikes_per_ink": 1.0},
    )
    said += tables.difficulty_lines(0.2, {"wrong": wrong, "small margin": margin})

    def row(images_per_second, steps, **bounds):
        figures = {
            "accuracy": 0.9876,
            "median_steps": 3.0,
            "p95_steps": 11.0,
            "spikes": {"total": 2345.6},
        }
        figures |= {
            "rank_correlation": 0.4321,
            "rank_correlation_per_ink": -0.125,
            "timesteps": 50,
            "mean_steps": steps,
        }
        return figures | {"images_per_second": images_per_second, "bounds": bounds}, None

    rules = {
        "all timesteps": [row(20.0, 50.0)],
        "both": [row(100.0, 4.0, open_bound=0.05, gap_bound=1.0)],
    }
    said += tables.adaptive_table(
        rules | {"confidence": [row(100.0, 7.0, gap_bound=2.0), row(10.0, 35.0, gap_bound=4.0)]}
    )
    rows = [
        {"dimming": "none", "plain": 0.9912, "contrast": 0.9876},
        {"dimming": "top half", "plain": 0.5, "contrast": 0.75},
    ]
    for regained in (0.754, None):
        said += tables.contrast_table(
            rows, {"dimmed_plain": 0.5123, "dimmed_contrast": 0.7512, "regained": regained}
        )
    file_regression.check("\n".join(map(str.rstrip, said)) + "\n", encoding="utf-8")


def test_records_for_programs(tmp_path, monkeypatch, data_regression):
    monkeypatch.setattr(sys, "argv", ["/x/ann_wFeedback.py", "--seed", "3"])
    settings = {"vgg_name": "VGG5", "dataset": "MNIST", "timesteps": 8}
    ann = SimpleNamespace(settings=settings, has_feedback=False, classes=["0", "1"])
    own = {"objective": "blocking", "runs_by": "event", "classes": []}
    snn = SimpleNamespace(settings=settings | {"epsilon": 0.2}, has_feedback=True, **own)
    spikes = {
        "parts": SPIKES,
        "spikes": {"input": 1611.6},
        "mean_steps": 4.5,
        "median_steps": 4.0,
        "p95_steps": 8.0,
    }
    further = {
        "open_share": [1.0, 0.5],
        "operations": {"dense": 1.0},
        "energy_joules": 2e-6,
        "energy_event_joules": 1e-6,
    }
    result = RESULT | spikes | further | {"error": 26.0, "comparisons": 99.0, "per_image": {}}
    found = log_lines.evaluation_record(
        snn, result, SimpleNamespace(seed=0, selected_on="held-out"), rule="confidence"
    )
    tables.save_results_json(
        tmp_path / "x.json",
        [log_lines.evaluation_record(ann, RESULT, SimpleNamespace(seed=3)), found],
    )
    again = json.loads((tmp_path / "x.json").read_text())
    assert len({each.pop("date") for each in again}) == 1
    data_regression.check({"records": again})
