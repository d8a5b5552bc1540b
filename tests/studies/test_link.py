"""The guest studies.link, its example and its study."""

import json
import math
import subprocess
import sys
from itertools import product

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from self_models.errors import ModelError, UserError
from studies import sensor_link
from studies.findings import video
from studies.link import (
    BestShift,
    LearnedSynapses,
    LinkCount,
    Motion,
    MotionPredictor,
    SendOnDelta,
    Shifts,
    TorusMatching,
    VelocityNetwork,
    price_that_pays,
    race,
    read_film,
    run_link,
)
from studies.link.competition import around
from studies.link.learned import expected_cost, train_synapses
from studies.link.matching import Candidates, best_shifts, block_sums, choose_shifts, match_costs
from studies.link.velocities import count_operations

EPSILON = 0.1


def random_film(frames=5, height=16, width=24, seed=0):
    """Return a film (T, H, W) of noise, in 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (frames, height, width), generator=generator) / 255


def moving_square_film(frames=8, step=(1, 2)):
    """Return a film (T, 32, 48) of a textured square that moves over black."""
    texture = random_film(frames=1, height=16, width=16, seed=1)[0]
    film = torch.zeros(frames, 32, 48)
    for number in range(frames):
        top = 2 + number * step[0]
        left = 2 + number * step[1]
        film[number, top : top + 16, left : left + 16] = texture
    return film


def send(predictor, film, epsilon=EPSILON):
    """Send a film (T, H, W), and return its steps and its count."""
    count = LinkCount(predictor)
    steps = []
    with torch.no_grad():
        for step, frame in zip(run_link(predictor, film[None], epsilon), film[2:], strict=True):
            count.add(step, frame[None])
            steps.append(step)
    return steps, count.figures()


def every_predictor():
    """Yield a predictor of each kind."""
    yield SendOnDelta()
    yield BestShift(EPSILON, reach=2)
    yield TorusMatching()
    yield TorusMatching(fastest=1, block=4)
    for method, at_sender, half_pixels in product(
        ("matching", "coupling", "competition"), (False, True), (False, True)
    ):
        motion = Motion(
            method,
            at_sender,
            sides=(4, 8, 16),
            half_pixels=half_pixels,
            reach=2,
            coupling=0.25,
            recruitment=0.5,
        )
        yield MotionPredictor(motion, EPSILON)
    learned = Motion("learned", sides=(4, 8), reach=2, recruitment=0.5)
    synapses = LearnedSynapses((4, 8), price=1.0, coupling=0.25)
    yield MotionPredictor(learned, EPSILON, synapses)


# --- the loop


@pytest.mark.parametrize("predictor", list(every_predictor()))
def test_the_receiver_is_wrong_by_less_than_epsilon(predictor):
    film = random_film()

    steps, _ = send(predictor, film)

    for step, frame in zip(steps, film[2:], strict=True):
        assert (step.rebuilt[0] - frame).abs().max() < EPSILON
        assert torch.equal(step.rebuilt[step.events], frame[None][step.events])


def test_both_sides_see_what_was_rebuilt_and_not_the_film():
    film = torch.tensor([0.0, 0.0, 0.09, 0.18]).reshape(4, 1, 1).expand(4, 8, 8)

    steps, figures = send(SendOnDelta(), film)

    # 0.09 is nearer to 0 than epsilon, so the receiver keeps 0. 0.18 is too far.
    assert figures.pixels == [0, 64]
    assert steps[1].seen[0, 0].max() == 0
    assert torch.equal(steps[1].rebuilt[0], film[3])


# --- shifts


def test_a_copy_is_moved_by_its_vector():
    shifts = Shifts(reach=3)
    frame = random_film()[0]

    copies = torch.cat(shifts.copies(frame))

    assert len(copies) == len(shifts) == 49
    for copy, (down, right) in zip(copies, shifts.vectors.int().tolist(), strict=True):
        inside = copy[3:-3, 3:-3]
        source = frame[3 - down : 13 - down, 3 - right : 21 - right]
        assert torch.equal(inside, source)


def test_shifts_reach_six_pixels_unless_it_is_said():
    shifts = Shifts()
    assert len(shifts) == 13 * 13
    assert shifts.vectors.abs().max() == 6


def test_half_a_pixel_is_the_mean_of_two_neighbours_in_8_bits():
    shifts = Shifts(reach=1, half_pixels=True)
    frame = torch.tensor([[0.0, 3.0, 10.0, 10.0]]).expand(2, 4) / 255

    copies = torch.cat(shifts.copies(frame))
    right = (shifts.vectors == torch.tensor([0.0, 0.5])).all(1).nonzero().item()

    # The mean of a pixel and the one to its left, rounded to even: 1.5 -> 2, 6.5 -> 6
    assert len(shifts) == 25
    assert (copies[right] * 255).round().tolist() == [[0, 2, 6, 10]] * 2


@pytest.mark.parametrize("half_pixels", [False, True])
def test_each_block_takes_its_own_copy(half_pixels):
    shifts = Shifts(reach=2, half_pixels=half_pixels)
    frame = random_film()[0]
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(shifts), (4, 6), generator=generator)

    taken = shifts.take(frame, chosen, 4)

    copies = torch.cat(shifts.copies(frame))
    for row, column in product(range(4), range(6)):
        block = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(taken[block], copies[chosen[row, column]][block])


# --- block matching


def test_a_cost_is_the_misses_and_0_6_of_the_differences():
    reference = torch.zeros(16, 16)
    target = torch.zeros(16, 16)
    target[0, 0] = 0.5  # a miss
    target[3, 3] = 0.05  # none
    target[4, 4] = 0.2  # a miss in another block

    found = match_costs(Shifts(reach=0), reference, target, EPSILON)

    assert found.misses[0, :2, :2].tolist() == [[1, 0], [0, 1]]
    # 1 + 0.6 * (0.5 + 0.05) = 1.33, and 1 + 0.6 * 0.2 = 1.12
    expected = torch.tensor([[1.33, 0.0], [0.0, 1.12]])
    assert torch.allclose(found.costs[0, :2, :2], expected)
    assert torch.allclose(found.at_side(8).costs[0, 0, 0], torch.tensor(2.45))


def test_blocks_at_the_border_are_filled_up_with_zeros():
    """A frame of 4 x 20 pixels becomes one of 16 x 32, of 4 x 8 small blocks."""
    sums = block_sums(torch.ones(1, 4, 20))

    assert sums.shape == (1, 4, 8)
    assert sums[0, 0].tolist() == [16, 16, 16, 16, 16, 0, 0, 0]
    assert sums[0, 1:].sum() == 0


def test_of_equal_costs_the_shorter_shift_wins():
    shifts = Shifts(reach=2)

    best = best_shifts(torch.ones(len(shifts), 1, 1), shifts.lengths)

    assert best.item() == shifts.zero


def test_the_chosen_blocks_cost_the_least_that_the_candidates_allow():
    """All ways in which a block of 8 and its four of 4 can decide, tried one by one."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        costs = 4 * torch.rand(5, 4, 4, generator=generator)
        held = torch.randint(5, (4, 4), generator=generator)
        small = Candidates(costs.argmin(0), costs.min(0).values)
        sums = torch.nn.functional.avg_pool2d(costs[None], 2)[0] * 4
        large = Candidates(sums.argmin(0), sums.min(0).values)

        chosen, changes = choose_shifts(held, costs, {4: small, 8: large}, price=1.0)

        num_changes = sum(int(blocks.changed.sum()) for blocks in changes)
        total = costs.gather(0, chosen[None]).sum() + num_changes
        least = 0.0
        for row, column in product(range(2), range(2)):
            parts = 0.0
            for i, j in product((2 * row, 2 * row + 1), (2 * column, 2 * column + 1)):
                keep = costs[held[i, j], i, j]
                parts += min(keep, small.cost[i, j] + 1)
            least += min(parts, large.cost[row, column] + 1)
        assert total.item() == pytest.approx(float(least), rel=1e-5)


