"""Philox against known answers, and draws that follow from what they are for alone.

That is from seed, purpose, epoch, image, timestep and position.
"""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from conftest import images, tiny

from self_models import ModelError, plugins
from self_models.checkpoints.loading import on_engine
from self_models.neurons.spiking import HeldDropout
from self_models.running.draws import EVALUATION, Draws, key_for, philox_words, seed_for, shuffled
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

ONES = 0xFFFFFFFF
KNOWN = [  # of Random123: counter, key, words
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
ONE = Draws(seed=3, epoch=1, index=torch.tensor([5, 0, 70]))


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers_of_whole_numbers(counter, key, words):
    assert philox_words(*counter, *key) == words


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers_of_tensors(counter, key, words):
    arguments = [torch.tensor(number) for number in (*counter, *key)]

    found = philox_words(*arguments)

    assert [word.item() for word in found] == list(words)


def test_which_word_a_pixel_takes_by_hand():
    """The pixel in row 1, column 2, channel 1 of 3 x 4 images of 2 channels.

    It is position (1 * 4 + 2) * 2 + 1 = 13. Four positions share the words of a
    counter, and a uniform has the upper 24 bits of a word.
    """
    words = philox_words(13 // 4, 6, 70, 1, *key_for(3, "input"))

    uniforms = ONE.uniforms(9, (2, 3, 4))

    third_image = 2  # whose index is 70
    pixel = uniforms[6, third_image, 1, 1, 2]
    assert pixel.item() == (words[13 % 4] >> 8) * 2.0**-24


@pytest.mark.parametrize("shape", [(3, 5, 7), (10,), (5, 7, 9)])
def test_operations_on_tensors_give_what_the_kernel_gives(monkeypatch, shape):
    draws = Draws(2**70, EVALUATION, torch.tensor([0, 1, 2**31, 2**32 - 1, 59999]))
    uniforms = draws.uniforms(4, shape, first=7)
    mask = draws.mask(3, 0.4, shape)

    def no_kernel(*_):
        return False

    monkeypatch.setattr(plugins, "load_object", lambda _place: no_kernel)

    assert torch.equal(draws.uniforms(4, shape, first=7), uniforms)
    assert torch.equal(draws.mask(3, 0.4, shape), mask)


def test_draws_do_not_depend_on_batch_or_order():
    shape = (1, 2, 3)

    together = ONE.uniforms(4, shape)

    assert together.shape == (4, 3, *shape)
    assert together.dtype == torch.float32
    for n, position in enumerate(ONE.index.tolist()):
        alone = Draws(3, 1, torch.tensor([position]))
        assert torch.equal(alone.uniforms(4, shape)[:, 0], together[:, n])
        assert torch.equal(alone.mask(2, 0.5, shape)[0], ONE.mask(2, 0.5, shape)[n])
    last_and_first = ONE.select(torch.tensor([2, 0]))
    assert torch.equal(last_and_first.uniforms(4, shape), together[:, [2, 0]])
    first_and_last = ONE.select(torch.tensor([True, False, True]))
    assert torch.equal(first_and_last.uniforms(4, shape), together[:, [0, 2]])
    step_by_step = torch.stack([ONE.at_step(t, shape) for t in range(4)])
    assert torch.equal(step_by_step, together)


def test_draws_do_not_depend_on_the_global_generator():
    before = ONE.uniforms(4, (1, 2, 3))

    torch.rand(3)

    assert torch.equal(Draws(3, 1, ONE.index).uniforms(4, (1, 2, 3)), before)


SEEDS = [0, 1, 2**32, 2**32 + 1, 2**64, 2**64 + 1, 2**70]


def test_streams_differ():
    """By seed (however large), purpose, epoch, image and timestep."""
    rows = []
    for seed in SEEDS:
        rows.append(Draws(seed, 1, torch.tensor([0])).numbers("input", 64)[0, 0])
    for purpose in ("input", "dropout", "augmentation", "noise"):
        rows.append(ONE.numbers(purpose, 64)[0, 0])
    for epoch in (2, 3, EVALUATION):
        rows.append(replace(ONE, epoch=epoch).numbers("input", 64)[0, 0])
    rows += ONE.numbers("input", 64, first=1, steps=3)[:, 1:].flatten(0, 1)

    for one, other in combinations(rows, 2):
        assert (one != other).float().mean() > 0.99


def test_seeds_of_purposes_differ():
    found = set()
    for seed in SEEDS:
        for purpose in ("input", "weights", "order"):
            found.add(seed_for(seed, purpose))

    assert len(found) == 3 * len(SEEDS)


def test_an_epochs_order_follows_from_seed_and_epoch():
    order = shuffled(50, seed=0, epoch=1)
    torch.rand(7)

    assert sorted(order.tolist()) == list(range(50)) != order.tolist()
    assert torch.equal(shuffled(50, seed=0, epoch=1), order)
    assert not torch.equal(shuffled(50, seed=1, epoch=1), order)
    assert not torch.equal(shuffled(50, seed=0, epoch=2), order)


def test_each_image_comes_to_each_place_as_often():
    orders = torch.stack([shuffled(4, 0, epoch) for epoch in range(500)])

    for images_at_place in orders.T:
        assert images_at_place.bincount().tolist() == pytest.approx([500 / 4] * 4, abs=40)


def network_with_dropout(cls=VGG_SNN_STDB_wFeedback, **settings):
    """Build a network of some timesteps, with dropout between its layers."""
    return tiny(cls, **{"fc_width": 32, "timesteps": 4, "dropout": 0.3, **settings})


def test_mask_by_hand():
    draws = Draws(0, 1, torch.arange(100))

    mask = draws.mask(0, 0.25, (4, 10, 10))

    assert mask.unique().tolist() == pytest.approx([0, 4 / 3])  # 1 / (1 - 0.25)
    assert (mask == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert not torch.equal(draws.mask(1, 0.25, (4, 10, 10)), mask)


@pytest.mark.parametrize("cls", [VGG_wFeedback, VGG_SNN_STDB_wFeedback])
def test_layers_have_masks_of_their_own_number_and_hold_them(cls):
    model = network_with_dropout(cls)
    layers = [module for module in model.modules() if isinstance(module, HeldDropout)]
    assert len(layers) > 2
    assert [layer.layer for layer in layers] == list(range(len(layers)))
    masks = {number: [] for number in range(len(layers))}

    def keep_mask(layer, _given, output):
        masks[layer.layer].append(output[1])

    for layer in layers:
        layer.register_forward_hook(keep_mask)
    model.train()(images(3), draws=ONE)

    for number, masks_of_layer in masks.items():
        assert masks_of_layer
        for mask in masks_of_layer:
            if mask is not None:
                expected = ONE.mask(number, layers[number].p, mask.shape[1:])
                assert torch.equal(mask, expected)


def test_a_seed_names_the_draws():
    model = network_with_dropout().eval()
    x = images(3)
    draws = Draws(5, EVALUATION, torch.arange(3))

    seeded = model(x, seed=5)

    assert torch.equal(model(x, seed=5).logits, seeded.logits)
    assert torch.equal(model(x, draws=draws).predictions, seeded.predictions)
    uniforms = draws.uniforms(4, (1, 28, 28))
    assert torch.equal(model(x, uniforms).predictions, seeded.predictions)
    assert not torch.equal(model(x, seed=6).predictions, seeded.predictions)


def test_without_a_seed_draws_follow_the_global_generator():
    model = network_with_dropout().eval()
    x = images(3)

    torch.manual_seed(5)
    first = model(x)
    second = model(x)

    torch.manual_seed(5)
    assert torch.equal(model(x).predictions, first.predictions)
    assert not torch.equal(first.predictions, second.predictions)


def test_a_seed_comes_before_draws_that_are_given_too():
    """Then the images are 0, 1 and 2, as with a seed alone, not those of the draws."""
    model = network_with_dropout().eval()
    x = images(3)
    draws = Draws(5, EVALUATION, torch.tensor([7, 8, 9]))

    both = model(x, draws=draws, seed=6)

    assert torch.equal(both.predictions, model(x, seed=6).predictions)
    assert not torch.equal(both.predictions, model(x, draws=draws).predictions)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("engine", ["dense", "event"])
def test_draws_of_another_number_of_images_are_refused(engine, count):
    """Those of one image, too, which would fit all."""
    model = on_engine(network_with_dropout().eval(), engine)
    draws = Draws(5, EVALUATION, torch.arange(count))

    with pytest.raises(ModelError, match=f"draws: they are of {count} images, and here are 3"):
        model(images(3), draws=draws)


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_drawn_for_the_analog_image(monkeypatch, training):
    model = network_with_dropout(encoding="direct", dropout=0.0, fc_dropout=0.0).train(training)
    x = images(3)
    expected = model(x, torch.rand(4, *x.shape)).logits

    monkeypatch.setattr(Draws, "numbers", None)  # which cannot be called then

    assert torch.equal(model(x, draws=ONE).logits, expected)
