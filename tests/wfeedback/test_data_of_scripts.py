"""What scripts say of data sets and folders of images, and what a network keeps."""

import os
import shutil
from unittest import mock

import numpy as np
import pytest
import torchvision
from conftest import NET, make_folder, pixels, refused, run_here, write

from self_models import load
from self_models.data.sets import (
    load_data,
)


@pytest.fixture
def pets(tmp_path):
    """Make a data set of 4 training and 4 test images each of cats and dogs."""
    return make_folder(tmp_path / "pets")


def damage(folder, place="train/cat", count=1, left=60):
    """Cut off a class's first files behind their heads, or with nothing left."""
    for path in sorted((folder / place).iterdir())[:count]:
        path.write_bytes(path.read_bytes()[:left])


def remove_dogs(folder):
    """Leave one class."""
    shutil.rmtree(folder / "train/dog")
    shutil.rmtree(folder / "test/dog")


def rename_test_dogs(folder):
    """Let test images be of another class than training images."""
    (folder / "test/dog").rename(folder / "test/cow")


def narrow_a_test_image(folder):
    """Let one image be of another size."""
    write(folder / "test/dog/0.png", pixels(0, (12, 9, 3)))


def damage_half_of_the_training_images(folder):
    """Cut off all cats of training behind their heads."""
    damage(folder, count=4)


def empty_a_class(folder):
    """Leave nothing of all cats of training."""
    damage(folder, count=4, left=0)


@pytest.mark.parametrize(
    ("spoil", "flags", "words"),
    [
        (shutil.rmtree, "", "neither MNIST, FashionMNIST, CIFAR10, CIFAR100 nor a folder"),
        (remove_dogs, "", "pets, which has cat:"),
        (rename_test_dogs, "", ") in train/cow, test/dog: train/"),
        (
            narrow_a_test_image,
            "",
            "one size, but 9x12 (test/dog/0.png), 12x12 (train/cat/0.png): add --image_size N",
        ),
        (
            damage_half_of_the_training_images,
            "",
            "4 of 16 files in {folder} cannot be read: train/cat/0.png (image file is"
            " truncated), train/cat/1.png (",
        ),
        (empty_a_class, "--image_size 8 --skip_bad", "no file of train/cat can"),
    ],
)
def test_a_folder_that_is_no_data_set_is_one_line(pets, spoil, flags, words):
    out = pets.parent / "out"
    spoil(pets)

    line = refused("ann", f"--dataset {pets} {NET} {flags} --output_dir {out}")

    assert words.format(folder=pets) in line
    assert str(pets) in line
    assert line.count("--skip_bad") <= 1
    assert not out.exists()


def test_a_file_that_can_be_read_again_is_read(pets):
    # Neither its size nor its time of change says so, as after a disk that came back.
    path = pets / "train/dog/2.png"
    whole = path.read_bytes()
    times = path.stat()

    def put_back(content):
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    put_back(whole[:-60] + bytes(60))
    train, *_ = load_data(str(pets), skip_bad=True)
    assert train.labels.bincount().tolist() == [4, 3]
    line = refused("ann", f"--dataset {pets} {NET} --output_dir {pets.parent / 'out'}")
    assert "train/dog/2.png (" in line

    put_back(whole)
    train, *_ = load_data(str(pets), skip_bad=True)
    assert train.labels.bincount().tolist() == [4, 4]


def test_a_run_takes_size_and_colour_as_asked_and_names_the_bad_files_that_it_skips(
    tmp_path, capsys
):
    folder = make_folder(tmp_path / "x", shape=(9, 12, 3))
    write(folder / "train/cat/0.png", np.full((40, 20, 3), 255, np.uint8))
    damage(folder, "train/dog")
    here = f"--run_name x --output_dir {tmp_path}"

    run_here("ann", f"--dataset {folder} --image_size 8 --grey --skip_bad {NET} --epochs 1 {here}")

    note = f"note: 1 of 16 files in {folder} cannot be read and are left out: train/dog/0.png ("
    assert capsys.readouterr().err.count(note) == 1

    # It goes on so: it knows folder and flags from its checkpoint.
    run_here("ann", f"{here} --resume --epochs 2")
    model = load(tmp_path / "trained_models/ann/x.pth")
    assert model.image_shape == (1, 8, 8)
    assert model.classes == ["cat", "dog"]
    train, *_ = load_data(str(folder), image_shape=(1, 8, 8), skip_bad=True)
    assert len(train) == 7
    first_cat = train.images[train.labels == 0][0]
    assert first_cat.unique().tolist() == [255]


def test_a_data_dir_of_image_files_is_not_downloaded_into(pets, monkeypatch):
    download = mock.Mock()
    monkeypatch.setattr(torchvision.datasets, "MNIST", download)

    line = refused("ann", f"--data_dir {pets} --output_dir {pets.parent / 'out'}")

    assert "train-images-idx3-ubyte.gz" in line
    assert f"give --dataset {pets} with {pets}/train/CLASS/" in line
    download.assert_not_called()


def test_a_network_knows_shape_classes_and_background_of_its_folder(tmp_path):
    # What is inside the border does not count, nor do test images.
    for name, border in (("a", 51), ("b", 102)):
        image = np.full((8, 8), border, np.uint8)
        image[1:-1, 1:-1] = 255
        write(tmp_path / "train" / name / "0.png", image)
        image[image != 255] = 0
        write(tmp_path / "test" / name / "0.png", image)
    here = f"--run_name x --output_dir {tmp_path / 'out'}"

    run_here("ann", f"--dataset {tmp_path} {NET} --epochs 1 {here}")

    model = load(tmp_path / "out/trained_models/ann/x.pth")
    assert model.settings["labels"] == 2
    assert model.image_shape == (1, 8, 8)
    assert model.classes == ["a", "b"]
    # 51 / 255 = 0.2 and 102 / 255 = 0.4; their mean is 0.3.
    assert model.background == pytest.approx(0.3)