def test_the_receiver_finds_the_motion_of_a_square():
    film = moving_square_film(step=(1, 2))
    predictor = MotionPredictor(Motion(), EPSILON)

    _, found = send(predictor, film)
    _, nothing = send(SendOnDelta(), film)

    # Block (1, 2) of 8 x 8 pixels lies within the square in the last frames.
    shift = predictor.chosen[3, 5].item()
    assert predictor.shifts.vectors[shift].tolist() == [1, 2]
    assert found.vectors == [0] * 6
    assert sum(found.pixels) < sum(nothing.pixels) / 3


def test_a_motion_that_goes_on_is_sent_once():
    film = moving_square_film(frames=4, step=(0, 0))
    film = torch.stack([film[0].roll(2 * number, 1) for number in range(8)])  # all of it moves
    held = MotionPredictor(Motion(at_sender=True), EPSILON)
    forgotten = MotionPredictor(Motion(at_sender=True, held=False), EPSILON)

    _, with_held = send(held, film)
    _, without = send(forgotten, film)

    assert with_held.vectors[0] > 0
    assert sum(with_held.vectors) < sum(without.vectors) / 2


# --- the competition


def test_the_first_to_spike_has_the_least_cost():
    costs = torch.tensor([3.0, 1.0, 9.0]).reshape(3, 1, 1)

    outcome = race(-costs, recruitment=0.0, at_the_end=128.0)

    assert outcome.winner.item() == 1
    assert outcome.spikes == 1


