"""What pictures show: the facts of a run step by step, and how they are chosen."""

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.data.sets import Batch, ImageSet, first_of_each_class
from harness.drawing import plots
from harness.drawing.figures import rows_of, save_contact_sheet, save_gif, save_knowledge
from harness.drawing.film import STATES, film_of, keyed, load_film, save_film
from self_models.basics.settings import NOT_NEGATIVE, objective_setting
from self_models.objectives.contrast import Contrast
from self_models.objectives.gates import GATES, Blocking, Gate
from self_models.objectives.once import Once
from self_models.running.outputs import SNNOutput

SILENT, DARK, BRIGHT, PREDICTED, BLOCKED, WAITS, SENDS, SENT, HELD, LATER = range(10)  # as page.js numbers them, too
EPSILON = 0.1  # the gate's default
IMAGE = torch.tensor([[[[0.0, 0.5, 0.5, 0.5, 0.5]]]])  # one image of five pixels
PREDICTIONS = torch.tensor([[0.3, 0.1, 0.9, 0.45, 0.55], *[[0.3, 0.45, 0.9, 0.45, 0.0]] * 2]).view(3, 1, 1, 1, 5)


def output_of(predictions=PREDICTIONS, image=IMAGE):
    """The output of a run with permanent blocking that predicts so, worked out by hand from the rule."""
    predicted, steps = (predictions - image).abs() < EPSILON, len(predictions)
    is_open = torch.cat([torch.ones_like(predicted[:1]), ~predicted[:-1]]).int().cummin(0).values.bool()
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, np.log(3)]], [[np.log(9), 0.0]]]).float()[:steps]
    spikes = {"input": [[4.0], [2.0], [1.0]], "features.1": [[0.0], [5.0], [5.0]], "features.4": [[0.0], [1.0], [0.0]]}
    return SNNOutput(
        logits[-1], predictions, (image - predictions) ** 2, {}, torch.tensor([steps]), predicted, is_open,
        logits_by_step=logits, spikes_by_step={name: torch.tensor(count)[:steps] for name, count in spikes.items()},
    )  # fmt: skip


def film(output=None, image=IMAGE, gate=Blocking, **settings):
    model = SimpleNamespace(on_pixel_scale=lambda prediction: prediction, gate=gate(**settings))
    batch = Batch(image, torch.tensor([1]), torch.tensor([7]))
    return film_of(model, batch, output or output_of(), ["cat", "dog"], ["label: dog"])


def test_what_each_step_has_come_to():
    """Outputs 0 0, then 0 log 3 (softmax 1/4, 3/4), then log 9 0 (9/10, 1/10): not the last verdict from the start."""
    found = film()
    assert found.answers.tolist() == [[-1], [1], [0]]
    assert found.sure[:, 0] == pytest.approx(np.array([[1 / 2, 1 / 2], [1 / 4, 3 / 4], [9 / 10, 1 / 10]]))
    assert found.layers.tolist() == ["input", "encoder, layer 1", "encoder, layer 2"]
    assert found.spikes[:, 0].tolist() == [[4, 0, 0], [6, 5, 1], [7, 10, 1]]
    parts = {"input": [4, 6, 7], "encoder": [0, 6, 11], "decoder": [0, 0, 0], "classifier": [0, 0, 0], "total": [4, 12, 18]}
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
    assert film(residual=True).states[:, 0, 0, 0].tolist() == [BRIGHT] * 3  # there a pixel of value 0 sends its error
    found = film(output_of()._replace(is_open=None, predicted=None), gate=Gate)  # without blocking
    assert found.blocked.max() == 0 and found.states[2, 0, 0].tolist() == [SILENT, DARK, BRIGHT, DARK, DARK]


def test_a_colour_pixel_is_blocked_with_its_last_channel():
    image = torch.full((1, 3, 1, 1), 0.5)
    predictions = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.9], [0.5, 0.5, 0.5]]).view(3, 1, 3, 1, 1)
    predicted = (predictions - image).abs() < EPSILON
    is_open = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 0, 0]]).view(3, 1, 3, 1, 1).bool()
    output = output_of(predictions, image)._replace(predicted=predicted, is_open=is_open)
    found = film(output, image)
    assert found.states.ravel().tolist() == [DARK, BRIGHT, BLOCKED]
    assert found.images.shape == (1, 1, 1, 3) and found.images.ravel().tolist() == [191] * 3  # from [-1, 1]


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
    assert film(output, image, Contrast).states[:, 0, 0, [0, 19]].tolist() == [[PREDICTED, WAITS], [BLOCKED, DARK]]
    found = film(output, image, Contrast, contrast="none")  # compared with the image
    assert found.states[:, 0, 0, [0, 19]].tolist() == [[PREDICTED, DARK], [BLOCKED, BRIGHT]]


