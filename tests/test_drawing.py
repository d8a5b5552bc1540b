"""What pictures show: the facts of a run step by step, and how they are chosen."""

import re
from dataclasses import replace
from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import DATA, REPOSITORY, records, refused, run_here, run_undrawn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image, ImageSequence

import results
from harness.drawing import plots
from harness.drawing.figures import plt, stack_parts
from harness.drawing.film import film_of, save_gif
from harness.drawing.raster import Raster, save_raster
from harness.drawing.reel import VERDICTS, save_stream
from harness.measuring.comparing import Difference, Spread
from self_models.data.sets import Batch, ImageSet, first_of_each_class
from self_models.objectives.contrast import Contrast
from self_models.objectives.gates import Blocking, Gate
from self_models.runtime.outputs import SNNOutput

SILENT, DARK, BRIGHT, PREDICTED, BLOCKED, WAITS = range(6)
EPSILON = 0.1  # the gate's default
IMAGE = torch.tensor([[[[0.0, 0.5, 0.5, 0.5, 0.5]]]])  # one image of five pixels
PREDICTIONS = torch.tensor([[0.3, 0.1, 0.9, 0.45, 0.55], *[[0.3, 0.45, 0.9, 0.45, 0.0]] * 2]).view(
    3, 1, 1, 1, 5
)


def output_of(predictions=PREDICTIONS, image=IMAGE):
    """The output of a run with permanent blocking that predicts so, worked out by hand from the rule."""
    predicted, steps = (predictions - image).abs() < EPSILON, len(predictions)
    is_open = (
        torch.cat([torch.ones_like(predicted[:1]), ~predicted[:-1]]).int().cummin(0).values.bool()
    )
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, np.log(3)]], [[np.log(9), 0.0]]]).float()[:steps]
    spikes = {
        "input": [[4.0], [2.0], [1.0]],
        "features.1": [[0.0], [5.0], [5.0]],
        "features.4": [[0.0], [1.0], [0.0]],
    }
    return SNNOutput(
        logits[-1],
        predictions,
        (image - predictions) ** 2,
        {},
        torch.tensor([steps]),
        predicted,
        is_open,
        logits_by_step=logits,
        spikes_by_step={name: torch.tensor(count)[:steps] for name, count in spikes.items()},
    )


def film(output=None, image=IMAGE, gate=Blocking, **settings):
    model = SimpleNamespace(
        on_pixel_scale=lambda prediction: prediction,
        gate=gate(**settings),
        settings={"predict": "frame"},
    )
    batch = Batch(image, torch.tensor([1]), torch.tensor([7]))
    return film_of(model, batch, output or output_of(), ["cat", "dog"], ["label: dog"])


def test_what_each_step_has_come_to():
    """Outputs 0 0, then 0 log 3 (softmax 1/4, 3/4), then log 9 0 (9/10, 1/10): not the last verdict from the start."""
    found = film()
    assert found.answers.tolist() == [[-1], [1], [0]]
    assert found.sure[:, 0] == pytest.approx(
        np.array([[1 / 2, 1 / 2], [1 / 4, 3 / 4], [9 / 10, 1 / 10]])
    )
    parts = {
        "input": [4, 6, 7],
        "encoder": [0, 6, 11],
        "decoder": [0, 0, 0],
        "classifier": [0, 0, 0],
        "total": [4, 12, 18],
    }
    assert {part: count[:, 0].tolist() for part, count in found.spikes_by_part().items()} == parts
    assert found.errors[0, 0] == pytest.approx(0.3**2 + 0.4**2 + 0.4**2 + 2 * 0.05**2)


