"""report.py: the numbers in its page, the page in a browser, and what it is not made of."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import ANALYSIS, CHROMIUM, DATA, PLAN, SNN, SPIKING, browsed, digests, records, refused, run_here
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from plotly.offline import get_plotlyjs

from harness.data.sets import load_data
from harness.drawing.figures import STATE_COLOURS, rows_of
from harness.drawing.film import STATES, Film, load_film, save_film
from harness.drawing.plots import wilson
from harness.measuring.evaluation import evaluate
from harness.reporting import page, reading
from harness.reporting.page import save_page
from harness.reporting.reading import find_runs
from harness.reporting.records import Result
from harness.training.losses import Criterion
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from snn_wFeedback_posthoc_model_analysis import spikes_of

SILENT, DARK, BRIGHT, _, BLOCKED, WAITS, SENDS, SENT, HELD, LATER = range(10)  # of a pixel, as page.js numbers them
EPOCH = {
    "event": "epoch", "epoch": 1, "train": {"accuracy": 0.5, "total": 2.0}, "selected_on": "held-out",
    "evaluated": {"images": 50, "accuracy": 0.6, "total": 1.5, "mean_steps": 5.0, "parts": {"input": 3.0, "total": 10.0},
                  "spikes": {"input": 3.0, "features.1": 7.0}},
}  # fmt: skip
MEASURED = {
    "event": "evaluation", "dataset": "MNIST", "images": 100, "timesteps": 5, "epsilon": 0.1, "accuracy": 0.9, "feedback": True,
    "spikes": {"input": 1.0, "encoder": 2.0, "decoder": 0.0, "classifier": 4.0, "total": 7.0}, "energy_joules": 2e-6,
    "spikes_per_layer": {"input": 1.0, "features.1": 2.0, "classifier.1": 4.0}, "energy_event_joules": 1e-6,
    "open_share": [1.0, 0.5, 0.25, 0.0, 0.0], "command": "obj1.py --epsilon 0.1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"gate": "block", "encoding": "poisson", "class": "InputBlockingSNN"}, {}),
        ({"gate": "open", "encoding": "direct"}, {"encoding": "direct"}),
        ({"gate": "relative", "class": "Mine"}, {"gate": "relative", "class": "Mine"}),
        ({"gate": "once"}, {"gate": "once"}),
    ],
)
def test_what_a_network_ran_with_names_what_is_not_as_usual(said, told):
    assert Result(MEASURED | said).settings == {"T": "5", "ε": "0.1", **told}
    assert Result({"accuracy": 0.5, "images": 4} | said).settings == {}  # of an ANN


STEP = {"event": "step", "step": 1, "squared_error": 3.0, "blocked_share": 0.25, "epsilon": 0.1}


def opening(**parameters):
    more = {"began": "started", "time": "2026-11-25 12:00:00", "command": "x.py --seed 1", "versions": {"torch": "2"}}
    return {"event": "run", **more, "parameters": parameters, "seed": 1, "git_revision": "abc"}


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def report(*flags):
    """The page's data, and what was printed."""
    _, said = run_here("report", *flags)
    page = (flags[-1] if flags[-1].is_file() else flags[-1] / "report.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]), said


def chart(data, title):
    (found,) = (chart for chart in data["charts"].values() if chart["title"] == title)
    return found["data"], found["layout"]


def picture(url):
    """The pixels of a picture of the player."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))))


def titles(data):
    return {chart["title"] for chart in data["charts"].values()}


def cells(path, section):
    """The rows of a section's first table, as lists of text."""
    (text,) = re.findall(f"<h2>{section}</h2>.*?<table>(.*?)</table>", path.read_text(), re.DOTALL)
    head, *rows = [re.findall("<t[hd].*?>(.*?)</t[hd]>", row) for row in re.findall("<tr>(.*?)</tr>", text)]
    return head, rows


# --- the numbers


@pytest.fixture(scope="module")
def reported(trained, looked, tmp_path_factory):
    """(data, path) of a page of the tiny training runs and an analysis of two images."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    log = looked.folder / "logs/snn/tiny_posthoc_analysis.jsonl"
    return report("tiny", log, "--output_dir", trained.folder, "--output", path)[0], path


def test_a_page_of_tiny_runs_holds_their_numbers(trained, reported):
    data, path = reported
    assert re.findall("<b>[A-Z]</b> (.*?) <small>", path.read_text()) == ["tiny (ann)", "tiny (snn)", "tiny_posthoc_analysis"]
    for letter, kind, row in zip("AB", ("ann", "snn"), cells(path, "Results")[1], strict=True):
        (epoch,) = records(trained.folder / f"logs/{kind}/tiny.jsonl", "epoch")  # --select test: there is no other evaluation
        judged = epoch["evaluated"]
        assert (row[2], row[4]) == (f"{100 * judged['accuracy']:.2f}", "16 (test images, which chose epoch 1)")
        assert row[5] == (f"{judged['parts']['total']:,.0f}" if kind == "snn" else "-")
        for title, name, factor in (("Accuracy", "accuracy", 100), ("Classification loss", "classification", 1)):
            mine = [line["y"] for line in chart(data, title)[0] if line["name"] == letter]
            assert mine == [[factor * value] for part in ("train", "evaluated") if (value := epoch[part][name])]
    bars = {bar["name"]: bar["x"] for bar in chart(data, "By part of the network")[0]}
    assert bars == {part: [judged["parts"][part]] for part in ("input", "encoder", "decoder", "classifier")}
    assert chart(data, "By layer")[0][0]["x"] == list(judged["spikes"].values())
    assert path.stat().st_size < 10 * 2**20 and not re.search(r'(src|href)="(?!data:)', path.read_text().split("<script>")[0])


def test_learned_thresholds_by_epoch(trained, tmp_path):
    """In the log as the checkpoint has them, and in the page a line for each layer; leaks are not learned."""
    flags = f"{SPIKING} --learn_threshold --epochs 2 -lr 0.01 --run_name x --output_dir {tmp_path}"
    run_here(SNN, f"--pretrained_ann {trained.ann}", flags)
    one, two = (record["thresholds"] for record in records(tmp_path / "logs/snn/x.jsonl", "epoch"))
    saved = torch.load(tmp_path / "trained_models/snn/x_last.pth", weights_only=False)["state_dict"]
    assert two == {name.removesuffix(".threshold"): value.item() for name, value in saved.items() if "threshold" in name}
    data = report("x", "--output_dir", tmp_path, "--output", tmp_path / "report.html")[0]
    assert [line["y"] for line in chart(data, "Thresholds")[0]] == [[one[layer], two[layer]] for layer in one if one != two]
    assert "Leaks" not in titles(data)


def test_the_player_has_what_the_network_did(looked, reported):
    logs = looked.folder / "logs/snn"
    (player,) = reported[0]["players"]
    assert list(player["pictures"]) == ["input", "prediction", "input neurons"]
    assert player["key"] == [[STATE_COLOURS[state], STATES[state]] for state in range(WAITS)]
    said = records(logs / "tiny_posthoc_analysis.jsonl", "step")
    steps = load_film(logs / "tiny_posthoc_analysis_steps.npz")
    assert (len(player["said"]), len(player["labels"])) == (5, 2) and "within ε = 0.1 of" in player["rule"]
    first, last = (picture(player["pictures"]["input neurons"][1][t]) for t in (0, 4))
    assert np.array_equal(first, rows_of(steps)["input neurons"][0, 1]) and not np.array_equal(first, last)
    for t, record in enumerate(said):
        active, blocked = ((steps.states[t] != SILENT).sum((1, 2)), (steps.states[t] == BLOCKED).sum((1, 2)))
        assert (blocked / active).mean() == pytest.approx(record["blocked_share"], abs=1e-6)
    assert np.allclose(np.sum(player["sure"], axis=2), 1, atol=1e-3)
    words, _ = re.findall(r"spikes per image: .* total ([\d,]+)", (logs / "tiny_posthoc_analysis.log").read_text())
    assert np.sum(player["spikes"][-1]) / 2 == pytest.approx(float(words.replace(",", "")), abs=1)
    assert np.array(player["spikes"]).shape == (5, 2, len(player["layers"])) and player["layers"][0] == "input"


def test_spikes_over_time_do_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    model = InputBlockingSNN(plan=PLAN, fc_width=8, timesteps=4, update="immediate", default_threshold=0.2, epsilon=0.3).eval()
    digits = load_data("MNIST", limit_test=7)[2]
    (spikes, share, right), (whole, share_of_all, right_of_all) = (spikes_of(model, digits, size, 0) for size in (3, 7))
    assert right == pytest.approx(right_of_all)
    assert spikes.keys() == whole.keys() and share == pytest.approx(share_of_all) and share[-1] < share[0] == 1
    assert all(spikes[layer] == pytest.approx(whole[layer]) for layer in whole) and sum(whole["features.1"]) > 0
    evaluated = evaluate(model, digits.batches(7), Criterion(1.0, "last_t"), seed=0)
    assert {layer: sum(steps) for layer, steps in whole.items()} == pytest.approx(evaluated["spikes"])


def test_the_player_of_a_network_that_sends_once(tmp_path):
    """It predicts without a decoder; what is sent is counted as the input's spikes."""
    where = f"--run_name once --output_dir {tmp_path}"
    flags = f"-a VGG5_small --fc_width 16 --encoding direct --timesteps 4 {DATA}"
    run_here(SNN, flags, "--gate once --grid 4 --epsilon 0.1 --init kaiming --update immediate --epochs 1 --select test", where)
    run_here(ANALYSIS, flags, f"--images 1 --chart_images 4 --run_name looked --output_dir {tmp_path} --pretrained_snn",
             tmp_path / "trained_models/snn/once.pth")  # fmt: skip
    assert (tmp_path / "trained_models/snn/looked_known.png").is_file()
    data, _ = report("looked", "--output_dir", tmp_path, "--output", tmp_path / "page.html")
    (player,), (sent,) = data["players"], chart(data, "Values of the image sent so far")[0]
    key = [words for _, words in player["key"]]
    assert {STATES[state] for state in (SENDS, SENT, HELD, LATER)} <= set(key) and STATES[BLOCKED] not in key
    assert sent["y"] == pytest.approx([100 * np.mean(step, axis=0)[0] / 784 for step in player["spikes"]])
    assert "Active input pixels blocked" not in titles(data)
    steps = load_film(tmp_path / "logs/snn/looked_steps.npz")
    misses = steps.misses.astype(int)
    assert np.abs(misses - np.abs(steps.predictions.astype(int) - steps.images)).max() <= 1
    assert misses[steps.states == SENDS].max() == 0 and 0 < misses[steps.states == HELD].max() <= 0.1 * 255 + 0.5
    assert "within ε = 0.1, 10 % of its range" in player["rule"] and "white is " in player["scale"]
    assert list(player["pictures"]) == ["input", "sent so far", "image as known", "absolute error", "input neurons"]
    assert "with feedback" not in (tmp_path / "page.html").read_text().split("<main>")[0]


def test_two_results_compared(tmp_path):
    """In the table, against cost, by part and by layer: a network and its baseline, which takes ten times the spikes."""
    one = write(tmp_path / "logs/snn/good_feedback.jsonl", opening(epsilon=0.1, run_name="a", tensorboard=False), MEASURED)
    baseline = MEASURED | {"accuracy": 0.8, "spikes": MEASURED["spikes"] | {"total": 70.0}, "feedback": False, "epsilon": 0.0}
    baseline |= {"energy_event_joules": None, "mean_steps": 4.5, "holdout": 2000}
    baseline["spikes_per_layer"] = {"features.10": 3.0, "input": 1.0}
    other = write(tmp_path / "logs/snn/good_baseline.jsonl", opening(epsilon=0.0, run_name="b"), baseline)
    page = tmp_path / "page.html"
    data, _ = report(one, other, "--output", page)
    (a, b), layout = chart(data, "Accuracy against spikes")
    assert (a["x"], a["y"], b["x"], b["y"]) == ([7.0], [90.0], [70.0], [80.0]) and layout["xaxis"]["type"] == "log"
    low, high = wilson(0.9, 100)
    assert a["error_y"]["array"] == pytest.approx([100 * high - 90])
    assert a["error_y"]["arrayminus"] == pytest.approx([90 - 100 * low])
    assert (a["name"], a["text"], b["text"]) == ("A good_feedback", ["ε = 0.1"], ["ε = 0.0"])
    assert a["customdata"] == [["T = 5, ε = 0.1", "95 %: 82.56 to 94.48", "100 MNIST test images"]]
    assert [marks["x"] for marks in chart(data, "Accuracy against energy, event by event")[0]] == [[1.0]]
    (one, two), layout = chart(data, "Accuracy against energy, layer by layer")
    assert (one["x"], two["x"]) == ([2.0], [2.0]) and "type" not in layout["xaxis"]
    assert a["marker"]["color"] != b["marker"]["color"] and b["marker"]["symbol"] == f"{a['marker']['symbol']}-open"
    assert (a["line"]["dash"], b["line"]["dash"]) == ("solid", "dash")
    head, rows = cells(page, "Results")
    assert head[1:5] == ["run with", "accuracy in %", "95 % interval", "images"]
    assert rows == [
        ["A good_feedback", "ε = 0.1", "90.00", "82.56 to 94.48", "100 (MNIST test images)", "7", "1", "2", "-"],
        ["B good_baseline", "ε = 0.0", "80.00", "71.12 to 86.66", "100 (2,000 held-out images)", "70", "-", "2", "4.50"],
    ]
    assert cells(page, "Flags that differ") == (["run", "epsilon"], [["A good_feedback", "0.1"], ["B good_baseline", "0.0"]])
    assert "all 2 parameters" in page.read_text()  # a name is no flag to compare
    assert page.read_text().count("Not in the logs of 1 of these") == 1
    bars, layout = chart(data, "By part of the network")
    found = {bar["name"]: bar["x"] for bar in bars}
    assert found == {"input": [1, 1], "encoder": [2, 2], "decoder": [0, 0], "classifier": [4, 4]}
    assert layout["yaxis"]["ticktext"] == ["A ε = 0.1<br><b>7</b>", "B ε = 0.0<br><b>70</b>"]
    marks, layout = chart(data, "By layer")
    assert layout["yaxis"]["categoryarray"] == ["input", "encoder, layer 1", "encoder, layer 2", "classifier, hidden layer 1"]
    assert [dict(zip(mark["y"], mark["x"], strict=True)) for mark in marks] == [
        {"input": 1, "encoder, layer 1": 2, "classifier, hidden layer 1": 4}, {"encoder, layer 2": 3, "input": 1}
    ]  # fmt: skip


def test_the_mean_of_several_seeds_stands_out(tmp_path):
    logs = [write(tmp_path / f"a{end}.jsonl", opening() | {"seed": seed}, MEASURED | {"accuracy": accuracy})
            for seed, (end, accuracy) in enumerate((("", 0.8), ("_1", 0.9)))]  # fmt: skip
    (one, two, mean), _ = chart(report(*logs, "--output", tmp_path / "page.html")[0], "Accuracy against spikes")
    assert one["marker"]["size"] == two["marker"]["size"] < mean["marker"]["size"] and (mean["name"], mean["y"]) == ("a", [85.0])
    assert mean["error_y"]["array"] == pytest.approx([50**0.5]) and "text" not in one and one["showlegend"] is False


@pytest.mark.parametrize("epochs", [1, 8, 100])
def test_curves_of_two_runs(tmp_path, epochs):
    """The legend has a letter for each; of few epochs ticks are at whole numbers."""
    last = EPOCH | {"epoch": epochs}
    logs = [write(tmp_path / f"{name}.jsonl", *([EPOCH, last] if epochs > 1 else [EPOCH])) for name in ("one", "two")]
    lines, layout = chart(report(*logs, "--output", tmp_path / "page.html")[0], "Accuracy")
    assert layout["xaxis"].get("dtick") == (1 if epochs < 15 else None) and [line["x"][-1] for line in lines] == [epochs] * 4
    assert [(line["name"], line.get("showlegend")) for line in lines] == [("A", False), ("A", None), ("B", False), ("B", None)]
    said = [line["hovertemplate"].split("<br>")[0] for line in lines]
    assert said == ["A one, training", "A one, judged", "B two, training", "B two, judged"]
    assert len({line["line"]["color"] for line in lines}) == 2 and lines[0]["line"]["width"] < lines[1]["line"]["width"]


def test_a_curve_of_open_input_only_of_results_that_block(tmp_path):
    title, page = "Active input pixels open at each step", tmp_path / "page.html"
    log = write(tmp_path / "x.jsonl", MEASURED | {"open_share": [1.0, 1.0]})
    assert title not in titles(report(log, "--output", page)[0])
    write(log, MEASURED | {"open_share": [1.0, 1.0]}, MEASURED)
    assert [line["y"] for line in chart(report(log, "--output", page)[0], title)[0]] == [[100, 50, 25, 0, 0]]


def test_of_a_resumed_run_the_last_flags_count(tmp_path):
    log = write(tmp_path / "x.jsonl", opening(epochs=1), EPOCH, opening(epochs=2), {**EPOCH, "epoch": 2})
    (run,), _ = find_runs([str(log)], ".")
    assert run.parameters == {"epochs": "2"} and len(run.openings) == len(run.epochs) == 2
    report(log, "--output", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("<pre>x.py --seed 1   (started 2026-11-25 12:00:00; torch 2, git abc)") == 2


# --- in a browser

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
def test_the_page_in_a_browser(reported, tmp_path):
    data, path = reported
    found = browsed(path.read_text(), tmp_path, HOOK)
    first, last, other = found["seen"]
    assert first[0].startswith("step 1 of 5") and last[0] == "step 5 of 5" and other[0] == last[0]
    assert len({first[2], last[2], other[2]}) == 3  # the neurons' picture follows step and image
    spikes = data["players"][0]["spikes"]
    assert f"{sum(spikes[0][0]):,} spikes" in first[1] and f"{sum(spikes[4][0]):,} spikes" in last[1]
    assert f"{sum(spikes[4][1]):,} spikes" in other[1]
    assert found["plots"] >= len(data["charts"])


# --- bad input


ODD = {  # what a line says -> what is said of it
    '{"event": "epoch", "epo': "no whole JSON object with an event", "[1, 2]": "no whole", '{"event": 3}': "no whole",
    "\x00\ufffd": "no whole", "9" * 5000: "no whole", "[" * 3000: "recursion", '{"event": "epoch"}': "no epoch",
    '{"event": "run"}': "no began", json.dumps(opening() | {"parameters": []}): "parameters: [] is no object",
    **{json.dumps(base | changed): words for base, changed, words in (
        (EPOCH, {"train": {"total": "much"}}, "train: total: 'much' is not a number"), (EPOCH, {"epoch": 1.5}, "epoch: 1.5"),
        (EPOCH, {"evaluated": [1]}, "evaluated: [1] is no object"),
        (EPOCH, {"evaluated": EPOCH["evaluated"] | {"mean_steps": "5"}}, "mean_steps: '5'"),
        (MEASURED, {"accuracy": 7}, "accuracy: 7 is not a number at least 0 and at most 1"),
        (MEASURED, {"accuracy": None}, "no accuracy"), (MEASURED, {"accuracy": float("nan")}, "accuracy: nan"),
        (MEASURED, {"images": 0}, "images: 0 is not a whole number"), (MEASURED, {"spikes": {"input": 1}}, "spikes: no total"),
        (MEASURED, {"spikes": MEASURED["spikes"] | {"total": -7}}, "spikes: total: -7 is not a number at least 0"),
        (MEASURED, {"open_share": [2]}, "open_share: 2"), (MEASURED, {"open_share": "x"}, "open_share: 'x' is no list"),
        (MEASURED, {"confusion": [[1, 2]]}, "confusion: not as many rows and columns as classes"),
        (STEP, {"step": 0}, "step: 0"), (STEP, {"blocked_share": None}, "neither blocked_share nor sent_share"),
    )},
}  # fmt: skip


def test_odd_lines_are_left_out_and_told(tmp_path, monkeypatch):
    """Which file, which line, what is wrong; of many in a log the first five. Beside sound logs one without a line, too."""
    log, page = write(tmp_path / "x.jsonl", EPOCH, *ODD, {"event": "difficulty"}, "", MEASURED), tmp_path / "page.html"
    data, said = report(write(tmp_path / "empty.jsonl"), log, "--output", page)
    assert f"left out: {tmp_path}/empty.jsonl is no run's log: it is empty" in said and said.endswith(f"wrote {page}: x\n")
    assert len(cells(page, "Results")[1]) == 1 and chart(data, "Accuracy")[0][0]["y"] == [50.0]
    assert f"{log}, {len(ODD) - 5} more lines left out\n" in said and "line 2 left out: no whole" in page.read_text()
    monkeypatch.setattr(reading, "MOST_FAULTS", 99)
    (run,), _ = find_runs([str(log)], ".")
    for number, (fault, words) in enumerate(zip(run.faults, ODD.values(), strict=True), 2):
        assert fault.startswith(f"line {number} left out: ") and words in fault, fault


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["features.x", "input", 10**400, -0.5]),
    lambda some: st.lists(some) | st.dictionaries(st.text() | st.sampled_from(["total", "input", "x.1"]), some), max_leaves=5,
)  # fmt: skip
PLACES = [(base, path) for base in (EPOCH, MEASURED, STEP, opening(epsilon=1)) for name, value in base.items()
          for path in ((name,), *((name, inner) for inner in (value if isinstance(value, dict) else ())))]  # fmt: skip


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=5, max_size=20))
def test_a_report_is_written_whatever_a_record_says(tmp_path, changes):
    """Any value may be any JSON: the page is written, and the sound record is in it."""
    lines = [EPOCH]
    for (base, (name, *inner)), value in changes:
        lines.append(base | {name: base[name] | {inner[0]: value} if inner else value})
    (run,), _ = find_runs([str(write(tmp_path / "x.jsonl", *lines))], ".")
    assert len(run.faults) <= reading.MOST_FAULTS + 1 and any(epoch.train["total"] == 2 for epoch in run.epochs)
    save_page(tmp_path / "page.html", [run], overwrite=False)