def test_pictures_show_the_first_of_each_class():
    labels = torch.tensor([2, 0, 0, 2, 1, 0])
    assert first_of_each_class(labels, 4).tolist() == [1, 4, 0, 2]  # classes 0, 1, 2, then the second 0
    assert first_of_each_class(labels, 99).tolist() == [1, 4, 0, 2, 3, 5]


# --- gate once


def film_once(image, decoded=0.0, steps=3, waiting=False, **settings):
    """The film of a run in which the decoder predicts this in each step; waiting: pixels whose turn is to come are open, too."""
    gate = Once(**settings)
    view, shown = gate.start(image), []
    for _ in range(steps):
        prediction = gate.complete(decoded, view)
        shown.append((prediction, view.is_open | ~view.known.done if waiting else view.is_open, view.events))
        view = gate.next_view(image, prediction, view)
    predictions, is_open, events = (torch.stack(each) for each in zip(*shown, strict=True))
    logits = torch.zeros(steps, len(image), 2)
    output = SNNOutput(
        logits[-1], predictions, (image - predictions) ** 2, {}, torch.full((len(image),), steps), is_open=is_open,
        logits_by_step=logits, spikes_by_step={"input": events.sum((2, 3, 4)), "features.1": events.sum((2, 3, 4))},
    )  # fmt: skip
    batch = Batch(image, torch.zeros(len(image), dtype=torch.long), torch.arange(len(image)))
    model = SimpleNamespace(on_pixel_scale=lambda prediction: prediction, gate=gate)
    return film_of(model, batch, output, ["cat", "dog"], ["label: cat"] * len(image))


def in_bytes(values):
    """Values from 0 to 1 as a Film has them, rounded to a 255th."""
    return pytest.approx(np.multiply(255, values), abs=0.51)


def test_states_of_pixels_that_send_once():
    """Grid 2, epsilon 0.2: 0.2 and 0.6 send first, 0 says so by silence; 0.5 between 0.2 and 0.6 is 0.1 off the interpolation and
    is held as 0.4, 0.9 between 0.6 and 0 is 0.6 off and sends, 0 right of the last is right."""
    six = torch.tensor([[[[0.2, 0.5, 0.6, 0.9, 0.0, 0.0]]]])
    found = film_once(six, grid=2, epsilon=0.2)
    assert found.states[:, 0, 0].tolist() == [
        [SENDS, LATER, SENDS, LATER, SILENT, LATER],
        [SENT, HELD, SENT, SENDS, SILENT, HELD],
        [SENT, HELD, SENT, SENT, SILENT, HELD],
    ]
    assert (film_once(six, grid=2, epsilon=0.2, waiting=True).states == found.states).all()
    assert found.predictions[:, 0, 0].ravel() == in_bytes([0.2, 0.4, 0.6, 0.3, 0, 0] + 2 * [0.2, 0.4, 0.6, 0.9, 0, 0])
    assert found.misses[:, 0, 0].ravel() == in_bytes([0, 0.1, 0, 0.6, 0, 0] + 2 * [0, 0.1, 0, 0, 0, 0])
    assert found.sent_share[:, 0] == pytest.approx([2 / 6, 3 / 6, 3 / 6])
    assert keyed(found.states) == [SILENT, SENDS, SENT, HELD, LATER] and keyed(film().states) == [*range(WAITS)]
    frames = rows_of(found)["sent so far"]  # on a checkerboard
    assert frames[:2, 0, 0] == in_bytes([[0.2, 0.7, 0.6, 0.7, 0.6, 0.6], [0.2, 0.7, 0.6, 0.9, 0.6, 0.6]])
    assert set(rows_of(film())) == {"prediction", "input neurons"}  # of another gate