def test_a_block_beyond_the_last_drive_decides_nothing():
    outcome = race(torch.full((2, 1, 1), -200.0), recruitment=0.0, at_the_end=128.0)

    assert outcome.winner.item() == -1
    assert outcome.spikes == 0
    assert outcome.updates == 2 * 32  # two neurons rise in each of 32 timesteps


def test_a_block_in_doubt_follows_its_neighbour():
    # Two blocks side by side, two shifts. The left one is sure of shift 0. The right
    # one prefers shift 1 by 0.5 events. Its neighbour's spike adds 1 to shift 0.
    costs = torch.tensor([[[0.1, 8.5]], [[9.0, 8.0]]])

    alone = race(-costs, recruitment=0.0, at_the_end=128.0)
    together = race(-costs, recruitment=1.0, at_the_end=128.0)

    assert alone.winner.tolist() == [[0, 1]]
    assert together.winner.tolist() == [[0, 0]]


def test_without_recruitment_spikes_choose_as_the_least_coupled_cost_does():
    film = moving_square_film()
    chosen = []
    for method in ("coupling", "competition"):
        predictor = MotionPredictor(Motion(method, coupling=0.25), EPSILON)
        send(predictor, film)
        chosen.append(predictor.chosen)

    assert torch.equal(*chosen)


def test_around_is_the_mean_of_the_neighbours_that_there_are():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])

    # Of the first: (2 + 3 + 4) / 3
    assert around(maps)[0].tolist() == [[3.0, pytest.approx(8 / 3)], [pytest.approx(7 / 3), 2.0]]


def test_training_lowers_the_expected_cost_of_the_next_frame():
    motion = Motion("competition", reach=2)
    examples = video.learning_examples(motion, moving_square_film(frames=10))
    shifts = Shifts(reach=2)
    torch.manual_seed(0)
    synapses = LearnedSynapses((8,), price=1.0, coupling=0.0)

    before = sum(expected_cost(synapses, example, shifts, 8) for example in examples)
    train_synapses(synapses, examples, shifts, seed=0)
    after = sum(expected_cost(synapses, example, shifts, 8) for example in examples)

    assert after < before


# --- motion on a torus


def torus_films(steps, frames=5, size=16):
    """Return a film (B, T, H, W) of rare white pixels for each step on a torus."""
    generator = torch.Generator().manual_seed(0)
    first = (torch.rand(size, size, generator=generator) < 0.2).float()
    films = []
    for down, right in steps:
        moved = [first.roll((number * down, number * right), (0, 1)) for number in range(frames)]
        films.append(torch.stack(moved))
    return torch.stack(films)


