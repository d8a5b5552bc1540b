"""Somebody trains on a few images of one's own.

The preset `own`, a length in updates, what is said of classes, and pictures that the
network is then given.
"""

import base64
import json
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    NET,
    digests,
    make_folder,
    pixels,
    records,
    refused,
    run_as_program,
    run_here,
    run_undrawn,
    write,
)
from PIL import Image

from self_models import ModelError, load, read_images
from self_models.checkpoints.files import load_checkpoint
from self_models.data.sets import ImageSet, load_data
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.data.facts import facts_of, shape_and_classes
from wfeedback.runs.saving import save_checkpoint
from wfeedback.training.epochs import LEAST, length_of, training_batches

CLASSES = ("cat", "dog", "elk")
SMALL = "--preset own --fc_width 8 --updates 20 --batch_size 4"  # LEAST updates all the same


@dataclass
class OwnNetworks:
    """An ANN and an SNN that the preset trained on small grey images."""

    folder: Path
    printed: dict[str, str]  # by the script that trained each kind, "ann" or "snn"

    @property
    def data(self):
        """The folder of images."""
        return self.folder / "data"

    @property
    def ann(self):
        """The ANN's checkpoint."""
        return self.folder / "trained_models/ann/own.pth"

    @property
    def snn(self):
        """The SNN's checkpoint."""
        return self.folder / "trained_models/snn/own.pth"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Train both networks, beside another data set, and a text named as an image."""
    folder = tmp_path_factory.mktemp("own")
    make_folder(folder / "data", CLASSES, shape=(12, 12))
    make_folder(folder / "birds", ("crow", "gull"), count=2)
    (folder / "text.png").write_text("text")
    here = f"{SMALL} --dataset {folder / 'data'} --output_dir {folder}"
    short = "--timesteps 2 --balance_images 4 --balance_timesteps 3 --scaling_factor 0.1"
    ann = run_as_program("ann", here)
    snn = run_as_program("snn", here, short)
    return OwnNetworks(folder, {"ann": ann.stdout, "snn": snn.stdout})


# --- a length in updates


@pytest.mark.parametrize(
    ("images", "updates", "passes", "epochs", "updates_per_epoch"),  # 64 images an update
    [
        (100, 2000, 32, 40, 50),  # 32 * 100 images are 50 updates
        (27, 2000, 119, 40, 51),  # 118 * 27 are 49.8, and 119 * 27 are 50.2
        (100_000, 500, 1, 1, 1563),  # 1562.5, more than 500
        (3200, 51, 1, 2, 50),
    ],
)
def test_a_length_in_updates_is_one_in_epochs_of_at_least_50(
    images, updates, passes, epochs, updates_per_epoch
):
    pixels = torch.zeros(images, 1, 1, 1, dtype=torch.uint8)
    few = ImageSet("x", pixels, torch.zeros(images).long())

    train, found_epochs, found_updates = length_of(few, 64, 7, updates)

    assert train.passes == passes
    assert found_epochs == epochs
    assert found_updates == updates_per_epoch
    assert epochs * updates_per_epoch >= updates
    assert updates_per_epoch >= LEAST
    assert length_of(few, 64, 7, None) == (few, 7, ceil(images / 64))


def test_an_epoch_of_several_passes_has_each_image_as_often_each_time_for_itself():
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    few = ImageSet("x", pixels, torch.arange(5), passes=3)

    batches = list(training_batches(few, batch_size=4, seed=0, epoch=2, device="cpu"))

    assert [len(batch.labels) for batch in batches] == [4, 4, 4, 3]
    labels = torch.cat([batch.labels for batch in batches])
    index = torch.cat([batch.index for batch in batches])
    assert Counter(labels.tolist()) == {0: 3, 1: 3, 2: 3, 3: 3, 4: 3}
    assert sorted(index.tolist()) == list(range(15))  # what draws depend on
    assert torch.equal(labels, index % 5)


def test_an_epoch_of_several_passes_begins_in_the_middle():
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    few = ImageSet("x", pixels, torch.arange(5), passes=3)

    whole = list(training_batches(few, batch_size=4, seed=0, epoch=2, device="cpu"))
    rest = list(training_batches(few, batch_size=4, seed=0, epoch=2, device="cpu", first=2))

    assert torch.equal(rest[0].index, whole[2].index)


def test_a_run_counted_in_updates_goes_on_and_is_made_longer(own, tmp_path):
    here = f"--run_name x --output_dir {tmp_path}"
    _, printed = run_here("ann", f"{NET} --dataset {own.data} --updates 40 --holdout 3 {here}")
    assert "weights: 52 updates in 1 epoch of 23 times each of 9 images; checkpoint" in printed

    # The same images, elsewhere
    moved = tmp_path / "moved/data"
    shutil.copytree(own.data, moved)
    _, printed = run_here("ann", f"--updates 90 --resume --dataset {moved} {here}")
    epochs = records(tmp_path / "logs/ann/x.jsonl", "epoch")
    assert [record["epoch"] for record in epochs] == [1, 2]
    assert "resumed from" in printed

    assert "has trained 2 epochs already" in refused("ann", f"--resume {here}")
    line = refused("ann", f"--resume --epochs 9 {here}")
    assert "--epochs and --updates contradict each other: leave" in line


def test_a_run_counted_in_epochs_may_have_few_updates_and_stays_counted_so(own, tmp_path):
    here = f"--run_name x --output_dir {tmp_path}"

    _, printed = run_here("ann", f"{NET} --dataset {own.data} --epochs 1 {here}")

    assert "weights: 3 updates in 1 epoch of 11 images; " in printed
    assert "\nwarning: 3 updates are few: " in printed
    assert "--updates N" in printed
    line = refused("ann", f"--resume --updates 90 {here}")
    assert "x_last.pth has its length in epochs" in line


def test_a_run_goes_on_with_the_files_that_it_began_with_only(tmp_path):
    """Even where flags take no more of them than there still are."""
    folder = make_folder(tmp_path / "data", CLASSES, shape=(12, 12))
    out = tmp_path / "out"
    here = f"--run_name few --limit_train 8 --holdout 2 --limit_test 2 --output_dir {out}"
    run_here("ann", f"{NET} --dataset {folder} --epochs 1 {here}")
    before = digests(out)
    lost = folder / "test/elk/1.png"
    renamed = folder / "train/dog/3.png"

    lost.rename(tmp_path / "1.png")
    line = refused("ann", f"{here} --resume --epochs 2")
    assert re.search(r"test/ had 12 files \(names and sizes: \w+\) and has 11 files \(", line)
    assert "bring them back, or begin a new run" in line
    (tmp_path / "1.png").rename(lost)

    renamed.rename(folder / "train/dog/4.png")
    line = refused("ann", f"{here} --resume --epochs 2")
    assert re.search(r"train/ had 12 files \(names and sizes: \w+\) and has 12 files \(", line)
    assert "bring them back, or begin a new run" in line
    (folder / "train/dog/4.png").rename(renamed)

    assert digests(out) == before
    os.utime(folder / "train/cat/0.png", (0, 0))  # how old a file is does not matter
    run_here("ann", f"{here} --resume --epochs 2")


# --- from a folder to figures by class


@pytest.mark.parametrize("kind", ["ann", "snn"])
def test_training_by_the_preset_tells_of_the_images_and_of_each_class(own, kind):
    printed = own.printed[kind]

    facts = "data: data, grey images of 12x12 pixels, 3 classes; "
    assert facts + "images: training 12 (4 of each class), test 12" in printed
    few = "warning: fewer than 10 training images of class cat (4), dog (4), elk (4)"
    assert few in printed
    assert "accuracy by class: cat " in printed
    assert "predicted class):\n     cat  dog  elk\ncat " in printed


@pytest.mark.parametrize("kind", ["ann", "snn"])
def test_the_log_has_a_confusion_matrix_that_agrees_with_the_accuracies(own, kind):
    (record,) = records(own.folder / f"logs/{kind}/own.jsonl", "evaluation")

    assert record["dataset"] == "data"
    assert record["classes"] == [*CLASSES]
    assert [sum(row) for row in record["confusion"]] == [4, 4, 4]  # images of each class
    right = [record["confusion"][label][label] for label in range(3)]
    assert record["accuracy_by_class"] == [number / 4 for number in right]
    assert record["accuracy"] == pytest.approx(sum(right) / 12)


@pytest.mark.parametrize("kind", ["ann", "snn"])
def test_a_checkpoint_does_not_tell_where_its_images_were(own, kind):
    settings = load_checkpoint(own.folder / f"trained_models/{kind}/own.pth")["settings"]
    assert str(own.folder) not in str(settings)
    assert settings["dataset"] == "…/data"


def test_the_networks_of_the_preset_are_measured_and_compared(own):
    here = f"--dataset {own.data} --output_dir {own.folder}"
    run_here("obj1", f"--preset own {here}", "--epsilon 0.2")

    _, printed = run_here("energy", "own", here)
    assert "own, means over 12 images" in printed

    _, printed = run_here("compare", "own --evaluate", here)
    assert re.search("own: accuracy .* on 12 images", printed)


DIGITS = list("0123456789")


@pytest.mark.parametrize(
    ("settings", "dataset", "facts"),
    [
        # on its own data set its name says all
        ({"dataset": "MNIST", "labels": 10}, "MNIST", {"labels": 10}),
        # on a folder, what MNIST's name has said until now
        (
            {"dataset": "MNIST", "labels": 10},
            "folder",
            {"labels": 10, "image_shape": (1, 28, 28), "background": 0.0, "classes": DIGITS},
        ),
        # but what the network itself says comes before that
        (
            {
                "dataset": "MNIST",
                "labels": 2,
                "image_shape": (1, 14, 14),
                "background": 0.25,
                "classes": ["even", "odd"],
            },
            "folder",
            {
                "labels": 2,
                "image_shape": (1, 14, 14),
                "background": 0.25,
                "classes": ["even", "odd"],
            },
        ),
        # of a folder only the network itself knows
        ({"dataset": "…/data", "labels": 2}, "folder", {"labels": 2}),
    ],
)
def test_facts_of_a_network_on_another_data_set(settings, dataset, facts):
    assert facts_of(settings, dataset) == facts


def test_without_facts_the_data_sets_name_tells_shape_and_classes():
    assert shape_and_classes({}, "MNIST") == ((1, 28, 28), DIGITS)


def test_a_network_of_mnist_takes_a_folder_of_digits(trained, tmp_path):
    """In its own size, 28 x 28 in grey, though the files are of 12 x 12 in colour."""
    flags = f"--pretrained_ann {trained.ann} --test_only --run_name x --output_dir {tmp_path}"
    digits = make_folder(tmp_path / "digits", DIGITS, count=1)
    animals = make_folder(tmp_path / "animals", count=1)

    _, printed = run_here("ann", flags, "--dataset", digits)
    assert "data: digits, grey images of 28x28 pixels, 10 classes; images: test 10 " in printed
    (record,) = records(tmp_path / "logs/ann/x.jsonl", "evaluation")
    assert record["dataset"] == "digits"
    assert record["images"] == 10
    assert record["classes"] == DIGITS

    line = refused("ann", flags, "--dataset", animals)
    assert "has the classes cat, dog, and the network was trained on 0, 1, 2 and 7 more" in line


# --- exported, with their classes


@pytest.fixture
def few(tmp_path):
    """Write fewer images than an export would take, and a file that is none."""
    folder = make_folder(tmp_path / "few", CLASSES, count=2, shape=(12, 12))
    (folder / "test/cat/bad.png").write_text("text")
    return folder


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_folder_of_c_is_checked_by_images_of_ones_own_and_names_their_classes(
    own, few, tmp_path, weights
):
    files = tmp_path / "c"
    flags = f"--to c --weights {weights} --output {files} --dataset {few} --skip_bad"

    _, printed = run_here("export", own.snn, flags)

    assert "random images" not in printed
    assert ("accuracy on 6 test images" in printed) == (weights == "int8")
    names = re.findall(r'^ +"(\w+)", \\$', (files / "weights.h").read_text(), re.M)
    assert names == [*CLASSES]

    golden = (files / "golden.c").read_text()
    numbers = re.search(r"golden_pixels\[\] = \{(.*?)\}", golden, re.S)[1]
    written = torch.tensor([int(number) for number in numbers.split(",")]).view(-1, 1, 12, 12)
    test = load_data(str(few), skip_bad=True)[2].images
    assert 0 < len(written) <= 6
    for image in written:
        assert (test == image).flatten(1).all(1).any()


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_folder_of_c_is_checked_by_random_images_where_no_folder_is_named(
    own, tmp_path, weights
):
    _, printed = run_here("export", own.snn, f"--to c --weights {weights} --output {tmp_path}/c")

    assert "random images (the network was trained on a folder of images, data" in printed
    assert "add --dataset FOLDER" in printed


def test_a_page_has_images_of_ones_own_and_names_their_classes(tmp_path):
    classes = [f"<{letter}>" for letter in "abcdefghij"]  # which are no tags
    folder = make_folder(tmp_path / "data", classes, count=1, shape=(28, 28))
    torch.manual_seed(0)
    model = InputBlockingSNN(
        plan=[[4, "D"], ["U", "in"]],
        fc_width=8,
        timesteps=2,
        readout="membrane_linear",
        dataset=str(folder),
        image_shape=(1, 28, 28),
        classes=classes,
    )
    save_checkpoint(tmp_path / "net.pth", model)

    run_here("export", f"{tmp_path}/net.pth --to page --dataset {folder}")

    page = (tmp_path / "net.html").read_text()
    tag = "<script type=.application/json. id=data>(.*?)</script>"
    (content,) = re.findall(tag, page, re.S)
    data = json.loads(content)
    assert data["classes"] == classes
    pixels_on_page = [list(base64.b64decode(image)) for image in data["images"]]
    assert pixels_on_page == load_data(str(folder))[2].images.flatten(1).tolist()


# --- files that a network is given


@pytest.mark.parametrize("kind", ["ann", "snn"])
def test_a_checkpoint_keeps_what_it_knows_of_its_images(own, kind):
    """So that files are the same pixels one by one as in their folder."""
    model = load(own.folder / f"trained_models/{kind}/own.pth")

    assert model.image_shape == (1, 12, 12)
    assert model.classes == [*CLASSES]
    assert model.settings["labels"] == 3
    assert model.background == pytest.approx(0.5, abs=0.1)
    test = load_data(str(own.data))[2]
    dogs = test.images[test.labels == CLASSES.index("dog")]
    assert torch.equal(read_images(own.data / "test/dog", model), dogs)


def refuse_to_load(*_):
    """Stand for the function that loads a data set."""
    pytest.fail("a data set")


@dataclass
class Photos:
    """A folder with two images of other sizes, the first in colour, and a text."""

    folder: Path
    colour: Path
    grey: Path


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Write photos, and let nobody load a data set."""
    monkeypatch.setattr("wfeedback.command_line.posthoc.images_for", refuse_to_load)
    folder = tmp_path / "mine"
    colour = write(folder / "photo.png", pixels(5, (30, 40, 3)))
    grey = write(folder / "b.jpg", pixels(6, (20, 20)))
    (folder / "notes.txt").touch()
    return Photos(folder, colour, grey)


