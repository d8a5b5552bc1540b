"""wfeedback report: its charts, tables and page; lines and records of evaluations."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PLAN, SPIKING, digests, records, refused, run_here

from self_models import load_data
from self_models.checkpoints.files import load_checkpoint
from self_models.evaluation.evaluate import evaluate_parts, spikes_over_time
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.drawing import plots
from wfeedback.drawing.page import SEEN, image_html
from wfeedback.measuring import log_lines, tables
from wfeedback.measuring.read_logs import PICTURES, Result, find_runs

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


def opening(**parameters):
    """Return the first record of a run with these flags."""
    return {"event": "run", "command": "x.py --seed 1", "parameters": parameters, "seed": 0}


def write(path, *lines):
    """Write a log, each line of which is a text or a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for line in lines:
            text = line if isinstance(line, str) else json.dumps(line)
            file.write(f"{text}\n")
    return path


def report(*logs, page, flags=""):
    """Make the page of these logs; return its text, and what was printed."""
    _, said = run_here("report", *logs, f"{flags} --output {page}")
    return page.read_text(), said


def rows_below(title, text):
    """Return the cells of the table below a title of the page, by row."""
    table = re.search(f"<h2>{title}</h2>(.*?)</table>", text, re.DOTALL)[1]
    return [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]


@pytest.fixture(scope="module")
def page_of_three_runs(tmp_path_factory):
    """Make the page of two evaluations and of one training run; return its text."""
    folder = tmp_path_factory.mktemp("report")
    baseline = {
        **MEASURED,
        "accuracy": 0.8,
        "spikes": {"total": 7000.0},
        "epsilon": 0.0,
        "holdout": 200,
        "feedback": False,
        # Of these three the first is named.
        "gate": "mine",
        "encoding": "poisson",
        "class": "InputBlockingSNN",
    }
    worse = EPOCH | {"epoch": 2, "evaluated": {"images": 9, "accuracy": 0}}
    good = opening(epsilon=0.1, run_name="a", epochs=1, leak=1.0)
    base = opening(epsilon=0.0, run_name="b", epochs=1, facts={})
    training = opening(epochs=2, facts={"labels": 10})
    logs = [
        write(folder / "snn/good.jsonl", good, MEASURED),
        write(folder / "snn/base.jsonl", base, baseline),
        write(folder / "ann/base.jsonl", training, EPOCH, worse),
    ]

    text, said = report(*logs, page=folder / "page.html")

    assert said == f"wrote {folder / 'page.html'}: good, snn/base, ann/base\n"
    return text


def test_a_page_has_a_row_for_each_result_and_the_best_epoch_of_training(page_of_three_runs):
    head, good, base, training = rows_below("Results", page_of_three_runs)
    assert head[:6] == [
        "run",
        "run with",
        "images",
        "accuracy, %",
        "95 % interval",
        "spikes, all parts",
    ]
    assert good == [
        "good",
        "T = 5, ε = 0.1",
        "100 MNIST test images",
        "90.00",
        "82.56 to 94.48",
        "7",
        "1.00",
        "2.0",
        "5.00",
    ]
    assert base == [
        "snn/base",
        "T = 5, gate = mine",
        "100 200 held-out images",
        "80.00",
        "71.12 to 86.66",
        "7,000",
        "1.00",
        "2.0",
        "5.00",
    ]
    assert training == [
        "ann/base",
        "T = 5.0",
        "50 held-out images, which chose epoch 1",
        "60.00",
        "46.18 to 72.39",
        "10",
        "-",
        "-",
        "5.00",
    ]


def test_a_page_lists_the_flags_that_differ_between_the_runs_that_have_them(page_of_three_runs):
    assert rows_below("Flags that differ", page_of_three_runs) == [
        ["flag", "good", "snn/base", "ann/base"],
        ["epochs", "1", "1", "2"],
        ["epsilon", "0.1", "0.0", "-"],
    ]


