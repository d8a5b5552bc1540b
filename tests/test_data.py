"""Data sets in memory, folders of anyone's images, the files they are decoded into, and augmentation."""

import gzip
import os
import re
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from math import cos, pi, sin
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from conftest import NET, digests, make_folder, pixels, refused, run_here, write
from PIL import Image

import self_models.data.folders
import self_models.data.sets
from harness import UserError
from self_models import load
from self_models.basics.images import decode_image, scale_pixels
from self_models.basics.notes import say_once
from self_models.data.folders import list_folder, shape_of
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
from snn_wFeedback_posthoc_model_inference_obj3 import dimmed_sets


def image_set(count, name="MNIST", start=0):
    """Images that carry their number, and the labels too."""
    numbers = torch.arange(count)
    return ImageSet(
        name, numbers.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 3), numbers % 10, start
    )


def test_bundled_mnist():
    train, selection, test = load_data("MNIST")
    assert (len(train), selection, len(test), test.classes) == (
        60000,
        None,
        10000,
        tuple("0123456789"),
    )
    assert train.images.shape[1:] == (1, 28, 28) and test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    batch = test.batch(torch.tensor([3, 0]))
    assert batch.labels.tolist() == [0, 7] and batch.index.tolist() == [3, 0]
    assert torch.equal(batch.images, test.images[[3, 0]] / 255) and batch.images.max() == 1


def numbers_of(batch):
    return (255 * batch.images[:, 0, 0, 0]).round().int().tolist()


def test_batches_begin_where_they_are_told_and_keep_their_positions():
    batches = list(image_set(7, start=20).batches(3, first=1))
    assert [numbers_of(batch) for batch in batches] == [[3, 4, 5], [6]]
    assert [batch.index.tolist() for batch in batches] == [[23, 24, 25], [26]]
    assert [len(list(image_set(7).batches(3, first=first))) for first in (0, 3)] == [3, 0]
    in_order = list(image_set(4).batches(3, "cpu", torch.tensor([2, 0, 3, 1])))
    assert (
        [numbers_of(batch) for batch in in_order]
        == [batch.labels.tolist() for batch in in_order]
        == [[2, 0, 3], [1]]
    )
    batch = image_set(7, start=20).part(1, 3).batch(torch.tensor([1]))
    assert (numbers_of(batch), batch.labels.tolist(), batch.index.tolist()) == ([2], [2], [22])
    batch = image_set(4).whole("meta")
    assert {batch.images.device.type, batch.labels.device.type} == {
        "meta"
    } and batch.index.tolist() == [0, 1, 2, 3]


def turned(images, turn=0, scale=0, across=0, down=0):
    """The images after this turn, scale and shift, each from -1 to 1 of the largest."""
    return turn_and_shift(
        images, (torch.tensor([[turn, scale, across, down]]).expand(len(images), 4) + 1) / 2
    )


