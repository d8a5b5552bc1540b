"""Lines and records for a reader: which figure stands where, in which unit."""

import json
import sys
from datetime import date
from textwrap import dedent
from types import SimpleNamespace

import pytest

from harness.measuring import report
from harness.measuring.classes import accuracy_by_class, worst_pairs

MEANS = {"classification": 0.12345, "reconstruction": 1234.5, "total": 24.816, "accuracy": 0.9712}
SAID = "classification 0.1235 | reconstruction 1,234 | total 24.82, accuracy 97.12 %"


def assert_reads(lines, text):
    """These lines are those of a text, its indentation and spaces at the ends of lines aside."""
    assert dedent("\n".join(map(str.rstrip, lines))) == dedent(text).strip("\n ")


def test_figures_in_words():
    """Four digits, with commas from thousands on; of means those that there are; no tensors in a record."""
    found = [report.figure(value) for value in (0.000123456, 12.3456, 999.96, 1000, 1234567.8, -4321, -0.5)]
    assert found == ["0.0001235", "12.35", "1000", "1,000", "1,234,568", "-4,321", "-0.5"]
    means = {"spikes": 4123.2, "accuracy": 0.971, "total": 0.123}
    assert report.running(means) == "accuracy 97.10 % | total 0.123 | spikes 4,123"
    assert "error" not in report.running(MEANS | {"error": 3.0}) and report.losses_text(MEANS | {"spikes": 7.0}) == SAID


@pytest.mark.parametrize(
    ("on", "judged", "best", "said"),
    [
        ("held-out", MEANS | {"parts": {"total": 4123.4}}, 0.985, f"held out {SAID} (best 98.50 %), 4,123 spikes per image; "),
        ("test", MEANS, 0.0, f"test (which chooses) {SAID} (best 0.00 %); "),
        ("last epoch", None, 0.0, ""),
    ],
)
def test_an_epochs_line(on, judged, best, said):
    line = report.epoch_line(2, 5, MEANS | {"total": 7.0}, 3.21, on, judged, best)
    assert line == f"epoch 2/5: train {SAID.replace('24.82', '7')}; {said}3.2 s"


def test_the_best_epochs_line_says_what_chose_it():
    best = {"epoch": 3, "accuracy": 0.971}
    assert report.best_line(best, "last epoch") == "last: epoch 3, nothing was chosen"
    assert report.best_line(best, "held-out") == "best: epoch 3, held-out accuracy 97.10 %"
    assert report.best_line(best, "test") == "best: epoch 3, test accuracy 97.10 %, chosen on the test images"


def test_an_evaluations_lines():
    result, lines = {"accuracy": 0.971, "images": 1234, "seconds": 61.26}, []
    result |= {"confusion": [[1000, 20], [14, 200]]}
    report.report_evaluation(result, ["cat", "elk"], lines.append)
    layers = {"input": 1234.5, "classifier.1": 7.0, "classifier.4": 0.0}  # the last hidden layer of the classifier is silent
    more = {"error": 26.284, "parts": {"input": 1234.5, "decoder": 0.25}, "spikes": layers}
    report.report_evaluation(result | more, ["cat", "elk"], lines.append)
    by_class = [
        "accuracy by class: cat 98.0 %, elk 93.5 %",
        "images by class (rows) and by what they were read as (columns):",
        "       cat  elk",
        "cat  1,000   20",
        "elk     14  200",
    ]
    first, second = ["accuracy 97.10 % on 1,234 images, 61.3 s"], lines[6:]
    assert lines[:6] == first + by_class and second[0] == first[0] and second[-5:] == by_class
    assert second[1] == "squared error of the last prediction, summed over an image: 26.28"
    assert second[2] == "spikes per image: input 1,234, decoder 0.25"
    assert second[3].startswith("warning: the classifier's last hidden layer sent no spike on any image, so all outputs are 0")


