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

from self_models.data.sets import Batch, ImageSet, first_of_each_class
from self_models.feedback.contrast import Contrast
from self_models.feedback.gates import Blocking, Gate
from self_models.running.outputs import SNNOutput
from studies import results
from wfeedback.drawing import plots
from wfeedback.drawing.figures import plt, stack_parts
from wfeedback.drawing.film import film_of, save_contact_sheet, save_gif
from wfeedback.drawing.raster import Raster, save_raster
from wfeedback.drawing.reel import VERDICTS, save_stream
from wfeedback.measuring.comparing import Difference, Spread
from wfeedback.measuring.tables import blocked_percent

# Of pixels, as films number them
SILENT = 0
DARK = 1  # predicted too dark
BRIGHT = 2  # predicted too bright
PREDICTED = 3
BLOCKED = 4
WAITS = 5  # for a brighter part of the image
EPSILON = 0.1  # the gate's default

# --- a run by hand: what it has come to in each of 3 timesteps

IMAGE = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5]).view(1, 1, 1, 5)  # one image of five pixels
PREDICTIONS = torch.tensor(
    [
        [0.3, 0.1, 0.9, 0.45, 0.55],
        [0.3, 0.45, 0.9, 0.45, 0.0],
        [0.3, 0.45, 0.9, 0.45, 0.0],
    ]
).view(3, 1, 1, 1, 5)
LOGITS = torch.tensor(
    [
        [0.0, 0.0],  # softmax 1/2, 1/2
        [0.0, np.log(3)],  # softmax 1/4, 3/4
        [np.log(9), 0.0],  # softmax 9/10, 1/10
    ],
    dtype=torch.float,
).view(3, 1, 2)
SPIKES = {
    "input": torch.tensor([4.0, 2.0, 1.0]).view(3, 1),
    "features.1": torch.tensor([0.0, 5.0, 5.0]).view(3, 1),
    "features.4": torch.tensor([0.0, 1.0, 0.0]).view(3, 1),
}


def output_of(predictions=PREDICTIONS, image=IMAGE):
    """Work out the output of a run with permanent blocking that predicts so."""
    steps = len(predictions)
    predicted = (predictions - image).abs() < EPSILON
    # A pixel is open until the timestep after the first that predicts it.
    not_yet_predicted = torch.cat([torch.ones_like(predicted[:1]), ~predicted[:-1]])
    is_open = not_yet_predicted.int().cummin(0).values.bool()
    return SNNOutput(
        logits=LOGITS[steps - 1],
        predictions=predictions,
        errors=(image - predictions) ** 2,
        spikes={},
        steps=torch.tensor([steps]),
        predicted=predicted,
        is_open=is_open,
        logits_by_step=LOGITS[:steps],
        spikes_by_step={name: spikes[:steps] for name, spikes in SPIKES.items()},
    )


def make_film(output=None, image=IMAGE, gate=None):
    """Film the image, number 7 of a data set, which shows a dog."""
    if output is None:
        output = output_of()
    model = SimpleNamespace(
        on_pixel_scale=lambda prediction: prediction,
        gate=gate or Blocking(),
        settings={"predict": "frame"},
    )
    batch = Batch(image, torch.tensor([1]), torch.tensor([7]))
    return film_of(model, batch, output, ["cat", "dog"], ["label: dog"])


def test_a_film_has_the_answer_of_each_step():
    film = make_film()
    assert film.answers.tolist() == [[-1], [1], [0]]
    softmax = np.array([[1 / 2, 1 / 2], [1 / 4, 3 / 4], [9 / 10, 1 / 10]])
    assert film.sure[:, 0] == pytest.approx(softmax)


def test_a_film_has_the_spikes_up_to_each_step():
    spikes = {}
    for part, counts in make_film().spikes_by_part().items():
        spikes[part] = counts[:, 0].tolist()
    assert spikes == {
        "input": [4, 6, 7],
        "encoder": [0, 6, 11],  # features.1 and features.4
        "decoder": [0, 0, 0],
        "classifier": [0, 0, 0],
        "total": [4, 12, 18],
    }


def test_a_film_has_the_error_of_the_image():
    error = 0.3**2 + 0.4**2 + 0.4**2 + 2 * 0.05**2  # in the first timestep
    assert make_film().errors[0, 0] == pytest.approx(error)


# --- the states of pixels


