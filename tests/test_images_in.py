"""Anyone's images: folders as data sets, the files they are decoded into, and what is made of image files."""

import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ANN, NET, digests, make_folder, pixels, refused, run_here, write
from PIL import Image

import harness.data.folders
import harness.data.sets
from harness import UserError
from harness.data.cache import cached
from harness.data.folders import list_folder, shape_of
from harness.data.sets import load_data
from self_models import load
from self_models.basics import ModelError
from self_models.basics.files import decoded


@pytest.fixture
def pets(tmp_path):
    return make_folder(tmp_path / "pets")


# --- folders


def test_a_folder_is_a_data_set(pets):
    train, selection, test = load_data(str(pets), holdout=2)
    assert (train.name, list(train.classes), train.images.dtype) == ("pets", ["cat", "dog"], torch.uint8)
    assert (len(train), len(selection), len(test)) == (6, 2, 8)
    assert selection.labels.unique().tolist() == [0, 1]  # held-out images are of all classes
    for label, name in enumerate(test.classes):
        for n, image in enumerate(test.images[test.labels == label]):
            assert image.permute(1, 2, 0).numpy().tolist() == pixels(100 + 10 * label + n).tolist(), name
    batch = test.batch(torch.tensor([1, 0]))
    assert batch.images.min() < -0.9 and batch.images.max() > 0.9


def test_the_first_and_the_last_images_are_of_all_classes_in_their_proportions(tmp_path):
    folder = make_folder(tmp_path / "x", count=2, shape=(8, 8))
    for n in range(2, 6):
        write(folder / "train/dog" / f"{n}.png", pixels(n, (8, 8)))
    listing = list_folder(folder)
    # a class's n-th of N files stands at (n + 1/2) / N: the cats at 3/12 and 9/12, the dogs at 1/12, 3/12, ... 11/12
    in_order = ["dog/0", "cat/0", "dog/1", "dog/2", "dog/3", "cat/1", "dog/4", "dog/5"]
    assert list(listing.paths[:8]) == [f"train/{name}.png" for name in in_order] and listing.trains == 8
    assert list(listing.labels[:8]) == [name[:3] == "dog" for name in in_order]


def remove(path):
    return lambda folder: shutil.rmtree(folder / path)


def empty_class(folder):
    for path in (folder / "train/dog").iterdir():
        path.unlink()
    (folder / "train/dog/notes.txt").touch()


def damage(folder, place="train/cat", count=1, left=60):
    """Cut off the class's first files behind their heads, or with nothing left."""
    for path in sorted((folder / place).iterdir())[:count]:
        path.write_bytes(path.read_bytes()[:left])


def all_of_them(folder, shape):
    for path in folder.rglob("*.png"):
        write(path, pixels(0, shape))


