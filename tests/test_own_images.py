"""Somebody trains on images of his own, few of them: the preset `own`, a length in updates, what is said of classes."""

import os
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import ANALYSIS, ANN, OBJ1, SNN, digests, records, refused, run_as_program, run_here
from PIL import Image
from test_images_in import make_folder, pixels, write

from harness.data.facts import lines_on
from harness.data.sets import ImageSet, load_data
from harness.training.fit import training_batches
from harness.training.schedules import LEAST, length_of
from self_models import load, read_images
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.errors import ModelError

CLASSES = ("cat", "dog", "elk")
SMALL = "--preset own --fc_width 8 --updates 20 --batch_size 4"  # LEAST updates all the same
NET = "-a VGG5_wFeedback_small --fc_width 8 --batch_size 4"


def of(updates, batch_size=64, epochs=7):
    return type("Args", (), {"updates": updates, "batch_size": batch_size, "epochs": epochs, "seed": 0, "augment": False})()


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """folder: of an ANN and an SNN that the preset trained on grey images in data; said: what the scripts printed."""
    folder = tmp_path_factory.mktemp("own")
    make_folder(folder / "data", CLASSES, shape=(12, 12))
    here = f"{SMALL} --dataset {folder / 'data'} --output_dir {folder}"
    ann = run_as_program(ANN, here)
    snn = run_as_program(SNN, here, "--timesteps 2 --balance_images 4 --balance_timesteps 3 --scaling_factor 0.1")
    return folder, ann, snn


# --- a length in updates


