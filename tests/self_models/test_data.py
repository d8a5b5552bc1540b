"""Data sets in memory, folders of images, the files they become, and augmentation."""

import gzip
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from math import cos, pi, sin
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from conftest import digests, make_folder, pixels, write
from PIL import Image

import self_models.data.folders
import self_models.data.sets
from self_models.data.folders import list_folder, shape_of
from self_models.data.images import decode_image, scale_pixels
from self_models.data.sets import (
    Batch,
    ImageSet,
    augmented,
    cut_out_square,
    load_data,
    load_set,
    mirror_and_shift,
    turn_and_shift,
)
from self_models.errors import UserError
from self_models.notes import say_once
from snn_wFeedback_posthoc_model_inference_obj3 import dimmed_sets


def image_set(count, name="MNIST", start=0):
    """Make a set of images that carry their number, as their labels do."""
    numbers = torch.arange(count)
    images = numbers.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 3)
    return ImageSet(name, images, numbers % 10, start)


def test_mnist_is_bundled():
    train, selection, test = load_data("MNIST")

    assert len(train) == 60000
    assert train.images.shape[1:] == (1, 28, 28)
    assert selection is None
    assert len(test) == 10000
    assert test.classes == tuple("0123456789")
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_a_batch_has_the_chosen_images_from_0_to_1():
    _, _, test = load_data("MNIST")

    batch = test.batch(torch.tensor([3, 0]))

    assert batch.labels.tolist() == [0, 7]
    assert batch.index.tolist() == [3, 0]
    assert torch.equal(batch.images, test.images[[3, 0]] / 255)
    assert batch.images.max() == 1


def numbers_of(batch):
    """Return the numbers that the images of a batch carry."""
    return (255 * batch.images[:, 0, 0, 0]).round().int().tolist()


def test_batches_begin_where_they_are_told_and_keep_their_positions():
    second, third = image_set(7, start=20).batches(3, first=1)

    assert numbers_of(second) == [3, 4, 5]
    assert second.index.tolist() == [23, 24, 25]
    assert numbers_of(third) == [6]
    assert third.index.tolist() == [26]


@pytest.mark.parametrize(("first", "count"), [(0, 3), (3, 0)])
def test_so_many_batches_are_left_from_the_first_one_on(first, count):
    assert len(list(image_set(7).batches(3, first=first))) == count


def test_batches_follow_the_order_they_are_given():
    first, second = image_set(4).batches(3, "cpu", torch.tensor([2, 0, 3, 1]))

    assert numbers_of(first) == first.labels.tolist() == [2, 0, 3]
    assert numbers_of(second) == second.labels.tolist() == [1]


def test_an_image_of_a_part_keeps_its_position_in_the_whole():
    part = image_set(7, start=20).part(1, 3)

    batch = part.batch(torch.tensor([1]))

    assert numbers_of(batch) == batch.labels.tolist() == [2]
    assert batch.index.tolist() == [22]


def test_a_whole_set_is_on_the_device_that_is_asked_for():
    batch = image_set(4).whole("meta")

    assert batch.images.device.type == "meta"
    assert batch.labels.device.type == "meta"
    assert batch.index.tolist() == [0, 1, 2, 3]


def transform(images, turn=0, scale=0, across=0, down=0):
    """Turn, scale and shift images, each from -1 to 1 of the largest change."""
    # Samples from 0 to 1 stand for changes from -1 to 1.
    samples = (torch.tensor([[turn, scale, across, down]]) + 1) / 2
    return turn_and_shift(images, samples.expand(len(images), 4))


def test_shifts_are_up_to_2_pixels():
    images = torch.rand(2, 1, 8, 12, generator=torch.Generator().manual_seed(0))

    unchanged = transform(images)
    right = transform(images, across=1)
    below = transform(images, down=1)
    left_and_above = transform(images, across=-0.5, down=-0.5)

    torch.testing.assert_close(unchanged, images)
    torch.testing.assert_close(right[..., :-2], images[..., 2:])
    torch.testing.assert_close(below[..., :-2, :], images[..., 2:, :])
    torch.testing.assert_close(left_and_above[..., 1:, 1:], images[..., :-1, :-1])
    # What comes in is dark.
    assert right[..., -1].abs().max() < images[..., -1].max()
    assert below[..., -1, :].eq(0).all()