GIVEN = "--image_size 8 --grey"  # no file's head is looked at
FAULTS = {  # what is done to a folder, flags, words
    "absent": (remove(""), "", "neither MNIST, FashionMNIST, CIFAR10, CIFAR100 nor a folder"),
    "a file": (lambda folder: (shutil.rmtree(folder), folder.touch()), "", "nor a folder"),
    "no train": (remove("train"), "", "has no folder train/"),
    "one class": (remove("train/dog"), "", "/train, which has cat:"),
    "an empty class": (empty_class, "", "no images (.jpg, .jpeg, .png, .webp, .bmp, .ppm, .pgm, .tif, .tiff) in train/dog: add"),
    "other classes": (lambda folder: (folder / "test/dog").rename(folder / "test/cow"), "", "only one has train/dog, test/cow"),
    "two sizes": (
        lambda folder: write(folder / "test/dog/0.png", pixels(0, (12, 9, 3))), "",
        "one size, but 9x12 (test/dog/0.png), 12x12 (train/cat/0.png): add --image_size N",
    ),
    "not square": (
        lambda folder: all_of_them(folder, (12, 9, 3)), "",
        "are not square and of one size, but 9x12 (train/cat/0.png): add --image_size N",
    ),
    "a link to nowhere": (
        lambda folder: (folder / "train/cat/9.png").symlink_to("x"), "", "train/cat/9.png (no such file or directory)",
    ),
    "four damaged files": (
        lambda folder: damage(folder, count=4), "",
        "4 of 16 files in {folder} cannot be read: train/cat/0.png (image file is truncated), train/cat/1.png (",
    ),
    "with and without their heads, found together": (
        lambda folder: [damage(folder), damage(folder, "test/dog", left=0)], "",
        "2 of 16 files in {folder} cannot be read: train/cat/0.png (image file is truncated), test/dog/0.png (not an image, or",
    ),
    "no file whole": (
        lambda folder: [damage(folder, f"{part}/{name}", 4, 0) for part in ("train", "test") for name in ("cat", "dog")], "",
        "no file of test/cat, test/dog, train/cat and 1 more can be read: train/cat/0.png (not an image, or damaged), ",
    ),
    "of both parts": (
        lambda folder: [damage(folder, f"{part}/cat", left=0) for part in ("train", "test")], GIVEN,
        "train/cat/0.png (not an image, or damaged), test/cat/0.png (not an image, or damaged); repair or remove them, or --skip",
    ),
    "a damaged class": (
        lambda folder: damage(folder, count=4, left=0), f"{GIVEN} --skip_bad", "no file of train/cat can be read: train/",
    ),
    "as --data_dir": (lambda folder: None, "--data_dir {folder}", "--data_dir {folder} does nothing with --dataset {folder}"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_no_data_set(pets, fault):
    spoil, flags, words = FAULTS[fault]
    spoil(pets)
    line = refused(ANN, f"--dataset {pets} {NET} {flags.format(folder=pets)} --output_dir {pets.parent / 'out'}")
    assert words.format(folder=pets) in line and str(pets) in line and line.count("--skip_bad") <= 1
    assert not (pets.parent / "out").exists()


ODD = {  # what is done to a folder, how many training images it then has
    "a class elsewhere": (lambda folder: (folder / "train/dog").symlink_to((folder / "train/dog").rename(folder / "other")), 8),
    "a file elsewhere": (lambda folder: (folder / "train/dog/9.png").symlink_to(folder / "test/cat/0.png"), 9),
    "folders in folders": (lambda folder: write(folder / "train/cat/a/b/9.png", pixels(9)), 9),
    "upper case": (lambda folder: (folder / "train/cat/0.png").rename(folder / "train/cat/0.PNG"), 8),
    "a hidden file": (lambda folder: write(folder / "train/cat/.9.png", pixels(9)), 8),
    "a hidden folder": (lambda folder: write(folder / "train/cat/.a/9.png", pixels(9)), 8),
    "a hidden class": (lambda folder: write(folder / "train/.a/9.png", pixels(9)), 8),
    "a folder like a file": (lambda folder: (folder / "train/cat/9.png").mkdir(), 8),
    "a pipe": (lambda folder: os.mkfifo(folder / "train/cat/9.png"), 8),
    "a link that leads back": (lambda folder: (folder / "train/cat/a").symlink_to(folder / "train/cat"), 8),
    "one image of a class": (lambda folder: [(folder / f"train/cat/{n}.png").unlink() for n in range(3)], 5),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_folders(pets, odd):
    change, count = ODD[odd]
    change(pets)
    for part in ("train", "test"):
        (pets / part / "dog").rename(pets / part / "süße 猫")
    train, _, test = load_data(str(pets))
    assert (len(train), len(test), train.classes) == (count, 8, ("cat", "süße 猫"))


@pytest.mark.parametrize("damaged", [lambda raw: raw[:-60] + bytes(60), lambda raw: bytes(len(raw))])  # with and without its head
def test_a_file_that_can_be_read_again_is(pets, damaged):
    """Though neither its size nor its time of change says so, as after a disk that came back."""
    path = pets / "train/dog/2.png"
    whole, stat = path.read_bytes(), path.stat()
    for content, counts in ((damaged(whole), [4, 3]), (whole, [4, 4])):
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert load_data(str(pets), skip_bad=True)[0].labels.bincount().tolist() == counts
        if content != whole:
            assert "train/dog/2.png (" in refused(ANN, f"--dataset {pets} {NET} --output_dir {pets.parent / 'out'}")


def test_a_run_takes_size_and_colour_as_asked_and_names_the_bad_files_that_it_skips(tmp_path, capsys):
    """And goes on so: it knows folder and flags from its checkpoint."""
    folder, here = make_folder(tmp_path / "x", shape=(9, 12, 3)), f"--run_name x --output_dir {tmp_path}"
    write(folder / "train/cat/0.png", np.full((40, 20, 3), 255, np.uint8))
    damage(folder, "train/dog")
    run_here(ANN, f"--dataset {folder} --image_size 8 --grey --skip_bad {NET} --epochs 1 {here}")
    note = f"note: 1 of 16 files in {folder} cannot be read and are left out: train/dog/0.png ("
    assert capsys.readouterr().err.count(note) == 1
    run_here(ANN, f"{here} --resume --epochs 2")
    model = load(tmp_path / "trained_models/ann/x.pth")
    assert model.image_shape == (1, 8, 8) and model.classes == ["cat", "dog"]
    train = load_data(str(folder), image_shape=(1, 8, 8), skip_bad=True)[0]
    assert train.images[train.labels == 0][0].unique().tolist() == [255] and len(train) == 7


def test_bad_files_are_told_once_however_they_are_damaged(pets, capsys):
    """One at its head, which is looked at for its size, one behind it."""
    for place, left in (("train/cat", 0), ("test/dog", 60)):
        damage(pets, place, left=left)
    train, _, test = load_data(str(pets), skip_bad=True)
    assert (len(train), len(test)) == (7, 7)
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 1 and notes[0].startswith(f"note: 2 of 16 files in {pets} cannot be read and are left out: train/cat/0")


@pytest.mark.parametrize(
    ("one", "shape", "channels"), [("train/cat/0", (12, 12), 1), ("train/cat/0", (12, 12, 3), 3), ("test/dog/3", (12, 12, 3), 3)]
)
def test_grey_where_all_files_are(tmp_path, capsys, one, shape, channels):
    """One file with colours, be it the first or the last, is enough, and the others are counted; size and colour are found each
    without the other."""
    folder = make_folder(tmp_path / "x", shape=(12, 12))
    write(folder / f"{one}.png", pixels(0, shape))
    harness.data.folders.say_once.cache_clear()
    assert load_data(str(folder))[0].images.shape[1:] == (channels, 12, 12)
    note = "note: 15 of 16 files are grey, the others in colour: all are read in colour (--grey: grey)"
    assert capsys.readouterr().err.count(note) == (channels == 3)
    assert shape_of(list_folder(folder), image_size=8) == (channels, 8, 8)
    assert shape_of(list_folder(folder), grey=True) == (1, 12, 12)


@pytest.mark.parametrize("at", ["", "train", "training/cat"])
def test_a_data_dir_of_image_files_is_not_downloaded_into(pets, monkeypatch, at):
    folder = pets.parent / "pictures"
    write(folder / at / "a.png", pixels(0))
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda *args, **more: pytest.fail("a download"))
    line = refused(ANN, f"--data_dir {folder} --output_dir {pets.parent / 'out'}")
    assert "train-images-idx3-ubyte.gz" in line and f"give --dataset {folder} with {folder}/train/CLASS/" in line
    assert len(list(folder.rglob("*.*"))) == 1


def test_beside_the_files_of_a_data_set_image_files_do_not_matter(pets):
    (pets / "mnist").symlink_to(harness.data.sets.BUNDLED / "mnist")
    assert len(load_data("MNIST", str(pets), limit_test=3)[2]) == 3


def test_what_a_network_must_know_of_a_folder(tmp_path):
    """Borders of 51 and of 102 are light by 0.2 and 0.4; what is inside does not matter."""
    for part in ("train", "test"):
        for name, light in (("a", 51), ("b", 102)):
            image = np.full((8, 8), light if part == "train" else 0, np.uint8)
            image[1:-1, 1:-1] = 255
            write(tmp_path / part / name / "0.png", image)
    run_here(ANN, f"--dataset {tmp_path} {NET} --epochs 1 --run_name x --output_dir {tmp_path / 'out'}")
    model = load(tmp_path / "out/trained_models/ann/x.pth")
    assert (model.settings["labels"], model.image_shape, model.classes) == (2, (1, 8, 8), ["a", "b"])
    assert model.background == pytest.approx(0.3)


# --- the decoded images


CACHED = ["3x12x12.pixels", "heads"]


def test_images_are_decoded_once_and_memory_mapped(pets, monkeypatch):
    first = load_data(str(pets))[0]
    files = digests(pets / ".cache")
    assert sorted(files) == CACHED
    monkeypatch.setattr(harness.data.folders, "decoded", lambda *args, **more: pytest.fail("decoded again"))
    monkeypatch.setattr(harness.data.folders, "size_and_colour", lambda path: pytest.fail("looked at again"))
    monkeypatch.setattr(harness.data.cache.zipfile, "ZipFile", lambda *args: pytest.fail("summed up again"))  # in this process
    again = load_data(str(pets))[0]
    assert torch.equal(first.images, again.images) and digests(pets / ".cache") == files
    if sys.platform == "linux":
        assert str(pets / ".cache/3x12x12.pixels") in Path("/proc/self/maps").read_text()


def flipped(raw):
    """With another bit in its middle."""
    at = len(raw) // 2
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("spoil", [flipped, lambda raw: raw[:-1], lambda raw: raw[1:], lambda raw: b""])
def test_a_damaged_cache_is_made_again(pets, name, spoil):
    load_data(str(pets))
    files, path = digests(pets / ".cache"), pets / ".cache" / name
    path.write_bytes(spoil(path.read_bytes()))
    os.utime(path, (0, 0))
    assert torch.equal(load_data(str(pets))[0].images[0], torch.from_numpy(pixels(0)).permute(2, 0, 1))
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
    (pets / "train/dog/new.png").unlink()
    assert len(load_data(str(pets))[0]) == 8


@pytest.mark.parametrize("names", [[], CACHED])
def test_where_the_folder_cannot_be_written_the_users_cache_is_used(pets, tmp_path, monkeypatch, names):
    """Neither where .cache cannot be made nor where a file in it cannot be replaced. Folders of one name have each its own."""
    other = make_folder(tmp_path / "other" / "pets", count=3)
    (other / ".cache").touch()
    (pets / ".cache").mkdir() if names else (pets / ".cache").touch()
    for name in names:
        (pets / ".cache" / name).mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert [len(load_data(str(folder))[0]) for folder in (pets, other)] == [8, 6]
    assert len(list((tmp_path / "mine/snn_wFeedback").glob("pets_*/*.pixels"))) == 2
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(other / ".cache"))  # a file
    with pytest.raises(UserError, match=r"no place to keep the decoded images.*XDG_CACHE_HOME"):
        load_data(str(pets))


def test_who_wants_what_another_makes_waits_for_it(pets, monkeypatch):
    """Be it another rank or another run."""
    decoded_here, waits = [], threading.Event()

    def slowly(path, shape):
        decoded_here.append(path)
        waits.wait(0.05)
        return decoded(path, shape)

    monkeypatch.setattr(harness.data.folders, "decoded", slowly)
    with ThreadPoolExecutor() as pool:
        found = [*pool.map(load_data, [str(pets)] * 3)]
    assert sorted(decoded_here) == sorted(pets.glob("t*/*/*.png")) and sorted(digests(pets / ".cache")) == CACHED
    assert all(torch.equal(each[0].images, found[0][0].images) for each in found)


def test_a_cache_that_is_stale_at_once_is_not_made_for_ever(tmp_path):
    with pytest.raises(UserError, match=rf"^x changed while it was read: leave the images of {tmp_path} alone"):
        cached(tmp_path, "x", lambda about: False, lambda: ([], {}))


def test_what_is_interrupted_leaves_no_cache(pets, monkeypatch):
    def stop(path, shape):
        raise KeyboardInterrupt if "dog" in str(path) else ModelError("unused")

    monkeypatch.setattr(harness.data.folders, "decoded", stop)
    with pytest.raises(KeyboardInterrupt):
        load_data(str(pets))
    assert sorted(digests(pets / ".cache")) == ["heads"]


# --- files


def test_files_of_every_kind(tmp_path):
    grey, colour = pixels(0, (12, 12)), pixels(1)
    Image.fromarray(grey.astype(np.uint16) * 256 + 7).save(tmp_path / "16.png")
    Image.fromarray(np.dstack([colour, np.zeros((12, 12), np.uint8)])).save(tmp_path / "clear.png")
    Image.fromarray(colour).save(tmp_path / "a.webp", lossless=True)
    turned = Image.fromarray(np.rot90(colour))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    assert decoded(tmp_path / "16.png", (1, 12, 12))[0].tolist() == grey.tolist()
    assert decoded(tmp_path / "clear.png", (3, 12, 12)).max() == 0
    for name in ("a.webp", "turned.png"):
        assert decoded(tmp_path / name, (3, 12, 12)).transpose(1, 2, 0).tolist() == colour.tolist()
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert decoded(write(tmp_path / "wide.png", wide), (3, 5, 5)).min() > 200  # the middle of it