def test_of_many_classes_the_worst_are_said():
    names = [f"c{number}" for number in range(21)]
    matrix = [[10 * (found == label) for found in range(21)] for label in range(21)]
    matrix[3][4], matrix[3][5], matrix[7][7], matrix[8] = 30, 2, 0, [0] * 21
    matrix[7][0] = 6
    assert accuracy_by_class(matrix)[3] == pytest.approx(10 / 42) and accuracy_by_class(matrix)[8] is None
    assert worst_pairs(matrix) == [(3, 4, 30, 30 / 42), (7, 0, 6, 1.0), (3, 5, 2, 2 / 42)]
    lowest, wrong = report.class_lines(matrix, names)
    assert lowest.startswith("accuracy by class, the lowest of 21: c7 0.0 %, c3 23.8 %, c0 100.0 %, ")
    assert wrong == "read wrong most often, images: c3 as c4 30, c7 as c0 6, c3 as c5 2"
    lowest, wrong = report.class_lines(matrix, names, ", epsilon 0.1")
    assert lowest.startswith("accuracy by class, epsilon 0.1, the") and wrong.startswith("read wrong most often, epsilon 0.1, i")


SPIKES = {"input": 1611.6, "encoder": 722.4, "decoder": 550.2, "classifier": 37.5, "total": 2922.2}


def test_the_table_of_blocking():
    record = {"epsilon": 0.25, "accuracy": 0.9712, "spikes": SPIKES, "reconstruction_error": 26.284, "open_share": [0.1234]}
    whole = record | {"open_share": None}
    assert_reads(report.blocking_table([record, whole, whole | {"reconstruction_error": None}]), """
        epsilon  accuracy  input  encoder  decoder  classifier  total  error  open at the end
        0.25      97.12 %  1,612      722      550          38  2,922  26.28           12.3 %
        0.25      97.12 %  1,612      722      550          38  2,922  26.28
        0.25      97.12 %  1,612      722      550          38  2,922
    """)  # fmt: skip


def test_the_table_of_operations_is_in_microjoules():
    operations = {"effective_acs": 1234567.8, "effective_macs": 7654.3, "dense": 98765432.1, "event_acs": 4321.2}
    record = {"epsilon": 0.2, "operations": operations | {"activation_sparsity": 0.98765}}
    head, row = report.operations_table([record | {"energy_joules": 1.2345e-6, "energy_event_joules": 0.6789e-6}])
    assert head.split("  ")[1:3] == ["effective ACs", "effective MACs"] and head.endswith("event-driven (estimates)")
    assert row.replace(" µJ", "µJ").split() == [
        "0.2", "1,234,568", "7,654", "98,765,432", "4,321", "0.9877", "1.234µJ", "0.679µJ"
    ]  # fmt: skip


def test_lines_of_difficulty():
    wrong, margin = {"spikes": 0.25, "spikes_per_ink": -0.5}, {"spikes": -0.12345, "spikes_per_ink": 1.0}
    assert_reads(report.difficulty_lines(0.2, {"wrong": wrong, "small margin": margin}), """
        Spearman's rank correlation with difficulty (epsilon 0.2): spikes per image; spikes per total intensity
          wrong: +0.250; -0.500
          small margin: -0.123; +1.000
    """)  # fmt: skip
    last = list(report.difficulty_lines(0.2, {"wrong": wrong | {"spikes": None}}))[-2:]
    assert last[0] == "  wrong: -; -0.500" and last[1].startswith("-: no correlation, since one of the two")


def test_the_table_of_rules():
    """Images per second are compared with those of all steps."""

    def record(images_per_second, steps, **bounds):
        figures = {"accuracy": 0.9876, "median_steps": 3.0, "p95_steps": 11.0, "spikes": {"total": 2345.6}}
        figures |= {"rank_correlation": 0.4321, "rank_correlation_per_ink": -0.125, "timesteps": 50, "mean_steps": steps}
        return figures | {"images_per_second": images_per_second, "bounds": bounds}, None

    series = {
        "all steps": [record(20.0, 50.0)],
        "both": [record(100.0, 4.0, open_bound=0.05, gap_bound=1.0)],
        "confidence": [record(100.0, 7.0, gap_bound=2.0), record(10.0, 35.0, gap_bound=4.0)],
    }
    *rows, legend = report.adaptive_table(series)
    assert all(f"{column}:" in legend for column in ("95 %", "rho", "per intensity", "faster"))
    assert_reads(rows, """
    rule                               accuracy  mean steps  median  95 %  spikes     rho  per intensity  images/s  faster
    all steps                           98.76 %       50.00       3    11   2,346  +0.432         -0.125      20.0    1.00
    both open_bound 0.05, gap_bound 1   98.76 %        4.00       3    11   2,346  +0.432         -0.125     100.0    5.00
    confidence gap_bound 2              98.76 %        7.00       3    11   2,346  +0.432         -0.125     100.0    5.00
    confidence gap_bound 4              98.76 %       35.00       3    11   2,346  +0.432         -0.125      10.0    0.50
    """)  # fmt: skip


