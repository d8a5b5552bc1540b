"""Recordings of event cameras: a frame of off and on counts for each step."""

import numpy as np
import pytest
import torch
from conftest import (
    ANALYSIS,
    ANN,
    BALANCE,
    OBJ1,
    OBJ2,
    PLAN,
    SNN,
    STREAM,
    digests,
    make_folder,
    records,
    refused,
    run_as_program,
    run_here,
    run_undrawn,
)  # fmt: skip
from PIL import Image
from test_stream import check_joined

from harness.data.events import steps_in
from harness.data.sets import augmented
from harness.drawing.film import as_pixels
from self_models import ModelError, load
from self_models.conversion import balance_thresholds
from self_models.running.draws import Batch
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

SIZE, FRAMES = (2, 12, 12), 6
NETWORK = {"plan": PLAN, "fc_width": 8, "image_shape": SIZE, "labels": 3, "recorded_frames": FRAMES}
SPIKING = {"timesteps": FRAMES, "update": "immediate", "readout": "membrane_linear", "readout_slew": 0.3}
BLOCKS = {"gate": "block", "blocking": "dynamic", "epsilon": 0.2}
CASES = {
    "open": {},
    "block": {**BLOCKS, "latch": True},
    "next": {**BLOCKS, "predict": "next", "encoding": "direct", "surprise": 2.0},
    "rebuilt": {"gate": "reconstruct", "epsilon": 0.2, "predict": "next", "encoding": "direct"},
    "stops": {**BLOCKS, "predict": "next", "rule": "confidence", "gap_bound": 0.015},
}