@pytest.mark.parametrize(
    ("images", "updates", "passes", "epochs", "each"),  # 64 images an update
    [
        (100, 2000, 32, 40, 50),
        (27, 2000, 119, 40, 51),
        (100_000, 2000, 1, 2, 1563),
        (100_000, 500, 1, 1, 1563),
        (3200, 51, 1, 2, 50),
    ],
)
def test_a_length_in_updates_is_one_in_epochs_of_at_least_50(images, updates, passes, epochs, each):
    args, few = of(updates), ImageSet("x", torch.zeros(images, 1, 1, 1, dtype=torch.uint8), torch.zeros(images).long())
    train, found = length_of(few, args)
    assert (train.passes, args.epochs, found) == (passes, epochs, each) and epochs * each >= updates and each >= LEAST
    args = of(None)
    assert length_of(few, args) == (few, -(-images // 64)) and args.epochs == 7


def test_an_epoch_of_several_passes_has_each_image_as_often_each_time_for_itself():
    few = ImageSet("x", torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.arange(5), passes=3)
    kept = list(training_batches(few, of(1, batch_size=4), epoch=2, device="cpu"))
    assert [len(batch.labels) for batch in kept] == [4, 4, 4, 3]
    labels, index = (torch.cat([getattr(batch, name) for batch in kept]) for name in ("labels", "index"))
    assert sorted(index.tolist()) == list(range(15)) and torch.equal(labels, index % 5)  # draws follow the index
    assert Counter(labels.tolist()) == dict.fromkeys(range(5), 3)
    again = list(training_batches(few, of(1, batch_size=4), epoch=2, device="cpu", first=2))
    assert torch.equal(again[0].index, kept[2].index)


def test_a_run_counted_in_updates_goes_on_and_is_made_longer(own, tmp_path):
    folder, log = own[0], tmp_path / "logs/ann/x.jsonl"
    here = f"--run_name x --output_dir {tmp_path}"
    _, said = run_here(ANN, f"{NET} --dataset {folder / 'data'} --updates 40 --holdout 3 {here}")
    assert "weights: 52 updates in 1 epoch of 23 times each of 9 images; checkpoints" in said
    (tmp_path / "moved").mkdir()
    moved = shutil.copytree(folder / "data", tmp_path / "moved/data")
    _, said = run_here(ANN, f"--updates 90 --resume --dataset {moved} {here}")  # the same images, elsewhere
    assert [record["epoch"] for record in records(log, "epoch")] == [1, 2] and "resumed from" in said
    assert "has trained 2 epochs already" in refused(ANN, f"--resume {here}")
    assert "--epochs does nothing with --updates 90: " in refused(ANN, f"--resume --epochs 9 {here}")
    run_here(ANN, f"{NET} --dataset {folder / 'data'} --epochs 1 {here} --overwrite")
    assert "x_last.pth has its length in epochs" in refused(ANN, f"--resume --updates 90 {here}")


def test_a_run_goes_on_with_the_files_that_it_began_with_only(tmp_path):
    """Also where flags take no more of them than there still are; how old they are does not matter."""
    folder, out = make_folder(tmp_path / "data", CLASSES, shape=(12, 12)), tmp_path / "out"
    for flags in ("--run_name x", "--run_name few --limit_train 8 --holdout 2 --limit_test 2"):
        here = f"{flags} --output_dir {out}"
        run_here(ANN, f"{NET} --dataset {folder} --epochs 1 {here}")
        before = digests(out)
        for file, moved, counts in (
            ("train/cat/0.png", tmp_path / "0.png", ("12 files", "11 files")),
            ("test/elk/1.png", tmp_path / "1.png", ("12 files", "11 files")),
            ("train/dog/3.png", folder / "train/dog/other.png", ("12 files", "12 files")),
        ):
            (folder / file).rename(moved)
            line = refused(ANN, f"{here} --resume --epochs 2")
            words = rf"{file.split('/')[0]}/ had {counts[0]} \(names and sizes: \w+\) and has {counts[1]} \("
            assert re.search(words, line) and "bring them back, or begin a new run" in line and digests(out) == before
            moved.rename(folder / file)
        os.utime(folder / "train/cat/0.png", (0, 0))
        run_here(ANN, f"{here} --resume --epochs 2")


def test_few_updates_are_warned_of_and_what_is_typed_holds(own, tmp_path):
    here = f"--dataset {own[0] / 'data'} --output_dir {tmp_path}"
    assert "--epochs does nothing with --updates 3" in refused(ANN, f"{NET} --epochs 2 --updates 3 {here}")
    _, said = run_here(ANN, f"--preset own --fc_width 8 --epochs 1 {here}")
    assert "weights: 1 update in 1 epoch of 12 images; " in said
    assert "\nwarning: 1 update of the weights is few: " in said and "--updates N" in said


# --- the preset


def test_the_preset_from_a_folder_to_a_page(own):
    folder, ann, snn = own
    for kind, done in (("ann", ann), ("snn", snn)):
        assert (
            "data: data, grey images of 12x12 pixels, 3 classes; images: training 12 (4 of each class), test 12 (4 of each"
            in done.stdout
        )
        assert "warning: fewer than 10 training images of class cat (4), dog (4), elk (4)" in done.stdout
        assert "accuracy by class: cat " in done.stdout and "(columns):\n     cat  dog  elk\ncat " in done.stdout
        (record,) = records(folder / f"logs/{kind}/own.jsonl", "evaluation")
        assert record["classes"] == [*CLASSES] and [sum(row) for row in record["confusion"]] == [4, 4, 4]
        right = [record["confusion"][label][label] for label in range(3)]
        assert record["accuracy_by_class"] == [one / 4 for one in right] and record["dataset"] == "data"
        assert sum(right) / 12 == pytest.approx(record["accuracy"])
        saved = load_checkpoint(folder / f"trained_models/{kind}/own.pth")
        assert str(folder) not in str(saved["settings"]) and saved["settings"]["dataset"] == "…/data"
    here = f"--preset own --dataset {folder / 'data'} --output_dir {folder}"
    run_here(OBJ1, here, "--epsilon 0.2 --run_name swept")
    run_here("report", f"own swept --output_dir {folder} --output {folder / 'page.html'}")
    page = (folder / "page.html").read_text()
    assert "Which class is read as which" in page and "cat (" in page and "of 12 images (data test images)" in page


def test_the_preset_asks_for_what_it_lacks(tmp_path):
    assert "add --dataset FOLDER (images belong in FOLDER/train/CLASS/" in refused(ANN, f"--preset own --output_dir {tmp_path}")
    line = refused(SNN, f"--preset own --output_dir {tmp_path}")
    assert "ann/own.pth, which is not there; this makes it: python ann_wFeedback.py --preset own" in line


def test_where_images_lie_is_asked_for_and_not_kept(own, tmp_path):
    folder = own[0]
    line = refused(OBJ1, f"--preset own --output_dir {folder}")
    words = "was trained on a folder of images, data (grey images of 12x12 pixels, 3 classes: cat, dog, elk), and nothing says"
    assert words in line and "add --dataset FOLDER" in line and str(folder) not in line
    assert "or --dataset CIFAR10, whose classes they are" in refused(OBJ1, f"--preset cifar10_feedback --output_dir {tmp_path}")


def test_a_log_of_an_analysis_says_which_images_each_figure_is_of(own, tmp_path):
    flags = f"--preset own --dataset {own[0] / 'data'} --output_dir {own[0]} --run_name looked --images 2 --chart_images 5"
    said = run_here(ANALYSIS, flags)[1].splitlines()
    at, of_chart = said.index("of the 2 images shown:"), next(n for n, line in enumerate(said) if "chart of spikes" in line)
    assert said[at + 1].startswith("  step 1: squared error") and said[of_chart - 1].startswith("  spikes per image: input ")
    assert said[of_chart].startswith("of the first 5 test images, in the chart of spikes: accuracy ")
    assert said[of_chart + 1].startswith("  spikes per image: input ")


def test_classes_that_differ_in_size_are_told():
    def of_sizes(sizes):
        labels = torch.tensor([label for label, size in enumerate(sizes) for _ in range(size)])
        return ImageSet("x", torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), labels)

    line, warning = lines_on((of_sizes([12, 9]), None, of_sizes([1, 2])), ["a", "b"])
    assert (
        line == "data: x, colour images of 8x8 pixels, 2 classes; images: training 21 (12 of a, 9 of b), test 3 (1 of a, 2 of b)"
    )
    assert warning.startswith("warning: fewer than 10 training images of class b (9): ")
    (many,) = lines_on((None, None, of_sizes([3] * 20 + [7])), [f"c{number}" for number in range(21)])
    assert many.endswith("test 67 (3 of c0 to 7 of c20)")


# --- files


def test_files_of_both_parts_that_cannot_be_read_are_named_together(tmp_path):
    folder = make_folder(tmp_path / "pets")
    for part in ("train", "test"):
        (folder / part / "cat/0.png").write_bytes(b"")
    for more in ("", "--image_size 8 --grey"):
        line = refused(ANN, f"--dataset {folder} {NET} {more} --output_dir {tmp_path / 'out'}")
        assert "train/cat/0.png (" in line and "test/cat/0.png (" in line and line.count("--skip_bad") == 1


def test_grey_files_among_colour_ones_are_counted(tmp_path, capsys):
    folder = make_folder(tmp_path / "pets")
    write(folder / "train/dog/9.png", pixels(0, (12, 12)))
    assert load_data(str(folder))[0].images.shape[1] == 3
    assert "note: 1 of 17 files are grey, the others in colour: all are read in colour (--grey: grey)" in capsys.readouterr().err


def test_images_of_pillow_are_read_as_files_are(own, tmp_path):
    snn, colours = load(own[0] / "trained_models/snn/own.pth"), Image.fromarray(pixels(3, (30, 40, 3)))
    colours.save(tmp_path / "a.jpg", quality=95)
    opened = Image.open(tmp_path / "a.jpg")
    taken = read_images([opened, tmp_path / "a.jpg"], snn)
    assert taken.shape == (2, 1, 12, 12) and torch.equal(taken[0], taken[1]) and opened.size == (40, 30)
    assert torch.equal(read_images(opened, snn, invert=True)[0], 255 - taken[0])
    with pytest.raises(ModelError, match="named by paths, or are PIL images, not of type ndarray"):
        read_images([np.zeros((12, 12))], snn)
    with pytest.raises(ModelError, match="a PIL image: its values are neither of 8 nor of 16 bits"):
        read_images(Image.fromarray(np.zeros((12, 12), np.float32)), snn)


def test_pictures_on_white_paper_are_named_and_can_be_turned_round(trained, tmp_path):
    digit = load_data("MNIST", limit_test=1)[2].images[0, 0].numpy()
    files = [write(tmp_path / f"{name}.png", digit if name == "right" else 255 - digit) for name in ("right", *"abcdefg")]
    here = f"--pretrained_snn {trained.snn} --output_dir {tmp_path} --images"
    said = run_here(ANALYSIS, here, *files)[1]
    assert "7 of 8 images have a bright border (a.png, b.png, c.png, d.png, e.png and 2 more), and the network" in said
    assert "--invert of the scripts, turns dark and bright round" in said
    said = run_here(ANALYSIS, here, *files[1:], "--invert")[1]
    assert "inverted" not in said and "of the first 7 images of your own, in the chart of spikes:\n" in said
    assert "--invert is of files that --images names" in refused(ANALYSIS, f"--pretrained_snn {trained.snn} --invert --images 2")