def test_training_images_are_none_of_a_run_that_judged_test_images(tmp_path):
    common = {"pretrained_ann": "", "pretrained_snn": "b.pth", "seed": 0, "limit_test": 5}
    trained = common | {"test_only": False, "limit_train": 9, "holdout": 4}
    evaluated = common | {"test_only": True, "limit_train": None, "holdout": 0, "limit_test": 6}
    logs = []
    for name, parameters in {"trained": trained, "evaluated": evaluated}.items():
        logs.append(write(tmp_path / f"{name}.jsonl", opening(**parameters), MEASURED))
    text, _ = report(*logs, page=tmp_path / "page.html")
    assert rows_below("Flags that differ", text) == [
        ["flag", "trained", "evaluated"],
        ["limit_test", "5", "6"],
    ]


def test_a_script_that_trains_evaluates_no_held_out_images(tmp_path):
    # A recipe names them all the same.
    evaluated = {"test_only": True, "select": "held-out", "pretrained_snn": "b.pth"}
    logs = []
    for holdout in (5, 9):
        parameters = opening(**evaluated, holdout=holdout, limit_train=10 * holdout, seed=holdout)
        logs.append(write(tmp_path / f"{holdout}.jsonl", parameters, MEASURED))
    text, _ = report(*logs, page=tmp_path / "page.html")
    assert rows_below("Flags that differ", text) == [["flag", "5", "9"], ["seed", "5", "9"]]


def test_each_picture_has_a_sentence_on_what_it_shows(tmp_path, page_of_three_runs):
    said = re.findall('alt="(.*?)"', page_of_three_runs)
    assert len(said) == page_of_three_runs.count("<img ")
    assert all(text.endswith(".") and " " in text for text in said)
    assert SEEN.keys() == set(PICTURES)
    path = tmp_path / "x.png"
    path.write_bytes(b"")
    assert 'alt="x: accuracy &lt; 1."' in image_html(path, "x: accuracy < 1.")