def test_open_pixels_say_why():
    """What is predicted in a timestep is blocked from the next one on."""
    film = make_film()
    assert film.states[:, 0, 0].tolist() == [
        [SILENT, DARK, BRIGHT, PREDICTED, PREDICTED],
        [SILENT, PREDICTED, BRIGHT, BLOCKED, BLOCKED],
        [SILENT, BLOCKED, BRIGHT, BLOCKED, BLOCKED],
    ]
    assert film.blocked[:, 0].tolist() == [0, 0.5, 0.75]  # of the four pixels that are not 0


def test_with_a_residual_a_pixel_of_value_0_sends_its_error():
    film = make_film(gate=Blocking(residual=True))
    assert film.states[:, 0, 0, 0].tolist() == [BRIGHT, BRIGHT, BRIGHT]


def test_without_blocking_pixels_are_dark_or_bright():
    output = output_of()._replace(is_open=None, predicted=None)
    film = make_film(output, gate=Gate())
    assert film.blocked.max() == 0
    assert film.states[2, 0, 0].tolist() == [SILENT, DARK, BRIGHT, DARK, DARK]


def test_a_colour_pixel_is_blocked_with_its_last_channel():
    image = torch.full((1, 3, 1, 1), 0.5)
    colours = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.9], [0.5, 0.5, 0.5]])
    predictions = colours.view(3, 1, 3, 1, 1)
    output = output_of(predictions, image)._replace(
        predicted=(predictions - image).abs() < EPSILON,
        is_open=torch.tensor([[1, 1, 1], [0, 0, 1], [0, 0, 0]]).view(3, 1, 3, 1, 1).bool(),
    )

    film = make_film(output, image)

    assert film.states.ravel().tolist() == [DARK, BRIGHT, BLOCKED]
    assert film.images.shape == (1, 1, 1, 3)
    assert film.images.ravel().tolist() == [191, 191, 191]  # (0.5 + 1) / 2 * 255 = 191.25


@pytest.mark.parametrize(
    ("gate", "states"),
    [
        # Beside the bright pixel the dim one waits. Once that is blocked, the other is
        # seen at full brightness, five times its own, for which 0.5 is too little.
        (Contrast(), [[PREDICTED, WAITS], [BLOCKED, DARK]]),
        # The image has 0.2 there, for which 0 is too little and 0.5 too much.
        (Contrast(contrast="none"), [[PREDICTED, DARK], [BLOCKED, BRIGHT]]),
    ],
    ids=["local", "none"],
)
def test_contrast_judges_by_what_is_seen(gate, states):
    image = torch.zeros(1, 1, 1, 20)
    image[..., 0] = 1.0
    image[..., 19] = 0.2
    predictions = torch.zeros(2, *image.shape)
    predictions[..., 0] = 1.0
    predictions[1, ..., 19] = 0.5
    is_open = torch.ones_like(predictions, dtype=torch.bool)
    is_open[1, ..., 0] = False
    predicted = torch.zeros_like(is_open)
    predicted[0, ..., 0] = True
    output = output_of(predictions, image)._replace(predicted=predicted, is_open=is_open)

    film = make_film(output, image, gate)

    assert film.states[:, 0, 0, [0, 19]].tolist() == states


def test_pictures_show_the_first_of_each_class():
    labels = torch.tensor([2, 0, 0, 2, 1, 0])
    # The first of classes 0, 1 and 2, then the second of 0
    assert first_of_each_class(labels, 4).tolist() == [1, 4, 0, 2]
    assert first_of_each_class(labels, 99).tolist() == [1, 4, 0, 2, 3, 5]


# --- what pictures say


PARTS = {"input": 4.0, "encoder": 3.0, "decoder": 2.0, "classifier": 1.0, "total": 10.0}
EVALUATED = {"images": 100, "accuracy": 0.9, "spikes": PARTS}


def texts_of(figure):
    """Read what stands in a figure, one text a line."""
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def test_a_gif_says_the_answer_of_an_image_that_stops(tmp_path, pictures):
    save_gif(tmp_path / "a.gif", replace(make_film(), stopped=np.array([2])), 0.5)

    texts = texts_of(pictures[-1])
    assert "answer: cat ✗" in texts
    assert "90 % sure, T = 2" in texts
    assert "75 % blocked" in texts
    assert "encoder 11" in texts
    assert "decoder" not in texts  # no layer of it spikes


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_legend_of_a_contact_sheet_fits_its_width(tmp_path, pictures, steps):
    film = make_film(output_of(PREDICTIONS[:steps]))

    save_contact_sheet(tmp_path / "a.png", film)

    (legend,) = pictures[-1].legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= pictures[-1].bbox.width


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (1.0, 0, "100 %"),
        (0.9996, 0, "99 %"),
        (0.9996, 1, "99.9 %"),
        (0.985, 1, "98.5 %"),
        (0.0, 0, "0 %"),
    ],
)
def test_100_percent_are_blocked_only_where_all_pixels_are(share, digits, text):
    assert blocked_percent(share, digits) == text