@pytest.mark.parametrize(("turn", "scale"), [(-0.5, 0), (0, -1), (1, 1)])
def test_turns_are_up_to_10_degrees_and_scales_up_to_a_tenth(turn, scale):
    # Images whose values grow evenly, to the right and downwards, show where each pixel
    # was taken from.
    place = torch.arange(11.0) - 5
    x = place.expand(11, 11)
    y = place[:, None].expand(11, 11)

    found = transform(torch.stack([x, y])[:, None], turn, scale)

    inside = np.s_[2:-2, 2:-2]  # beyond, something dark comes in
    angle = turn * pi / 18
    cosine = cos(angle) / (1 + scale / 10)
    sine = sin(angle) / (1 + scale / 10)
    taken_from_x = cosine * x - sine * y
    taken_from_y = sine * x + cosine * y
    torch.testing.assert_close(found[0, 0][inside], taken_from_x[inside], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1, 0][inside], taken_from_y[inside], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("across", "mirror", "first", "last"),
    [(0.5, 0.0, 0, 15), (0.5, 0.9, 15, 0), (0.999, 0.0, 2, 13), (0.0, 0.0, 2, 13)],
    ids=["as it is", "mirrored", "2 to the left", "2 to the right"],
)
def test_colour_images_are_mirrored_and_shifted_by_hand(across, mirror, first, last):
    # Each column has its number as its value; what comes in is a reflection.
    image = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 3, 16, 16)

    found = mirror_and_shift(image, torch.tensor([[0.5, across, mirror, 0.0]]))

    row = found[0, 0, 0].tolist()
    assert row[0] == first
    assert row[-1] == last


def test_what_a_shift_lets_in_is_a_reflection():
    # Each row has its number as its value.
    image = torch.arange(16.0).view(1, 1, 16, 1).expand(1, 3, 16, 16)

    found = mirror_and_shift(image, torch.tensor([[0.999, 0.5, 0.0, 0.0]]), shift=5)

    assert found[0, 0, :, 0].tolist() == [*range(5, 16), 14, 13, 12, 11, 10]


def test_a_square_is_cut_out_by_hand():
    images = torch.ones(2, 3, 8, 8)
    middles = torch.tensor([[2 / 8, 7 / 8], [4.9 / 8, 4.1 / 8]])  # row, column

    found = cut_out_square(images, 4, middles)

    # Around row 2 and column 7 of 8 x 8 pixels lie rows 0 to 3 and columns 5 to 8, of
    # which the last is outside. 4.9 and 4.1 are in row 4 and column 4.
    expected = torch.ones(2, 3, 8, 8)
    expected[0, :, 0:4, 5:8] = 0
    expected[1, :, 2:6, 2:6] = 0
    assert torch.equal(found, expected)


def test_of_a_square_around_a_corner_the_part_inside_is_cut_out():
    images = torch.ones(2, 3, 8, 8)

    found = cut_out_square(images, 3, torch.zeros(2, 2))

    # Of side 3 around row 0, column 0: 2 x 2 pixels, in 3 channels of 2 images.
    assert (found == 0).sum().item() == 2 * 3 * 4


@pytest.mark.parametrize(
    ("channels", "settings"),
    [(1, {}), (3, {}), (3, {"cutout": 4}), (3, {"mirror": "alternate", "shift": 3})],
    ids=["grey", "colour", "cutout", "alternating mirror images"],
)
def test_augmentation_belongs_to_the_image_the_seed_and_the_epoch(channels, settings):
    images = torch.rand(6, channels, 16, 16) + 1
    index = torch.arange(6)
    batch = Batch(images, index, index)
    chosen = torch.tensor([4, 1])
    part = Batch(images[chosen], chosen, chosen)

    found = augmented(batch, 2, 1, **settings)
    found_of_part = augmented(part, 2, 1, **settings)
    other_epoch = augmented(batch, 2, 2, **settings)
    other_seed = augmented(batch, 3, 1, **settings)

    assert torch.equal(found.labels, index)
    assert not torch.equal(found.images, images)
    torch.testing.assert_close(found_of_part.images, found.images[chosen])
    assert not torch.equal(found.images, other_epoch.images)
    assert not torch.equal(found.images, other_seed.images)