def test_flags_of_training_are_not_those_of_a_run_that_trained_nothing(tmp_path):
    # Nor are flags of conversion those of a run that converted nothing, nor those of
    # losses. `holdout` counts for all, since it chooses the images of an evaluation.
    trained = {
        "epochs": 3,
        "test_only": False,
        "limit_test": 9,
        "learning_rate": 0.1,
        "trade_off": 0.1,
        "pretrained_ann": "a.pth",
        "pretrained_snn": "",
        "scaling_factor": 0.4,
    }
    evaluated = {
        "epochs": 100,
        "test_only": True,
        "limit_test": 5,
        "learning_rate": 1e-4,
        "trade_off": 1.0,
        "pretrained_ann": "",
        "pretrained_snn": "b.pth",
        "scaling_factor": 0.7,
        "holdout": 7,
    }
    other = evaluated | {"holdout": 8, "epochs": 50, "scaling_factor": 0.5}
    converted = trained | {"epochs": 0, "learning_rate": 0.2, "scaling_factor": 0.3}
    runs = {"trained": trained, "evaluated": evaluated, "other": other, "converted": converted}
    logs = []
    for name, parameters in runs.items():
        logs.append(write(tmp_path / f"{name}.jsonl", opening(**parameters), MEASURED))

    text, _ = report(*logs, page=tmp_path / "page.html")

    assert text.count("<p>Each row has the images of a class") == 4  # below its confusion matrix
    assert rows_below("Flags that differ", text) == [
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
    """Return the points of a line of a chart."""
    x = np.asarray(line.get_xdata())
    y = np.asarray(line.get_ydata())
    return list(zip(x, y, strict=True))


def words_of(texts):
    """Return the words of texts of a chart."""
    return [text.get_text() for text in texts]


LESS = MEASURED | {"accuracy": 0.8, "spikes": MEASURED["spikes"] | {"total": 3.0}}
MORE = MEASURED | {"accuracy": 0.8, "spikes": MEASURED["spikes"] | {"total": 7000.0}}


def test_a_chart_of_accuracies_over_spikes_has_a_logarithmic_axis(tmp_path, pictures):
    looks = plots.looks_of(["a", "b"])

    plots.save_accuracies(tmp_path / "x.png", {"a": [MEASURED, LESS], "b": [MORE]}, looks)

    spikes, _ = pictures[-1].axes
    series_a, series_b = spikes.containers
    line_a = series_a[0]
    line_b = series_b[0]
    assert points_of(line_a) == [(3, pytest.approx(80)), (7, pytest.approx(90))]
    assert points_of(line_b) == [(7000, pytest.approx(80))]
    assert spikes.get_xscale() == "log"  # one takes a thousand times the spikes of the other
    look_a = (line_a.get_color(), line_a.get_marker())
    look_b = (line_b.get_color(), line_b.get_marker())
    assert look_a != look_b
    assert words_of(pictures[-1].legends[0].get_texts()) == ["a", "b"]


def test_a_chart_of_parts_leaves_out_a_decoder_without_layers_that_spike(tmp_path, pictures):
    plots.save_parts(tmp_path / "x.png", {"a": MEASURED, "b": LESS})

    bars_of_parts = pictures[-1].axes[0].containers
    widths = [[bar.get_width() for bar in bars] for bars in bars_of_parts]
    assert widths == [[1, 1], [2, 2], [4, 4]]
    legend = words_of(pictures[-1].legends[0].get_texts())
    assert legend == ["input", "encoder", "classifier"]


def test_a_chart_of_parts_has_a_decoder_whose_layers_sent_no_spike(tmp_path, pictures):
    silent = MEASURED | {"spikes_per_layer": NO_SPIKES}

    plots.save_parts(tmp_path / "x.png", {"a": silent})

    assert words_of(pictures[-1].legends[0].get_texts())[2] == "decoder"


def test_a_confusion_matrix_has_classes_as_rows_and_predicted_classes_as_columns(
    tmp_path, pictures
):
    plots.save_confusion(tmp_path / "x.png", MEASURED | {"classes": ["cat", "elk"]})

    # 50 of 50 cats are right; of 50 elks 10 are taken for cats: 10 / 50 = 0.2.
    (axis,) = pictures[-1].axes
    assert axis.images[0].get_array().tolist() == [[1, 0], [0.2, 0.8]]
    assert words_of(axis.texts) == ["50", "", "10", "40"]
    positions = [text.get_position() for text in axis.texts]
    assert positions == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert words_of(axis.get_yticklabels()) == ["cat  100.0 %", "elk  80.0 %"]


def test_curves_of_training_have_a_panel_for_accuracy_spikes_and_each_loss(tmp_path, pictures):
    train = {"accuracy": 0.7, "total": 1.0, "my_loss": 0.5}
    later = EPOCH | {"epoch": 2, "train": train, "evaluated": None}
    runs = find_runs([str(write(tmp_path / "c.jsonl", EPOCH, later))], ".")

    plots.save_curves(tmp_path / "x.png", runs, plots.looks_of(["c"]))

    # dotted: training; solid: evaluation
    curves = {}
    for axis in pictures[-1].axes:
        curves[axis.get_title()] = {line.get_linestyle(): points_of(line) for line in axis.lines}
    assert curves == {
        "accuracy": {":": [(1, 0.5), (2, 0.7)], "-": [(1, 0.6)]},
        "total": {":": [(1, 2), (2, 1)], "-": [(1, 1.5)]},
        "spikes": {"-": [(1, 10)]},
        "my loss": {":": [(2, 0.5)]},
    }


def test_a_page_is_one_file_and_no_text_of_a_log_is_taken_for_html(tmp_path):
    evil = "<!--<script><i>"
    log = write(
        tmp_path / f"logs/snn/{evil}.jsonl",
        opening(**{evil: evil}),
        MEASURED | {"dataset": evil, "rule": evil},
        MEASURED | {"rule": "b"},
    )
    other = write(tmp_path / "logs/snn/other.jsonl", opening(**{evil: "&"}), MEASURED)
    write(tmp_path / "trained_models/snn/other_sweep.png", "a picture that the run drew")

    text, _ = report(log, other, page=tmp_path / "page.html")

    assert evil not in text
    assert text.count("<script") == 0
    assert "&lt;!--&lt;script&gt;&lt;i&gt; test images" in text
    assert re.findall('(?:src|href)="(.{14})', text) == ["data:image/png"] * 5
    assert "<pre>x.py --seed 1</pre>" in text


def test_lines_that_are_no_records_are_left_out(tmp_path):
    log = write(
        tmp_path / "x.jsonl",
        EPOCH,
        "",
        '{"event": "epoch", "epo',  # as the last line of a run that was killed may be
        "[1, 2]",
        '{"event": "epoch"}',
        MEASURED | {"accuracy": None},
        {"event": "difficulty"},
        MEASURED,
    )

    (run,) = find_runs([str(log)], ".")

    assert len(run.epochs) == 1
    assert len(run.evaluations) == 1


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            "nothing --output_dir {here} --output {here}/page.html",
            "there is no run nothing",
        ),
        (
            "{here}/gone.jsonl --output {here}/page.html",
            "gone.jsonl is no run's log: give the path of a .jsonl",
        ),
        (
            "{here}/x.jsonl --output {here}/page.xyz",
            "page.xyz: give a name that ends in .html",
        ),
        ("{here}/x.jsonl --output {here}/mine.html", "--overwrite replaces it"),
    ],
    ids=["no run", "no log", "no page", "a page of somebody else"],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, flags, line):
    write(tmp_path / "x.jsonl", EPOCH)
    write(tmp_path / "mine.html", "mine")
    before = digests(tmp_path)

    assert line in refused("report", flags.format(here=tmp_path))

    assert digests(tmp_path) == before


