"""Somebody trains on images of his own, few of them: the preset `own`, a length in updates, what is said of classes, and pictures
that the network is then given."""

import base64
import json
import os
import re
import shutil
from collections import Counter

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

from harness.data.facts import facts_of
from harness.runs.saving import save_checkpoint
from harness.training.epochs import LEAST, length_of, training_batches
from self_models import ModelError, load, read_images
from self_models.basics.checkpoints import load_checkpoint
from self_models.data.sets import ImageSet, load_data
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

CLASSES = ("cat", "dog", "elk")
SMALL = "--preset own --fc_width 8 --updates 20 --batch_size 4"  # LEAST updates all the same


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """folder: of an ANN and an SNN that the preset trained on grey images in data; said: what the scripts printed."""
    folder = tmp_path_factory.mktemp("own")
    make_folder(folder / "data", CLASSES, shape=(12, 12))
    here = f"{SMALL} --dataset {folder / 'data'} --output_dir {folder}"
    ann = run_as_program("ann", here)
    snn = run_as_program(
        "snn", here, "--timesteps 2 --balance_images 4 --balance_timesteps 3 --scaling_factor 0.1"
    )
    make_folder(folder / "birds", ("crow", "gull"), count=2)
    (folder / "text.png").write_text("text")
    return folder, ann, snn