def test_shifts_are_up_to_2_pixels():
    images = torch.rand(2, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(turned(images), images)
    right, below = turned(images, across=1), turned(images, down=1)
    torch.testing.assert_close(right[..., :-2], images[..., 2:])
    torch.testing.assert_close(below[..., :-2, :], images[..., 2:, :])
    torch.testing.assert_close(
        turned(images, across=-0.5, down=-0.5)[..., 1:, 1:], images[..., :-1, :-1]
    )
    assert right[..., -1].abs().max() < images[..., -1].max() and below[..., -1, :].eq(0).all()


@pytest.mark.parametrize(("turn", "scale"), [(-0.5, 0), (0, -1), (1, 1)])
def test_turns_are_up_to_10_degrees_and_scales_up_to_a_tenth(turn, scale):
    """An image whose value grows evenly shows where each pixel was taken from."""
    place = torch.arange(11.0) - 5
    images = torch.stack([place.expand(11, 11), place[:, None].expand(11, 11)])[
        :, None
    ]  # to the right, and downwards
    right, down = (found[0, 2:-2, 2:-2] for found in turned(images, turn, scale))
    x, y = (images[place, 0, 2:-2, 2:-2] for place in (0, 1))
    c, s = (f(turn * pi / 18) / (1 + scale / 10) for f in (cos, sin))
    torch.testing.assert_close(right, c * x - s * y, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(down, s * x + c * y, atol=1e-5, rtol=1e-5)


def test_colour_images_are_mirrored_and_shifted_by_hand():
    image = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 3, 16, 16)
    for across, turn, first, last in (
        (0.5, 0.0, 0, 15),
        (0.5, 0.9, 15, 0),
        (0.999, 0.0, 2, 13),
        (0.0, 0.0, 2, 13),
    ):
        found = mirror_and_shift(image, torch.tensor([[0.5, across, turn, 0.0]]))[0, 0, 0].tolist()
        assert (found[0], found[-1]) == (first, last), (across, turn)
    down = mirror_and_shift(
        image.transpose(2, 3), torch.tensor([[0.999, 0.5, 0.0, 0.0]]), shift=5
    )[0, 0, :, 0].tolist()
    assert down == [*range(5, 16), 14, 13, 12, 11, 10]  # what comes in is a reflection


def test_a_square_is_cut_out_by_hand():
    """Side 4 of 8 x 8 pixels, its middle at row 2, column 7: columns 5 to 7 lose what lies inside; side 3 around (0, 0)
    keeps 2 x 2 of its nine pixels."""
    x = torch.ones(2, 3, 8, 8)
    found = cut_out_square(x, 4, torch.tensor([[2 / 8, 7 / 8], [4.9 / 8, 4.1 / 8]]))
    zero = torch.zeros(2, 8, 8, dtype=torch.bool)
    zero[0, 0:4, 5:8] = zero[1, 2:6, 2:6] = True
    assert torch.equal(found, (~zero).float()[:, None].expand(-1, 3, -1, -1))
    assert (cut_out_square(x, 3, torch.zeros(2, 2)) == 0).sum().item() == 2 * 3 * 4


@pytest.mark.parametrize(
    ("channels", "how"),
    [(1, {}), (3, {}), (3, {"cutout": 4}), (3, {"mirror": "alternate", "shift": 3})],
)
def test_augmentation_belongs_to_the_image_the_seed_and_the_epoch(channels, how):
    x, index = torch.rand(6, channels, 16, 16) + 1, torch.arange(6)
    batch, part = Batch(x, index, index), torch.tensor([4, 1])
    whole = augmented(batch, 2, 1, **how)
    assert torch.equal(whole.labels, index) and not torch.equal(whole.images, x)
    torch.testing.assert_close(
        augmented(Batch(x[part], part, part), 2, 1, **how).images, whole.images[part]
    )
    assert not any(
        torch.equal(augmented(batch, *other, **how).images, whole.images)
        for other in ((2, 2), (3, 1))
    )
    if "cutout" in how:  # other pixels stay as they are
        same = (whole.images == augmented(batch, 2, 1).images).sum((1, 2, 3))
        assert same.min() >= 3 * (256 - 16) and same.max() < 3 * 256


def test_alternating_mirror_images():
    """Of two epochs each image is mirrored in exactly one; in which follows from seed and image, for half of them in the first.
    Without a shift nothing else happens."""
    x, index = torch.rand(400, 3, 8, 8), torch.arange(400)
    flips = []
    for seed, epoch in ((2, 1), (2, 2), (2, 3), (3, 1)):
        found = augmented(Batch(x, index, index), seed, epoch, "alternate", 0).images
        as_it_is, flipped = ((found == one).flatten(1).all(1) for one in (x, x.flip(3)))
        assert (as_it_is ^ flipped).all()
        flips.append(flipped)
    assert (
        torch.equal(flips[0], ~flips[1])
        and torch.equal(flips[0], flips[2])
        and not torch.equal(flips[0], flips[3])
    )
    assert flips[0].sum().item() == pytest.approx(200, abs=40)


def test_dimmed_sets_by_hand():
    """Towards black: 199 to 59.7 and 29.85, rounded; the set itself stays as it is."""
    images = torch.full((2, 3, 4, 6), 199, dtype=torch.uint8)
    sets = dimmed_sets(ImageSet("x", images, torch.zeros(2, dtype=torch.int64), start=4))
    places = {
        "top half": np.s_[..., :2, :],
        "bottom half": np.s_[..., 2:, :],
        "left half": np.s_[..., :3],
    }
    places |= {"right half": np.s_[..., 3:], "whole": np.s_[...]}
    assert list(sets) == list(places)
    for name, place in places.items():
        expected, found = images.clone(), sets[name].whole()
        expected[place] = 60 if name == "whole" else 30
        assert torch.equal(found.images, scale_pixels(expected)) and found.index.tolist() == [
            4,
            5,
        ], name
    assert images.unique().tolist() == [199]


@pytest.fixture
def sets(monkeypatch):
    """60 training and 20 test images; returns the list of what was asked for."""
    asked = []

    def load_set(name, folder, is_train):
        asked.append((name, folder, is_train))
        return image_set(60 if is_train else 20, name)

    monkeypatch.setattr(self_models.data.sets, "load_set", load_set)
    return asked


def bounds(part):
    return part and (part.start, len(part), part.images[0, 0, 0, 0].item(), len(part.labels))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [(0, 60, 0, 60), None, (0, 20, 0, 20)]),
        ({"holdout": 10}, [(0, 50, 0, 50), (50, 10, 50, 10), (0, 20, 0, 20)]),
        (
            {"holdout": None, "limit_train": 30, "limit_test": 7},
            [(0, 30, 0, 30), (57, 3, 57, 3), (0, 7, 0, 7)],
        ),
    ],
)
def test_who_has_which_images(sets, tmp_path, more, expected):
    for data_dir, folder in (("", self_models.data.sets.BUNDLED), (str(tmp_path), tmp_path)):
        found = load_data("CIFAR10", data_dir, **more)
        assert [bounds(part) for part in found] == expected and {
            part.name for part in found if part
        } == {"CIFAR10"}
        assert sets[-2:] == [("CIFAR10", folder, True), ("CIFAR10", folder, False)]