def test_own_files_need_no_data_set(own, photos, tmp_path):
    here = f"--pretrained_snn {own.snn} --output_dir {tmp_path}"

    _, printed = run_here("analysis", here, "--images", photos.colour, photos.folder)

    read = records(tmp_path / "logs/snn/own_posthoc_analysis.jsonl", "image")
    assert [record["file"] for record in read] == ["photo.png", "b.jpg", "photo.png"]
    assert {record["read_as"] for record in read} <= {*CLASSES}
    assert "accuracy" not in printed

    snn = load(own.snn)
    images = read_images([photos.colour, photos.folder], snn)
    assert images.shape == (3, 1, 12, 12)
    assert images.dtype == torch.uint8
    answers = [snn.classes[label] for label in snn(images, seed=0).logits.argmax(1)]
    assert [record["read_as"] for record in read] == answers


def test_a_contrast_of_own_files_needs_no_data_set(own, photos, tmp_path):
    here = f"--pretrained_snn {own.snn} --output_dir {tmp_path}"
    run_here("obj3", here, "--images", photos.colour)
    assert any((tmp_path / "trained_models/snn").glob("own_contrast*.gif"))


def test_images_of_pillow_are_read_as_files_are(own, photos):
    snn = load(own.snn)
    from_file = read_images(photos.grey, snn)
    opened = Image.open(photos.grey)

    assert torch.equal(read_images(opened, snn), from_file)
    assert opened.size == (20, 20)  # as before
    assert torch.equal(read_images(opened, snn, invert=True), 255 - from_file)