def test_the_best_shift_on_a_torus_moves_each_film_by_its_own_velocity():
    films = torus_films([(1, -2), (0, 0), (-2, 2)])

    steps = list(run_link(TorusMatching(), films, EPSILON))

    assert len(steps) == 3
    for number, step in enumerate(steps):
        assert torch.equal(step.prediction, films[:, 2 + number])


def test_block_matching_on_a_torus_finds_two_velocities_in_a_frame():
    still, moving = torus_films([(0, 0), (1, 0)])
    film = torch.cat([still[:, :, :8], moving[:, :, 8:]], 2)[None]

    whole = list(run_link(TorusMatching(), film, EPSILON))
    blocks = list(run_link(TorusMatching(block=8), film, EPSILON))

    assert all(step.events.any() for step in whole)
    assert not any(step.events.any() for step in blocks)


def test_the_race_of_velocities_predicts_films_that_move_evenly():
    films = torus_films([(1, -2), (0, 1)], size=28)
    network = VelocityNetwork(graded=True).eval()

    with torch.no_grad():
        steps = list(run_link(network, films, EPSILON))

    nothing = list(run_link(SendOnDelta(), films, EPSILON))
    for step, unchanged in zip(steps, nothing, strict=True):
        assert step.events.sum() < unchanged.events.sum() / 50


def test_operations_of_the_race_by_hand():
    seen = torch.zeros(1, 2, 4, 4)
    seen[0, 0, 1, 2] = 1
    sent = {
        "D": torch.zeros(1, 50, 1, 1),
        "V": torch.zeros(1, 25, 1, 1),
        "M": torch.zeros(1, 25, 4, 4),
    }
    sent["D"][0, :2] = 1
    sent["V"][0, 3] = 1
    sent["M"][0, 3, 1, 2] = 1

    black_and_white = count_operations(seen, sent)
    grey = count_operations(seen, sent, grey=True)

    # A pixel reaches 25 neurons of M; two spikes of D reach 9 blocks each; one of V 25
    # velocities and 16 pixels; one of M a pixel. 25 neurons rise in 16 timesteps.
    additions = 25 + 2 * 9 + (25 + 16) + 1 + 25 * 16
    # And in D the pixel reaches 50 neurons.
    assert black_and_white.additions == additions + 50
    assert black_and_white.multiply_adds == 0
    assert grey.additions == additions
    assert grey.multiply_adds == 50


# --- what is counted


def test_bits_and_additions_by_hand():
    film = torch.zeros(3, 8, 8)
    film[2, 0, 0] = 51 / 255

    _, figures = send(SendOnDelta(), film)

    assert figures.pixels == [1]
    assert figures.fixed_bits == 6 + 8  # 64 places, and 8 bits of value
    # 63 symbols "nothing" and one difference: 63 log2(64 / 63) + log2(64)
    assert figures.entropy_bits == pytest.approx(63 * math.log2(64 / 63) + 6)
    assert figures.psnr == math.inf
    assert figures.additions == 0


def test_a_search_compares_each_pixel_with_each_shift():
    film = torch.zeros(3, 8, 8)
    at_sender = MotionPredictor(Motion(at_sender=True, reach=1), EPSILON)
    at_receiver = MotionPredictor(Motion(reach=1), EPSILON)

    # 64 pixels, 9 shifts: a subtraction, a comparison and an addition each; no miss
    assert send(at_sender, film)[1].additions == 64 * 9 * 3
    assert send(at_receiver, film)[1].additions == 2 * 64 * 9 * 3


def test_the_price_that_pays_by_hand():
    # 10 events saved for 5 nJ
    assert price_that_pays(6e-9, 90, 1e-9, 100) == pytest.approx(0.5e-9)
    assert price_that_pays(1e-9, 90, 6e-9, 100) == 0
    assert price_that_pays(6e-9, 100, 1e-9, 100) is None