def test_a_gif_has_the_spikes_of_a_baseline_in_its_legend(tmp_path, pictures):
    film = replace(make_film(), baseline={"input": [3.0], "generate.1": [2.0]})

    save_gif(tmp_path / "a.gif", film, 0.5)

    (legend,) = [axis.get_legend() for axis in pictures[-1].axes if axis.get_legend()]
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["input 7 (3)", "encoder 11 (-)", "decoder - (2)"]


def test_extremes_begin_with_the_cheapest_images(tmp_path, pictures):
    grey = torch.tensor([40, 80], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    per_image = {
        "label": torch.tensor([0, 1]),
        "steps": torch.tensor([2, 3]),
        "spikes": torch.tensor([7.0, 5.0]),
        "found": torch.tensor([0, 0]),
        "correct": torch.tensor([True, False]),
    }
    digits = ImageSet("MNIST", grey, per_image["label"])

    plots.save_extremes(tmp_path / "a.png", digits, per_image, 0.25)

    # A row of the cheapest, with 5 and 7 spikes, and one of the dearest
    shown = [axis.images[0].get_array()[0, 0] for axis in pictures[-1].axes]
    assert shown == [80, 40, 40, 80]


def test_a_gif_shows_each_frame_for_these_seconds_and_says_its_timestep(tmp_path, pictures):
    """The film has timesteps 2, 4 and 6; 2, where nothing is blocked, is left out.

    The last frame stays for 3 s.
    """
    save_gif(tmp_path / "a.gif", replace(make_film(), every=2), 0.5)

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

    input_axis, _, layer_axis, membrane_axis, _, output_axis = pictures[-1].axes
    assert [list(marks.get_positions()) for marks in input_axis.collections] == [[3]]
    assert [list(marks.get_positions()) for marks in layer_axis.collections] == [[1, 3], [2]]
    _, neuron_4, neuron_2 = membrane_axis.lines  # behind the line of the threshold
    assert neuron_4.get_xdata().tolist() == [1, 2, 3]
    assert neuron_4.get_ydata().tolist() == [0.1, 0.9, 0.3]
    assert neuron_4.get_markevery() == [0, 2]  # counted from 0
    assert neuron_2.get_markevery() == [1]
    for line in output_axis.lines:
        assert line.get_xdata().tolist() == [1, 2, 3]


def test_a_stream_says_no_answer_before_it_says_no_label(tmp_path, pictures):
    """A timestep without an answer is not wrong, whether or not there is a label."""
    figures = dict.fromkeys(PARTS, np.ones(5))
    figures["answer"] = np.array([-1, -1, 0, 0, 0])
    figures["label"] = np.array([-1, 0, -1, 0, 1])
    reel = SimpleNamespace(
        so_far=lambda: figures,
        images=[(0, np.zeros((2, 2)))],
        model=SimpleNamespace(classes=["cat", "dog"], layers=["input", "features.1"]),
        title="title",
    )

    save_stream(tmp_path / "a.png", reel)

    drawn = []
    for bar in pictures[-1].axes[1].patches:
        if bar.get_width():
            drawn.append((bar.get_x(), bar.get_width(), to_hex(bar.get_facecolor())))
    assert drawn == [
        (0.5, 2, VERDICTS["no answer yet"]),
        (2.5, 1, VERDICTS["no label"]),
        (3.5, 1, VERDICTS["right"]),
        (4.5, 1, VERDICTS["wrong"]),
    ]


def test_spikes_of_a_stream_reach_over_all_timesteps(tmp_path, pictures):
    figures = {part: np.array([1.0, 2.0, 3.0]) for part in PARTS}
    figures["answer"] = figures["label"] = np.zeros(3, int)
    reel = SimpleNamespace(
        so_far=lambda: figures,
        images=[(0, np.zeros((2, 2)))],
        model=SimpleNamespace(classes=["cat", "dog"], layers=["input", "features.1"]),
        title="title",
    )

    save_stream(tmp_path / "a.png", reel, reel)

    axis = pictures[-1].axes[2]
    area = axis.collections[0].get_paths()[0].vertices
    (line,) = [line for line in axis.lines if line.get_label() == "baseline, in all"]
    for places in (area[:, 0], line.get_xdata()):
        assert (places.min(), places.max()) == (0.5, 3.5)
    assert line.get_ydata().tolist() == [4, 8, 12, 12]


OFF = EVALUATED | {"epsilon": 0.0}
BLOCKING = EVALUATED | {"epsilon": 0.1, "open_share": [1.0, 0.5]}


def test_a_sweep_without_blocking_has_no_panel_of_blocked_pixels(tmp_path, pictures):
    plots.save_sweep(tmp_path / "a.png", [OFF])
    assert len(pictures[-1].axes) == 2


def test_a_sweep_begins_with_the_baseline(tmp_path, pictures):
    plots.save_sweep(tmp_path / "a.png", [OFF, BLOCKING], OFF)

    accuracy_axis, spikes_axis, share_axis = pictures[-1].axes
    names = [text.get_text() for text in accuracy_axis.get_xticklabels()]
    assert names == ["baseline", "0 (off)", "0.1"]
    heights = np.zeros(3)
    for bars_of_part in spikes_axis.containers:
        heights += [bar.get_height() for bar in bars_of_part]
    assert heights.tolist() == [10, 10, 10]
    assert share_axis.lines[0].get_ydata().tolist() == [100, 50]


def test_spikes_over_time_are_summed_and_shown_layer_by_layer(tmp_path, pictures):
    spikes = {"input": [1.0, 2.0], "features.1": [0.0, 1.0]}
    networks = {"a": spikes, "b": spikes}

    plots.save_spikes_over_time(tmp_path / "a.png", networks, [1.0, 0.5], "ε = 0.1", "7 images")

    sums_axis, table_axis, *_ = pictures[-1].axes
    # 1 spike after the first timestep, and 1 + 2 + 1 after the second
    assert [line.get_ydata().tolist() for line in sums_axis.lines] == [[1, 4], [1, 4]]
    assert table_axis.images[0].get_array().tolist() == [[1, 2], [0, 1]]


def test_no_label_of_a_choice_lies_on_another_or_on_what_is_drawn(tmp_path, pictures):
    """They stand above the axis, each tied to its point, even if points are close."""
    tried = []
    for number in range(7):
        setting = {"epsilon": 0.1 * number, "readout_slew": 0.19, "timesteps": 4}
        spikes = {"spikes": {"total": 2000.0 + number}, "accuracy": 0.9 + 0.01 * number}
        tried.append(EVALUATED | setting | spikes)
    far = tried[0] | {"spikes": {"total": 4000.0}, "accuracy": 0.1}
    points = [(each["spikes"]["total"], 100 * each["accuracy"]) for each in tried]

    plots.save_choices(tmp_path / "a.png", [*tried, far], tried, [])

    figure = pictures[-1]
    (axis,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = []
    for label in axis.texts:
        boxes.append(plt.Text.get_window_extent(label, renderer))  # without its line
        assert label.xy in points
    assert len(boxes) == 7
    assert boxes[0].y0 > axis.get_window_extent().y1
    for box, right_neighbour in pairwise(boxes):
        assert box.x1 < right_neighbour.x0
    for box in boxes:
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert box.y1 < figure.bbox.y1


LONG_NAMES = [f"a rather long name {number}" for number in range(10)]


@pytest.mark.parametrize("names", [["cat", "elk"], LONG_NAMES], ids=["short", "long"])
def test_a_confusion_matrix_has_a_caption_and_its_labels_lie_beside_the_names(
    tmp_path, pictures, names
):
    record = {"confusion": np.eye(len(names), dtype=int).tolist(), "classes": names}

    plots.save_confusion(tmp_path / "a.png", record, "70 test images, T = 4")
    figure = pictures[-1]
    (axis,) = figure.axes
    caption = figure.get_suptitle().replace("\n", " ")
    assert caption == "Confusion matrix: images by class and predicted class 70 test images, T = 4"

    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = {}
    for text in figure.findobj(plt.Text):
        if text.get_text():
            boxes[text.get_text()] = text.get_window_extent(renderer)
    row_label = boxes["class, with its accuracy"]
    assert row_label.x0 >= 0
    for name in axis.get_yticklabels():
        assert row_label.x1 < name.get_window_extent(renderer).x0
    column_label = boxes["predicted class"]
    assert column_label.y0 >= 0
    for name in axis.get_xticklabels():
        assert column_label.y1 < name.get_window_extent(renderer).y0
    assert boxes[figure.get_suptitle()].y0 > axis.get_window_extent(renderer).y1


# Differences in accuracy: one that may be 0, one of a single seed, and one below 0
FAMILIES = {
    "a": Difference(0.1, 0.2, 3),
    "b": Difference(-0.5, None, 1),
    "c": Difference(-0.2, 0.1, 2),
}


def test_verdicts_begin_with_what_several_seeds_show():
    verdicts, finding = results.verdicts("MNIST", FAMILIES)

    ahead = "at equal spikes the baseline is ahead in 2 of 3 families (1 with one seed)"
    assert finding == f"MNIST: {ahead}"
    verdict_of = {name: sentence.split(": ")[1] for name, sentence in verdicts.items()}
    assert list(verdict_of) == ["c", "b", "a"]
    assert verdict_of == {
        "c": "baseline ahead",
        "b": "baseline ahead",
        "a": "no difference detected",
    }


def test_families_are_drawn_in_the_order_of_verdicts(tmp_path, pictures):
    verdicts, finding = results.verdicts("MNIST", FAMILIES)
    points = []
    for family, spikes, feedback in product(verdicts, (100, 3000), (True, False)):
        row = {
            "name": family if feedback else f"baseline of {family}",
            "rule": "confidence",
            "bounds": {"gap_bound": spikes},
            "feedback": feedback,
        }
        points.append((row, Spread(spikes, 1.0, {}), Spread(99.0, 0.1, {})))

    plots.save_accuracy_against_spikes(tmp_path / "a.png", points, verdicts, finding)

    assert [axis.get_title()[0] for axis in pictures[-1].axes] == ["c", "b", "a"]


def test_a_baseline_has_the_timesteps_of_the_network_beside(trained, baseline, tmp_path):
    """Both were trained with 5; --timesteps 3 is of both."""
    flags = f"--pretrained_snn {trained.snn} --baseline {baseline} --timesteps 3 --limit_test 8"

    run_undrawn("obj1", flags, f"--epsilon 0.1 --run_name a --output_dir {tmp_path}")

    log = tmp_path / "logs/snn/a.jsonl"
    for event in ("evaluation", "baseline"):
        (record,) = records(log, event)
        assert record["timesteps"] == 3
        assert record["mean_steps"] == 3


def test_a_baseline_has_a_row_of_the_table_and_a_record(trained, baseline, tmp_path):
    flags = f"--pretrained_snn {trained.snn} --baseline {baseline} --output_dir {tmp_path}"
    rule = "--rule confidence --gap_bound 0.5"

    _, printed = run_here("obj1", f"{flags} --run_name a --epsilon 0 0.1 {rule} {DATA}")

    (record,) = records(tmp_path / "logs/snn/a.jsonl", "baseline")
    row = rf"^baseline +{100 * record['accuracy']:.2f} %"
    assert re.search(row, printed, re.MULTILINE)
    assert not record["feedback"]
    # The rule of the network beside it
    assert record["rule"] == "confidence"
    assert record["bounds"] == {"gap_bound": 0.5}


def test_a_baseline_is_analysed_beside(trained, baseline, tmp_path):
    flags = f"--pretrained_snn {trained.snn} --baseline {baseline} --output_dir {tmp_path}"
    run_here("analysis", f"{flags} --timesteps 3 --images 1 --chart_images 2 {DATA}")


def test_a_baseline_of_other_images_is_refused(trained, tmp_path):
    other = REPOSITORY / "trained_models/snn/cifar10_baseline.pth"
    flags = f"--pretrained_snn {trained.snn} --baseline {other} --output_dir {tmp_path}"
    line = refused("analysis", f"{flags} --images 1 {DATA}")
    assert f"--baseline {other} has colour images" in line


def test_stacked_bars_by_hand():
    """One bar has 2 spikes of the input, the other has 3 of the encoder on top of 1."""
    drawn = []

    def draw(places, values, width, bottoms, **look):
        drawn.append((look["label"], values.tolist(), bottoms.tolist()))

    colours = {"input": "black", "encoder": "grey"}
    bars = [{"input": 2}, {"input": 1, "encoder": 3}]

    _, sums = stack_parts(draw, [0, 1], bars, 0.5, colours)

    assert drawn == [("input", [2, 1], [0, 0]), ("encoder", [0, 3], [2, 1])]
    assert sums.tolist() == [2, 4]