def test_an_image_of_pillow_with_other_values_than_bytes_is_refused(own):
    image = Image.fromarray(np.zeros((12, 12), np.float32))
    line = "a PIL image: its values are neither of 8 nor of 16 bits"
    with pytest.raises(ModelError, match=line):
        read_images(image, load(own.snn))


@dataclass
class Digits:
    """A digit as MNIST has it, white on black, and seven times black on white."""

    white: Path
    black: list[Path]


@pytest.fixture
def digits(tmp_path):
    """Write the digits; the first of the black ones is a.png."""
    digit = load_data("MNIST", limit_test=1)[2].images[0, 0].numpy()
    white = write(tmp_path / "right.png", digit)
    black = [write(tmp_path / f"{letter}.png", 255 - digit) for letter in "abcdefg"]
    return Digits(white, black)


def test_pictures_on_white_paper_are_named_and_can_be_turned_round(trained, digits, tmp_path):
    here = f"--pretrained_snn {trained.snn} --timesteps 1 --output_dir {tmp_path} --images"

    _, printed = run_undrawn("analysis", here, digits.white, digits.black[0])
    note = "note: values look inverted: 1 of 2 images have a bright border (the first is a.png), "
    assert note + "and the network was" in printed
    assert "--invert of the scripts, turns dark and bright round" in printed

    _, printed = run_undrawn("analysis", here, *digits.black[:2], "--invert")
    assert "look inverted" not in printed
    assert "charted: the first 2 images of your own" in printed