def test_cutout_changes_a_square_and_nothing_else():
    index = torch.arange(6)
    batch = Batch(torch.rand(6, 3, 16, 16) + 1, index, index)

    without = augmented(batch, 2, 1).images
    found = augmented(batch, 2, 1, cutout=4).images

    # Of 3 x 16 x 16 values up to 3 x 4 x 4 are cut out.
    same = (found == without).sum((1, 2, 3))
    assert same.min() >= 3 * (256 - 16)
    assert same.max() < 3 * 256


def test_of_two_epochs_each_image_is_mirrored_in_exactly_one():
    images = torch.rand(400, 3, 8, 8)
    index = torch.arange(400)

    def is_mirrored(seed, epoch):
        """Find which images are mirrored; without a shift nothing else happens."""
        batch = Batch(images, index, index)
        found = augmented(batch, seed, epoch, "alternate", 0).images
        as_it_is = (found == images).flatten(1).all(1)
        mirrored = (found == images.flip(3)).flatten(1).all(1)
        assert (as_it_is ^ mirrored).all()
        return mirrored

    first = is_mirrored(seed=2, epoch=1)
    assert torch.equal(is_mirrored(seed=2, epoch=2), ~first)
    assert torch.equal(is_mirrored(seed=2, epoch=3), first)
    assert not torch.equal(is_mirrored(seed=3, epoch=1), first)
    assert first.sum().item() == pytest.approx(200, abs=40)


DIMMED_PLACES = {
    "top half": np.s_[..., :2, :],
    "bottom half": np.s_[..., 2:, :],
    "left half": np.s_[..., :3],
    "right half": np.s_[..., 3:],
    "whole": np.s_[...],
}


def test_dimmed_sets_by_hand():
    images = torch.full((2, 3, 4, 6), 199, dtype=torch.uint8)
    original = ImageSet("x", images, torch.zeros(2, dtype=torch.int64), start=4)

    sets = dimmed_sets(original)

    assert list(sets) == list(DIMMED_PLACES)
    for name, place in DIMMED_PLACES.items():
        # 0.3 * 199 = 59.7 and 0.15 * 199 = 29.85, rounded.
        expected = images.clone()
        expected[place] = 60 if name == "whole" else 30
        found = sets[name].whole()
        assert torch.equal(found.images, scale_pixels(expected)), name
        assert found.index.tolist() == [4, 5], name
    assert images.unique().tolist() == [199]


@pytest.fixture
def loaded_sets(monkeypatch):
    """Replace files by 60 training and 20 test images; return what is asked for."""
    asked = []

    def load_numbers(name, folder, is_train):
        asked.append((name, folder, is_train))
        return image_set(60 if is_train else 20, name)

    monkeypatch.setattr(self_models.data.sets, "load_set", load_numbers)
    return asked


def numbers_in(part):
    """Return the numbers of the images of a part, which must be their positions."""
    numbers = part.images[:, 0, 0, 0].tolist()
    assert part.name == "CIFAR10"
    assert part.start == numbers[0]
    assert len(part) == len(part.labels) == len(numbers)
    return range(numbers[0], numbers[-1] + 1)


@pytest.mark.parametrize("has_folder", [False, True], ids=["bundled", "data_dir"])
@pytest.mark.parametrize(
    ("flags", "training", "held_out", "testing"),
    [
        ({}, range(60), None, range(20)),
        ({"holdout": 10}, range(50), range(50, 60), range(20)),
        (
            # By default a tenth of the training images is held out, the last ones.
            {"holdout": None, "limit_train": 30, "limit_test": 7},
            range(30),
            range(57, 60),
            range(7),
        ),
    ],
    ids=["all", "holdout", "limits"],
)
def test_who_has_which_images(
    loaded_sets, tmp_path, has_folder, flags, training, held_out, testing
):
    data_dir = str(tmp_path) if has_folder else ""
    folder = tmp_path if has_folder else self_models.data.sets.BUNDLED

    train, selection, test = load_data("CIFAR10", data_dir, **flags)

    assert numbers_in(train) == training
    if held_out is None:
        assert selection is None
    else:
        assert numbers_in(selection) == held_out
    assert numbers_in(test) == testing
    assert loaded_sets[-2:] == [("CIFAR10", folder, True), ("CIFAR10", folder, False)]


@pytest.mark.usefixtures("loaded_sets")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"holdout": 60}, "--holdout 60 leaves no training images: MNIST has 60"),
        (
            {"limit_train": 51, "holdout": 10},
            "--limit_train 51: MNIST has 60 training images, 10 of them held out",
        ),
        ({"data_dir": "/none"}, "--data_dir /none: no such folder"),
    ],
    ids=["holdout", "limit_train", "data_dir"],
)
def test_images_that_are_not_there_are_refused(flags, words):
    with pytest.raises(UserError, match=f"^{re.escape(words)}$"):
        load_data("MNIST", **flags)