def test_no_text_of_a_log_is_taken_for_html(tmp_path):
    """A data set's name can neither open a comment nor a script, in a chart neither a tag."""
    evil, page = "<!--<script><i>", tmp_path / "page.html"
    more = {"dataset": evil, "rule": evil, "spikes_per_layer": {"input": 1.0}}
    log = write(tmp_path / f"{evil.replace('/', '')}.jsonl", opening(**{evil: evil}), MEASURED | more, MEASURED | {"rule": "b"})
    data, _ = report(log, "--output", page)
    text = page.read_text().replace(get_plotlyjs(), "")
    assert evil not in text and "<i>" not in text and text.count("<script") == 3
    assert "&lt;!--&lt;script&gt;&lt;i&gt; test images" in text
    assert "<" not in re.sub("</?(b|br|extra)>", "", json.dumps(data["charts"]))


def test_a_damaged_file_of_steps_is_left_out(looked, tmp_path):
    whole = (looked.folder / "logs/snn/tiny_posthoc_analysis_steps.npz").read_bytes()
    log = shutil.copy(looked.folder / "logs/snn/tiny_posthoc_analysis.jsonl", tmp_path / "looked.jsonl")
    for damaged in (b"", whole[: len(whole) // 2], b"PK" + whole[2:200], whole[:300] + b"x" + whole[301:]):
        (tmp_path / "looked_steps.npz").write_bytes(damaged)
        data, said = report(log, "--output", tmp_path / "page.html")
        assert data["players"] == [] and "looked_steps.npz" in said and "left out" in said


def test_lines_on_bad_input(tmp_path, trained):
    page, log = tmp_path / "page.html", write(tmp_path / "x.jsonl", EPOCH)
    mine, folder = write(tmp_path / "mine.html", "mine"), tmp_path / "folder.html"
    folder.mkdir()
    before = digests(tmp_path)
    for words, line in (
        (f"nothing --output_dir {tmp_path}", "there is no run nothing"),
        (f"{tmp_path}/gone.jsonl", "gone.jsonl is not there"),
        (trained.folder / "logs/snn/tiny.log", "give the run's .jsonl"),
        (write(tmp_path / "list.jsonl", "[", "]"), "is no run's log: line 1 left out: no whole JSON object"),
        (write(tmp_path / "empty.jsonl"), "is no run's log: it is empty"),
        (write(tmp_path / "begun.jsonl", opening()), "has nothing to show yet"),
        (f"{log} --output {tmp_path}/no/page.html", "cannot write"),
        (f"{log} --output {tmp_path}/page.xyz", "page.xyz: a report is a page: give a name that ends in .html"),
        (f"{log} --output {folder}", "exists and is no report"),
        (f"{log} --output {mine}", "--overwrite replaces it"),
        ("", "RUN"),
    ):
        assert line in refused("report", words, *([] if "--output " in str(words) else ["--output", page])), words
    assert digests(tmp_path).items() >= before.items() and not page.exists()
    for flags in ("--overwrite --output", "--output"):  # now it is a report
        report(log, flags, mine)
    assert not list(tmp_path.glob(".*"))


def a_film(images, steps=2, side=40, colour=False):
    """A Film without content."""
    shape = (images, side, side) + (3,) * colour
    return Film(
        images=np.zeros(shape, np.uint8), predictions=np.zeros((steps, *shape), np.uint8),
        states=np.zeros((steps, images, side, side), np.uint8), spikes=np.zeros((steps, images, 1), int),
        layers=np.array(["input"]), outputs=np.zeros((steps, images, 2)), names=np.array(["a", "b"]),
        titles=np.array(["x"] * images),
        labels=np.zeros(images, int), index=np.arange(images), stopped=np.full(images, steps), epsilon=0.1,
        blocked=np.zeros((steps, images)), errors=np.zeros((steps, images)),
    )  # fmt: skip


def players(tmp_path, *films):
    """What the page's player has of these films, and the note above it."""
    logs = [write(tmp_path / f"{number}.jsonl", EPOCH) for number in range(len(films))]
    for number, film in enumerate(films):
        save_film(tmp_path / f"{number}_steps.npz", film)
    data, _ = report(*logs, "--output", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    notes = re.findall("<h2>Single images, step by step</h2>\n<p class=note>(.*?)</p>", text, re.DOTALL)
    return data["players"], notes


@pytest.mark.parametrize(
    ("films", "shown", "said"), [((3, 3), (2, 2), "of B 1 2 of 3 images"), ((1, 5), (1, 3), "of B 1 3 of 5")]
)
def test_runs_share_the_players_room(tmp_path, monkeypatch, films, shown, said):
    """Room for four images and a half: an equal part for each, and what the first leaves is the second's."""
    one = len(json.dumps({"run": "A", "name": "0", **page.as_player(a_film(1))}))
    monkeypatch.setattr(page, "LARGEST_PLAYERS", int(4.5 * one))
    found, (note,) = players(tmp_path, *map(a_film, films))
    assert tuple(len(player["titles"]) for player in found) == shown and "too large" in note and said in note
    assert sum(len(json.dumps(player)) for player in found) <= page.LARGEST_PLAYERS < 2**23


def test_large_images_leave_the_page_small(tmp_path):
    """Of 224 x 224 every third pixel is shown, all are counted; what has no room at all is said."""
    film = a_film(2, 4, 224, colour=True)
    film.states[1:, :, 3, 6:9] = BLOCKED
    film.predictions[1, 1, 3, 6] = 7
    found, (note,) = players(tmp_path, film, a_film(1, 50_000, 10))
    (player,) = found
    assert len(player["titles"]) == 2 and "of B 1 0 of 1 images" in note and "second or third pixel" in note
    states, prediction = picture(player["pictures"]["input neurons"][0][1]), picture(player["pictures"]["prediction"][1][1])
    assert states.shape == (75, 75, 3) and np.argwhere((states != states[0, 0]).any(2)).tolist() == [[1, 2]]
    assert prediction[1, 2].tolist() == [7] * 3
    assert (tmp_path / "page.html").stat().st_size < 10 * 2**20