def test_a_warning_names_the_first_picture_on_white_paper(trained, digits):
    warning = r"7 of 8 images have a bright border \(the first is a.png\)"
    with pytest.warns(UserWarning, match=warning):
        read_images([digits.white, *digits.black], load(trained.snn))


# --- what is refused


REFUSED = [
    ("ann", "--preset own", "add --dataset FOLDER (images belong in FOLDER/train/CLASS/"),
    (
        "snn",
        "--preset own",
        "ann/own.pth, which is not there; this makes it: python ann_wFeedback.py --preset own",
    ),
    ("analysis", "{snn} --images {own}/text.png", "text.png: not an image"),
    (
        "analysis",
        "{snn} --index 7 12 --dataset {own}/data",
        "--index 12: the test images in use are 0 to 11",
    ),
    (
        "obj1",
        "{snn}",
        "folder of images, data (grey images of 12x12 pixels, 3 classes: cat, dog, elk), "
        "and nothing says where",
    ),
    (
        "obj1",
        "{snn} --dataset {own}/birds",
        "birds has the classes crow, gull, and the network was trained on cat, dog, elk",
    ),
    (
        "obj1",
        "{snn} --dataset MNIST",
        "MNIST has grey images of 28x28 pixels, and the network takes grey images of 12x12 pixels",
    ),
]