def write_idx(path, values):
    """Write bytes as a file of MNIST's format, compressed if it ends in .gz."""
    content = bytes([0, 0, 8, values.ndim])
    content += np.array(values.shape, ">u4").tobytes()
    content += values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def put_mnist(folder, label, ending="", is_train=False):
    """Write an image of 2 x 3 pixels whose values begin at its label, and the label."""
    folder.mkdir(parents=True, exist_ok=True)
    image_file, label_file = self_models.data.sets.IDX_FILES[is_train]
    image = label + np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    write_idx(folder / f"{image_file}{ending}", image)
    write_idx(folder / f"{label_file}{ending}", np.array([label], np.uint8))


@pytest.fixture
def not_on_debian(monkeypatch):
    """Do as if Debian's package of FashionMNIST were not there."""
    monkeypatch.setattr(self_models.data.sets, "DEBIAN", {"FashionMNIST": Path("/none")})


@pytest.mark.usefixtures("not_on_debian")
@pytest.mark.parametrize(("is_train", "label"), [(False, 4), (True, 7)], ids=["test", "train"])
@pytest.mark.parametrize(
    ("name", "place", "ending"),
    [("MNIST", "mnist", ".gz"), ("MNIST", "", ".gz"), ("FashionMNIST", "FashionMNIST/raw", "")],
)
def test_mnist_is_found_and_nothing_is_unpacked_there(
    tmp_path, name, place, ending, is_train, label
):
    put_mnist(tmp_path / place, 4, ending)
    put_mnist(tmp_path / place, 7, ending, is_train=True)
    before = digests(tmp_path)

    found = load_set(name, tmp_path, is_train)

    assert digests(tmp_path) == before
    assert found.name == name
    assert found.start == 0
    assert found.labels.tolist() == [label]
    assert found.labels.dtype == torch.int64
    first_row = [label, label + 1, label + 2]
    second_row = [label + 3, label + 4, label + 5]
    assert found.images.tolist() == [[[first_row, second_row]]]
    assert found.images.dtype == torch.uint8


@pytest.fixture
def half_a_set(tmp_path, not_on_debian):
    """Write loose files, which are MNIST's, and the first of FashionMNIST's pair."""
    put_mnist(tmp_path, 4)
    put_mnist(tmp_path / "fashionmnist", 4)
    _, label_file = self_models.data.sets.IDX_FILES[False]
    (tmp_path / "fashionmnist" / label_file).unlink()


SHAPES = {"FashionMNIST": (2, 2, 3), "CIFAR10": (2, 2, 3, 3)}


@pytest.mark.usefixtures("half_a_set")
@pytest.mark.parametrize("name", SHAPES)
def test_a_set_that_is_not_there_is_downloaded(monkeypatch, tmp_path, name):
    shape = SHAPES[name]
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    download = mock.Mock(return_value=SimpleNamespace(data=pixels, targets=[9, 9]))
    monkeypatch.setattr(torchvision.datasets, name, download)

    found = load_set(name, tmp_path, False)

    download.assert_called_once_with(str(tmp_path), train=False, download=True)
    channels_last = pixels.reshape(2, 2, 3, -1)
    assert found.images.tolist() == channels_last.transpose(0, 3, 1, 2).tolist()
    assert found.images.is_contiguous()
    assert found.name == name
    assert found.labels.tolist() == [9, 9]
    assert found.labels.dtype == torch.int64


@pytest.mark.usefixtures("half_a_set")
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("FashionMNIST", "labels-idx1-ubyte.gz in {folder}/fashionmnist, or"),
        ("CIFAR10", "python.tar.gz in {folder}"),
    ],
)
def test_if_no_download_is_possible_it_is_said_where_a_set_belongs(
    monkeypatch, tmp_path, name, where
):
    no_way = mock.Mock(side_effect=RuntimeError("no\n  way"))
    monkeypatch.setattr(torchvision.datasets, name, no_way)

    words = rf"^{name} is not there, .*\(no way\): put .*{where.format(folder=tmp_path)}"
    with pytest.raises(UserError, match=words):
        load_set(name, tmp_path, True)