def test_open_pixels_say_why():
    """Step 1: nothing is blocked yet; two pixels are predicted and are blocked from step 2 on, for good."""
    assert film().states[:, 0, 0].tolist() == [
        [SILENT, DARK, BRIGHT, PREDICTED, PREDICTED],
        [SILENT, PREDICTED, BRIGHT, BLOCKED, BLOCKED],
        [SILENT, BLOCKED, BRIGHT, BLOCKED, BLOCKED],
    ]
    assert film().blocked[:, 0].tolist() == [0, 0.5, 0.75]  # of the four pixels that are not 0
    assert (
        film(residual=True).states[:, 0, 0, 0].tolist() == [BRIGHT] * 3
    )  # there a pixel of value 0 sends its error
    found = film(output_of()._replace(is_open=None, predicted=None), gate=Gate)  # without blocking
    assert found.blocked.max() == 0 and found.states[2, 0, 0].tolist() == [
        SILENT,
        DARK,
        BRIGHT,
        DARK,
        DARK,
    ]


def test_a_colour_pixel_is_blocked_with_its_last_channel():
    image = torch.full((1, 3, 1, 1), 0.5)
    predictions = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.9], [0.5, 0.5, 0.5]]).view(
        3, 1, 3, 1, 1
    )
    predicted = (predictions - image).abs() < EPSILON
    is_open = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 0, 0]]).view(3, 1, 3, 1, 1).bool()
    output = output_of(predictions, image)._replace(predicted=predicted, is_open=is_open)
    found = film(output, image)
    assert found.states.ravel().tolist() == [DARK, BRIGHT, BLOCKED]
    assert (
        found.images.shape == (1, 1, 1, 3) and found.images.ravel().tolist() == [191] * 3
    )  # from [-1, 1]


def test_contrast_judges_by_what_is_seen():
    """Beside a bright part a dim one waits; once the bright one is blocked it is seen at full brightness, five times its own."""
    image = torch.zeros(1, 1, 1, 20)
    image[..., 0], image[..., 19] = 1.0, 0.2
    predictions = torch.zeros(2, *image.shape)
    predictions[..., 0], predictions[1, ..., 19] = 1.0, 0.5
    is_open = torch.ones_like(predictions, dtype=torch.bool)
    is_open[1, ..., 0] = False
    predicted = torch.zeros_like(is_open)
    predicted[0, ..., 0] = True
    output = output_of(predictions, image)._replace(predicted=predicted, is_open=is_open)
    assert film(output, image, Contrast).states[:, 0, 0, [0, 19]].tolist() == [
        [PREDICTED, WAITS],
        [BLOCKED, DARK],
    ]
    found = film(output, image, Contrast, contrast="none")  # compared with the image
    assert found.states[:, 0, 0, [0, 19]].tolist() == [[PREDICTED, DARK], [BLOCKED, BRIGHT]]


def test_pictures_show_the_first_of_each_class():
    labels = torch.tensor([2, 0, 0, 2, 1, 0])
    assert first_of_each_class(labels, 4).tolist() == [
        1,
        4,
        0,
        2,
    ]  # classes 0, 1, 2, then the second 0
    assert first_of_each_class(labels, 99).tolist() == [1, 4, 0, 2, 3, 5]


PARTS = {"input": 4.0, "encoder": 3.0, "decoder": 2.0, "classifier": 1.0, "total": 10.0}
EVALUATED = {"images": 100, "accuracy": 0.9, "spikes": PARTS}
ONE = {
    "label": torch.tensor([0, 1]),
    "steps": torch.tensor([2, 3]),
    "spikes": torch.tensor([7.0, 5.0]),
    "found": torch.tensor([0, 0]),
    "correct": torch.tensor([True, False]),
}


