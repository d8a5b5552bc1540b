"""report.py: the figures and tables of its page, the page in a browser; and lines and records of evaluations for a reader."""

import base64
import io
import json
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CHROMIUM, PLAN, SNN, SPIKING, browsed, digests, records, refused, run_here
from PIL import Image

from harness.data.sets import load_data
from harness.drawing.figures import STATE_COLOURS, rows_of
from harness.drawing.film import STATES, Film, load_film, save_film
from harness.measuring import report
from harness.measuring.measures import spikes_over_time
from harness.reporting import charts, page
from harness.reporting.reading import Result, find_runs
from self_models.counting.evaluation import evaluate_parts
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

SILENT, DARK, BRIGHT, _, BLOCKED, WAITS = range(6)  # of a pixel
EPOCH = {
    "event": "epoch", "epoch": 1, "train": {"accuracy": 0.5, "total": 2.0}, "selected_on": "held-out", "thresholds": {"a.1": 1.0},
    "evaluated": {"images": 50, "accuracy": 0.6, "total": 1.5, "mean_steps": 5.0, "parts": {"input": 3.0, "total": 10.0},
                  "spikes": {"input": 3.0, "features.1": 7.0}},
}  # fmt: skip
MEASURED = {
    "event": "evaluation", "dataset": "MNIST", "images": 100, "timesteps": 5, "epsilon": 0.1, "accuracy": 0.9, "feedback": True,
    "spikes": {"input": 1.0, "encoder": 2.0, "decoder": 0.0, "classifier": 4.0, "total": 7.0}, "energy_joules": 2e-6,
    "spikes_per_layer": {"input": 1.0, "features.1": 2.0, "classifier.1": 4.0}, "energy_event_joules": 1e-6,
    "open_share": [1.0, 0.5, 0.25, 0.0, 0.0], "command": "obj1.py --epsilon 0.1", "confusion": [[50, 0], [10, 40]],
}  # fmt: skip
STEP = {"event": "step", "step": 1, "squared_error": 3.0, "blocked_share": 0.25, "epsilon": 0.1}


def opening(seed=0, **parameters):
    more = {"began": "started", "time": "2026-11-25 12:00:00", "command": "x.py --seed 1", "versions": {"torch": "2"}}
    return {"event": "run", **more, "parameters": parameters, "seed": seed, "git_revision": "abc"}


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def reported(*flags):
    """The page's data, its text, and what was printed."""
    _, said = run_here("report", *flags)
    text = flags[-1].read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]), text, said