def test_what_there_is_not_is_refused(sets):
    for more, words in (
        ({"holdout": 60}, "--holdout 60 leaves no training images: MNIST has 60"),
        (
            {"limit_train": 51, "holdout": 10},
            "--limit_train 51: MNIST has 60 training images, 10 of them held out",
        ),
        ({"data_dir": "/none"}, "--data_dir /none: no such folder"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(words)}$"):
            load_data("MNIST", **more)


@pytest.fixture
def put(monkeypatch):
    """put(folder, label, ending, is_train) writes a grey image of 2x3 pixels and its label."""

    def put(folder, label, ending="", is_train=False):
        folder.mkdir(parents=True, exist_ok=True)
        pair = (label + np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.array([label], np.uint8))
        for values, file in zip(pair, self_models.data.sets.IDX_FILES[is_train], strict=True):
            content = (
                bytes([0, 0, 8, values.ndim])
                + np.array(values.shape, ">u4").tobytes()
                + values.tobytes()
            )
            (folder / f"{file}{ending}").write_bytes(gzip.compress(content) if ending else content)

    monkeypatch.setattr(self_models.data.sets, "DEBIAN", {"FashionMNIST": Path("/none")})
    return put


@pytest.mark.parametrize(
    ("place", "ending"), [("mnist", ".gz"), ("", ".gz"), ("FashionMNIST/raw", "")]
)
def test_mnist_is_found(put, tmp_path, place, ending):
    name = "FashionMNIST" if "fashion" in place.lower() else "MNIST"
    put(tmp_path / place, 4, ending)
    put(tmp_path / place, 7, ending, is_train=True)
    before = digests(tmp_path)
    for is_train, label in ((False, 4), (True, 7)):
        found = load_set(name, tmp_path, is_train)
        assert digests(tmp_path) == before  # nothing is unpacked there
        assert (found.name, found.start, found.labels.tolist(), found.labels.dtype) == (
            name,
            0,
            [label],
            torch.int64,
        )
        assert found.images.tolist() == [
            [[[label, label + 1, label + 2], [label + 3, label + 4, label + 5]]]
        ]
        assert found.images.dtype == torch.uint8


WHERE = {
    "FashionMNIST": "labels-idx1-ubyte.gz in {}/fashionmnist, or",
    "CIFAR10": "python.tar.gz in {}",
}


@pytest.mark.parametrize("name", WHERE)
def test_what_is_not_there_is_downloaded_or_it_is_said_where_it_belongs(
    put, monkeypatch, tmp_path, name
):
    """Loose files are MNIST's, and the first of a pair alone is none."""
    pixels, asked = np.arange(36, dtype=np.uint8).reshape(2, 2, 3, 3), []
    pixels = pixels if name == "CIFAR10" else pixels[..., 0].copy()

    def downloaded(root, **how):
        asked.append((root, how))
        return SimpleNamespace(data=pixels, targets=[9, 9])

    monkeypatch.setattr(torchvision.datasets, name, downloaded)
    put(tmp_path, 4)
    put(tmp_path / "fashionmnist", 4)
    (tmp_path / "fashionmnist" / self_models.data.sets.IDX_FILES[False][1]).unlink()
    found = load_set(name, tmp_path, False)
    assert (
        found.images.tolist() == pixels.reshape(2, 2, 3, -1).transpose(0, 3, 1, 2).tolist()
        and found.images.is_contiguous()
    )
    assert (found.name, found.labels.tolist(), found.labels.dtype) == (name, [9, 9], torch.int64)
    assert asked == [(str(tmp_path), {"train": False, "download": True})]
    monkeypatch.setattr(
        torchvision.datasets, name, mock.Mock(side_effect=RuntimeError("no\n  way"))
    )
    with pytest.raises(
        UserError,
        match=rf"^{name} is not there, .*\(no way\): put .*{WHERE[name].format(tmp_path)}",
    ):
        load_set(name, tmp_path, True)


@pytest.fixture
def pets(tmp_path):
    return make_folder(tmp_path / "pets")


def test_a_folder_is_a_data_set(pets):
    train, selection, test = load_data(str(pets), holdout=2)
    assert (train.name, list(train.classes), train.images.dtype) == (
        "pets",
        ["cat", "dog"],
        torch.uint8,
    )
    assert (len(train), len(selection), len(test)) == (6, 2, 8)
    assert selection.labels.unique().tolist() == [0, 1]  # held-out images are of all classes
    for label, name in enumerate(test.classes):
        for n, image in enumerate(test.images[test.labels == label]):
            assert (
                image.permute(1, 2, 0).numpy().tolist() == pixels(100 + 10 * label + n).tolist()
            ), name
    batch = test.batch(torch.tensor([1, 0]))
    assert batch.images.min() < -0.9 and batch.images.max() > 0.9


def test_the_first_and_the_last_images_are_of_all_classes_in_their_proportions(tmp_path):
    folder = make_folder(tmp_path / "x", count=2, shape=(8, 8))
    for n in range(2, 6):
        write(folder / "train/dog" / f"{n}.png", pixels(n, (8, 8)))
    listing = list_folder(folder)
    # a class's n-th of N files stands at (n + 1/2) / N: the cats at 3/12 and 9/12, the dogs at 1/12, 3/12, ... 11/12
    in_order = ["dog/0", "cat/0", "dog/1", "dog/2", "dog/3", "cat/1", "dog/4", "dog/5"]
    assert (
        list(listing.paths[:8]) == [f"train/{name}.png" for name in in_order]
        and listing.trains == 8
    )
    assert list(listing.labels[:8]) == [name[:3] == "dog" for name in in_order]


def damage(folder, place="train/cat", count=1, left=60):
    """Cut off the class's first files behind their heads, or with nothing left."""
    for path in sorted((folder / place).iterdir())[:count]:
        path.write_bytes(path.read_bytes()[:left])


FAULTS = {  # what is done to a folder, flags, words
    "absent": (shutil.rmtree, "", "neither MNIST, FashionMNIST, CIFAR10, CIFAR100 nor a folder"),
    "one class": (
        lambda folder: [shutil.rmtree(each) for each in folder.glob("*/dog")],
        "",
        "pets, which has cat:",
    ),
    "other classes": (
        lambda folder: (folder / "test/dog").rename(folder / "test/cow"),
        "",
        ") in train/cow, test/dog: train/",
    ),
    "two sizes": (
        lambda folder: write(folder / "test/dog/0.png", pixels(0, (12, 9, 3))),
        "",
        "one size, but 9x12 (test/dog/0.png), 12x12 (train/cat/0.png): add --image_size N",
    ),
    "four damaged files": (
        lambda folder: damage(folder, count=4),
        "",
        "4 of 16 files in {folder} cannot be read: train/cat/0.png (image file is truncated), train/cat/1.png (",
    ),
    "a damaged class": (
        lambda folder: damage(folder, count=4, left=0),
        "--image_size 8 --skip_bad",
        "no file of train/cat can",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_no_data_set(pets, fault):
    spoil, flags, words = FAULTS[fault]
    spoil(pets)
    line = refused(
        "ann",
        f"--dataset {pets} {NET} {flags.format(folder=pets)} --output_dir {pets.parent / 'out'}",
    )
    assert (
        words.format(folder=pets) in line and str(pets) in line and line.count("--skip_bad") <= 1
    )
    assert not (pets.parent / "out").exists()


def test_odd_folders(pets):
    """Links, folders in folders and upper case count; what is hidden does not; a class may have few images, and any name."""
    (pets / "train/dog/9.png").symlink_to(pets / "test/cat/0.png")
    write(pets / "train/cat/a/b/9.png", pixels(9))
    (pets / "train/cat/0.png").rename(pets / "train/cat/0.PNG")
    for hidden in ("train/cat/.9.png", "train/.a/9.png"):
        write(pets / hidden, pixels(9))
    for n in range(1, 4):
        (pets / f"train/cat/{n}.png").unlink()
    for part in ("train", "test"):
        (pets / part / "dog").rename(pets / part / "süße 猫")
    train, _, test = load_data(str(pets))
    assert (train.labels.bincount().tolist(), len(test), train.classes) == (
        [2, 5],
        8,
        ("cat", "süße 猫"),
    )


def test_a_file_that_can_be_read_again_is(pets):
    """Though neither its size nor its time of change says so, as after a disk that came back."""
    path = pets / "train/dog/2.png"
    whole, stat = path.read_bytes(), path.stat()
    for content, counts in ((whole[:-60] + bytes(60), [4, 3]), (whole, [4, 4])):
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert load_data(str(pets), skip_bad=True)[0].labels.bincount().tolist() == counts
        if content != whole:
            assert "train/dog/2.png (" in refused(
                "ann", f"--dataset {pets} {NET} --output_dir {pets.parent / 'out'}"
            )


def test_a_run_takes_size_and_colour_as_asked_and_names_the_bad_files_that_it_skips(
    tmp_path, capsys
):
    """And goes on so: it knows folder and flags from its checkpoint."""
    folder, here = (
        make_folder(tmp_path / "x", shape=(9, 12, 3)),
        f"--run_name x --output_dir {tmp_path}",
    )
    write(folder / "train/cat/0.png", np.full((40, 20, 3), 255, np.uint8))
    damage(folder, "train/dog")
    run_here("ann", f"--dataset {folder} --image_size 8 --grey --skip_bad {NET} --epochs 1 {here}")
    note = f"note: 1 of 16 files in {folder} cannot be read and are left out: train/dog/0.png ("
    assert capsys.readouterr().err.count(note) == 1
    run_here("ann", f"{here} --resume --epochs 2")
    model = load(tmp_path / "trained_models/ann/x.pth")
    assert model.image_shape == (1, 8, 8) and model.classes == ["cat", "dog"]
    train = load_data(str(folder), image_shape=(1, 8, 8), skip_bad=True)[0]
    assert train.images[train.labels == 0][0].unique().tolist() == [255] and len(train) == 7


@pytest.mark.parametrize(("shape", "channels"), [((12, 12), 1), ((12, 12, 3), 3)])
def test_grey_where_all_files_are(tmp_path, capsys, shape, channels):
    """One file with colours is enough, and the others are counted; size and colour are found each without the other."""
    folder = make_folder(tmp_path / "x", shape=(12, 12))
    write(folder / "test/dog/3.png", pixels(0, shape))
    say_once.cache_clear()
    assert load_data(str(folder))[0].images.shape[1:] == (channels, 12, 12)
    note = "note: 15 of 16 files are grey, the others not: all are read in colour (--grey: grey)"
    assert capsys.readouterr().err.count(note) == (channels == 3)
    assert shape_of(list_folder(folder), image_size=8) == (channels, 8, 8)
    assert shape_of(list_folder(folder), grey=True) == (1, 12, 12)


def test_a_data_dir_of_image_files_is_not_downloaded_into(pets, monkeypatch):
    monkeypatch.setattr(
        torchvision.datasets, "MNIST", lambda *args, **more: pytest.fail("a download")
    )
    line = refused("ann", f"--data_dir {pets} --output_dir {pets.parent / 'out'}")
    assert (
        "train-images-idx3-ubyte.gz" in line
        and f"give --dataset {pets} with {pets}/train/CLASS/" in line
    )


def test_a_network_knows_shape_classes_and_background_of_its_folder(tmp_path):
    """Borders of 51 and of 102 are light by 0.2 and 0.4; what is inside does not matter, nor test images."""
    for part, name, light in (
        ("train", "a", 51),
        ("train", "b", 102),
        ("test", "a", 0),
        ("test", "b", 0),
    ):
        image = np.full((8, 8), light, np.uint8)
        image[1:-1, 1:-1] = 255
        write(tmp_path / part / name / "0.png", image)
    run_here(
        "ann",
        f"--dataset {tmp_path} {NET} --epochs 1 --run_name x --output_dir {tmp_path / 'out'}",
    )
    model = load(tmp_path / "out/trained_models/ann/x.pth")
    assert (model.settings["labels"], model.image_shape, model.classes) == (
        2,
        (1, 8, 8),
        ["a", "b"],
    )
    assert model.background == pytest.approx(0.3)


CACHED = [f"{name}.{kind}" for name in ("3x12x12.pixels", "heads") for kind in ("json", "npy")]


def test_images_are_decoded_once_and_memory_mapped(pets, monkeypatch):
    first = load_data(str(pets))[0]
    files = digests(pets / ".cache")
    assert sorted(files) == CACHED
    monkeypatch.setattr(
        self_models.data.folders,
        "decode_image",
        lambda *args, **more: pytest.fail("decoded again"),
    )
    monkeypatch.setattr(
        self_models.data.folders, "read_head", lambda path: pytest.fail("looked at again")
    )
    again = load_data(str(pets))[0]
    assert torch.equal(first.images, again.images) and digests(pets / ".cache") == files
    if sys.platform == "linux":
        assert str(pets / ".cache/3x12x12.pixels.npy") in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("name", CACHED)
def test_a_damaged_cache_is_made_again(pets, name):
    load_data(str(pets))
    files, path = digests(pets / ".cache"), pets / ".cache" / name
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(
        load_data(str(pets))[0].images[0], torch.from_numpy(pixels(0)).permute(2, 0, 1)
    )
    assert digests(pets / ".cache") == files


def test_a_stale_cache_is_made_again(pets):
    load_data(str(pets))
    path = pets / "train/cat/0.png"
    stat = path.stat()
    write(path, pixels(99))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load_data(str(pets))[0].images[0].permute(1, 2, 0).tolist() == pixels(99).tolist()
    write(pets / "train/dog/new.png", pixels(7))
    assert len(load_data(str(pets))[0]) == 9


def test_where_the_folder_cannot_be_written_the_users_cache_is_used(pets, tmp_path, monkeypatch):
    """Folders of one name have each its own."""
    other = make_folder(tmp_path / "other" / "pets", count=3)
    for folder in (pets, other):
        (folder / ".cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert [len(load_data(str(folder))[0]) for folder in (pets, other)] == [8, 6]
    assert len(list((tmp_path / "mine/snn_wFeedback").glob("pets_*/*.pixels.npy"))) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(other / ".cache"))  # a file
    with pytest.raises(UserError, match=r"no place to keep the decoded images.*XDG_CACHE_HOME"):
        load_data(str(pets))


def test_who_wants_what_another_makes_waits_for_it(pets, monkeypatch):
    """Be it another rank or another run."""
    decoded_here, waits = [], threading.Event()

    def slowly(path, shape):
        decoded_here.append(path)
        waits.wait(0.05)
        return decode_image(path, shape)

    monkeypatch.setattr(self_models.data.folders, "decode_image", slowly)
    with ThreadPoolExecutor() as pool:
        found = [*pool.map(load_data, [str(pets)] * 3)]
    assert (
        sorted(decoded_here) == sorted(pets.glob("t*/*/*.png"))
        and sorted(digests(pets / ".cache")) == CACHED
    )
    assert all(torch.equal(each[0].images, found[0][0].images) for each in found)


def test_files_of_every_kind(tmp_path):
    grey, colour = pixels(0, (12, 12)), pixels(1)
    Image.fromarray(grey.astype(np.uint16) * 256 + 7).save(tmp_path / "16.png")
    Image.fromarray(np.dstack([colour, np.zeros((12, 12), np.uint8)])).save(tmp_path / "clear.png")
    Image.fromarray(colour).save(tmp_path / "a.webp", lossless=True)
    turned = Image.fromarray(np.rot90(colour))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    assert decode_image(tmp_path / "16.png", (1, 12, 12))[0].tolist() == grey.tolist()
    assert decode_image(tmp_path / "clear.png", (3, 12, 12)).max() == 0
    for name in ("a.webp", "turned.png"):
        assert (
            decode_image(tmp_path / name, (3, 12, 12)).transpose(1, 2, 0).tolist()
            == colour.tolist()
        )
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert (
        decode_image(write(tmp_path / "wide.png", wide), (3, 5, 5)).min() > 200
    )  # the middle of it