@pytest.fixture
def pets(tmp_path):
    """Make a data set of 4 training and 4 test images each of cats and dogs."""
    return make_folder(tmp_path / "pets")


def test_a_folder_is_a_data_set(pets):
    train, selection, test = load_data(str(pets), holdout=2)

    assert train.name == "pets"
    assert list(train.classes) == ["cat", "dog"]
    assert train.images.dtype == torch.uint8
    assert len(train) == 6
    assert len(selection) == 2
    assert selection.labels.unique().tolist() == [0, 1]  # held-out images are of all classes
    assert len(test) == 8
    for label, name in enumerate(test.classes):
        for number, image in enumerate(test.images[test.labels == label]):
            expected = pixels(100 + 10 * label + number)
            assert image.permute(1, 2, 0).numpy().tolist() == expected.tolist(), name


def test_a_batch_of_colour_images_is_from_minus_1_to_1(pets):
    _, _, test = load_data(str(pets))

    images = test.batch(torch.tensor([1, 0])).images

    assert -1 <= images.min() < -0.9
    assert 0.9 < images.max() <= 1


def test_the_first_and_the_last_images_are_of_all_classes_in_their_proportions(tmp_path):
    folder = make_folder(tmp_path / "x", count=2, shape=(8, 8))
    for number in range(2, 6):
        write(folder / f"train/dog/{number}.png", pixels(number, (8, 8)))

    listing = list_folder(folder)

    # A class's n-th of N files stands at (n + 1/2) / N: the cats at 3/12 and 9/12, the
    # dogs at 1/12, 3/12, ... 11/12.
    in_order = ["dog/0", "cat/0", "dog/1", "dog/2", "dog/3", "cat/1", "dog/4", "dog/5"]
    assert listing.trains == 8
    assert list(listing.paths[:8]) == [f"train/{name}.png" for name in in_order]
    assert list(listing.labels[:8]) == [int(name.startswith("dog")) for name in in_order]


def test_links_folders_in_folders_and_upper_case_count_but_nothing_that_is_hidden(pets):
    (pets / "train/dog/9.png").symlink_to(pets / "test/cat/0.png")
    write(pets / "train/cat/a/b/9.png", pixels(9))
    (pets / "train/cat/0.png").rename(pets / "train/cat/0.PNG")
    write(pets / "train/cat/.9.png", pixels(9))
    write(pets / "train/.a/9.png", pixels(9))

    train, _, test = load_data(str(pets))

    assert train.classes == ("cat", "dog")
    assert train.labels.bincount().tolist() == [5, 5]
    assert len(test) == 8


def test_a_class_may_have_few_images_and_any_name(pets):
    for number in range(2, 4):
        (pets / f"train/cat/{number}.png").unlink()
    for part in ("train", "test"):
        (pets / part / "dog").rename(pets / part / "süße 猫")

    train, _, test = load_data(str(pets))

    assert train.classes == ("cat", "süße 猫")
    assert train.labels.bincount().tolist() == [2, 4]
    assert len(test) == 8


@pytest.mark.parametrize(
    ("shape", "channels", "notes"), [((12, 12), 1, 0), ((12, 12, 3), 3, 1)], ids=["grey", "colour"]
)
def test_images_are_grey_where_all_files_are(tmp_path, capsys, shape, channels, notes):
    # One file with colours is enough, and the others are counted.
    folder = make_folder(tmp_path / "x", shape=(12, 12))
    write(folder / "test/dog/3.png", pixels(0, shape))
    say_once.cache_clear()

    train, *_ = load_data(str(folder))

    assert train.images.shape[1:] == (channels, 12, 12)
    note = "note: 15 of 16 files are grey, the others not: all are read in colour (--grey: grey)"
    assert capsys.readouterr().err.count(note) == notes
    # Size and colour are found each without the other.
    assert shape_of(list_folder(folder), image_size=8) == (channels, 8, 8)
    assert shape_of(list_folder(folder), grey=True) == (1, 12, 12)


CACHED = [
    "3x12x12.pixels.json",
    "3x12x12.pixels.npy",
    "heads.json",
    "heads.npy",
]


