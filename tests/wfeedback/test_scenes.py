"""What a streaming network is shown: scenes of test images, and frames from files."""

import json
import re
from itertools import islice, pairwise, product
from typing import NamedTuple

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from conftest import records, run_as_program, run_here, run_undrawn
from PIL import Image

from self_models import load
from self_models.data.events import read_frames
from self_models.data.sets import ImageSet, load_data
from self_models.errors import UserError
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.data.scenes import KINDS, SCENES, Source, make_scene, moving_scenes
from wfeedback.drawing.film import save_gif
from wfeedback.drawing.reel import MOST, Reel, save_stream
from wfeedback.runs.saving import save_checkpoint

EPSILON = 0.2
NAME = "tiny_posthoc_stream"
PARTS = ("input", "encoder", "decoder", "classifier")


# --- scenes that the stream's script makes


def coloured(count=12, classes=3, size=16):
    """Make colour images of bytes."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), generator=draw, dtype=torch.uint8)
    return ImageSet("colours", pixels, torch.arange(count) % classes, names=tuple("abc"))


@pytest.fixture(scope="module", params=["digits", "colours"])
def images(request):
    """Grey images of one size, and colour images of another."""
    if request.param == "digits":
        return load_data("MNIST", limit_test=50)[2]
    return coloured()


class Piece(NamedTuple):
    """Consecutive frames of a stream with the same value."""

    value: int
    frames: int


def pieces_of(values):
    """Divide the values of one stream (N,) into pieces."""
    values, counts = torch.unique_consecutive(values, return_counts=True)
    return [Piece(*pair) for pair in zip(values.tolist(), counts.tolist(), strict=True)]


def is_new(scene):
    """Return where a frame is new, (N, B): unlike the one before it, or the first."""
    differs = (scene.frames[1:] != scene.frames[:-1]).flatten(2).any(2)
    return torch.cat([torch.ones_like(differs[:1]), differs])


@pytest.mark.parametrize("name", SCENES)
def test_seed_and_number_of_a_stream_make_its_scene(images, name):
    scene = make_scene(name, images, 3, 100, seed=1, epsilon=EPSILON)
    alone = make_scene(name, images, 1, 60, seed=1, epsilon=EPSILON)
    other = make_scene(name, images, 1, 60, seed=2, epsilon=EPSILON)

    assert scene.frames.shape == (100, 3, *images.images.shape[1:])
    assert scene.frames.dtype == torch.uint8
    assert torch.equal(alone.frames, scene.frames[:60, :1])
    assert torch.equal(alone.labels, scene.labels[:60, :1])
    assert not torch.equal(other.frames, alone.frames)


@pytest.mark.parametrize("name", SCENES)
def test_labels_are_those_of_the_images_and_change_with_them(images, name):
    scene = make_scene(name, images, 3, 100, seed=1, epsilon=EPSILON)

    labels = set(scene.labels.unique().tolist())
    assert labels <= {-1, *images.labels.tolist()}
    if name != "switch":  # the only scene with pauses
        assert -1 not in labels

    label_stays = scene.labels[1:] == scene.labels[:-1]
    assert (is_new(scene)[1:] | label_stays).all()


def test_switch_shows_images_for_4_to_40_frames_and_pauses(images):
    scene = make_scene("switch", images, 4, 400)

    pauses = 0
    images_shown = 0
    for stream in range(4):
        pieces = pieces_of(scene.labels[:, stream])[:-1]  # the last one is cut off
        for piece, following in pairwise(pieces):
            assert 4 <= piece.frames <= 40
            if piece.value >= 0:
                images_shown += 1
            else:
                pauses += 1
                assert piece.frames <= 16
                assert following.value >= 0  # no pause after a pause
        # What is seen changes in a single frame.
        assert pieces_of(is_new(scene)[:, stream].int())[0] == (1, 1)
    assert 0.3 < pauses / images_shown < 0.7


def test_switch_shows_images_as_they_are_and_nothing_in_pauses(images):
    scene = make_scene("switch", images, 4, 400)

    nothing = scene.frames[scene.labels < 0]
    value_without_spikes = 128 if images.images.shape[1] == 3 else 0
    assert (nothing == value_without_spikes).all()

    for frame in scene.frames[scene.labels >= 0][::50]:
        assert any(torch.equal(frame, image) for image in images.images)


def test_watch_changes_in_a_tenth_of_the_time(images):
    width = images.images.shape[3]

    scene = make_scene("watch", images, 2, 30 * width)

    for stream in range(2):
        pieces = pieces_of(is_new(scene)[1:, stream].int())
        assert [piece.value for piece in pieces] == [0, 1, 0, 1, 0, 1]
        moving_frames = sum(piece.frames for piece in pieces if piece.value == 1)
        all_frames = sum(piece.frames for piece in pieces)
        assert moving_frames / all_frames == pytest.approx(0.1, abs=0.02)


def test_watch_pushes_the_next_image_over_the_one_before(images):
    width = images.images.shape[3]

    scene = make_scene("watch", images, 2, 30 * width)

    # An image stands still for 9 * width frames. Then the next one comes, a column in
    # each frame.
    half = 9 * width + width // 2 - 1
    for stream in range(2):
        before = scene.frames[0, stream]
        after = scene.frames[10 * width, stream]
        halves = torch.cat([before[..., width // 2 :], after[..., : width // 2]], 2)
        assert torch.equal(scene.frames[half, stream], halves)
        first_label = scene.labels[0, stream]
        assert scene.labels[half - 1, stream] == first_label
        assert scene.labels[half, stream] != first_label


def test_part_changes_one_quarter(images):
    height = images.images.shape[2] // 2
    width = images.images.shape[3] // 2

    scene = make_scene("part", images, 6, 80)

    quarters = set()
    for stream in range(6):
        assert len(scene.labels[:, stream].unique()) == 1
        assert is_new(scene)[:, stream].sum() >= 3
        frames = scene.frames[:, stream]
        rows, columns = (frames[1:] != frames[:-1]).any((0, 1)).nonzero().T
        top = int(rows.min()) // height
        left = int(columns.min()) // width
        # The last row and column of an odd size belong to the lower and right quarters.
        assert min(int(rows.max()) // height, 1) == top
        assert min(int(columns.max()) // width, 1) == left
        quarters.add((top, left))
    assert len(quarters) > 1


def displacement(image, frame, most):
    """Find how many pixels a frame is moved, (down, across); its border is new."""
    inner = (slice(None), slice(most, -most), slice(most, -most))
    distances = range(-most, most + 1)
    for down, across in product(distances, distances):
        if torch.equal(image.roll((down, across), (1, 2))[inner], frame[inner]):
            return down, across
    raise AssertionError(f"the frame is not the image, moved by up to {most} pixels")


def test_drift_moves_by_a_pixel(images):
    scene = make_scene("drift", images, 6, 120)

    most = images.images.shape[2] // 8
    for stream in range(6):
        changed = is_new(scene)[:, stream].nonzero().flatten().tolist()
        assert changed == list(range(0, 120, 4))

        home = scene.frames[0, stream]
        places = [displacement(home, frame, most) for frame in scene.frames[::4, stream]]
        moves = set()
        for (down, across), (next_down, next_across) in pairwise(places):
            moves.add((abs(next_down - down), abs(next_across - across)))
        assert len(moves) == 1  # always along the same axes
        assert moves < {(0, 1), (1, 0), (1, 1)}
        assert max(max(place) for place in places) == most


def test_noise_stays_below_epsilon_and_goes_beyond(images):
    scene = make_scene("noise", images, 1, 160, epsilon=EPSILON)

    frames = scene.frames[:, 0].float()
    image = min(images.images.float(), key=lambda each: (each - frames[0]).abs().sum())
    largest_distance = (frames - image).abs().amax((1, 2, 3)) / 255
    # 40 frames are weak, 40 strong, and again. Bytes are rounded, by up to 0.002.
    weak_or_strong = largest_distance.view(2, 2, 40)
    weak = weak_or_strong[:, 0]
    strong = weak_or_strong[:, 1]
    assert weak.min() > 0.09
    assert weak.max() <= 0.5 * EPSILON + 0.003
    assert strong.min() > 0.28
    assert strong.max() <= 1.5 * EPSILON + 0.003


def test_noise_makes_pixels_darker_as_often_as_brighter():
    grey = torch.full((2, 1, 16, 16), 128, dtype=torch.uint8)
    source = Source(ImageSet("grey", grey, torch.arange(2)), seed=0)
    draw = np.random.default_rng(0)
    draw.integers(0, 2)  # which image is shown

    frames = [frame.pixels for frame in islice(SCENES["noise"](source, EPSILON), 40)]

    flicker = draw.uniform(-1, 1, (40, 1, 16, 16))
    expected = 128 + 255 * 0.5 * EPSILON * flicker
    assert np.abs(np.array(frames) - expected).max() <= 0.5  # rounded
    assert np.mean(np.array(frames) > 128) == pytest.approx(0.5, abs=0.03)


def test_images_of_one_class_make_no_scene():
    with pytest.raises(UserError, match="all of one"):
        make_scene("part", coloured(4, classes=1), 1, 2)


# --- frames from files


@pytest.fixture(scope="module")
def model():
    """Make a network that takes grey images of 28 x 28 pixels."""
    return VGG_SNN_STDB_wFeedback(vgg_name="VGG5_wFeedback_small", fc_width=8)


def moving_square(count=12, size=28):
    """Make frames (N, H, W), uint8, of a bright square that goes right."""
    frames = np.zeros((count, size, size), np.uint8)
    for number, frame in enumerate(frames):
        frame[8:16, number : number + 8] = 200
    return frames


def write_folder(folder, frames):
    """Write a file for each frame; frame_10 comes before frame_2, as letters go."""
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame_{number}.png")
    return folder


def write_gif(folder, frames):
    """Write a GIF of the frames."""
    path = folder / "a.gif"
    imageio.imwrite(path, frames, plugin="pillow", duration=40)
    return path


def write_npy(folder, frames):
    """Write an array of bytes, without channels."""
    path = folder / "a.npy"
    np.save(path, frames)
    return path


def write_npz(folder, frames):
    """Write an array of floats in [0, 1], with channels, beside another array."""
    path = folder / "a.npz"
    np.savez(path, other=np.zeros(3), frames=frames[:, None] / np.float32(255))
    return path


@pytest.mark.parametrize("write", [write_folder, write_gif, write_npy, write_npz])
def test_frames_come_in_their_order_from_every_kind_of_file(tmp_path, model, write):
    frames = moving_square()

    found = read_frames(write(tmp_path, frames), model)

    assert found.shape == (12, 1, 28, 28)
    if found.dtype != torch.uint8:
        found = found * 255
    assert torch.allclose(found[:, 0].float(), torch.from_numpy(frames).float(), atol=1)


def test_frames_may_have_the_other_byte_order(tmp_path, model):
    frames = moving_square() / 255
    np.save(tmp_path / "a.npy", frames.astype(np.dtype(float).newbyteorder()))

    found = read_frames(tmp_path / "a.npy", model)

    assert torch.equal(found[:, 0], torch.from_numpy(frames))


@pytest.mark.parametrize(("write", "white"), [(write_npy, 255), (write_npz, 1)])
def test_frames_are_inverted(tmp_path, model, write, white):
    path = write(tmp_path, moving_square())
    assert read_frames(path, model, invert=True)[0, 0, 0, 0] == white


def test_frames_of_another_size_are_refused(tmp_path, model):
    path = write_npy(tmp_path, moving_square()[:, 2:])
    with pytest.raises(UserError, match=r"a.npy: .*\(B, 1, 28, 28\).*\(12, 1, 26, 28\)"):
        read_frames(path, model)


@pytest.mark.others
def test_a_video(tmp_path, model):
    pytest.importorskip("av")
    frames = np.repeat(moving_square(size=64)[..., None], 3, 3)
    imageio.imwrite(tmp_path / "a.mp4", frames, plugin="pyav", codec="libx264", fps=10)

    found = read_frames(tmp_path / "a.mp4", model)

    assert len(found) == 12
    centres = []
    for frame in found[:, 0]:
        _, bright_columns = (frame > 100).nonzero().T
        centres.append(bright_columns.float().mean())
    assert all(centre < later for centre, later in pairwise(centres))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken.gif", "can be read|damaged"),
        ("clip.mp4", "package is needed: pip install av|not a video, or damaged"),
        ("words.txt", "give a folder of images"),
    ],
)
def test_what_is_no_frames_gets_a_line(tmp_path, model, name, words):
    path = tmp_path / name
    path.write_bytes(b"GIF89a" + bytes(20))

    with pytest.raises(UserError, match=rf"^--frames {path}: .*({words})") as error:
        read_frames(path, model)

    assert "\n" not in str(error.value)


# --- the script


def numbers_of_frames(text):
    """Find the number of each frame that has a line."""
    return [int(number) for number in re.findall(r"^frame (\d+)", text, re.MULTILINE)]


def test_the_script_tells_of_each_frame_as_it_comes(trained, tmp_path):
    scene = "--scene switch --scene_frames 5 --steps_per_frame 2 --limit_test 16"
    files = f"--output_dir {tmp_path} --results_json {tmp_path}/a.json --frame_seconds 0.02"

    done = run_as_program("stream", f"--pretrained_snn {trained.snn}", scene, files)

    # Standard output has the frames in which the answer changes, the log has all.
    logged = records(tmp_path / f"logs/snn/{NAME}.jsonl")
    *frames, whole = logged
    new_answers = [0]
    for number in range(1, 5):
        if frames[number]["answer"] != frames[number - 1]["answer"]:
            new_answers.append(number)
    log = (tmp_path / f"logs/snn/{NAME}.log").read_text()
    assert numbers_of_frames(done.stdout) == new_answers
    assert numbers_of_frames(log) == [0, 1, 2, 3, 4]

    assert len(frames) == 5
    assert whole["frames"] == 5
    assert json.loads((tmp_path / "a.json").read_text()) == logged
    for number, record in enumerate(frames):
        assert record["frame"] == number
        assert 0 <= record["open_share"] <= 1
        assert 0 < record["sure"] <= 1
        assert record["spikes"]["total"] == sum(record["spikes"][part] for part in PARTS)

    labelled = [record for record in frames if record["label"]]
    right = [record for record in labelled if record["answer"] == record["label"]]
    assert whole["accuracy"] == pytest.approx(len(right) / len(labelled))
    spikes = sum(record["spikes"]["total"] for record in frames)
    assert whole["spikes_per_step"] == pytest.approx(spikes / 10)  # 5 frames of 2 timesteps

    # The GIF has each timestep after the first, in which no pixel is blocked.
    with Image.open(tmp_path / f"trained_models/snn/{NAME}.gif") as gif:
        assert gif.n_frames == 9


def check_records(found, model, frames, seed=0):
    """Check that the records of a script begin with those of a model's stream."""
    stream = model.stream(seed)
    assert len(found) >= len(frames)
    for record, frame in zip(found, frames, strict=False):
        output = stream(torch.from_numpy(frame)[None, None], 4)
        assert record["spikes"]["total"] == sum(float(count) for count in output.spikes.values())