def picture(url):
    """The pixels of a picture of the player."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))))


# --- figures and tables


def test_what_figures_and_tables_of_runs_show(tmp_path, data_regression):
    """A network with two seeds; its baseline, which takes ten times the spikes; and a run that trains and learns thresholds."""
    baseline = MEASURED | {"accuracy": 0.8, "spikes": MEASURED["spikes"] | {"total": 70.0}, "feedback": False, "epsilon": 0.0}
    baseline |= {"energy_event_joules": None, "mean_steps": 4.5, "holdout": 2000, "open_share": [1.0, 1.0]}
    baseline["spikes_per_layer"] = {"features.10": 3.0, "input": 1.0}
    later = EPOCH | {"epoch": 2, "train": {"accuracy": 0.7, "total": 1.0, "my_loss": 0.5}, "thresholds": {"a.1": 2.0, "a.2": 1.0}}
    logs = [
        write(tmp_path / "good.jsonl", opening(epsilon=0.1, run_name="a", seed=0), MEASURED, STEP, STEP | {"step": 2}),
        write(tmp_path / "good_1.jsonl", opening(1, epsilon=0.1), MEASURED | {"accuracy": 0.96}),
        write(tmp_path / "base.jsonl", opening(epsilon=0.0, run_name="b", pretrained_snn=""), baseline),
        write(tmp_path / "trains.jsonl", opening(epochs=1), EPOCH, opening(epochs=2), later),
    ]
    runs, _ = find_runs(map(str, logs), ".")
    page.page(runs)  # gives marks
    look, results = charts.look_of(runs), charts.results_of(runs)
    shown = {}
    for title, figure, *note in (
        *charts.against_cost(results, look), *charts.matrices(runs), *charts.spikes(results, look), *charts.analysed(runs, look),
        *charts.curves(runs, look),
    ):  # fmt: skip
        traces = json.loads(json.dumps([
            {"name": each.name, "shown": each.showlegend, **{name: np.asarray(each[name]).tolist() for name in ("x", "y")},
             **({"z": np.asarray(each.z).tolist()} if each.type == "heatmap" else {"marker": str(each.marker.color)})}
            for each in figure.data
        ]))  # fmt: skip
        shown[title] = {"traces": traces, "note": note, "log": figure.layout.xaxis.type == "log"}
        bars = [(each.error_y.array, each.error_y.arrayminus) for each in figure.data if "error_y" in each]
        shown[title]["bars"] = [[round(float(end), 6) for end in (*up, *down)] for up, down in bars if up is not None]
    tables = {"results": charts.results_table(results), **charts.flags_tables(runs)}
    data_regression.check({"charts": shown, "tables": {name: frame.to_csv() for name, frame in tables.items()}})


def test_a_page_holds_all_and_no_text_of_a_log_is_taken_for_html(tmp_path):
    """It needs no other file; a data set's name can open neither a comment nor a script."""
    evil = "<!--<script><i>"
    told = {"event": "ledger", "lines": ["so it is"], "tables": [[["a", evil], ["b", "7"]]]}
    lines = opening(**{evil: evil}), MEASURED | {"dataset": evil, "rule": evil}, MEASURED | {"rule": "b"}, told
    log = write(tmp_path / f"{evil}.jsonl".replace("/", ""), *lines)
    _, text, _ = reported(log, "--output", tmp_path / "page.html")
    head, *_, own, last = text.split("<script")
    assert evil not in head + last and "&lt;!--&lt;script&gt;&lt;i&gt; test images" in head and "so it is" in head
    assert text.count("x.py --seed 1   (started 2026-11-25 12:00:00; torch 2, git abc)") == 1 and own.count("Plotly") > 1
    assert len(text) < 10 * 2**20 and not re.search(r'(src|href)="(?!data:)', head)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"gate": "block", "encoding": "poisson", "class": "InputBlockingSNN"}, {}),
        ({"gate": "open", "encoding": "direct"}, {"encoding": "direct"}),
        ({"gate": "relative", "class": "Mine"}, {"gate": "relative", "class": "Mine"}),
    ],
)  # fmt: skip
def test_what_a_network_ran_with_names_what_is_not_as_usual(said, told):
    assert Result(MEASURED | said).settings == {"T": "5", "ε": "0.1", **told}
    assert Result({"accuracy": 0.5, "images": 4} | said).settings == {}  # of an ANN


def test_learned_thresholds_by_epoch(trained, tmp_path):
    """In the log as the checkpoint has them, and in the page a line for each layer; leaks are not learned."""
    flags = f"{SPIKING} --learn_threshold --epochs 2 -lr 0.01 --run_name x --output_dir {tmp_path}"
    run_here(SNN, f"--pretrained_ann {trained.ann}", flags)
    one, two = (record["thresholds"] for record in records(tmp_path / "logs/snn/x.jsonl", "epoch"))
    saved = torch.load(tmp_path / "trained_models/snn/x_last.pth", weights_only=False)["state_dict"]
    assert two == {name.removesuffix(".threshold"): value.item() for name, value in saved.items() if "threshold" in name}
    runs, _ = find_runs(["x"], tmp_path)
    shown = dict(charts.curves(runs, charts.look_of(runs)))
    assert [[*line.y] for line in shown["Thresholds"].data] == [[one[layer], two[layer]] for layer in one if one != two]
    assert "Leaks" not in shown and "Accuracy" in shown


def test_spikes_over_time_do_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    model = InputBlockingSNN(plan=PLAN, fc_width=8, timesteps=4, update="immediate", default_threshold=0.2, epsilon=0.3).eval()
    digits = load_data("MNIST", limit_test=7)[2]
    (found, *others), (whole, *same) = (spikes_over_time(model, digits.batches(size), 0) for size in (3, 7))
    assert all(found[layer] == pytest.approx(whole[layer]) for layer in whole) and same[0][-1] < same[0][0] == 1
    assert all(one == pytest.approx(other) for one, other in zip(others, same, strict=True))
    evaluated = evaluate_parts(model, digits.batches(7), seed=0)
    assert {layer: sum(steps) for layer, steps in whole.items()} == pytest.approx(evaluated["spikes"])


# --- the player of single images


