"""Lines and records for a reader: which figure stands where, in which unit."""

import json
import re
import sys
from datetime import date
from types import SimpleNamespace

import pytest

from harness.measuring.report import (
    adaptive_table,
    best_line,
    blocking_table,
    contrast_table,
    difficulty_lines,
    epoch_line,
    evaluation_record,
    figure,
    losses_text,
    numbers_only,
    operations_table,
    report_evaluation,
    running,
    save_results_json,
)

MEANS = {"classification": 0.12345, "reconstruction": 1234.5, "total": 24.816, "accuracy": 0.9712}
NAMED = {"classification": "0.1235", "reconstruction": "1,234", "total": "24.82", "accuracy": "97.12"}


def named(text):
    """name -> the number behind it."""
    return dict(re.findall(r"([a-z]+) ([\d.,]*\d)", text))


def row(header, line, right):
    """column -> cell; the columns whose names are in right end where their names end."""
    names, cells = (list(re.finditer(r"\S+(?: \S+)*", text)) for text in (header, line))
    for name, cell in zip(names, cells, strict=False):
        assert name.group() not in right or name.end() == cell.end(), name
    return {name.group(): cell.group() for name, cell in zip(names, cells, strict=False)}


def test_four_digits_and_commas():
    found = [figure(value) for value in (0.000123456, 12.3456, 999.96, 1000, 1234567.8, -4321, -0.5)]
    assert found == ["0.0001235", "12.35", "1000", "1,000", "1,234,568", "-4,321", "-0.5"]


def test_running_means():
    assert running({"spikes": 4123.2, "accuracy": 0.971, "total": 0.123}) == "accuracy 97.10 % | total 0.123 | spikes 4,123"
    assert named(running(MEANS | {"spikes": 7.0, "error": 3.0})) == NAMED | {"spikes": "7"}


def test_numbers_only_leaves_out_the_images():
    assert numbers_only({"accuracy": 0.5, "per_image": {}, "images": 3}) == {"accuracy": 0.5, "images": 3}


def test_losses_in_words():
    assert named(losses_text(MEANS)) == NAMED and losses_text(MEANS).endswith(" %")


@pytest.mark.parametrize(("on", "words"), [("held-out", "held out"), ("test", "test (which chooses)")])
def test_an_epochs_line(on, words):
    learned, judged = MEANS | {"total": 7.0}, MEANS | {"parts": {"total": 4123.4, "input": 99.0}}
    train, evaluated, seconds = epoch_line(2, 5, learned, 3.21, on, judged, best=0.985).split("; ")
    assert train.startswith("epoch 2/5: train ") and named(train) == NAMED | {"epoch": "2", "total": "7"}
    assert named(evaluated) == NAMED | {"best": "98.50"}
    assert evaluated.startswith(f"{words} classification") and evaluated.endswith("(best 98.50 %), 4,123 spikes per image")
    assert seconds == "3.2 s"


def test_an_epochs_line_without_judge_or_spikes():
    assert epoch_line(1, 3, MEANS, 61.0, "last epoch").count("; ") == 1
    _, evaluated, _ = epoch_line(1, 3, MEANS, 61.0, "test", MEANS).split("; ")
    assert evaluated.endswith("(best 0.00 %)")


@pytest.mark.parametrize(
    ("on", "line"),
    [
        ("last epoch", "last: epoch 3, nothing was chosen"),
        ("held-out", "best: epoch 3, held-out accuracy 97.10 %"),
        ("test", "best: epoch 3, test accuracy 97.10 %, chosen on the test images"),
    ],
)
def test_the_best_epochs_line_says_what_chose_it(on, line):
    assert best_line({"epoch": 3, "accuracy": 0.971}, on) == line


def test_an_evaluations_lines():
    result, lines = {"accuracy": 0.971, "images": 1234, "seconds": 61.26}, []
    report_evaluation(result, lines.append)
    assert lines == ["accuracy 97.10 % on 1,234 images, 61.3 s"]
    lines.clear()
    report_evaluation(result | {"error": 26.284, "parts": {"input": 1234.5, "decoder": 0.25}}, lines.append)
    assert lines[1].endswith(": 26.28") and lines[2] == "spikes per image: input 1,234, decoder 0.25" and len(lines) == 3