@pytest.fixture
def three_frames(tmp_path, monkeypatch):
    """Write a file of frames, beside which nobody may ask for a data set."""
    monkeypatch.setattr("wfeedback.command_line.posthoc.images_for", None)
    frames = moving_square(3)
    np.save(tmp_path / "a.npy", frames)
    return frames


FORGETTING = {"blocking": "dynamic", "surprise": 2.0, "gate": "block", "epsilon": 0.1}
LEAKING = {"output_leak": 0.8, "membrane_floor": 0.0, "leak": 0.9}


def test_the_script_takes_frames_without_a_data_set(trained, baseline, tmp_path, three_frames):
    """The baseline beside the network sees the same draws, and leaks."""
    networks = f"--pretrained_snn {trained.snn} --baseline {baseline} --run_name a"
    here = f"--frames {tmp_path}/a.npy --output_dir {tmp_path}"

    _, printed = run_here("stream", networks, here, "--engine dense --frame_seconds 0.02 --seed 3")

    log = tmp_path / "logs/snn/a.jsonl"
    frames = records(log, "frame")
    (whole,) = records(log, "stream")
    assert [record["label"] for record in frames] == [None, None, None]
    assert whole["steps_per_frame"] == 4
    assert "accuracy" not in whole
    assert "right" not in printed
    assert (tmp_path / "trained_models/snn/a.gif").is_file()
    check_records(frames, load(trained.snn, "dense", **FORGETTING), three_frames, seed=3)

    baseline_frames = records(log, "baseline_frame")
    (baseline_whole,) = records(log, "baseline_stream")
    check_records(baseline_frames, load(baseline, "dense", **LEAKING), three_frames, seed=3)
    assert len(baseline_frames) == 3
    assert baseline_whole["frames"] == 3
    assert LEAKING.items() <= baseline_whole.items()


