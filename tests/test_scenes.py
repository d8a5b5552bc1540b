"""What a streaming network is shown: scenes made of test images, and frames from files."""

import json
import re
from itertools import pairwise

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from conftest import records, run_as_program, run_here
from PIL import Image

from harness import UserError
from harness.data.scenes import KINDS, SCENES, make_scene, moving_scenes
from harness.drawing.film import save_gif
from harness.drawing.reel import MOST, Reel, save_stream
from harness.runs.saving import save_checkpoint
from self_models import load
from self_models.data.events import read_frames
from self_models.data.sets import ImageSet, load_data
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

EPSILON = 0.2
NAME = "tiny_posthoc_stream"
PARTS = ("input", "encoder", "decoder", "classifier")


def coloured(count=12, classes=3, size=16):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), generator=draw, dtype=torch.uint8)
    return ImageSet("colours", pixels, torch.arange(count) % classes, names=tuple("abc"))


@pytest.fixture(scope="module", params=["digits", "colours"])
def images(request):
    return load_data("MNIST", limit_test=50)[2] if request.param == "digits" else coloured()


def runs(labels):
    """[(label, frames that it lasts)] of one stream (N,)."""
    values, counts = torch.unique_consecutive(labels, return_counts=True)
    return [*zip(values.tolist(), counts.tolist(), strict=True)]


def changes(scene):
    """Where a frame is not the one before it, bool (N, B); the first never is."""
    differs = (scene.frames[1:] != scene.frames[:-1]).flatten(2).any(2)
    return torch.cat([torch.ones_like(differs[:1]), differs])


@pytest.mark.parametrize("name", SCENES)
def test_seed_and_number_of_a_stream_make_its_scene(images, name):
    scene = make_scene(name, images, 3, 100, seed=1, epsilon=EPSILON)
    assert (
        scene.frames.shape == (100, 3, *images.images.shape[1:])
        and scene.frames.dtype == torch.uint8
    )
    one = make_scene(name, images, 1, 60, seed=1, epsilon=EPSILON)
    assert torch.equal(one.frames, scene.frames[:60, :1]) and torch.equal(
        one.labels, scene.labels[:60, :1]
    )
    assert not torch.equal(
        make_scene(name, images, 1, 60, seed=2, epsilon=EPSILON).frames, one.frames
    )
    shown = set(scene.labels.unique().tolist())
    assert shown <= {-1, *images.labels.tolist()} and (name == "switch" or -1 not in shown)
    assert (
        changes(scene)[1:] | (scene.labels[1:] == scene.labels[:-1])
    ).all()  # a label changes only with what is seen


def test_switch_shows_images_for_4_to_40_frames_and_pauses(images):
    scene = make_scene("switch", images, 4, 400)
    pauses = images_shown = 0
    for stream in range(4):
        pieces = runs(scene.labels[:, stream])[:-1]  # the last is cut off
        for (label, frames), (after, _) in pairwise(pieces):
            assert (
                4 <= frames <= 40 and (label >= 0 or frames <= 16) and (label >= 0 or after >= 0)
            )
            pauses, images_shown = pauses + (label < 0), images_shown + (label >= 0)
        assert runs(changes(scene)[:, stream].int())[0] == (
            1,
            1,
        )  # one frame in which what is seen changes
    assert 0.3 < pauses / images_shown < 0.7
    nothing = scene.frames[scene.labels < 0]
    assert (nothing == (128 if images.images.shape[1] == 3 else 0)).all()  # no pixel sends
    assert all(
        any(torch.equal(frame, image) for image in images.images)
        for frame in scene.frames[scene.labels >= 0][::50]
    )


