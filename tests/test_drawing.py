"""What pictures show: the facts of a run step by step, and how they are chosen."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.data.classes import first_of_each_class
from harness.data.sets import Batch
from harness.drawing.film import BLOCKED, BRIGHT, DARK, PREDICTED, SILENT, WAITS, film_of, in_words
from self_models.objectives.contrast import Contrast
from self_models.objectives.gates import Blocking, Gate
from self_models.running.outputs import SNNOutput

READOUT = SimpleNamespace(guess=lambda prediction: prediction)
EPSILON = 0.1  # the gate's default
IMAGE = torch.tensor([[[[0.0, 0.5, 0.5, 0.5, 0.5]]]])  # one image of five pixels
GUESSES = torch.tensor([[0.3, 0.1, 0.9, 0.45, 0.55], [0.3, 0.45, 0.9, 0.45, 0.0], [0.3, 0.45, 0.9, 0.45, 0.0]]).view(
    3, 1, 1, 1, 5
)


def output_of(guesses=GUESSES, image=IMAGE, steps=3):
    """The output of a run with permanent blocking that predicts so, worked out by hand from the rule."""
    predicted = (guesses - image).abs() < EPSILON
    is_open = torch.cat([torch.ones_like(predicted[:1]), ~predicted[:-1]]).int().cummin(0).values.bool()
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, np.log(3)]], [[np.log(9), 0.0]]]).float()
    spikes = {"input": [[4.0], [2.0], [1.0]], "features.1": [[0.0], [5.0], [5.0]], "features.4": [[0.0], [1.0], [0.0]]}
    return SNNOutput(
        logits[-1], guesses, (image - guesses) ** 2, {}, torch.tensor([steps]), predicted, is_open,
        logits_by_step=logits, spikes_by_step={name: torch.tensor(count) for name, count in spikes.items()},
    )  # fmt: skip


def film(output=None, image=IMAGE, gate=Blocking, **settings):
    model = SimpleNamespace(readout=READOUT, gate=gate(**settings))
    return film_of(
        model, Batch(image, torch.tensor([1]), torch.tensor([7])), output or output_of(), ["cat", "dog"], ["label: dog"]
    )


def test_the_answer_is_that_of_each_step():
    """Outputs 0 0, then 0 log 3 (softmax 1/4, 3/4), then log 9 0 (9/10, 1/10): not the last verdict from the start."""
    found = film()
    assert found.answers.tolist() == [[-1], [1], [0]]
    assert found.sureness.ravel().tolist() == pytest.approx([0.5, 0.75, 0.9])
    assert [found.names[number] for number in found.answers[1:, 0]] == ["dog", "cat"]


def test_open_pixels_say_why():
    """Step 1: nothing is blocked yet; two pixels are predicted and are blocked from step 2 on, for good."""
    assert film().states[:, 0, 0].tolist() == [
        [SILENT, DARK, BRIGHT, PREDICTED, PREDICTED],
        [SILENT, PREDICTED, BRIGHT, BLOCKED, BLOCKED],
        [SILENT, BLOCKED, BRIGHT, BLOCKED, BLOCKED],
    ]
    assert film().blocked[:, 0].tolist() == [0, 0.5, 0.75]  # of the four pixels that are not 0
    assert film(residual=True).states[:, 0, 0, 0].tolist() == [BRIGHT] * 3  # there a pixel of value 0 sends its error


def test_without_blocking_everything_is_open():
    found = film(output_of()._replace(is_open=None, predicted=None), gate=Gate)
    assert found.blocked.max() == 0 and found.states[2, 0, 0].tolist() == [SILENT, DARK, BRIGHT, DARK, DARK]


def test_a_colour_pixel_is_blocked_with_its_last_channel():
    image = torch.full((1, 3, 1, 1), 0.5)
    guesses = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.9], [0.5, 0.5, 0.5]]).view(3, 1, 3, 1, 1)
    predicted = (guesses - image).abs() < EPSILON
    is_open = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 0, 0]]).view(3, 1, 3, 1, 1).bool()
    output = output_of(guesses, image)._replace(predicted=predicted, is_open=is_open)
    found = film(output, image)
    assert found.states.ravel().tolist() == [DARK, BRIGHT, BLOCKED]
    assert found.images.shape == (1, 1, 1, 3) and found.images.ravel().tolist() == [0.75] * 3  # from [-1, 1] to [0, 1]


def test_contrast_judges_by_what_is_seen():
    """Beside a bright part a dim one waits; once the bright one is blocked it is seen at full brightness, five times its own."""
    image = torch.zeros(1, 1, 1, 20)
    image[..., 0], image[..., 19] = 1.0, 0.2
    guesses = torch.zeros(2, *image.shape)
    guesses[..., 0], guesses[1, ..., 19] = 1.0, 0.5
    is_open = torch.ones_like(guesses, dtype=torch.bool)
    is_open[1, ..., 0] = False
    predicted = torch.zeros_like(is_open)
    predicted[0, ..., 0] = True
    output = output_of(guesses, image)._replace(predicted=predicted, is_open=is_open)
    assert film(output, image, Contrast).states[:, 0, 0, [0, 19]].tolist() == [[PREDICTED, WAITS], [BLOCKED, DARK]]
    found = film(output, image, Contrast, contrast="none")  # compared with the image
    assert found.states[:, 0, 0, [0, 19]].tolist() == [[PREDICTED, DARK], [BLOCKED, BRIGHT]]


def test_layers_have_names_for_a_reader():
    layers = ["input", "features.1", "features.4", "generate.1", "classifier.1", "classifier.4"]
    assert in_words(layers) == [
        "input", "encoder, layer 1", "encoder, layer 2", "decoder, layer 1", "classifier, hidden layer 1",
        "classifier, hidden layer 2",
    ]  # fmt: skip


def test_spikes_and_errors_add_up():
    found = film()
    assert {name: count[:, 0].tolist() for name, count in found.spikes.items()} == {
        "input": [4, 6, 7],
        "features.1": [0, 5, 10],
        "features.4": [0, 1, 1],
    }
    parts = {part: count[:, 0].tolist() for part, count in found.spikes_by_part().items()}
    assert parts == {
        "input": [4, 6, 7], "encoder": [0, 6, 11], "decoder": [0, 0, 0], "classifier": [0, 0, 0], "total": [4, 12, 18],
    }  # fmt: skip
    assert found.errors[0, 0] == pytest.approx(0.3**2 + 0.4**2 + 0.4**2 + 2 * 0.05**2)


def test_pictures_show_the_first_of_each_class():
    labels = torch.tensor([2, 0, 0, 2, 1, 0])
    assert first_of_each_class(labels, 4).tolist() == [1, 4, 0, 2]  # classes 0, 1, 2, then the second 0
    assert first_of_each_class(labels, 99).tolist() == [1, 4, 0, 2, 3, 5]