@pytest.mark.parametrize(("script", "flags", "words"), REFUSED)
def test_what_does_not_fit_images_of_ones_own_is_refused(own, tmp_path, script, flags, words):
    flags_here = flags.format(snn=f"--pretrained_snn {own.snn}", own=own.folder)

    line = refused(script, flags_here, f"--output_dir {tmp_path / 'out'}")

    assert words in line
    if "{own}" not in flags:  # nobody typed where that is
        assert str(own.folder) not in line


def test_names_that_are_not_utf_8_are_refused_at_the_start(tmp_path):
    """After training, no log could be written that has the class and the command."""
    folder = make_folder(tmp_path / "data", CLASSES)
    for part in ("train", "test"):
        os.rename(folder / part / "elk", os.fsencode(folder / part) + b"/\xe9lan")

    line = refused("ann", SMALL, "--dataset", folder, "--output_dir", tmp_path)
    assert r"data/train/\xe9lan: the name of this class is not UTF-8: rename the folder" in line

    line = refused("ann", SMALL, "--dataset", os.fsdecode(b"\xe9lan"))
    assert line.startswith(r"error: \xe9lan is not UTF-8: rename that file or folder")
    assert not (tmp_path / "logs").exists()


def test_an_image_whose_name_is_not_utf_8_is_classified(own, tmp_path):
    folder = tmp_path / "photos"
    write(folder / "x.png", pixels(1, (12, 12)))
    os.rename(folder / "x.png", os.fsencode(folder) + b"/\xe9lan.png")
    flags = f"--pretrained_snn {own.snn} --run_name x"

    run_undrawn("analysis", flags, f"--images {folder} --output_dir {tmp_path}")

    (image,) = records(tmp_path / "logs/snn/x.jsonl", "image")
    assert image["file"] == r"\xe9lan.png"