def test_what_pictures_say(tmp_path, pictures):
    """Of an image that stops: its answer, whether right, how sure; the cheapest images first."""
    save_gif(tmp_path / "a.gif", replace(film(), stopped=np.array([2])), 0.5)
    said = "\n".join(text.get_text() for text in pictures[-1].findobj(plt.Text))
    assert all(words in said for words in ("answer: cat ✗", "90 % sure, T = 2", "75 % blocked")), (
        said
    )
    assert "encoder 11" in said and "decoder" not in said  # of which no layer spikes
    beside = replace(film(), baseline={"input": [3.0], "generate.1": [2.0]})
    save_gif(tmp_path / "b.gif", beside, 0.5)
    (key,) = [axis.get_legend() for axis in pictures[-1].axes if axis.get_legend()]
    assert [text.get_text() for text in key.get_texts()] == [
        "input 7 (3)",
        "encoder 11 (-)",
        "decoder - (2)",
    ]
    digits = ImageSet(
        "MNIST",
        torch.tensor([40, 80], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 4, 4),
        ONE["label"],
    )
    plots.save_extremes(tmp_path / "a.png", digits, ONE, 0.25)
    assert [axis.images[0].get_array()[0, 0] for axis in pictures[-1].axes] == [80, 40, 40, 80]


def test_a_gif_shows_each_frame_for_these_seconds_and_says_its_timestep(tmp_path, pictures):
    """The film has timesteps 2, 4 and 6. In the first nothing is blocked: it is left out.

    The last frame stays for 3 s.
    """
    save_gif(tmp_path / "a.gif", replace(film(), every=2), 0.5)
    with Image.open(tmp_path / "a.gif") as gif:
        milliseconds = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
    assert milliseconds == [500, 3000]
    assert "timestep 6 of 6   |   75 % blocked" in pictures[-1].get_suptitle()


def test_a_raster_marks_spikes_in_their_timestep(tmp_path, pictures):
    """Neuron 4 of features.1 spikes in timesteps 1 and 3, neuron 2 in timestep 2."""
    spikes = np.array([[True, False], [False, True], [True, False]])
    arrays = {
        "input.spikes": np.array([[False], [False], [True]]),
        "features.1.spikes": spikes,
        "features.1.membrane": np.array([[0.1, 0.8], [0.9, 0.2], [0.3, 0.7]]),
        "features.1.threshold": np.array(1.0),
        "output.membrane": np.array([[0.0, 0.0], [0.0, 1.0], [2.0, 1.0]]),
    }
    totals = {"input": torch.tensor([1]), "features.1": torch.tensor([0, 0, 1, 0, 2])}
    raster = Raster(np.zeros((2, 2)), 3, totals, arrays)
    save_raster(tmp_path / "a.png", raster, "title", ["cat", "dog"])
    of_input, _, of_layer, membranes, _, outputs = pictures[-1].axes
    assert [[*marks.get_positions()] for marks in of_input.collections] == [[3]]
    assert [[*marks.get_positions()] for marks in of_layer.collections] == [[1, 3], [2]]
    first, second = membranes.lines[1:]  # behind the line of the threshold
    assert first.get_xdata().tolist() == [1, 2, 3] and first.get_ydata().tolist() == [
        0.1,
        0.9,
        0.3,
    ]
    assert (first.get_markevery(), second.get_markevery()) == ([0, 2], [1])  # counted from 0
    assert all(line.get_xdata().tolist() == [1, 2, 3] for line in outputs.lines)


def test_a_stream_says_no_answer_before_it_says_no_label(tmp_path, pictures):
    """A timestep without an answer is neither right nor wrong, whether or not there is a label."""
    figures = dict.fromkeys(PARTS, np.ones(5)) | {
        "answer": np.array([-1, -1, 0, 0, 0]),
        "label": np.array([-1, 0, -1, 0, 1]),
    }
    reel = SimpleNamespace(
        so_far=lambda: figures,
        images=[(0, np.zeros((2, 2)))],
        model=SimpleNamespace(classes=["cat", "dog"], layers=["input", "features.1"]),
        title="title",
    )
    save_stream(tmp_path / "a.png", reel)
    bars = [bar for bar in pictures[-1].axes[1].patches if bar.get_width()]
    drawn = [(bar.get_x(), bar.get_width(), to_hex(bar.get_facecolor())) for bar in bars]
    assert drawn == [
        (0.5, 2, VERDICTS["no answer yet"]),
        (2.5, 1, VERDICTS["no label"]),
        (3.5, 1, VERDICTS["right"]),
        (4.5, 1, VERDICTS["wrong"]),
    ]