def test_images_are_decoded_once_and_memory_mapped(pets, monkeypatch):
    first, *_ = load_data(str(pets))
    files = digests(pets / ".cache")
    assert sorted(files) == CACHED
    decode = mock.Mock()
    read_head = mock.Mock()
    monkeypatch.setattr(self_models.data.folders, "decode_image", decode)
    monkeypatch.setattr(self_models.data.folders, "read_head", read_head)

    again, *_ = load_data(str(pets))

    decode.assert_not_called()
    read_head.assert_not_called()
    assert torch.equal(first.images, again.images)
    assert digests(pets / ".cache") == files
    if sys.platform == "linux":
        assert str(pets / ".cache/3x12x12.pixels.npy") in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("name", CACHED)
def test_a_damaged_cache_is_made_again(pets, name):
    load_data(str(pets))
    files = digests(pets / ".cache")
    path = pets / ".cache" / name
    path.write_bytes(path.read_bytes()[:-1])

    train, *_ = load_data(str(pets))

    assert torch.equal(train.images[0], torch.from_numpy(pixels(0)).permute(2, 0, 1))
    assert digests(pets / ".cache") == files


def test_an_image_that_was_changed_is_decoded_again(pets):
    load_data(str(pets))
    path = pets / "train/cat/0.png"
    times = path.stat()
    write(path, pixels(99))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))

    train, *_ = load_data(str(pets))

    assert train.images[0].permute(1, 2, 0).tolist() == pixels(99).tolist()


def test_a_new_image_is_decoded(pets):
    load_data(str(pets))
    write(pets / "train/dog/new.png", pixels(7))

    train, *_ = load_data(str(pets))

    assert len(train) == 9


def test_where_the_folder_cannot_be_written_the_users_cache_is_used(pets, tmp_path, monkeypatch):
    # Two folders of one name have each its own place in the cache.
    other_pets = make_folder(tmp_path / "other" / "pets", count=3)
    for folder in (pets, other_pets):
        (folder / ".cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))

    assert len(load_data(str(pets))[0]) == 8
    assert len(load_data(str(other_pets))[0]) == 6
    assert len(list((tmp_path / "mine/snn_wFeedback").glob("pets_*/*.pixels.npy"))) == 2

    a_file = other_pets / ".cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(a_file))
    with pytest.raises(UserError, match=r"no place to keep the decoded images.*XDG_CACHE_HOME"):
        load_data(str(pets))


def test_who_wants_what_another_rank_or_run_makes_waits_for_it(pets, monkeypatch):
    decoded = []

    def decode_slowly(path, shape):
        decoded.append(path)
        time.sleep(0.05)
        return decode_image(path, shape)

    monkeypatch.setattr(self_models.data.folders, "decode_image", decode_slowly)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(load_data, [str(pets)] * 3))

    assert sorted(decoded) == sorted(pets.glob("t*/*/*.png"))
    assert sorted(digests(pets / ".cache")) == CACHED
    first, *_ = found[0]
    for train, *_ in found:
        assert torch.equal(train.images, first.images)


def test_a_grey_file_of_16_bits_is_read(tmp_path):
    grey = pixels(0, (12, 12))
    Image.fromarray(grey.astype(np.uint16) * 256 + 7).save(tmp_path / "16.png")

    assert decode_image(tmp_path / "16.png", (1, 12, 12))[0].tolist() == grey.tolist()


def test_a_transparent_file_is_black(tmp_path):
    opacity = np.zeros((12, 12), np.uint8)
    Image.fromarray(np.dstack([pixels(1), opacity])).save(tmp_path / "clear.png")

    assert decode_image(tmp_path / "clear.png", (3, 12, 12)).max() == 0


def test_a_webp_file_is_read(tmp_path):
    colour = pixels(1)
    Image.fromarray(colour).save(tmp_path / "a.webp", lossless=True)

    found = decode_image(tmp_path / "a.webp", (3, 12, 12))

    assert found.transpose(1, 2, 0).tolist() == colour.tolist()


def test_a_file_is_turned_as_its_exif_says(tmp_path):
    colour = pixels(1)
    turned = Image.fromarray(np.rot90(colour))
    exif = turned.getexif()
    orientation = 0x0112
    exif[orientation] = 6  # to be turned by a quarter, clockwise
    turned.save(tmp_path / "turned.png", exif=exif)

    found = decode_image(tmp_path / "turned.png", (3, 12, 12))

    assert found.transpose(1, 2, 0).tolist() == colour.tolist()


def test_of_a_wide_file_the_middle_is_read(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255

    found = decode_image(write(tmp_path / "wide.png", wide), (3, 5, 5))

    assert found.min() > 200