def test_the_script_takes_a_baseline_alone(baseline, tmp_path, three_frames):
    flags = f"--pretrained_snn {baseline} --invert --run_name b --engine dense --seed 3"

    found, _ = run_here("stream", flags, f"--frames {tmp_path}/a.npy --output_dir {tmp_path}")

    check_records(found, load(baseline, "dense", **LEAKING), 255 - three_frames, seed=3)
    assert (tmp_path / "trained_models/snn/b.png").is_file()
    assert not (tmp_path / "trained_models/snn/b.gif").exists()  # there is no prediction to show


def check_stream_of_checkpoint(model, forgetting, folder, frames):
    """Save a model, and check that the script streams it as the model itself does."""
    save_checkpoint(folder / "own.pth", model)
    flags = f"--pretrained_snn {folder}/own.pth --run_name a --engine dense"

    found, _ = run_undrawn("stream", flags, f"--frames {folder}/a.npy --output_dir {folder}")

    check_records(found, model, frames)
    (run,) = records(folder / "logs/snn/a.jsonl", "run")
    for name, value in forgetting.items():
        assert run["parameters"][name] == value


def test_a_baseline_that_was_trained_for_streams_forgets_as_it_was_trained(
    baseline, tmp_path, three_frames
):
    forgetting = {"output_leak": 0.9}
    model = load(baseline, "dense", **forgetting)
    check_stream_of_checkpoint(model, forgetting, tmp_path, three_frames)