def test_charts_by_epsilon_and_over_time(tmp_path, pictures):
    """A baseline comes first; what blocks has a panel of its own."""
    off, on = EVALUATED | {"epsilon": 0.0}, EVALUATED | {"epsilon": 0.1, "open_share": [1.0, 0.5]}
    plots.save_sweep(tmp_path / "a.png", [off])
    assert len(pictures[-1].axes) == 2
    plots.save_sweep(tmp_path / "a.png", [off, on], off)
    accuracy, bars, share = pictures[-1].axes
    assert [text.get_text() for text in accuracy.get_xticklabels()] == [
        "baseline",
        "0 (off)",
        "0.1",
    ]
    assert [
        sum(bar.get_height() for bar in column) for column in zip(*bars.containers, strict=True)
    ] == [10, 10, 10]
    assert share.lines[0].get_ydata().tolist() == [100, 50]
    spikes = {"input": [1.0, 2.0], "features.1": [0.0, 1.0]}
    plots.save_spikes_over_time(
        tmp_path / "a.png", {"a": spikes, "b": spikes}, [1.0, 0.5], "ε = 0.1", "7 images"
    )
    sums, table, *_ = pictures[-1].axes
    assert [line.get_ydata().tolist() for line in sums.lines] == [[1, 4]] * 2
    assert table.images[0].get_array().tolist() == [[1, 2], [0, 1]]