SPIKES = {"input": 1611.6, "encoder": 722.4, "decoder": 550.2, "classifier": 37.5, "total": 2922.2}
RIGHT = ("epsilon", "encoder", "decoder", "classifier", "total")


def test_the_table_of_blocking():
    record = {
        "epsilon": 0.25,
        "accuracy": 0.9712,
        "spikes": SPIKES,
        "reconstruction_error": 26.284,
        "open_share": [1.0, 0.5, 0.1234],
    }
    header, first, second, third = blocking_table(
        [record, record | {"open_share": None}, record | {"reconstruction_error": None, "open_share": None}]
    )
    spikes = {"input": "1,612", "encoder": "722", "decoder": "550", "classifier": "38", "total": "2,922"}
    expected = {"epsilon": "0.25", "accuracy": "97.12 %", **spikes}
    assert row(header, first, RIGHT) == expected | {"error": "26.28", "open at the end": "12.3 %"}
    assert row(header, second, RIGHT) == expected | {"error": "26.28"}
    assert row(header, third, RIGHT) == expected and third.endswith("2,922  ")


def test_the_table_of_operations_is_in_microjoules():
    operations = {"effective_acs": 1234567.8, "effective_macs": 7654.3, "dense": 98765432.1, "event_acs": 4321.2}
    record = {"epsilon": 0.2, "operations": operations | {"activation_sparsity": 0.98765}}
    header, line = operations_table([record | {"energy_joules": 1.2345e-6, "energy_event_joules": 0.6789e-6}])
    right = ("epsilon", "effective ACs", "effective MACs", "dense", "event-driven ACs", "activation sparsity")
    assert row(header, line, (*right, "energy: layer by layer")) == {
        "epsilon": "0.2",
        "effective ACs": "1,234,568",
        "effective MACs": "7,654",
        "dense": "98,765,432",
        "event-driven ACs": "4,321",
        "activation sparsity": "0.9877",
        "energy: layer by layer": "1.234 uJ",
        "event-driven (estimates)": "0.679 uJ",
    }


def test_lines_of_difficulty():
    header, wrong, margin = difficulty_lines(
        0.2,
        {
            "wrong": {"spikes": 0.25, "spikes_per_ink": -0.5},
            "small margin": {"spikes": -0.12345, "spikes_per_ink": 1.0},
        },
    )
    assert "epsilon 0.2" in header and header.endswith(": spikes per image; spikes per unit of ink")
    assert (wrong, margin) == ("  wrong: +0.250; -0.500", "  small margin: -0.123; +1.000")


def test_the_table_of_rules():
    """Images per second are compared with those of all steps of the same network, which goes by its prefix."""

    def record(images_per_second, steps, **bounds):
        figures = {"accuracy": 0.9876, "median_steps": 3.0, "p95_steps": 11.0, "spikes": {"total": 2345.6}}
        figures |= {"rank_correlation": 0.4321, "rank_correlation_per_ink": -0.125, "timesteps": 50, "mean_steps": steps}
        return figures | {"images_per_second": images_per_second, "bounds": bounds}, None

    series = {
        "all steps": [record(20.0, 50.0)],
        "both": [record(100.0, 4.0, open_bound=0.05, gap_bound=1.0)],
        "twin, all steps": [record(40.0, 50.0)],
        "twin, confidence": [record(100.0, 7.0, gap_bound=2.0), record(10.0, 35.0, gap_bound=4.0)],
    }
    header, *lines = adaptive_table(series)
    right = ("mean steps", "median", "95 %", "spikes", "rho", "per ink", "images/s", "faster", "(goal)")
    found = [row(header, line, right) for line in lines]
    alike = {"accuracy": "98.76 %", "median": "3", "95 %": "11", "spikes": "2,346", "rho": "+0.432", "per ink": "-0.125"}
    expected = [
        ("all steps", "50.00", "20.0", "1.00", "(0.70)"),
        ("both open_bound 0.05, gap_bound 1", "4.00", "100.0", "5.00", "(8.75)"),
        ("twin, all steps", "50.00", "40.0", "1.00", "(0.70)"),
        ("twin, confidence gap_bound 2", "7.00", "100.0", "2.50", "(5.00)"),
        ("twin, confidence gap_bound 4", "35.00", "10.0", "0.25", "(1.00)"),
    ]
    names = ("rule", "mean steps", "images/s", "faster", "(goal)")
    assert found == [alike | dict(zip(names, values, strict=True)) for values in expected]