def test_a_report_replaces_another_unasked_and_other_pages_when_asked(tmp_path):
    log = write(tmp_path / "x.jsonl", EPOCH)
    page = write(tmp_path / "mine.html", "mine")

    report(log, page=page, flags="--overwrite")
    report(log, page=page)  # now it is a report

    assert not list(tmp_path.glob(".*"))


def test_learned_thresholds_are_in_the_log_as_in_the_checkpoint(trained, tmp_path):
    flags = f"{SPIKING} --learn_threshold --epochs 2 -lr 0.01 --run_name x --output_dir {tmp_path}"

    run_here("snn", f"--pretrained_ann {trained.ann}", flags)

    weights = load_checkpoint(tmp_path / "trained_models/snn/x_last.pth")["state_dict"]
    thresholds = {}
    for name, value in weights.items():
        if "threshold" in name:
            thresholds[name.removesuffix(".threshold")] = value.item()
    first, last = records(tmp_path / "logs/snn/x.jsonl", "epoch")
    assert last["thresholds"] == thresholds
    assert first["thresholds"] != thresholds


def test_spikes_over_time_do_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    model = InputBlockingSNN(
        plan=PLAN, fc_width=8, timesteps=4, update="immediate", default_threshold=0.2, epsilon=0.3
    ).eval()
    digits = load_data("MNIST", limit_test=7)[2]

    spikes_in_parts, *shares_in_parts = spikes_over_time(model, digits.batches(3), 0)
    spikes, *shares = spikes_over_time(model, digits.batches(7), 0)

    for layer, by_step in spikes.items():
        assert spikes_in_parts[layer] == pytest.approx(by_step)
    for in_parts, share in zip(shares_in_parts, shares, strict=True):
        assert in_parts == pytest.approx(share)
    open_share = shares[0]
    assert open_share[0] == 1
    assert open_share[-1] < 1
    evaluated = evaluate_parts(model, digits.batches(7), seed=0)
    totals = {layer: sum(by_step) for layer, by_step in spikes.items()}
    assert totals == pytest.approx(evaluated["spikes"])