def test_a_colour_pixel_shows_what_any_channel_does():
    """From -1 to 1: of the middle pixel blue alone is 0.8 off the interpolation, 0.4 of its range."""
    image = torch.zeros(1, 3, 1, 3) - 0.4
    image[0, 2, 0, 1] = 0.4
    found = film_once(image, grid=2, epsilon=0.2)
    assert found.states[:, 0, 0].tolist() == [[SENDS, LATER, SENDS], [SENT, SENDS, SENT], [SENT, SENT, SENT]]
    assert found.misses[0, 0, 0] == in_bytes([0, 0.4, 0]) and found.tolerance == pytest.approx(0.1)
    assert found.mean_errors[:, 0].tolist() == pytest.approx([0.4 / 3, 0, 0])  # one of nine values
    assert found.spikes[:, 0, 0].tolist() == [6, 7, 7] and found.sent[2, 0, 0, 1] == in_bytes([0.3, 0.3, 0.7])


@pytest.fixture
def drawn(monkeypatch):
    """The figures that matplotlib has written as pictures."""
    figures, close = [], plots.plt.close
    monkeypatch.setattr(plots.plt, "close", lambda figure: (figures.append(figure), close(figure)))
    return figures


def words_of(figure):
    return [text.get_text() for text in figure.findobj(plots.plt.Text) if text.get_text()]


GREY, ERROR = "grey value", "absolute error, % of a pixel's range; white: ε"


def test_scales_keys_and_epsilon_beside_pictures(drawn, tmp_path):
    """Grey values only beside grey images; errors only where they are shown; in the GIF's heading how much is blocked at last."""
    grey, colour, wide = torch.rand(1, 1, 8, 8, generator=torch.manual_seed(0)), torch.rand(1, 3, 8, 8), IMAGE.expand(1, 3, 1, 5)
    blocking = output_of(torch.zeros(1, 1, 3, 1, 5), wide)
    for found, scales, words in (
        (film(epsilon=0.125), {GREY}, "within ε = 0.125 of the pixel, in % of the pixels that are not 0"),
        (film(blocking, wide), set(), "within ε = 0.1 of the pixel, in % of the pixels' channels that are not 0"),
        (film_once(grey, steps=1, grid=2, epsilon=0.125), {GREY, ERROR}, "never sent: a value guessed within ε = 0.125, 12.5 %"),
        (film_once(2 * colour - 1, steps=1, grid=2), {ERROR}, "never sent: a value guessed within ε = 0.1, 5 % of its range"),
    ):
        for draw in (save_contact_sheet, partial(save_gif, seconds_per_step=0.5)):
            draw(tmp_path / "picture", found)
            said = words_of(drawn[-1])
            assert all(axis.get_visible() for axis in drawn[-1].axes if axis.images)
            assert {GREY, ERROR} & set(said) == scales and any(words in each for each in said), words
            assert ({STATES[SENDS], STATES[LATER]} <= set(said)) == found.once == (STATES[BLOCKED] not in said)
        assert found.once or any("| 75 % blocked" in " ".join(each.split()) for each in said) == (found.epsilon == 0.125)


TITLE = "accurate_feedback: scene watch, with more words than a small picture has room for"


@pytest.mark.parametrize(
    ("labels", "said", "unsaid"),
    [
        ([1, -1, 0], ["label: cat", "answer: cat ✓"], ["label: dog"]),
        ([0, 0, 1], ["label: dog", "answer: cat ✗"], ["label: cat"]),
        ([0, 1, -1], ["no label", "answer: cat"], ["label: dog", "✓", "✗"]), ([-1] * 3, ["answer: cat"], ["label", "✓", "✗"]),
    ],
)  # fmt: skip
def test_a_gif_of_a_stream_has_all_of_its_title_and_the_label_of_each_step(drawn, tmp_path, labels, said, unsaid):
    """Where somebody knows it. It is one image, of which there is no mean."""
    stream = replace(film(), titles=np.array([""]), heading=TITLE, shown_labels=np.array(labels)[:, None])
    save_gif(tmp_path / "a.gif", stream, 0.5)
    words = "\n".join(words_of(drawn[-1]))  # of the last step
    assert all(each in words for each in (*said, f"{TITLE}\nstep 3 of 3", "spikes so far: 18"))
    assert not any(each in words for each in unsaid)


@dataclass
class Mine(Blocking):
    tol: float = objective_setting(0.3, NOT_NEGATIVE, "")