def test_watch_changes_in_a_tenth_of_the_time(images):
    width = images.images.shape[3]
    scene = make_scene("watch", images, 2, 30 * width)
    for stream in range(2):
        pieces = runs(changes(scene)[1:, stream].int())
        assert [moving for moving, _ in pieces] == [0, 1, 0, 1, 0, 1]
        still, moving = (sum(n for which, n in pieces if which == kind) for kind in (0, 1))
        assert moving / (still + moving) == pytest.approx(0.1, abs=0.02)
        half = 9 * width + width // 2 - 1  # then the next one covers half
        before, after = scene.frames[[0, 10 * width], stream]
        assert torch.equal(
            scene.frames[half, stream],
            torch.cat([before[..., width // 2 :], after[..., : width // 2]], 2),
        )
        assert (
            scene.labels[half - 1, stream] == scene.labels[0, stream] != scene.labels[half, stream]
        )


def test_part_changes_one_quarter(images):
    scene = make_scene("part", images, 6, 80)
    height, width = (size // 2 for size in images.images.shape[2:])
    quarters = set()
    for stream in range(6):
        assert len(scene.labels[:, stream].unique()) == 1 and changes(scene)[:, stream].sum() >= 3
        where = (scene.frames[1:, stream] != scene.frames[:-1, stream]).any((0, 1)).nonzero()
        low, high = where.min(0).values.tolist(), where.max(0).values.tolist()
        quarter = [at // size for at, size in zip(low, (height, width), strict=True)]
        assert quarter == [
            min(at // size, 1) for at, size in zip(high, (height, width), strict=True)
        ]
        quarters.add(tuple(quarter))
    assert len(quarters) > 1


def test_drift_moves_by_a_pixel(images):
    scene = make_scene("drift", images, 6, 120)
    most = images.images.shape[2] // 8
    for stream in range(6):
        assert changes(scene)[:, stream].nonzero().flatten().tolist() == list(range(0, 120, 4))
        seen, home = scene.frames[::4, stream], scene.frames[0, stream]
        inner = (slice(None), slice(most, -most), slice(most, -most))
        places = [
            (down, across) for down in range(-most, most + 1) for across in range(-most, most + 1)
        ]
        found = [
            next(at for at in places if torch.equal(home.roll(at, (1, 2))[inner], frame[inner]))
            for frame in seen
        ]
        moves = {tuple(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in pairwise(found)}
        assert (
            len(moves) == 1
            and moves < {(0, 1), (1, 0), (1, 1)}
            and max(max(at) for at in found) == most
        )


def test_noise_stays_below_epsilon_and_goes_beyond(images):
    scene = make_scene("noise", images, 1, 160, epsilon=EPSILON)
    image = min(images.images, key=lambda each: (each.float() - scene.frames[0, 0]).abs().sum())
    off = (scene.frames[:, 0].float() - image.float()).abs().amax((1, 2, 3)) / 255
    below, above = off.view(2, 2, 40).transpose(0, 1).reshape(2, -1)
    assert below.min() > 0.09 and below.max() <= 0.5 * EPSILON + 0.003
    assert above.min() > 0.28 and above.max() <= 1.5 * EPSILON + 0.003


def test_images_of_one_class_make_no_scene():
    with pytest.raises(UserError, match="all of one"):
        make_scene("part", coloured(4, classes=1), 1, 2)


@pytest.fixture(scope="module")
def model():
    return VGG_SNN_STDB_wFeedback(vgg_name="VGG5_wFeedback_small", fc_width=8)


def moving(count=12, size=28):
    """A bright square that goes right, (N, H, W) uint8."""
    frames = np.zeros((count, size, size), np.uint8)
    for number, frame in enumerate(frames):
        frame[8:16, number : number + 8] = 200
    return frames


def test_frames_come_in_their_order_from_every_kind_of_file(tmp_path, model):
    frames = moving()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(
            tmp_path / f"frame_{number}.png"
        )  # frame_10 before frame_2, as letters go
    files = {name: tmp_path / f"a{name}" for name in (".gif", ".npy", ".npz")}
    imageio.imwrite(files[".gif"], frames, plugin="pillow", duration=40)
    np.save(files[".npy"], frames)
    np.savez(files[".npz"], other=np.zeros(3), frames=frames[:, None] / np.float32(255))
    for path in (tmp_path, *files.values()):
        found = read_frames(path, model)
        assert found.shape == (12, 1, 28, 28)
        found = found if found.dtype == torch.uint8 else found * 255
        assert torch.allclose(found[:, 0].float(), torch.from_numpy(frames).float(), atol=1), path
    np.save(tmp_path / "swapped.npy", (frames / 255).astype(np.dtype(float).newbyteorder()))
    assert torch.equal(
        read_frames(tmp_path / "swapped.npy", model)[:, 0], torch.from_numpy(frames / 255)
    )
    for name, white in ((".npy", 255), (".npz", 1)):
        assert read_frames(files[name], model, invert=True)[0, 0, 0, 0] == white
    np.save(files[".npy"], frames[:, 2:])
    with pytest.raises(UserError, match=r"a.npy: .*\(B, 1, 28, 28\).*\(12, 1, 26, 28\)"):
        read_frames(files[".npy"], model)


@pytest.mark.others
def test_a_video(tmp_path, model):
    pytest.importorskip("av")
    frames = np.repeat(moving(size=64)[..., None], 3, 3)
    imageio.imwrite(tmp_path / "a.mp4", frames, plugin="pyav", codec="libx264", fps=10)
    found = read_frames(tmp_path / "a.mp4", model)
    bright = (found[:, 0] > 100).float().nonzero()
    columns = [bright[bright[:, 0] == number][:, 2].float().mean() for number in range(12)]
    assert len(found) == 12 and all(a < b for a, b in pairwise(columns))


def test_what_is_no_frames_gets_a_line(tmp_path, model):
    for name, words in (
        ("broken.gif", "can be read|damaged"),
        ("clip.mp4", "package is needed: pip install av|not a video, or damaged"),
        ("words.txt", "give a folder of images"),
    ):
        (tmp_path / name).write_bytes(b"GIF89a" + bytes(20))
        with pytest.raises(UserError, match=rf"^--frames {tmp_path / name}: .*({words})") as error:
            read_frames(tmp_path / name, model)
        assert "\n" not in str(error.value)


def test_the_script_tells_of_each_frame_as_it_comes(trained, tmp_path):
    flags = f"--pretrained_snn {trained.snn} --scene switch --scene_frames 5 --steps_per_frame 2 --limit_test 16"
    done = run_as_program(
        "stream",
        flags,
        f"--output_dir {tmp_path} --results_json {tmp_path}/a.json --frame_seconds 0.02",
    )
    logged = [
        record
        for record in records(tmp_path / f"logs/snn/{NAME}.jsonl")
        if record["event"] != "run"
    ]
    frames, whole = logged[:-1], logged[-1]
    log = (tmp_path / f"logs/snn/{NAME}.log").read_text()
    changes = [
        number
        for number in range(5)
        if number == 0 or frames[number]["answer"] != frames[number - 1]["answer"]
    ]
    assert [
        int(number) for number in re.findall(r"^frame (\d+)", done.stdout, re.MULTILINE)
    ] == changes
    assert [int(number) for number in re.findall(r"^frame (\d+)", log, re.MULTILINE)] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert (
        len(frames) == whole["frames"] == 5
        and json.loads((tmp_path / "a.json").read_text()) == logged
    )
    for number, record in enumerate(frames):
        assert (
            record["frame"] == number
            and 0 <= record["open_share"] <= 1
            and 0 < record["sure"] <= 1
        )
        assert record["spikes"]["total"] == sum(record["spikes"][part] for part in PARTS)
    known = [record for record in frames if record["label"]]
    assert whole["accuracy"] == pytest.approx(
        sum(record["answer"] == record["label"] for record in known) / len(known)
    )
    assert whole["spikes_per_step"] == pytest.approx(
        sum(record["spikes"]["total"] for record in frames) / 10
    )
    with Image.open(tmp_path / f"trained_models/snn/{NAME}.gif") as gif:
        assert gif.n_frames == 9  # one for each step after the first, in which no pixel is blocked


def does_what_it_says(model, found, frames, seed=0):
    """The records of the script are those of the model's stream."""
    stream = model.stream(seed)
    for record, frame in zip(found, frames, strict=False):
        output = stream(torch.from_numpy(frame)[None, None], 4)
        assert record["spikes"]["total"] == sum(float(count) for count in output.spikes.values())


def test_the_script_takes_frames_without_a_data_set(trained, baseline, tmp_path, monkeypatch):
    """Of a network, and of a baseline beside it that sees the same draws and leaks; then of a baseline alone."""
    monkeypatch.setattr("harness.command_line.posthoc.images_for", None)  # nobody asks for one
    np.save(tmp_path / "a.npy", moving(3))
    here = f"--frames {tmp_path}/a.npy --output_dir {tmp_path} --engine dense --frame_seconds 0.02 --seed 3"
    _, said = run_here(
        "stream", f"--pretrained_snn {trained.snn} --baseline {baseline} --run_name a {here}"
    )
    events = ("frame", "stream", "baseline_frame", "baseline_stream")
    found, (whole,), beside, (beside_whole,) = (
        records(tmp_path / "logs/snn/a.jsonl", event) for event in events
    )
    assert [record["label"] for record in found] == [None] * 3 and whole["steps_per_frame"] == 4
    assert (
        "accuracy" not in whole
        and "right" not in said
        and (tmp_path / "trained_models/snn/a.gif").is_file()
    )
    forgets = {"blocking": "dynamic", "surprise": 2.0, "gate": "block", "epsilon": 0.1}
    does_what_it_says(load(trained.snn, "dense", **forgets), found, moving(3), 3)
    leaking = load(
        baseline, "dense", **(leaks := {"output_leak": 0.8, "membrane_floor": 0.0, "leak": 0.9})
    )
    does_what_it_says(leaking, beside, moving(3), 3)
    assert beside_whole["frames"] == len(beside) == 3 and leaks.items() <= beside_whole.items()
    alone, _ = run_here("stream", f"--pretrained_snn {baseline} --invert --run_name b {here}")
    does_what_it_says(leaking, alone, 255 - moving(3), 3)
    assert (tmp_path / "trained_models/snn/b.png").is_file() and not (
        tmp_path / "trained_models/snn/b.gif"
    ).exists()


@pytest.mark.parametrize(
    "forgetting", [{"output_leak": 0.9}, {"surprise": 0.5, "blocking": "dynamic"}], ids=str
)
def test_a_network_that_was_trained_for_streams_forgets_as_it_was_trained(
    trained, baseline, tmp_path, forgetting
):
    np.save(tmp_path / "a.npy", moving(3))
    path, flags = (
        tmp_path / "own.pth",
        f"--frames {tmp_path}/a.npy --output_dir {tmp_path} --engine dense",
    )
    gate = {"gate": "block", "epsilon": 0.1} if "surprise" in forgetting else {}
    model = load(trained.snn if gate else baseline, "dense", **forgetting, **gate)
    save_checkpoint(path, model)
    does_what_it_says(
        model, run_here("stream", flags, f"--pretrained_snn {path} --run_name a")[0], moving(3)
    )
    parameters = records(tmp_path / "logs/snn/a.jsonl", "run")[0]["parameters"]
    assert parameters | forgetting == parameters


def filmed(model, frames, labels, steps=1):
    """A Reel of a stream that these frames are shown to, for so many steps each."""
    images = ImageSet("frames", frames, labels)
    reel, stream = Reel(model, steps * len(images), "words"), model.stream(0)
    for batch in images.batches(1):
        reel.add(batch, stream(batch.images, steps))
    return reel


def test_a_gif_of_many_steps_has_some_of_them(trained):
    model = load(trained.snn, "dense", gate="block", blocking="dynamic")
    reel = filmed(model, torch.from_numpy(moving(2))[:, None], torch.tensor([3, 4]), MOST + 1)
    film, figures = reel.film(), reel.so_far()
    assert (
        film.every == 3
        and len(film.predictions) == len(film.inputs) == (2 * MOST + 2) // 3 <= MOST
    )
    assert np.array_equal(
        film.spikes[:, 0].sum(-1), sum(figures[part] for part in PARTS).cumsum()[2::3]
    )
    assert np.array_equal(film.inputs[0, 0], moving(2)[0]) and np.array_equal(
        film.inputs[-1, 0], moving(2)[1]
    )
    assert np.array_equal(film.answers[:, 0], figures["answer"][2::3]) and set(
        figures["label"]
    ) == {3, 4}


def test_pictures_of_a_coloured_scene(tmp_path):
    torch.manual_seed(0)
    network = {
        "vgg_name": "VGG5_wFeedback_small",
        "dataset": "CIFAR10",
        "fc_width": 8,
        "labels": 10,
    }
    model = InputBlockingSNN(**network, blocking="dynamic", epsilon=0.5, surprise=2.0).eval()
    scene = make_scene("part", coloured(size=32), 1, 3)
    reel = filmed(model, scene.frames[:, 0], scene.labels[:, 0])
    film = reel.film()
    assert np.array_equal(film.inputs[:, 0], scene.frames[:, 0].movedim(1, -1).numpy())
    save_stream(tmp_path / "a.png", reel, reel)
    save_gif(tmp_path / "a.gif", film, 0.02)
    with Image.open(tmp_path / "a.gif") as gif, Image.open(tmp_path / "a.png") as chart:
        assert gif.n_frames == 2 and min(chart.size) > 500


@pytest.mark.parametrize(("plan", "spikes"), [("linear", False), ("small", True)])
def test_a_chart_names_a_decoder_only_if_it_has_a_layer_that_spikes(
    tmp_path, pictures, plan, spikes
):
    model = InputBlockingSNN(f"VGG5_wFeedback_{plan}", readout="membrane", fc_width=4).eval()
    reel = filmed(model, torch.from_numpy(moving(1))[:, None], torch.tensor([3]))
    save_stream(tmp_path / "a.png", reel)
    *_, spiking = pictures[-1].axes
    names = [text.get_text() for text in spiking.get_legend().get_texts()]
    assert names == [part for part in PARTS if spikes or part != "decoder"]


def digits(many=50):
    return load_data("MNIST", limit_test=many)[2].images[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_moving_scene_is_that_of_its_seed(kind):
    one, again, other = (moving_scenes(kind, digits(), 3, 20, seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, one, again)) and not torch.equal(one.frames, other.frames)
    assert (
        one.frames.unique().tolist() == [0, 255]
        and len(moving_scenes(kind, digits(), 3, 20, grey=True).frames.unique()) > 50
    )
    noisy = moving_scenes(kind, digits(), 3, 20, 1, noise=0.1)
    assert (
        torch.equal(noisy.digits, one.digits)
        and 0.08 < (noisy.frames != one.frames).double().mean() < 0.12
    )


@pytest.mark.parametrize("kind", ["one", "two", "still"])
def test_digits_move_by_their_velocity(kind):
    scene, seen = moving_scenes(kind, digits(), 6, 40), digits() > 127
    assert scene.velocity.abs().max() == (0 if kind == "still" else 2)
    lone = moving_scenes("one" if kind == "two" else kind, digits(), 6, 40)
    for frames, changed, (velocity,) in zip(
        lone.frames, lone.changed, lone.velocity.movedim(2, 1), strict=True
    ):
        for at in range(1, 40):
            assert changed[at] or torch.equal(
                frames[at], frames[at - 1].roll(velocity[at].tolist(), (0, 1))
            )
    ink = seen[scene.digits].sum((-1, -2))
    assert ((scene.frames > 0).sum((-1, -2)) <= ink.sum(-1)).all() and (
        (scene.frames > 0).sum((-1, -2)) >= ink.amax(-1)
    ).all()
    assert (
        scene.changed[:, 1:] >= (scene.digits[:, 1:] != scene.digits[:, :-1]).any(-1)
    ).all() and scene.changed[:, 0].all()


def test_a_bar_stands_still_before_the_digit():
    frames = moving_scenes("bar", digits(), 2, 30).frames
    assert ((frames == 255).all(1).all(1).sum(1) == 6).all() and (
        frames[:, 1:] != frames[:, :-1]
    ).any()