def test_the_table_of_contrast():
    rows = [{"dimming": "none", "plain": 0.9912, "contrast": 0.9876}, {"dimming": "top half", "plain": 0.5, "contrast": 0.75}]
    summary = {"dimmed_plain": 0.5123, "dimmed_contrast": 0.7512, "regained": 0.754}
    header, clean, dimmed, mean, regained = contrast_table(rows, summary)
    assert row(header, clean, ()) == {"images": "none", "plain": "99.12 %", "contrast": "98.76 %"}
    assert row(header, dimmed, ()) == {"images": "top half", "plain": "50.00 %", "contrast": "75.00 %"}
    assert named(mean) == {"plain": "51.23", "contrast": "75.12"} and "75 %" in regained
    assert len(list(contrast_table(rows, summary | {"regained": None}))) == 4


# --- records

RESULT = {"images": 20, "accuracy": 0.9, "seconds": 2.0, "images_per_second": 10.0, "per_image": {}}


def test_the_record_of_an_ann(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/ann_wFeedback.py", "--seed", "3"])
    model = SimpleNamespace(settings={"vgg_name": "VGG5", "dataset": "MNIST", "timesteps": 1}, has_feedback=False)
    assert evaluation_record(model, RESULT, SimpleNamespace(seed=3)) == {
        "event": "evaluation", "model": "VGG5", "feedback": False, "dataset": "MNIST", "images": 20, "timesteps": 1,
        "epsilon": 0.0, "objective": "none", "engine": "dense", "accuracy": 0.9, "mean_steps": None, "reconstruction_error": None,
        "seconds": 2.0, "images_per_second": 10.0, "seed": 3, "command": "ann_wFeedback.py --seed 3",
        "date": date.today().isoformat(),
    }  # fmt: skip


def test_the_record_of_an_snn():
    settings = {"vgg_name": "VGG5", "dataset": "MNIST", "timesteps": 8, "epsilon": 0.2}
    model = SimpleNamespace(settings=settings, has_feedback=True, objective="blocking", engine=SimpleNamespace(name="event"))
    spikes = {"parts": SPIKES, "spikes": {"input": 1611.6}, "mean_steps": 4.5, "median_steps": 4.0, "p95_steps": 8.0}
    further = {"open_share": [1.0, 0.5], "operations": {"dense": 1.0}, "energy_joules": 2e-6, "energy_event_joules": 1e-6}
    result = RESULT | spikes | further | {"error": 26.0, "comparisons": 99.0}
    record = evaluation_record(model, result, SimpleNamespace(seed=0, selected_on="held-out"), rule="confidence")
    expected = {
        "feedback": True, "timesteps": 8, "epsilon": 0.2, "objective": "blocking", "engine": "event", "mean_steps": 4.5,
        "reconstruction_error": 26.0, "spikes": SPIKES, "spikes_per_layer": {"input": 1611.6}, "median_steps": 4.0,
        "p95_steps": 8.0, "comparisons": 99.0, "selected_on": "held-out", "rule": "confidence", **further,
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected and "per_image" not in record


def test_the_records_of_a_file(tmp_path):
    records = [{"epsilon": 0.1}, {"epsilon": 0.2}]
    save_results_json(tmp_path / "x.json", records)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == records and len(text.splitlines()) == 8  # a figure a line