NO_SPIKES = {"input": 0.0, "features.1": 0.0, "generate.1": 0.0, "classifier.1": 0.0}
SPIKES = {"input": 1611.6, "encoder": 722.4, "decoder": 550.2, "classifier": 37.5, "total": 2922.2}
MEANS = {"classification": 0.12345, "reconstruction": 1234.5, "total": 24.816, "accuracy": 0.9712}
RESULT = {
    "images": 1234,
    "accuracy": 0.971,
    "seconds": 61.26,
    "images_per_second": 10.0,
    "confusion": [[1000, 20], [14, 200]],
}
SPIKING_RESULT = {
    **RESULT,
    "error": 26.284,
    "parts": {"input": 1234.5, "decoder": 0.0, "classifier": 7.0},
    # The last hidden layer of the classifier is silent; no layer of the decoder spikes.
    "spikes": {"input": 1234.5, "classifier.1": 7.0, "classifier.4": 0.0},
    "mean_steps": 8,
    "interval": 5,
    "energy_joules": 2.5e-5,
    "energy_event_joules": 8.123e-7,
}
SWEPT = {
    "epsilon": 0.25,
    "accuracy": 0.9712,
    "spikes": SPIKES,
    "reconstruction_error": 26.284,
    "open_share": [0.1234],
    "operations": {
        "effective_acs": 1234567.8,
        "effective_macs": 7654.3,
        "dense": 98765432.1,
        "event_acs": 4321.2,
        "activation_sparsity": 0.98765,
    },
    "energy_joules": 1.2345e-6,
    "energy_event_joules": 0.6789e-6,
}
SILENT_DECODER = {"spikes_per_layer": {"input": 1.0, "features.1": 0.0, "classifier.1": 2.0}}


@pytest.fixture
def check_lines(file_regression):
    """Return a function that compares lines with those of the test's file.

    The file shows which figure stands where, and in which unit.
    """

    def check(lines):
        text = "".join(f"{line.rstrip()}\n" for line in lines)
        file_regression.check(text, encoding="utf-8")

    return check


def test_lines_of_training(check_lines):
    numbers = (0.000123456, 12.3456, 999.96, 1000, 1234567.8, -4321, -0.5)
    lines = [
        log_lines.running({"spikes": 4123.2, "accuracy": 0.971, "total": 0.123, "error": 3.0}),
        " ".join(tables.figure(number) for number in numbers),
    ]
    train = MEANS | {"total": 7.0}
    held_out = MEANS | {"parts": {"total": 4123.4}}
    best = {"epoch": 3, "accuracy": 0.971}
    for selected_on, evaluated, best_accuracy in (
        ("held-out", held_out, 0.985),
        ("test", MEANS, 0),
        ("last epoch", None, 0),
    ):
        lines.append(
            log_lines.epoch_line(2, 5, train, 3.21, selected_on, evaluated, best_accuracy)
        )
        lines.append(log_lines.best_line(best, selected_on))

    check_lines(lines)


@pytest.mark.parametrize(
    ("hidden_spikes", "warns"),
    [((0.0,), True), ((3.0, 0.0), True), ((3.0, 2.0, 0.0), True), ((3.0, 0.0, 2.0), False)],
)
def test_only_a_silent_last_hidden_layer_is_warned_of(hidden_spikes, warns):
    spikes = {"input": 0.0, "features.1": 0.0}
    for number, count in enumerate(hidden_spikes):
        spikes[f"classifier.{number}"] = count

    lines = list(log_lines.silent_outputs({"spikes": spikes}))

    assert bool(lines) == warns


def test_lines_of_an_evaluation(check_lines):
    check_lines(
        [
            *log_lines.result_lines(RESULT),
            *log_lines.class_lines(RESULT["confusion"], ["cat", "elk"]),
            *log_lines.result_lines(SPIKING_RESULT),
            *log_lines.silent_outputs(SPIKING_RESULT),
        ]
    )


def test_of_many_classes_those_of_the_lowest_accuracy_have_a_line(check_lines):
    # 10 images of each of 21 classes are right, except that of class 3 32 are wrong, of
    # class 7 all; there is no image of class 8.
    matrix = np.diag([10] * 21).tolist()
    matrix[3][4] = 30
    matrix[3][5] = 2
    matrix[7][7] = 0
    matrix[7][0] = 6
    matrix[8][8] = 0

    accuracies = log_lines.accuracy_by_class(matrix)
    assert accuracies[3] == pytest.approx(10 / 42)
    assert accuracies[8] is None
    names = [f"c{number}" for number in range(21)]
    check_lines(log_lines.class_lines(matrix, names, ", epsilon 0.1"))