# --- films


def test_a_film_is_reduced_by_means_and_cropped_in_the_middle(tmp_path):
    pictures = np.zeros((3, 20, 36), np.uint8)
    pictures[:, 2:4, 2:4] = [[10, 20], [30, 40]]  # mean: 25
    pictures[:, 0, 0] = [0, 1, 2]  # outside of the crop, since a GIF merges equal frames
    imageio.imwrite(tmp_path / "film.gif", pictures)

    film = read_film(tmp_path / "film.gif", reduce_by=2)

    # 10 x 18 pixels, of which 8 x 16 are left, without a row above and a column before
    assert film.shape == (3, 8, 16)
    assert film[0, 0, 0] == pytest.approx(25 / 255)
    assert film[0].count_nonzero() == 1


@pytest.mark.parametrize(
    ("name", "size", "frames", "reduce_by", "said"),
    [
        ("film.gif", (16, 16), 2, 1, "it has 2 frames, and a film needs 3 or more"),
        ("film.gif", (16, 16), 4, 4, "16 x 16 pixels are too small to be reduced by 4"),
    ],
)
def test_a_film_that_does_not_serve_is_named(tmp_path, name, size, frames, reduce_by, said):
    pictures = np.zeros((frames, *size), np.uint8)
    pictures[:, 0, 0] = np.arange(frames)  # a GIF merges equal frames
    imageio.imwrite(tmp_path / name, pictures)

    with pytest.raises(ModelError, match=said):
        read_film(tmp_path / name, reduce_by)


# --- the example, and the study


@pytest.fixture
def film_path(tmp_path):
    """Return a GIF of a moving square."""
    pictures = (moving_square_film(frames=5) * 255).round().byte().numpy()
    imageio.imwrite(tmp_path / "square.gif", pictures)
    return tmp_path / "square.gif"


def test_the_example_compares_the_arms_on_a_film(tmp_path, film_path, monkeypatch, capsys):
    monkeypatch.setattr(sensor_link, "OTHER_EPSILONS", (0.2,))
    words = [str(film_path), "--output_dir", str(tmp_path / "out")]

    sensor_link.main(words)

    said = capsys.readouterr().out
    assert "5 frames, in grey, 48 x 32" in said
    events = {}
    for line in said.splitlines():
        for arm in ("send-on-delta", *sensor_link.MOTIONS):
            if line.startswith(arm):
                events[arm] = float(line.removeprefix(arm).split()[0])
    assert len(events) == 6
    assert events["block matching at the receiver"] < events["send-on-delta"] / 2
    assert imageio.imread(tmp_path / "out/square.gif").shape[0] == 3
    assert (tmp_path / "out/square.png").stat().st_size > 10_000
    with pytest.raises(UserError, match="exists: move it away, or give another --output_dir"):
        sensor_link.main(words)


def test_the_example_says_in_a_line_that_a_file_is_no_film(tmp_path):
    (tmp_path / "notes.gif").write_text("no film")

    command = [sys.executable, "-m", "studies.sensor_link", str(tmp_path / "notes.gif")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)

    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_study_measures_each_row_once_and_prints_its_tables(
    tmp_path, film_path, monkeypatch, capsys
):
    monkeypatch.setattr(video, "CLIPS", (video.Clip("square", "square.gif", 1),))
    monkeypatch.setattr(video, "SEEDS", (0,))
    pictures = (moving_square_film(frames=9) * 255).round().byte().numpy()
    imageio.imwrite(film_path, pictures)
    rows = tmp_path / "rows.jsonl"
    words = ["--clips", str(tmp_path), "--rows", str(rows), "--part", "choices", "table"]

    video.main(words)
    first = rows.read_text()
    video.main(words)
    video.main(["--summary", str(rows)])

    assert rows.read_text() == first
    measured = [json.loads(line) for line in first.splitlines()]
    assert len(measured) == 2 + 2 + 4 * (2 * 3 + 1)
    assert "| send-on-delta / competition, receiver, held |" in capsys.readouterr().out