def test_of_a_gate_of_ones_own_pictures_say_no_more_than_its_name_and_settings(drawn, tmp_path, monkeypatch):
    """Not what is true of block, nor its epsilon; so does the film that a report reads."""
    monkeypatch.setitem(GATES, "mine", Mine)
    found = film(gate=Mine)
    save_film(tmp_path / "film.npz", found)
    for one in (found, load_film(tmp_path / "film.npz")):
        for draw in (save_contact_sheet, partial(save_gif, seconds_per_step=0.5)):
            draw(tmp_path / "picture", one)
            said = words_of(drawn[-1])
            assert any("gate mine, tol 0.3; blocked, in % of the pixels that are not 0" in each for each in said)
            assert {"open: predicted", "blocked by the gate"} <= set(said) and "ε = " not in " ".join(said)
            assert not {STATES[PREDICTED], STATES[BLOCKED]} & set(said)
    assert (found.setting, film(epsilon=0.2).setting) == ("gate mine, tol 0.3", "ε = 0.2")


def test_the_image_as_known_after_each_step(drawn, tmp_path):
    image = torch.rand(2, 3, 8, 8, generator=torch.manual_seed(0)) * 2 - 1
    found = film_once(image, grid=4, epsilon=0.1, steps=6)
    save_knowledge(tmp_path / "known.png", found)
    words = words_of(drawn[-1])
    steps = [word for word in words if word.startswith("after")]
    assert steps == ["after step 1", "after step 2", "after step 3"]  # then all is had
    sent, error = found.spikes[2, 1, 0], 100 * found.mean_errors[2, 1]
    assert f"{sent} sent ({100 * sent / 192:.0f} %)\nerror {error:.1f} %" in words and words.count("label: cat\n192 values") == 2
    assert any("within ε = 0.1, 5 % of its range" in word for word in words)


PARTS = {"input": 4.0, "encoder": 3.0, "decoder": 2.0, "classifier": 1.0, "total": 10.0}
EVALUATED = {"images": 100, "accuracy": 0.9, "spikes": PARTS}
ONE = {
    "label": torch.tensor([0, 1]), "steps": torch.tensor([2, 3]), "spikes": torch.tensor([7.0, 5.0]),
    "found": torch.tensor([0, 0]), "correct": torch.tensor([True, False]),
}  # fmt: skip


def test_the_cheapest_and_the_dearest_images(drawn, tmp_path):
    digits = ImageSet("MNIST", torch.tensor([40, 80], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 4, 4), ONE["label"])
    plots.save_extremes(tmp_path / "extremes.png", digits, ONE, 0.25)
    axes = drawn[-1].axes
    assert drawn[-1].get_suptitle() == "The 2 cheapest and the 2 most expensive test images, ε = 0.25"
    cheap, dear = "5 spikes\ntaken for 0", "7 spikes\nright"
    assert [axis.get_title() for axis in axes] == [cheap, dear, dear, cheap]
    assert [axis.get_ylabel() for axis in axes] == ["cheapest", "", "most expensive", ""]
    assert [axis.images[0].get_array()[0, 0] for axis in axes] == [80, 40, 40, 80]


def test_a_curve_of_open_input_only_where_input_is_blocked(drawn, tmp_path):
    def curves():
        return {axis.get_title(): len(axis.lines) for axis in drawn[-1].axes if "still open" in axis.get_title()}

    off, on = EVALUATED | {"epsilon": 0.0}, EVALUATED | {"epsilon": 0.1, "open_share": [1.0, 0.5]}
    for records, found in (([off], {}), ([off, on], {"input pixels that are not 0: still open": 1})):
        plots.save_sweep(tmp_path / "x.png", records)
        assert curves() == found
    for share, found in ((None, {}), ([1.0, 0.5], {"input pixels that are not 0: still open": 1})):
        spikes = {"input": [1.0, 2.0], "features.1": [0.0, 1.0]}
        plots.save_spikes_over_time(tmp_path / "x.png", spikes, share, "ε = 0.1", "7 images")
        assert curves() == found and "ε = 0.1" in drawn[-1].axes[0].get_title()
    plots.save_dimming(tmp_path / "x.png", [{"dimming": "none", "plain": 0.5, "contrast": 0.6}], 0.125)
    assert "dimmed digits, ε = 0.125" in drawn[-1].axes[0].get_title()


def test_a_film_in_a_file_and_its_first_images(tmp_path):
    found = film()
    save_film(tmp_path / "film.npz", found)
    again = load_film(tmp_path / "film.npz")
    assert all(np.array_equal(values, again.arrays()[name]) for name, values in found.arrays().items())
    assert again.epsilon == found.epsilon and not again.once
    first = film_once(torch.rand(3, 1, 8, 8), grid=2).first(2)
    assert first.misses.shape == (3, 2, 8, 8) and first.index.tolist() == [0, 1] and first.images.shape == (2, 8, 8)