def test_tables_of_a_sweep(check_lines):
    whole = SWEPT | {"open_share": None}
    without_error = whole | {"reconstruction_error": None}
    lines = tables.blocking_table([SWEPT, whole, without_error])
    lines += tables.details_table([SWEPT])

    # A decoder may spike, be silent, or be missing.
    baseline = SWEPT | SILENT_DECODER | {"accuracy": 0.5, "open_share": None}
    lines += tables.blocking_table([SWEPT | {"spikes_per_layer": NO_SPIKES}], baseline)
    lines += tables.blocking_table([SWEPT | SILENT_DECODER])

    check_lines(lines)


def test_lines_of_difficulty(check_lines):
    wrong = {"spikes": 0.25, "spikes_per_ink": -0.5}
    small_margin = {"spikes": None, "spikes_per_ink": 1.0}

    check_lines(tables.difficulty_lines(0.2, {"wrong": wrong, "small margin": small_margin}))


def test_table_of_rules(check_lines):
    common = {
        "accuracy": 0.9876,
        "timesteps": 50,
        "median_steps": 3.0,
        "p95_steps": 11.0,
        "spikes": {"total": 2345.6},
        "rank_correlation": 0.4321,
        "rank_correlation_per_ink": -0.125,
    }
    always = common | {"images_per_second": 20.0, "mean_steps": 50.0, "bounds": {}}
    both = common | {"images_per_second": 100.0, "mean_steps": 4.0}
    both["bounds"] = {"open_bound": 0.05, "gap_bound": 1.0}
    quick = common | {"images_per_second": 100.0, "mean_steps": 7.0, "bounds": {"gap_bound": 2.0}}
    slow = common | {"images_per_second": 10.0, "mean_steps": 35.0, "bounds": {"gap_bound": 4.0}}

    # Beside each record stands a result, which the table does not look at.
    check_lines(
        tables.adaptive_table(
            {
                "all timesteps": [(always, None)],
                "both": [(both, None)],
                "confidence": [(quick, None), (slow, None)],
            }
        )
    )


def test_table_of_dimmed_images(check_lines):
    rows = [
        {"dimming": "none", "plain": 0.9912, "contrast": 0.9876},
        {"dimming": "top half", "plain": 0.5, "contrast": 0.75},
    ]
    summary = {"dimmed_plain": 0.5123, "dimmed_contrast": 0.7512}

    check_lines(
        [
            *tables.contrast_table(rows, summary | {"regained": 0.754}),
            *tables.contrast_table(rows, summary | {"regained": None}),
        ]
    )


def test_records_for_programs(tmp_path, monkeypatch, data_regression):
    monkeypatch.setattr(sys, "argv", ["/x/ann_wFeedback.py", "--seed", "3"])
    settings = {"vgg_name": "VGG5", "dataset": "MNIST", "timesteps": 8}
    ann = SimpleNamespace(settings=settings, has_feedback=False, classes=["0", "1"])
    snn = SimpleNamespace(
        settings=settings | {"epsilon": 0.2},
        has_feedback=True,
        objective="blocking",
        runs_by="event",
        classes=[],
    )
    result_of_snn = {
        **RESULT,
        "parts": SPIKES,
        "spikes": {"input": 1611.6},
        "mean_steps": 4.5,
        "median_steps": 4.0,
        "p95_steps": 8.0,
        "open_share": [1.0, 0.5],
        "operations": {"dense": 1.0},
        "energy_joules": 2e-6,
        "energy_event_joules": 1e-6,
        "error": 26.0,
        "comparisons": 99.0,
        "per_image": {},
    }
    args = SimpleNamespace(seed=0, selected_on="held-out")

    tables.save_results_json(
        tmp_path / "x.json",
        [
            log_lines.evaluation_record(ann, RESULT, SimpleNamespace(seed=3)),
            log_lines.evaluation_record(snn, result_of_snn, args, rule="confidence"),
        ],
    )

    saved = json.loads((tmp_path / "x.json").read_text())
    dates = {record.pop("date") for record in saved}
    assert len(dates) == 1
    data_regression.check({"records": saved})