@pytest.fixture(scope="module")
def played(trained, looked, tmp_path_factory):
    """(data, text) of a page of the tiny training runs and an analysis of two images."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    log = looked.folder / "logs/snn/tiny_posthoc_analysis.jsonl"
    return reported("tiny", log, "--output_dir", trained.folder, "--output", path)[:2]


def test_the_player_has_what_the_network_did(looked, played):
    logs = looked.folder / "logs/snn"
    (player,) = played[0]["players"]
    assert list(player["pictures"]) == ["input", "prediction", "input neurons"]
    assert player["key"] == [[STATE_COLOURS[state], STATES[state]] for state in range(WAITS)]
    steps = load_film(logs / "tiny_posthoc_analysis_steps.npz")
    assert (len(player["said"]), len(player["labels"])) == (5, 2) and "within ε = 0.1 of" in player["rule"]
    first, last = (picture(player["pictures"]["input neurons"][1][t]) for t in (0, 4))
    assert np.array_equal(first, rows_of(steps)["input neurons"][0, 1]) and not np.array_equal(first, last)
    for t, record in enumerate(records(logs / "tiny_posthoc_analysis.jsonl", "step")):
        active, blocked = ((steps.states[t] != SILENT).sum((1, 2)), (steps.states[t] == BLOCKED).sum((1, 2)))
        assert (blocked / active).mean() == pytest.approx(record["blocked_share"], abs=1e-6)
    assert np.allclose(np.sum(player["sure"], axis=2), 1, atol=1e-3)
    _, words = re.findall(r"spikes per image: .* total ([\d,]+)", (logs / "tiny_posthoc_analysis.log").read_text())
    assert np.sum(player["spikes"][-1]) / 2 == pytest.approx(float(words.replace(",", "")), abs=1)


def test_large_images_leave_the_page_small(tmp_path):
    """Of 224 x 224 every third pixel is shown."""
    large = Film(
        images=np.zeros((2, 224, 224, 3), np.uint8), predictions=np.zeros((4, 2, 224, 224, 3), np.uint8),
        states=np.zeros((4, 2, 224, 224), np.uint8), spikes=np.zeros((4, 2, 1), int), layers=np.array(["input"]),
        names=np.array(["a", "b"]), epsilon=0.1,
        outputs=np.zeros((4, 2, 2)), titles=np.array(["x", "y"]), labels=np.zeros(2, int), index=np.arange(2),
        stopped=np.full(2, 4), blocked=np.zeros((4, 2)), errors=np.zeros((4, 2)),
    )  # fmt: skip
    large.states[1:, :, 3, 6:9] = BLOCKED
    large.predictions[1, 1, 3, 6] = 7
    save_film(tmp_path / "large_steps.npz", large)
    data, text, _ = reported(write(tmp_path / "large.jsonl", EPOCH), "--output", tmp_path / "page.html")
    (player,) = data["players"]
    states, prediction = picture(player["pictures"]["input neurons"][0][1]), picture(player["pictures"]["prediction"][1][1])
    assert states.shape == (75, 75, 3) and np.argwhere((states != states[0, 0]).any(2)).tolist() == [[1, 2]]
    assert prediction[1, 2].tolist() == [7] * 3 and len(text) < 10 * 2**20


HOOK = """
window.onload = () => {
  const shown = () => [document.getElementById("now").textContent, document.getElementById("said").textContent,
                       document.getElementById("pictures").lastChild.lastChild.src];
  const slider = document.getElementById("step"), seen = [shown()];
  slider.value = slider.max;
  slider.dispatchEvent(new Event("input"));
  seen.push(shown());
  document.querySelectorAll("#images button")[1].click();
  seen.push(shown());
  found({seen, plots: document.querySelectorAll(".chart .main-svg").length});
};"""


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium: apt-get install chromium")
def test_the_page_in_a_browser(played, tmp_path):
    data, text = played
    found = browsed(text, tmp_path, HOOK)
    first, last, other = found["seen"]
    assert first[0].startswith("timestep 1 of 5") and last[0] == "timestep 5 of 5" and other[0] == last[0]
    assert len({first[2], last[2], other[2]}) == 3  # the neurons' picture follows step and image
    spikes = data["players"][0]["spikes"]
    for said, of in ((first, spikes[0][0]), (last, spikes[4][0]), (other, spikes[4][1])):
        assert f"{sum(of):,} spikes" in said[1]
    assert found["plots"] >= len(data["charts"]) > 5


# --- bad input


def test_odd_lines_and_damaged_steps_are_left_out_and_told(looked, tmp_path):
    """Beside sound logs one without a line, too."""
    for odd, words in (
        ('{"event": "epoch", "epo', "is no whole JSON object with an event"), ("[1, 2]", "is no whole"),
        ("9" * 5000, "is no whole"),        ("[" * 3000, "is no whole"), ('{"event": "epoch"}', "has no epoch"),
        (opening() | {"parameters": []}, "has no parameters"),
        (MEASURED | {"accuracy": None}, "has no accuracy"), (STEP | {"step": "1"}, "has no step"),
    ):  # fmt: skip
        (run,), _ = find_runs([str(write(tmp_path / "x.jsonl", EPOCH, "", odd, {"event": "difficulty"}, odd, MEASURED))], ".")
        assert run.faults == [f"left out 2 of its lines; the first: line 3 {run.faults[0].split('line 3 ')[1]}"]
        assert words in run.faults[0] and len(run.epochs) == len(run.evaluations) == 1
    _, text, said = reported(write(tmp_path / "empty.jsonl"), tmp_path / "x.jsonl", "--output", tmp_path / "page.html")
    assert f"left out: {tmp_path}/empty.jsonl is no run's log: it is empty" in said and "left out 2 of its lines" in text
    assert f"{tmp_path / 'x.jsonl'}, left out 2 of its lines; the first: line 3 has no step" in said
    whole = (looked.folder / "logs/snn/tiny_posthoc_analysis_steps.npz").read_bytes()
    log = shutil.copy(looked.folder / "logs/snn/tiny_posthoc_analysis.jsonl", tmp_path / "looked.jsonl")
    for damaged in (b"", whole[: len(whole) // 2], b"PK" + whole[2:200], whole[:300] + b"x" + whole[301:]):
        (tmp_path / "looked_steps.npz").write_bytes(damaged)
        (run,), _ = find_runs([str(log)], ".")
        assert run.film is None and "looked_steps.npz is damaged and left out" in run.faults[0]


def test_lines_on_bad_input(tmp_path, trained, monkeypatch):
    shown, log = tmp_path / "page.html", write(tmp_path / "x.jsonl", EPOCH)
    mine, folder = write(tmp_path / "mine.html", "mine"), tmp_path / "folder.html"
    folder.mkdir()
    before = digests(tmp_path)
    for words, line in (
        (f"nothing --output_dir {tmp_path}", "there is no run nothing"),
        (f"{tmp_path}/gone.jsonl", "gone.jsonl is no run's log: give the path of a .jsonl"),
        (trained.folder / "logs/snn/tiny.log", "give the path of a .jsonl that is there"),
        (write(tmp_path / "list.jsonl", "[", "]"), "is no run's log: line 1 is no whole JSON object"),
        (write(tmp_path / "begun.jsonl", opening()), "has nothing to show yet"),
        (f"{log} --output {tmp_path}/no/page.html", "cannot write"),
        (f"{log} --output {tmp_path}/page.xyz", "page.xyz: a report is a page: give a name that ends in .html"),
        (f"{log} --output {folder}", "exists and is no report"),
        (f"{log} --output {mine}", "--overwrite replaces it"),
        ("", "RUN"),
    ):
        assert line in refused("report", words, *([] if "--output " in str(words) else ["--output", shown])), words
    assert digests(tmp_path).items() >= before.items() and not shown.exists()
    for flags in ("--overwrite --output", "--output"):  # now it is a report
        reported(log, flags, mine)
    assert not list(tmp_path.glob(".*"))
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    assert "a page needs pandas and plotly: pip install" in refused("report", log, "--output", shown)


# --- lines and records of evaluations


SPIKES = {"input": 1611.6, "encoder": 722.4, "decoder": 550.2, "classifier": 37.5, "total": 2922.2}
MEANS = {"classification": 0.12345, "reconstruction": 1234.5, "total": 24.816, "accuracy": 0.9712}
RESULT = {"images": 1234, "accuracy": 0.971, "seconds": 61.26, "images_per_second": 10.0, "confusion": [[1000, 20], [14, 200]]}


def test_lines_for_a_reader(file_regression):
    """Which figure stands where, in which unit: of epochs and evaluations, and tables of all scripts."""
    said = [report.running({"spikes": 4123.2, "accuracy": 0.971, "total": 0.123, "error": 3.0})]
    said.append(" ".join(map(report.figure, (0.000123456, 12.3456, 999.96, 1000, 1234567.8, -4321, -0.5))))
    for on, judged, best in (
        ("held-out", MEANS | {"parts": {"total": 4123.4}}, 0.985),
        ("test", MEANS, 0),
        ("last epoch", None, 0),
    ):
        said.append(report.epoch_line(2, 5, MEANS | {"total": 7.0}, 3.21, on, judged, best))
        said.append(report.best_line({"epoch": 3, "accuracy": 0.971}, on))
    said += [*report.result_lines(RESULT), *report.class_lines(RESULT["confusion"], ["cat", "elk"])]
    layers = {"input": 1234.5, "classifier.1": 7.0, "classifier.4": 0.0}  # the last hidden layer of the classifier is silent
    more = {"error": 26.284, "parts": {"input": 1234.5, "decoder": 0.25}, "spikes": layers, "mean_steps": 8, "interval": 5}
    more |= {"energy_joules": 2.5e-5, "energy_event_joules": 8.123e-7}
    said += [*report.result_lines(RESULT | more), *report.silent_outputs(RESULT | more)]
    matrix = [[10 * (found == label) for found in range(21)] for label in range(21)]
    matrix[3][4], matrix[3][5], matrix[7][7], matrix[7][0], matrix[8] = 30, 2, 0, 6, [0] * 21
    assert report.accuracy_by_class(matrix)[3] == pytest.approx(10 / 42) and report.accuracy_by_class(matrix)[8] is None
    assert report.worst_pairs(matrix) == [(30, 3, 4), (6, 7, 0), (2, 3, 5)]
    said += report.class_lines(matrix, [f"c{number}" for number in range(21)], ", epsilon 0.1")
    operations = {"effective_acs": 1234567.8, "effective_macs": 7654.3, "dense": 98765432.1, "event_acs": 4321.2}
    record = {"epsilon": 0.25, "accuracy": 0.9712, "spikes": SPIKES, "reconstruction_error": 26.284, "open_share": [0.1234]}
    record |= {"operations": operations | {"activation_sparsity": 0.98765}, "energy_joules": 1.2345e-6}
    record |= {"energy_event_joules": 0.6789e-6}
    whole = record | {"open_share": None}
    said += report.blocking_table([record, whole, whole | {"reconstruction_error": None}]) + report.operations_table([record])
    wrong, margin = {"spikes": 0.25, "spikes_per_ink": -0.5}, {"spikes": None, "spikes_per_ink": 1.0}
    said += report.difficulty_lines(0.2, {"wrong": wrong, "small margin": margin})

    def row(images_per_second, steps, **bounds):
        figures = {"accuracy": 0.9876, "median_steps": 3.0, "p95_steps": 11.0, "spikes": {"total": 2345.6}}
        figures |= {"rank_correlation": 0.4321, "rank_correlation_per_ink": -0.125, "timesteps": 50, "mean_steps": steps}
        return figures | {"images_per_second": images_per_second, "bounds": bounds}, None

    rules = {"all timesteps": [row(20.0, 50.0)], "both": [row(100.0, 4.0, open_bound=0.05, gap_bound=1.0)]}
    said += report.adaptive_table(rules | {"confidence": [row(100.0, 7.0, gap_bound=2.0), row(10.0, 35.0, gap_bound=4.0)]})
    rows = [{"dimming": "none", "plain": 0.9912, "contrast": 0.9876}, {"dimming": "top half", "plain": 0.5, "contrast": 0.75}]
    for regained in (0.754, None):
        said += report.contrast_table(rows, {"dimmed_plain": 0.5123, "dimmed_contrast": 0.7512, "regained": regained})
    file_regression.check("\n".join(map(str.rstrip, said)) + "\n", encoding="utf-8")


def test_records_for_programs(tmp_path, monkeypatch, data_regression):
    monkeypatch.setattr(sys, "argv", ["/x/ann_wFeedback.py", "--seed", "3"])
    settings = {"vgg_name": "VGG5", "dataset": "MNIST", "timesteps": 8}
    ann = SimpleNamespace(settings=settings, has_feedback=False, classes=["0", "1"])
    engine = SimpleNamespace(name="event")
    snn = SimpleNamespace(
        settings=settings | {"epsilon": 0.2}, has_feedback=True, objective="blocking", engine=engine, classes=[]
    )
    spikes = {"parts": SPIKES, "spikes": {"input": 1611.6}, "mean_steps": 4.5, "median_steps": 4.0, "p95_steps": 8.0}
    further = {"open_share": [1.0, 0.5], "operations": {"dense": 1.0}, "energy_joules": 2e-6, "energy_event_joules": 1e-6}
    result = RESULT | spikes | further | {"error": 26.0, "comparisons": 99.0, "per_image": {}}
    found = report.evaluation_record(snn, result, SimpleNamespace(seed=0, selected_on="held-out"), rule="confidence")
    report.save_results_json(tmp_path / "x.json", [report.evaluation_record(ann, RESULT, SimpleNamespace(seed=3)), found])
    again = json.loads((tmp_path / "x.json").read_text())
    assert len({each.pop("date") for each in again}) == 1
    data_regression.check({"records": again})