def test_a_decoder_that_was_trained_for_streams_forgets_as_it_was_trained(
    trained, tmp_path, three_frames
):
    forgetting = {"surprise": 0.5, "blocking": "dynamic"}
    model = load(trained.snn, "dense", **forgetting, gate="block", epsilon=0.1)
    check_stream_of_checkpoint(model, forgetting, tmp_path, three_frames)


# --- pictures of a stream


def make_reel(model, frames, labels, steps=1):
    """Film a stream that shows each frame for so many timesteps."""
    images = ImageSet("frames", frames, labels)
    reel = Reel(model, steps * len(images), "words")
    stream = model.stream(0)
    for batch in images.batches(1):
        reel.add(batch, stream(batch.images, steps))
    return reel


def test_a_gif_of_many_steps_has_some_of_them(trained):
    model = load(trained.snn, "dense", gate="block", blocking="dynamic")
    frames = moving_square(2)
    steps = MOST + 1  # for each of two frames, so that every second step would be too many

    reel = make_reel(model, torch.from_numpy(frames)[:, None], torch.tensor([3, 4]), steps)
    film = reel.film()

    assert film.every == 3
    assert len(film.predictions) == len(film.inputs) == 2 * steps // 3
    assert len(film.inputs) <= MOST
    assert np.array_equal(film.inputs[0, 0], frames[0])
    assert np.array_equal(film.inputs[-1, 0], frames[1])

    figures = reel.so_far()
    spikes_by_step = sum(figures[part] for part in PARTS)
    assert np.array_equal(film.spikes[:, 0].sum(-1), spikes_by_step.cumsum()[2::3])
    assert np.array_equal(film.answers[:, 0], figures["answer"][2::3])
    assert set(figures["label"]) == {3, 4}