@pytest.mark.parametrize(
    ("images", "updates", "passes", "epochs", "each"),  # 64 images an update
    [
        (100, 2000, 32, 40, 50),
        (27, 2000, 119, 40, 51),
        (100_000, 500, 1, 1, 1563),
        (3200, 51, 1, 2, 50),
    ],
)
def test_a_length_in_updates_is_one_in_epochs_of_at_least_50(
    images, updates, passes, epochs, each
):
    pixels = torch.zeros(images, 1, 1, 1, dtype=torch.uint8)
    few = ImageSet("x", pixels, torch.zeros(images).long())
    train, found_epochs, found_each = length_of(few, 64, 7, updates)
    assert (train.passes, found_epochs, found_each) == (passes, epochs, each)
    assert epochs * each >= updates
    assert each >= LEAST
    assert length_of(few, 64, 7, None) == (few, 7, -(-images // 64))


def test_an_epoch_of_several_passes_has_each_image_as_often_each_time_for_itself():
    few = ImageSet(
        "x", torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.arange(5), passes=3
    )
    kept = list(training_batches(few, batch_size=4, seed=0, epoch=2, device="cpu"))
    assert [len(batch.labels) for batch in kept] == [4, 4, 4, 3]
    labels, index = (
        torch.cat([getattr(batch, name) for batch in kept]) for name in ("labels", "index")
    )
    assert sorted(index.tolist()) == list(range(15)) and torch.equal(
        labels, index % 5
    )  # draws follow the index
    assert Counter(labels.tolist()) == dict.fromkeys(range(5), 3)
    again = list(training_batches(few, batch_size=4, seed=0, epoch=2, device="cpu", first=2))
    assert torch.equal(again[0].index, kept[2].index)


def test_a_run_counted_in_updates_goes_on_and_is_made_longer(own, tmp_path):
    folder, log = own[0], tmp_path / "logs/ann/x.jsonl"
    here = f"--run_name x --output_dir {tmp_path}"
    _, said = run_here("ann", f"{NET} --dataset {folder / 'data'} --updates 40 --holdout 3 {here}")
    assert "weights: 52 updates in 1 epoch of 23 times each of 9 images; checkpoint" in said
    (tmp_path / "moved").mkdir()
    moved = shutil.copytree(folder / "data", tmp_path / "moved/data")
    _, said = run_here(
        "ann", f"--updates 90 --resume --dataset {moved} {here}"
    )  # the same images, elsewhere
    assert [record["epoch"] for record in records(log, "epoch")] == [
        1,
        2,
    ] and "resumed from" in said
    assert "has trained 2 epochs already" in refused("ann", f"--resume {here}")
    assert "--epochs and --updates contradict each other: leave" in refused(
        "ann", f"--resume --epochs 9 {here}"
    )
    _, said = run_here("ann", f"{NET} --dataset {folder / 'data'} --epochs 1 {here} --overwrite")
    assert "weights: 3 updates in 1 epoch of 11 images; " in said
    assert "\nwarning: 3 updates are few: " in said and "--updates N" in said
    assert "x_last.pth has its length in epochs" in refused("ann", f"--resume --updates 90 {here}")


def test_a_run_goes_on_with_the_files_that_it_began_with_only(tmp_path):
    """Also where flags take no more of them than there still are; how old they are does not matter."""
    folder, out = make_folder(tmp_path / "data", CLASSES, shape=(12, 12)), tmp_path / "out"
    here = f"--run_name few --limit_train 8 --holdout 2 --limit_test 2 --output_dir {out}"
    run_here("ann", f"{NET} --dataset {folder} --epochs 1 {here}")
    before = digests(out)
    for file, moved, count in (
        ("test/elk/1.png", tmp_path / "1.png", 11),
        ("train/dog/3.png", folder / "train/dog/4.png", 12),
    ):
        (folder / file).rename(moved)
        line = refused("ann", f"{here} --resume --epochs 2")
        words = rf"{file.split('/')[0]}/ had 12 files \(names and sizes: \w+\) and has {count} files \("
        assert (
            re.search(words, line)
            and "bring them back, or begin a new run" in line
            and digests(out) == before
        )
        moved.rename(folder / file)
    os.utime(folder / "train/cat/0.png", (0, 0))
    run_here("ann", f"{here} --resume --epochs 2")


def test_the_preset_from_a_folder_to_a_comparison(own):
    folder, ann, snn = own
    for kind, done in (("ann", ann), ("snn", snn)):
        assert (
            "data: data, grey images of 12x12 pixels, 3 classes; images: training 12 (4 of each class), test 12"
            in done.stdout
        )
        assert (
            "warning: fewer than 10 training images of class cat (4), dog (4), elk (4)"
            in done.stdout
        )
        assert (
            "accuracy by class: cat " in done.stdout
            and "predicted class):\n     cat  dog  elk\ncat " in done.stdout
        )
        (record,) = records(folder / f"logs/{kind}/own.jsonl", "evaluation")
        assert record["classes"] == [*CLASSES] and [sum(row) for row in record["confusion"]] == [
            4,
            4,
            4,
        ]
        right = [record["confusion"][label][label] for label in range(3)]
        assert (
            record["accuracy_by_class"] == [one / 4 for one in right]
            and record["dataset"] == "data"
        )
        assert sum(right) / 12 == pytest.approx(record["accuracy"])
        saved = load_checkpoint(folder / f"trained_models/{kind}/own.pth")
        assert (
            str(folder) not in str(saved["settings"]) and saved["settings"]["dataset"] == "…/data"
        )
    here = f"--preset own --dataset {folder / 'data'} --output_dir {folder}"
    run_here("obj1", here, "--epsilon 0.2")
    for script, words in (
        ("energy", "own, means over 12 images"),
        ("compare --evaluate", "own: accuracy .* on 12 images"),
    ):
        script, *flags = script.split()
        assert re.search(
            words, run_here(script, "own", *flags, here.removeprefix("--preset own "))[1]
        )


DIGITS = list("0123456789")


@pytest.mark.parametrize(
    ("settings", "dataset", "facts"),
    [
        # on its own data set its name says all
        ({"dataset": "MNIST", "labels": 10}, "MNIST", {"labels": 10}),
        # on a folder, what MNIST's name has said until now: size, black border, and classes
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


def test_a_network_of_mnist_takes_a_folder_of_digits(trained, tmp_path):
    """In its own size, 28 x 28 in grey, though the files are of 12 x 12 in colour."""
    flags = f"--pretrained_ann {trained.ann} --test_only --run_name x --output_dir {tmp_path}"
    digits = make_folder(tmp_path / "digits", DIGITS, count=1)
    said = run_here("ann", flags, "--dataset", digits)[1]
    assert "data: digits, grey images of 28x28 pixels, 10 classes; images: test 10 " in said
    (record,) = records(tmp_path / "logs/ann/x.jsonl", "evaluation")
    assert (record["dataset"], record["images"], record["classes"]) == ("digits", 10, DIGITS)
    animals = make_folder(tmp_path / "animals", count=1)
    line = refused("ann", flags, "--dataset", animals)
    assert "has the classes cat, dog, and the network was trained on 0, 1, 2 and 7 more" in line


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_folder_of_c_is_checked_by_images_of_ones_own_and_names_their_classes(
    own, tmp_path, weights
):
    """Of fewer than it would take; without a data set, which the network does not know, by random ones."""
    network, files = own[0] / "trained_models/snn/own.pth", tmp_path / "c"
    few = make_folder(tmp_path / "few", CLASSES, 2, (12, 12))
    write(few / "test/cat/bad.png", pixels(1)).write_text("text")
    here = f"{network} --to c --weights {weights} --output {files} --overwrite"
    said = run_here("export", f"{here} --dataset {few} --skip_bad")[1]
    assert "random images" not in said and ("accuracy on 6 test images" in said) == (
        weights == "int8"
    )
    written = re.search(r"golden_pixels\[\] = \{(.*?)\}", (files / "golden.c").read_text(), re.S)[
        1
    ]
    test, shown = (
        load_data(str(few), skip_bad=True)[2].images,
        torch.tensor([int(word) for word in written.split(",")]),
    )
    shown = shown.view(-1, 1, 12, 12)
    assert 0 < len(shown) <= 6 and all((test == one).flatten(1).all(1).any() for one in shown)
    assert re.findall(r'^ +"(\w+)", \\$', (files / "weights.h").read_text(), re.M) == [*CLASSES]
    said = run_here("export", here)[1]
    assert (
        "random images (the network was trained on a folder of images, data" in said
        and "add --dataset FOLDER" in said
    )


def test_a_page_has_images_of_ones_own_and_names_their_classes(tmp_path):
    names, path = [f"<{letter}>" for letter in "abcdefghij"], tmp_path / "net.pth"
    folder = make_folder(tmp_path / "data", names, count=1, shape=(28, 28))
    torch.manual_seed(0)
    save_checkpoint(
        path,
        InputBlockingSNN(
            plan=[[4, "D"], ["U", "in"]],
            fc_width=8,
            timesteps=2,
            readout="membrane_linear",
            dataset=str(folder),
            image_shape=(1, 28, 28),
            classes=names,
        ),
    )
    run_here("export", f"{path} --to page --dataset {folder}")
    (content,) = re.findall(
        "<script type=.application/json. id=data>(.*?)</script>",
        path.with_suffix(".html").read_text(),
        re.S,
    )
    shown = json.loads(content)
    assert shown["classes"] == names
    found = [list(base64.b64decode(one)) for one in shown["images"]]
    assert found == load_data(str(folder))[2].images.flatten(1).tolist()


@pytest.mark.parametrize("kind", ["ann", "snn"])
def test_a_checkpoint_keeps_what_it_knows_of_its_images(own, kind):
    """So that files are the same pixels one by one as in their folder."""
    model, test = (
        load(own[0] / f"trained_models/{kind}/own.pth"),
        load_data(str(own[0] / "data"))[2],
    )
    assert (model.image_shape, model.classes, model.settings["labels"]) == (
        (1, 12, 12),
        [*CLASSES],
        3,
    )
    assert model.background == pytest.approx(0.5, abs=0.1)
    assert torch.equal(read_images(own[0] / "data/test/dog", model), test.images[test.labels == 1])


def test_own_files_need_no_data_set(own, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "harness.command_line.posthoc.images_for", lambda *args: pytest.fail("a data set")
    )
    mine = write(tmp_path / "mine" / "photo.png", pixels(5, (30, 40, 3)))
    write(tmp_path / "mine" / "b.jpg", pixels(6, (20, 20)))
    (tmp_path / "mine" / "notes.txt").touch()
    here = f"--pretrained_snn {own[0]}/trained_models/snn/own.pth --output_dir {tmp_path}"
    _, printed = run_here("analysis", here, "--images", mine, mine.parent)
    read = records(tmp_path / "logs/snn/own_posthoc_analysis.jsonl", "image")
    assert [record["file"] for record in read] == ["photo.png", "b.jpg", "photo.png"]
    assert {record["read_as"] for record in read} <= {*CLASSES} and "accuracy" not in printed
    snn, opened = load(own[0] / "trained_models/snn/own.pth"), Image.open(tmp_path / "mine/b.jpg")
    taken = read_images([mine, mine.parent], snn)
    assert taken.shape == (3, 1, 12, 12) and taken.dtype == torch.uint8
    assert [snn.classes[n] for n in snn(taken, seed=0).logits.argmax(1)] == [
        record["read_as"] for record in read
    ]
    assert torch.equal(read_images(opened, snn), taken[1:2]) and opened.size == (
        20,
        20,
    )  # images of Pillow as files are
    assert torch.equal(read_images(opened, snn, invert=True), 255 - taken[1:2])
    with pytest.raises(
        ModelError, match="a PIL image: its values are neither of 8 nor of 16 bits"
    ):
        read_images(Image.fromarray(np.zeros((12, 12), np.float32)), snn)
    run_here("obj3", here, "--images", mine)
    assert any((tmp_path / "trained_models/snn").glob("own_contrast*.gif"))


def test_pictures_on_white_paper_are_named_and_can_be_turned_round(trained, tmp_path):
    digit = load_data("MNIST", limit_test=1)[2].images[0, 0].numpy()
    right, *files = [
        write(tmp_path / f"{name}.png", digit if name == "right" else 255 - digit)
        for name in ("right", *"abcdefg")
    ]
    here = f"--pretrained_snn {trained.snn} --timesteps 1 --output_dir {tmp_path} --images"
    said = run_undrawn("analysis", here, right, files[0])[1]
    assert (
        "note: values look inverted: 1 of 2 images have a bright border (the first is a.png), and the network was"
        in said
    )
    assert "--invert of the scripts, turns dark and bright round" in said
    said = run_undrawn("analysis", here, *files[:2], "--invert")[1]
    assert "look inverted" not in said and "charted: the first 2 images of your own" in said
    with pytest.warns(
        UserWarning, match=r"7 of 8 images have a bright border \(the first is a.png\)"
    ):
        read_images([right, *files], load(trained.snn))


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
        "folder of images, data (grey images of 12x12 pixels, 3 classes: cat, dog, elk), and nothing says where",
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
    network = f"--pretrained_snn {own[0]}/trained_models/snn/own.pth"
    line = refused(
        script, flags.format(snn=network, own=own[0]), f"--output_dir {tmp_path / 'out'}"
    )
    assert words in line and (str(own[0]) not in line or "{own}" in flags)


def test_names_that_are_not_utf_8_are_refused_at_the_start(tmp_path):
    """The log, which names classes and has the command, could not be written after training."""
    folder = make_folder(tmp_path / "data", CLASSES)
    for part in ("train", "test"):
        os.rename(folder / part / "elk", os.fsencode(folder / part) + b"/\xe9lan")
    line = refused("ann", SMALL, "--dataset", folder, "--output_dir", tmp_path)
    assert r"data/train/\xe9lan: the name of this class is not UTF-8: rename the folder" in line
    line = refused("ann", SMALL, "--dataset", os.fsdecode(b"\xe9lan"))
    assert line.startswith(r"error: \xe9lan is not UTF-8: rename that file or folder")
    assert not (tmp_path / "logs").exists()


def test_an_image_whose_name_is_not_utf_8_is_classified(own, tmp_path):
    folder, data = own[0], tmp_path / "photos"
    write(data / "x.png", pixels(1, (12, 12)))
    os.rename(data / "x.png", os.fsencode(data) + b"/\xe9lan.png")
    flags = f"--pretrained_snn {folder}/trained_models/snn/own.pth --run_name x"
    run_undrawn("analysis", flags, f"--images {data} --output_dir {tmp_path}")
    (image,) = records(tmp_path / "logs/snn/x.jsonl", "image")
    assert image["file"] == r"\xe9lan.png"