def recordings():
    """Random ones (4, 6, 2, 12, 12); in the fourth frame nothing moves, in the second recording not before the last."""
    x = (torch.rand(4, FRAMES, *SIZE, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    x[1, :-1], x[:, 3] = 0, 0
    return x


def spiking(case):
    torch.manual_seed(1)
    model = VGG_SNN_STDB_wFeedback(**NETWORK, **SPIKING, **CASES[case]).eval()
    model.set_thresholds([0.05 if "classifier" in name else 0.3 for name in model.neurons()])
    return model


def write(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, frames=frames)


@pytest.fixture
def moving(tmp_path):
    """A folder of recordings of two classes, (4, 2, 12, 12): what is seen goes down, or to the right."""
    for part, seed in (("train", 0), ("test", 1)):
        draw = np.random.default_rng(seed)
        for name in ("down", "right"):
            for number in range(6):
                frames = np.zeros((4, *SIZE), np.uint8)
                for t, place in enumerate(draw.integers(0, 4) + np.arange(4)):
                    line = np.s_[t, 1, place, 2:9] if name == "down" else np.s_[t, 1, 2:9, place]
                    frames[line] = draw.integers(1, 4, 7)
                write(tmp_path / "moving" / part / name / f"{number}.npz", frames)
    return tmp_path / "moving"


# --- the network


@pytest.mark.parametrize("case", ["open", "block", "next", "rebuilt"])
def test_a_recording_is_a_stream_of_its_frames(case):
    """That a step sees its own frame follows from this, however many steps are taken at once."""
    model, x = spiking(case), recordings()
    whole, stream = model(x, seed=3), model.stream(seed=3)
    parts = [stream(x[:, t]) for t in range(FRAMES)]
    check_joined(parts, whole)
    assert all(count.sum() for count in whole.spikes.values())


def test_predict_next_compares_with_the_next_frame():
    """And an input neuron is closed in a step if the step before has predicted this one's frame."""
    x, frames = recordings(), recordings().transpose(0, 1)
    output = spiking("next")(x, seed=3)
    for t in range(FRAMES):
        assert torch.allclose(output.errors[t], (frames[min(t + 1, FRAMES - 1)] - output.predictions[t]) ** 2)
    now = spiking("next").change(predict="frame")(x, seed=3)
    assert torch.equal(now.is_open, output.is_open) and torch.equal(now.errors, (frames - now.predictions) ** 2)
    output = spiking("block")(x, seed=3)
    fits = (output.predictions[:-1].clamp(0, 1) - frames[1:]).abs() < 0.2
    assert torch.equal(output.is_open[1:], ~fits) and 0.1 < output.is_open[1:].float().mean() < 0.9


def test_a_conversion_is_calibrated_on_the_frames_that_the_ann_sees(moving, tmp_path):
    flags = f"-a VGG5_wFeedback_small --fc_width 16 --dataset {moving} --batch_size 4 --output_dir {tmp_path}"
    run_here(ANN, f"{flags} --epochs 1 --run_name seen")
    ann = f"--pretrained_ann {tmp_path}/trained_models/ann/seen.pth --update immediate --calibrate --test_only"
    assert "sees 4 frames; give --timesteps 4" in refused(SNN, f"{flags} {ann} --timesteps 2")
    _, said = run_here(SNN, f"{flags} {ann} --balance_timesteps 4 --run_name y")
    assert "calibrating biases: " in said and "features.1: mean rates of its channels off by " in said


def test_the_ann_sees_the_mean_frame():
    torch.manual_seed(0)
    ann = VGG_wFeedback(**NETWORK).eval()
    still = VGG_wFeedback(**{**NETWORK, "recorded_frames": 0}).eval()
    still.load_state_dict(ann.state_dict())
    assert torch.equal(ann(recordings()).logits, still(recordings().mean(1)).logits)


def test_balancing_sees_the_frames_one_after_the_other():
    """And again from the first: with a recording whose frames are one, thresholds are those of the image."""
    x, model = recordings()[[0, 2, 3], :1], spiking("open")
    draws = lambda t: torch.zeros(3, *SIZE)  # noqa: E731
    assert balance_thresholds(model, x.expand(-1, FRAMES, -1, -1, -1), draws, 8) == balance_thresholds(model, x[:, 0], draws, 8)
    x = torch.cat([x, torch.zeros_like(x)], 1)
    half = torch.cat([x, x, x, x], 1)
    assert balance_thresholds(model, x, draws, 8) == balance_thresholds(model, half, draws, 8)


def test_what_makes_no_network_and_is_no_recording():
    for settings, words in (
        ({"gate": "block"}, "blocking: blocked pixels must reopen, because a recording changes: choose dynamic"),
        ({"timesteps": 7}, "have 6 frames, one for each timestep: give at most 6, not 7"),
    ):
        with pytest.raises(ModelError, match=words):
            VGG_SNN_STDB_wFeedback(**{**NETWORK, **SPIKING, **settings})
    for wrong in (recordings()[:, 0], recordings()[:, :5], -recordings()):
        with pytest.raises(ModelError, match=r"\(B, 6, 2, 12, 12\), uint8, or float32 or float64 in \[0, 1\]"):
            spiking("open")(wrong)


# --- what they are made of


def test_neighbouring_frames_are_added_up(tmp_path):
    counts = np.zeros((5, 2, 1, 2), np.int64)
    counts[:, 0, 0, 0], counts[:, 1, 0, 1] = [1, 2, 3, 4, 5], [0, 0, 0, 1, 0]
    write(tmp_path / "a.npz", counts)
    np.save(tmp_path / "a.npy", counts.astype(np.float32))
    for name in ("a.npz", "a.npy"):
        taken = {steps: steps_in(tmp_path / name, (steps, 2, 1, 2), 8) for steps in (1, 2, 3, 5)}
        assert [taken[steps][:, 0, 0, 0].tolist() for steps in (1, 2, 3, 5)] == [
            [255], [191, 255], [96, 223, 159], [32, 64, 96, 128, 159]
        ]  # fmt: skip
        assert taken[5][:, 1, 0, 1].tolist() == [0, 0, 0, 32, 0]
    assert steps_in(tmp_path / "a.npz", (5, 2, 1, 2), 1)[:, 1, 0, 1].tolist() == [0, 0, 0, 255, 0]


def test_augmentation_moves_all_frames_alike():
    square = torch.zeros(2, 3, *SIZE)
    square[..., 4:8, 4:8] = 1
    moved = augmented(Batch(square, None, torch.arange(2)), 0, 1).images
    assert moved.shape == square.shape and torch.equal(moved[:, 0], moved[:, 2]) and not torch.equal(moved[0], moved[1])


def test_the_colours_of_events():
    assert as_pixels(torch.tensor([[[0.0, 1, 0, 1]], [[0, 0, 1, 1]]]))[0].tolist() == [
        [0, 0, 0], [0, 128, 255], [255, 128, 0], [255, 255, 255]
    ]  # fmt: skip


# --- the scripts


def test_from_a_folder_to_the_report(moving, tmp_path, monkeypatch):
    """Training, conversion, evaluation by both engines, pictures and the page."""
    here, small = f"--output_dir {tmp_path}", "-a VGG5_wFeedback_small --fc_width 16 --batch_size 4"
    run = run_as_program(ANN, f"--dataset {moving} {small} --augment --epochs 2 -lr 5e-3 --run_name x {here}")
    assert run.stderr == "" and "recordings of 4 frames of 12x12 pixels, 2 classes" in run.stdout
    spikes = f"--update immediate --readout membrane_linear --latch --epsilon 0.2 --epochs 1 {BALANCE} --engine dense"
    run_here(SNN, f"--dataset {moving} --pretrained_ann {tmp_path}/trained_models/ann/x.pth {spikes} {here}",
             "--batch_size 4 --count_bound 3 --predict next --run_name x --trade_off_type mean_t")  # fmt: skip
    path = tmp_path / "trained_models/snn/x.pth"
    model = load(path, engine="dense")
    told = ("timesteps", "recorded_frames", "count_bound", "blocking", "predict", "image_shape")
    assert [model.settings[name] for name in told] == [4, 4, 3, "dynamic", "next", SIZE]
    trained = f"--pretrained_snn {path} --dataset {moving} {here} --batch_size 4"
    found = {}
    for engine in ("dense", "event"):
        run_undrawn(OBJ1, f"{trained} --epsilon 0 0.2 --engine {engine} --run_name {engine}")
        told = ("epsilon", "spikes", "accuracy", "comparisons", "reconstruction_error", "open_share", "mean_steps")
        rows = records(tmp_path / f"logs/snn/{engine}.jsonl", "evaluation")
        found[engine] = [{name: row[name] for name in told} for row in rows]
    torch.testing.assert_close(found["dense"], found["event"], rtol=1e-5, atol=0)
    assert [row["epsilon"] for row in found["dense"]] == [0, 0.2]
    run_here(SNN, f"--dataset {moving} {small} --timesteps 2 --epochs 1 --engine dense --run_name y {here}")
    run_here(SNN, f"--resume --epochs 2 --run_name y {here}")
    assert load(tmp_path / "trained_models/snn/y.pth", engine="dense").frames == 2
    run_undrawn(OBJ2, f"{trained} --rules all_predicted confidence --timesteps 2")  # neighbours added up
    films = []
    monkeypatch.setattr(f"{ANALYSIS}.save_contact_sheet", lambda _, film: films.append(film))
    run_here(ANALYSIS, f"{trained} --images 1 --run_name seen")
    (film,) = films
    frames = np.load(moving / "test/down/0.npz")["frames"][:, 1]
    assert film.inputs.shape == (4, 1, 12, 12, 3) and np.array_equal(film.inputs[:, 0, ..., 0], np.round(frames * 85))
    assert np.array_equal(film.images, film.inputs.max(0))
    with Image.open(tmp_path / "trained_models/snn/seen.gif") as gif:
        assert gif.n_frames == 4
    run_here("report", f"{tmp_path}/logs/snn/seen.jsonl --output {tmp_path}/page.html")
    assert "data:image/gif" in (tmp_path / "page.html").read_text()
    make_folder(tmp_path / "pets", ("down", "right"))
    for name, flags, words in (
        (STREAM, f"{trained} --scene watch", "takes recordings"),
        (OBJ1, trained.replace(str(moving), f"{tmp_path}/pets"), "has images, and the network takes recordings"),
    ):
        assert words in refused(name, flags)


FIRST = "train/down/0.npz"


def frames_of(*shape, value=0.0):
    return lambda folder: write(folder / FIRST, np.full(shape, value))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: np.savez(folder / FIRST, **dict.fromkeys("txy", np.arange(9))), "it holds t, x, y: name the array"),
        (frames_of(4, 2, 12, 10), "not of one shape (T, C, H, W), but (4, 2, 12, 10) (train/"),
        (frames_of(4, 2, 12, 12, value=-1), "frames must be counts of events, and some are negative"),
        (lambda folder: (folder / FIRST).write_bytes(b"PK"), "no array can be read from it"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_data_set(moving, tmp_path, spoil, words):
    spoil(moving)
    line = refused(SNN, f"--dataset {moving} --epochs 1 --output_dir {tmp_path / 'out'}")
    assert words.format(folder=moving) in line and str(moving) in line and digests(tmp_path / "out") == {}