def test_the_table_of_contrast():
    rows = [{"dimming": "none", "plain": 0.9912, "contrast": 0.9876}, {"dimming": "top half", "plain": 0.5, "contrast": 0.75}]
    summary = {"dimmed_plain": 0.5123, "dimmed_contrast": 0.7512, "regained": 0.754}
    assert_reads(report.contrast_table(rows, summary), """
        images      plain  contrast
        none      99.12 %   98.76 %
        top half  50.00 %   75.00 %
        mean of dimmed: plain 51.23 %, contrast 75.12 %
        contrast wins back 75 % of the accuracy that dimming costs
    """)  # fmt: skip
    assert len(list(report.contrast_table(rows, summary | {"regained": None}))) == 4


# --- records

RESULT = {
    "images": 20,
    "accuracy": 0.9,
    "seconds": 2.0,
    "images_per_second": 10.0,
    "per_image": {},
    "confusion": [[9, 1], [1, 9]],
}


def test_the_record_of_an_ann(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/ann_wFeedback.py", "--seed", "3"])
    model = SimpleNamespace(
        settings={"vgg_name": "VGG5", "dataset": "MNIST", "timesteps": 1}, has_feedback=False, classes=["0", "1"]
    )
    assert report.evaluation_record(model, RESULT, SimpleNamespace(seed=3)) == {
        "event": "evaluation", "model": "VGG5", "feedback": False, "dataset": "MNIST", "images": 20, "timesteps": 1,
        "epsilon": 0.0, "objective": "none", "engine": "dense", "accuracy": 0.9, "mean_steps": None, "reconstruction_error": None,
        "seconds": 2.0, "images_per_second": 10.0, "seed": 3, "command": "ann_wFeedback.py --seed 3",
        "classes": ["0", "1"], "accuracy_by_class": [0.9, 0.9], "confusion": [[9, 1], [1, 9]],
        "class": "SimpleNamespace", "date": date.today().isoformat(),
    }  # fmt: skip


def test_the_record_of_an_snn():
    settings = {"vgg_name": "VGG5", "dataset": "MNIST", "timesteps": 8, "epsilon": 0.2}
    of_run = {"objective": "blocking", "engine": SimpleNamespace(name="event"), "classes": ["0", "1"]}
    model = SimpleNamespace(settings=settings, has_feedback=True, **of_run)
    spikes = {"parts": SPIKES, "spikes": {"input": 1611.6}, "mean_steps": 4.5, "median_steps": 4.0, "p95_steps": 8.0}
    further = {"open_share": [1.0, 0.5], "operations": {"dense": 1.0}, "energy_joules": 2e-6, "energy_event_joules": 1e-6}
    result = RESULT | spikes | further | {"error": 26.0, "comparisons": 99.0}
    record = report.evaluation_record(model, result, SimpleNamespace(seed=0, selected_on="held-out"), rule="confidence")
    expected = {
        "feedback": True, "timesteps": 8, "epsilon": 0.2, "objective": "blocking", "engine": "event", "mean_steps": 4.5,
        "reconstruction_error": 26.0, "spikes": SPIKES, "spikes_per_layer": {"input": 1611.6}, "median_steps": 4.0,
        "p95_steps": 8.0, "comparisons": 99.0, "selected_on": "held-out", "rule": "confidence", **further,
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected and "per_image" not in record


def test_the_records_of_a_file(tmp_path):
    records = [{"epsilon": 0.1}, {"epsilon": 0.2}]
    report.save_results_json(tmp_path / "x.json", records)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == records and len(text.splitlines()) == 8  # a figure a line