def test_pictures_of_a_coloured_scene(tmp_path):
    torch.manual_seed(0)
    model = InputBlockingSNN(
        vgg_name="VGG5_wFeedback_small",
        dataset="CIFAR10",
        fc_width=8,
        labels=10,
        blocking="dynamic",
        epsilon=0.5,
        surprise=2.0,
    ).eval()
    scene = make_scene("part", coloured(size=32), 1, 3)

    reel = make_reel(model, scene.frames[:, 0], scene.labels[:, 0])
    film = reel.film()
    save_stream(tmp_path / "a.png", reel, reel)
    save_gif(tmp_path / "a.gif", film, 0.02)

    assert np.array_equal(film.inputs[:, 0], scene.frames[:, 0].movedim(1, -1).numpy())
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 2
    with Image.open(tmp_path / "a.png") as chart:
        assert min(chart.size) > 500


@pytest.mark.parametrize(
    ("plan", "parts"),
    [("linear", ["input", "encoder", "classifier"]), ("small", [*PARTS])],
    ids=["linear", "spiking"],
)
def test_a_chart_names_a_decoder_only_if_it_has_a_layer_that_spikes(
    tmp_path, pictures, plan, parts
):
    model = InputBlockingSNN(f"VGG5_wFeedback_{plan}", readout="membrane", fc_width=4).eval()
    frames = torch.from_numpy(moving_square(1))[:, None]

    save_stream(tmp_path / "a.png", make_reel(model, frames, torch.tensor([3])))

    legend = pictures[-1].axes[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == parts


# --- moving scenes, as benchmarks show them


@pytest.fixture(scope="module")
def digits():
    """Load test images (N, 28, 28), uint8."""
    return load_data("MNIST", limit_test=50)[2].images[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_moving_scene_is_that_of_its_seed(digits, kind):
    scene = moving_scenes(kind, digits, 3, 20, 1)
    again = moving_scenes(kind, digits, 3, 20, 1)
    other = moving_scenes(kind, digits, 3, 20, 2)

    for part, part_again in zip(scene, again, strict=True):
        assert torch.equal(part, part_again)
    assert not torch.equal(scene.frames, other.frames)


@pytest.mark.parametrize("kind", KINDS)
def test_a_moving_scene_is_black_and_white_or_grey(digits, kind):
    scene = moving_scenes(kind, digits, 3, 20, 1)
    grey = moving_scenes(kind, digits, 3, 20, grey=True)

    assert scene.frames.unique().tolist() == [0, 255]
    assert len(grey.frames.unique()) > 50


@pytest.mark.parametrize("kind", KINDS)
def test_noise_turns_a_tenth_of_the_pixels(digits, kind):
    scene = moving_scenes(kind, digits, 3, 20, 1)
    noisy = moving_scenes(kind, digits, 3, 20, 1, noise=0.1)

    assert torch.equal(noisy.digits, scene.digits)
    assert 0.08 < (noisy.frames != scene.frames).double().mean() < 0.12


@pytest.mark.parametrize(("kind", "fastest"), [("one", 2), ("two", 2), ("still", 0)])
def test_digits_have_velocities_of_up_to_2_pixels(digits, kind, fastest):
    assert moving_scenes(kind, digits, 6, 40).velocity.abs().max() == fastest


@pytest.mark.parametrize("kind", ["one", "still"])
def test_a_digit_moves_by_its_velocity(digits, kind):
    scenes = moving_scenes(kind, digits, 6, 40)
    for number in range(6):
        frames = scenes.frames[number]
        (velocity,) = scenes.velocity[number].movedim(1, 0)  # of the only digit, (T, 2)
        for step in range(1, 40):
            if not scenes.changed[number, step]:
                moved = frames[step - 1].roll(velocity[step].tolist(), (0, 1))
                assert torch.equal(frames[step], moved)


@pytest.mark.parametrize("kind", ["one", "two", "still"])
def test_a_frame_has_the_ink_of_its_digits_which_may_overlap(digits, kind):
    scenes = moving_scenes(kind, digits, 6, 40)

    ink = (scenes.frames > 0).sum((-1, -2))
    ink_of_digits = (digits > 127)[scenes.digits].sum((-1, -2))
    assert (ink <= ink_of_digits.sum(-1)).all()
    assert (ink >= ink_of_digits.amax(-1)).all()


@pytest.mark.parametrize("kind", ["one", "two", "still"])
def test_the_first_frame_and_each_new_digit_are_changes(digits, kind):
    scenes = moving_scenes(kind, digits, 6, 40)

    has_new_digit = (scenes.digits[:, 1:] != scenes.digits[:, :-1]).any(-1)
    assert scenes.changed[:, 0].all()
    assert scenes.changed[:, 1:][has_new_digit].all()


def test_a_bar_stands_still_before_the_digit(digits):
    frames = moving_scenes("bar", digits, 2, 30).frames

    is_white = frames == 255
    white_columns = is_white.all(1).all(1)  # in all frames and rows
    assert (white_columns.sum(1) == 6).all()
    assert (frames[:, 1:] != frames[:, :-1]).any()