def test_no_label_of_a_choice_lies_on_another_or_on_what_is_drawn(tmp_path, pictures):
    """They stand above the axis, each tied to its point, also of points that are close."""
    tried = []
    for number in range(7):
        setting = {"epsilon": 0.1 * number, "readout_slew": 0.19, "timesteps": 4}
        spikes = {"spikes": {"total": 2000.0 + number}, "accuracy": 0.9 + 0.01 * number}
        tried.append(EVALUATED | setting | spikes)
    far = tried[0] | {"spikes": {"total": 4000.0}, "accuracy": 0.1}
    plots.save_choices(tmp_path / "a.png", [*tried, far], tried, [])
    figure = pictures[-1]
    (axis,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = []
    for label in axis.texts:
        boxes.append(plt.Text.get_window_extent(label, renderer))  # without its line
        assert label.xy in [(each["spikes"]["total"], 100 * each["accuracy"]) for each in tried]
    assert len(boxes) == 7 and boxes[0].y0 > axis.get_window_extent().y1
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    edges = [0, *(edge for box in boxes for edge in (box.x0, box.x1)), figure.bbox.x1]
    assert edges == sorted(edges) and max(box.y1 for box in boxes) < figure.bbox.y1


@pytest.mark.parametrize("names", [["cat", "elk"], [f"a rather long name {n}" for n in range(10)]])
def test_a_confusion_matrix_has_a_caption_and_its_labels_lie_beside_the_names(
    tmp_path, pictures, names
):
    record = {"confusion": np.eye(len(names), dtype=int).tolist(), "classes": names}
    plots.save_confusion(tmp_path / "a.png", record, "70 test images, T = 4")
    figure = pictures[-1]
    (axis,) = figure.axes
    words = figure.get_suptitle().replace("\n", " ")
    assert words == "Confusion matrix: images by class and predicted class 70 test images, T = 4"
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = {}
    for text in figure.findobj(plt.Text):
        if text.get_text():
            boxes[text.get_text()] = text.get_window_extent(renderer)
    of_rows, of_columns = boxes["class, with its accuracy"], boxes["predicted class"]
    assert of_rows.x0 >= 0 and of_columns.y0 >= 0
    for label in axis.get_yticklabels():
        assert of_rows.x1 < label.get_window_extent(renderer).x0
    for label in axis.get_xticklabels():
        assert of_columns.y1 < label.get_window_extent(renderer).y0
    assert boxes[figure.get_suptitle()].y0 > axis.get_window_extent(renderer).y1


def test_families_in_the_order_of_verdicts(tmp_path, pictures):
    """Ahead with several seeds, with one, no difference detected."""
    ahead = {
        "a": Difference(0.1, 0.2, 3),
        "b": Difference(-0.5, None, 1),
        "c": Difference(-0.2, 0.1, 2),
    }
    verdicts, finding = results.verdicts("MNIST", ahead)
    assert (
        finding
        == "MNIST: at equal spikes the baseline is ahead in 2 of 3 families (1 with one seed)"
    )
    assert [(name, words.split(": ")[1]) for name, words in verdicts.items()] == [
        ("c", "baseline ahead"),
        ("b", "baseline ahead"),
        ("a", "no difference detected"),
    ]
    points = []
    for name, spikes, feedback in product(verdicts, (100, 3000), (True, False)):
        row = {
            "name": f"{'' if feedback else 'baseline of '}{name}",
            "rule": "confidence",
            "bounds": {"gap_bound": spikes},
        }
        points.append(
            (row | {"feedback": feedback}, Spread(spikes, 1.0, {}), Spread(99.0, 0.1, {}))
        )
    plots.save_accuracy_against_spikes(tmp_path / "a.png", points, verdicts, finding)
    assert [axis.get_title()[0] for axis in pictures[-1].axes] == ["c", "b", "a"]


def test_a_baseline_has_the_timesteps_of_the_network_beside(trained, baseline, tmp_path):
    """Both were trained with 5; --timesteps 3 is of both."""
    flags = f"--pretrained_snn {trained.snn} --baseline {baseline} --timesteps 3 --limit_test 8"
    run_undrawn("obj1", flags, f"--epsilon 0.1 --run_name a --output_dir {tmp_path}")
    (network,) = records(tmp_path / "logs/snn/a.jsonl", "evaluation")
    (beside,) = records(tmp_path / "logs/snn/a.jsonl", "baseline")
    assert (network["timesteps"], network["mean_steps"]) == (3, 3)
    assert (beside["timesteps"], beside["mean_steps"]) == (3, 3)


def test_a_baseline_is_drawn_beside(trained, baseline, tmp_path):
    """--baseline: a row of the table and its own record; a network of other images is refused."""
    flags = f"--pretrained_snn {trained.snn} --baseline {baseline} --output_dir {tmp_path}"
    said = run_here(
        "obj1", f"{flags} --run_name a --epsilon 0 0.1 --rule confidence --gap_bound 0.5 {DATA}"
    )[1]
    (beside,) = records(tmp_path / "logs/snn/a.jsonl", "baseline")
    assert (
        re.search(rf"^baseline +{100 * beside['accuracy']:.2f} %", said, re.MULTILINE)
        and not beside["feedback"]
    )
    assert (beside["rule"], beside["bounds"]) == (
        "confidence",
        {"gap_bound": 0.5},
    )  # those of the network beside it
    run_here("analysis", f"{flags} --images 2 --chart_images 4 {DATA}")
    other = REPOSITORY / "trained_models/snn/cifar10_baseline.pth"
    assert f"--baseline {other} has colour images" in refused(
        "analysis", flags, f"--baseline {other} --images 1 {DATA}"
    )


def test_stacked_bars_by_hand():
    """Two bars: 2 spikes of the input; 3 of the encoder on top of 1. A part that one lacks is 0."""
    drawn = []

    def draw(places, values, width, bottoms, **look):
        drawn.append((look["label"], values.tolist(), bottoms.tolist()))

    colours = {"input": "black", "encoder": "grey"}
    bars = [{"input": 2}, {"input": 1, "encoder": 3}]
    _, sums = stack_parts(draw, [0, 1], bars, 0.5, colours)
    assert drawn == [("input", [2, 1], [0, 0]), ("encoder", [0, 3], [2, 1])]
    assert sums.tolist() == [2, 4]
