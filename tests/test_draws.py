"""Philox against known answers, and draws that follow from seed, purpose, epoch, image, step and position alone."""

from dataclasses import replace

import pytest
import torch
from conftest import images, tiny

from self_models import ModelError, assembly
from self_models.layers.neurons import HeldDropout
from self_models.loading import on_engine
from self_models.runtime.draws import EVALUATION, Draws, key_for, philox_words, seed_for, shuffled
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
ONE = Draws(3, 1, torch.tensor([5, 0, 70]))


def test_known_answers():
    """By operations on whole numbers and on tensors."""
    for counter, key, words in KNOWN:
        assert philox_words(*counter, *key) == words
        assert (
            tuple(word.item() for word in philox_words(*map(torch.tensor, (*counter, *key))))
            == words
        )


def test_which_word_a_pixel_takes_by_hand():
    """Pixel (row 1, column 2, channel 1) of 3 x 4 images of 2 channels is position (1 * 4 + 2) * 2 + 1 = 13."""
    words = philox_words(13 // 4, 6, 70, 1, *key_for(3, "input"))
    assert ONE.uniforms(9, (2, 3, 4))[6, 2, 1, 1, 2].item() == (words[13 % 4] >> 8) * 2.0**-24


@pytest.mark.parametrize("shape", [(3, 5, 7), (10,), (5, 7, 9)])
def test_operations_on_tensors_give_what_the_kernel_gives(monkeypatch, shape):
    draws = Draws(2**70, EVALUATION, torch.tensor([0, 1, 2**31, 2**32 - 1, 59999]))
    ours = [draws.uniforms(4, shape, first=7), draws.mask(3, 0.4, shape)]
    monkeypatch.setattr(
        assembly, "load_object", lambda place: lambda *_: False
    )  # nothing is compiled
    assert torch.equal(draws.uniforms(4, shape, first=7), ours[0]) and torch.equal(
        draws.mask(3, 0.4, shape), ours[1]
    )


def test_draws_do_not_depend_on_batch_or_order():
    shape = (1, 2, 3)
    together = ONE.uniforms(4, shape)
    assert together.shape == (4, 3, *shape) and together.dtype == torch.float32
    for n, position in enumerate(ONE.index.tolist()):
        alone = Draws(3, 1, torch.tensor([position]))
        assert torch.equal(alone.uniforms(4, shape)[:, 0], together[:, n])
        assert torch.equal(alone.mask(2, 0.5, shape)[0], ONE.mask(2, 0.5, shape)[n])
    assert torch.equal(ONE.select(torch.tensor([2, 0])).uniforms(4, shape), together[:, [2, 0]])
    assert torch.equal(
        ONE.select(torch.tensor([True, False, True])).uniforms(4, shape), together[:, [0, 2]]
    )
    assert torch.equal(torch.stack([ONE.at_step(t, shape) for t in range(4)]), together)
    torch.rand(3)
    assert torch.equal(Draws(3, 1, ONE.index).uniforms(4, shape), together)


def test_streams_differ():
    """By seed (however large), purpose, epoch, image, step, layer: no two share a single number in a row of 64."""
    seeds = [0, 1, 2**32, 2**32 + 1, 2**64, 2**64 + 1, 2**70]
    rows = [Draws(seed, 1, torch.tensor([0])).numbers("input", 64)[0, 0] for seed in seeds]
    rows += [
        ONE.numbers(purpose, 64)[0, 0] for purpose in ("input", "dropout", "augmentation", "noise")
    ]
    rows += [replace(ONE, epoch=epoch).numbers("input", 64)[0, 0] for epoch in (2, 3, EVALUATION)]
    rows += [*ONE.numbers("input", 64, first=1, steps=3)[:, 1:].flatten(0, 1)]
    assert all(
        (one != two).float().mean() > 0.99 for n, one in enumerate(rows) for two in rows[:n]
    )
    assert len(
        {seed_for(seed, purpose) for seed in seeds for purpose in ("input", "weights", "order")}
    ) == 3 * len(seeds)


def test_order_of_an_epoch():
    order = shuffled(50, seed=0, epoch=1)
    assert sorted(order.tolist()) == list(range(50)) != order.tolist()
    torch.rand(7)
    assert torch.equal(shuffled(50, seed=0, epoch=1), order)
    assert not torch.equal(shuffled(50, seed=1, epoch=1), order) and not torch.equal(
        shuffled(50, seed=0, epoch=2), order
    )
    places = torch.stack([shuffled(4, 0, epoch) for epoch in range(500)])
    for place in places.T:  # each of 4 images comes to each place as often
        assert place.bincount().tolist() == pytest.approx([125] * 4, abs=40)


def small(cls=VGG_SNN_STDB_wFeedback, **settings):
    return tiny(cls, **{"fc_width": 32, "timesteps": 4, "dropout": 0.3, **settings})


def test_mask_by_hand():
    mask = Draws(0, 1, torch.arange(100)).mask(0, 0.25, (4, 10, 10))
    assert mask.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (mask == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert not torch.equal(Draws(0, 1, torch.arange(100)).mask(1, 0.25, (4, 10, 10)), mask)


@pytest.mark.parametrize("cls", [VGG_wFeedback, VGG_SNN_STDB_wFeedback])
def test_layers_have_masks_of_their_own_number_and_hold_them(cls):
    model, masks = small(cls), {}
    layers = [module for module in model.modules() if isinstance(module, HeldDropout)]
    assert len(layers) > 2 and [module.layer for module in layers] == list(range(len(layers)))
    for module in layers:
        module.register_forward_hook(
            lambda module, given, output: masks.setdefault(module.layer, []).append(output[1])
        )
    model.train()(images(3), draws=ONE)
    assert masks.keys() == {*range(len(layers))}
    for layer, held in masks.items():
        for mask in held:
            assert mask is None or torch.equal(
                mask, ONE.mask(layer, layers[layer].p, mask.shape[1:])
            )


def test_seed_names_the_draws():
    """And where none is named, they follow the global generator."""
    model, x = small().eval(), images(3)
    seeded = model(x, seed=5)
    torch.manual_seed(5)
    first, second = model(x), model(x)
    torch.manual_seed(5)
    assert torch.equal(model(x).predictions, first.predictions)
    assert not torch.equal(first.predictions, second.predictions)
    assert torch.equal(model(x, seed=5).logits, seeded.logits)
    draws = Draws(5, EVALUATION, torch.arange(3))
    assert torch.equal(model(x, draws=draws).predictions, seeded.predictions)
    assert torch.equal(model(x, draws.uniforms(4, (1, 28, 28))).predictions, seeded.predictions)
    assert not torch.equal(model(x, seed=6).predictions, seeded.predictions)


def test_a_seed_comes_before_draws_that_are_given_too():
    """Then the images are 0, 1 and 2, as with a seed alone, and not those of the draws."""
    model, x = small().eval(), images(3)
    draws = Draws(5, EVALUATION, torch.tensor([7, 8, 9]))
    both = model(x, draws=draws, seed=6)
    assert torch.equal(both.predictions, model(x, seed=6).predictions)
    assert not torch.equal(both.predictions, model(x, draws=draws).predictions)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("engine", ["dense", "event"])
def test_draws_of_another_number_of_images_are_refused(engine, count):
    """Those of one image, too, which would fit all."""
    model = on_engine(small().eval(), engine)
    with pytest.raises(ModelError, match=f"draws: they are of {count} images, and here are 3"):
        model(images(3), draws=Draws(5, EVALUATION, torch.arange(count)))


def test_nothing_is_drawn_for_the_analog_image(monkeypatch):
    for training in (False, True):
        model, x = small(encoding="direct", dropout=0.0, fc_dropout=0.0).train(training), images(3)
        expected = model(x, torch.rand(4, *x.shape)).logits
        with monkeypatch.context() as patch:
            patch.setattr(Draws, "numbers", None)
            assert torch.equal(model(x, draws=ONE).logits, expected)
