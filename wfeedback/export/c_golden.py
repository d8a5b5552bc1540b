"""golden.c: a few inputs of a network, and what step() does with them.

``make check`` of a folder of C compares the C with it. An input is an image, or, of a
NIR graph, a recording of events. It is taken only if no spike of it depends on how sums
are rounded, so that the C must be equal.
"""

import copy
from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from self_models.data.sets import load_data
from self_models.errors import UserError
from self_models.running.draws import EVALUATION, Draws, key_for
from self_models.running.outputs import SNNOutput
from wfeedback.data.facts import check_fits, where_images_lie
from wfeedback.event.quantize import IntegerSNN
from wfeedback.event.state import in_rows
from wfeedback.event.tables import Tables
from wfeedback.export.c_text import c_array
from wfeedback.nir.graph_snn import GraphSNN

SEED = 0  # of the input's random numbers in golden.c, and in run.c unless told otherwise
MOST_INPUTS = {"images": 10, "recordings": 3}  # in golden.c
NUM_IMAGES = 30  # among which those of golden.c are looked for
RECORDINGS_SIZE = (12, 40)  # recordings among which they are looked for, and their timesteps
# Random recordings that are tried: share of the input that has events in a timestep,
# and how many events each.
SHARES = ((0.02, 1), (0.1, 1), (0.5, 1), (0.5, 8))
TOLERANCE = 1e-4  # of logits that are sums of rounded weights, as a part of 1 + their size


# --- candidates


def test_images(model, dataset: str = "", data_dir: str = "", skip_bad: bool = False) -> object:
    """Return the test images of a network.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    dataset : str
        The data set; by default the model's own.
    data_dir : str
        Where data sets lie.
    skip_bad : bool
        Leave out files that cannot be read.

    Returns
    -------
    ImageSet

    Raises
    ------
    UserError
        If it is not to be had, or its images or classes are not the model's.
    """
    name = dataset or where_images_lie(model.settings["dataset"], model.settings)
    _, _, test = load_data(name, data_dir, image_shape=model.image_shape, skip_bad=skip_bad)
    check_fits(test, model)
    return test


def candidate_images(model, **data: object) -> tuple:
    """Find images that golden.c may have.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    **data
        As `test_images` has it.

    Returns
    -------
    images : Tensor of shape (B, C, H, W), uint8
        The first test images, or random ones if there are none.
    test : ImageSet or None
        All test images.
    notes : list of str
        What the user should know of it.

    Raises
    ------
    UserError
        If test images were asked for that are not to be had.
    """
    try:
        test = test_images(model, **data)
    except UserError as error:
        if data:
            raise
        draw = torch.Generator().manual_seed(SEED)
        shape = (NUM_IMAGES, *model.image_shape)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
        return images, None, [f"note: golden.c has random images ({error})"]
    return test.images[:NUM_IMAGES], test, []


def golden_recordings(model) -> tuple[torch.Tensor, list[int], list[str]]:
    """Choose random recordings of events that golden.c may have.

    Those with the fewest events are taken unless some node does not spike in them,
    since they would not show how it resets. Then those are taken in which most nodes
    spike.

    Parameters
    ----------
    model : GraphSNN
        Network of a NIR file.

    Returns
    -------
    recordings : Tensor of shape (B, T, *model.graph.shape), int32
        Events.
    numbers : list of int
        Recordings in which rounding decides no spike, at most ``MOST_INPUTS``.
    notes : list of str
        What they do not show.
    """
    recordings = random_recordings(model, *SHARES[0])
    numbers = []
    silent = model.layers
    for share, count in SHARES:
        candidates = random_recordings(model, share, count)
        chosen = stable_inputs(model, candidates)[: MOST_INPUTS["recordings"]]
        if not chosen:
            continue
        still_silent = silent_nodes(model, candidates[chosen])
        if not numbers or len(still_silent) < len(silent):
            recordings = candidates
            numbers = chosen
            silent = still_silent
        if not silent:
            break
    notes = []
    if numbers and silent:
        notes.append(
            f"note: in the recordings of golden.c no neuron of {', '.join(silent)} spikes, "
            "so make check does not show how it resets"
        )
    return recordings, numbers, notes


def random_recordings(model, share: float, count: int) -> torch.Tensor:
    """Draw recordings of events.

    Parameters
    ----------
    model : GraphSNN
        The network.
    share : float, 0 to 1
        Part of the input that has events in a timestep; the first neuron always does.
    count : int
        How many events each.

    Returns
    -------
    Tensor of shape (B, T, *model.graph.shape), int32
    """
    draw = torch.Generator().manual_seed(SEED)
    has_events = torch.rand(*RECORDINGS_SIZE, *model.graph.shape, generator=draw) < share
    first_neuron = (0,) * len(model.graph.shape)
    has_events[:, :, *first_neuron] = True  # small inputs have events, too
    return count * has_events.to(torch.int32)


@torch.no_grad()
def silent_nodes(model, recordings: torch.Tensor) -> list[str]:
    """Return the nodes with neurons of which none spikes in these recordings."""
    stepwise, _ = stepwise_copy(model)
    output = run_inputs(stepwise, recordings, range(len(recordings)))
    return [name for name in model.layers[1:] if not output.spikes[name].any()]


# --- what step() does


def stepwise_copy(model) -> tuple:
    """Return a copy of a network that runs as golden.c has it.

    Returns
    -------
    copy : nn.Module
        It takes all timesteps, by step().
    engine : Engine or None
        The engine of that copy, which it does not use.
    """
    model = copy.deepcopy(model)
    engine = model.engine
    model.engine = None
    model.batched = False
    if not isinstance(model, GraphSNN):
        model.change(rule="never")
    return model, engine


def run_inputs(
    model, inputs: torch.Tensor, numbers: Sequence[int], record: dict | None = None
) -> SNNOutput:
    """Run inputs with the random numbers of golden.c.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback or GraphSNN
        The network.
    inputs : Tensor of shape (B, C, H, W), uint8; of a GraphSNN (B, T, ...)
        Images; or events.
    numbers : sequence of int
        Numbers of the images in their set.
    record : dict, optional
        As in the model's forward.
    """
    if isinstance(model, GraphSNN):
        return model(inputs, record=record)
    draws = Draws(SEED, EVALUATION, torch.as_tensor(numbers))
    return model(inputs, record=record, draws=draws)


@torch.no_grad()
def stable_inputs(model, inputs: torch.Tensor) -> list[int]:
    """Find the inputs of which no spike depends on how sums are rounded.

    Weights are added in some order, and each engine has its own. For these inputs the
    event engine, and whole layers at once, give the spikes of step(), in
    timesteps, too, before which the stopping rule would end an image.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback or GraphSNN
        The network. Whole numbers are never rounded, so all inputs of an IntegerSNN are
        such.
    inputs : Tensor
        As `run_inputs` has them.

    Returns
    -------
    list of int
        Their numbers.
    """
    numbers = range(len(inputs))
    if isinstance(model, IntegerSNN):
        return list(numbers)
    stepwise, engine = stepwise_copy(model)
    by_step = all_spikes(run_inputs(stepwise, inputs, numbers))
    stepwise.batched = True
    by_layers = all_spikes(run_inputs(stepwise, inputs, numbers))
    stepwise.engine = engine
    by_events = all_spikes(run_inputs(stepwise, inputs, numbers))
    is_equal = (by_step == by_layers) & (by_step == by_events)  # (layers, T, B)
    is_stable = is_equal.all(0).all(0)
    return is_stable.nonzero().flatten().tolist()


def all_spikes(output: SNNOutput) -> torch.Tensor:
    """Return the spikes of all layers in each timestep, (layers, T, B)."""
    return torch.stack([*output.spikes_by_step.values()])


# --- the file


@torch.no_grad()
def golden_c(model, tables: Tables, inputs: torch.Tensor, numbers: list[int]) -> tuple[str, int]:
    """Write golden.c: what step() does with these inputs, without a stopping rule.

    For each input and timestep it has lists that end in -1: of blocked pixels; of the
    events that arrive, or of pixels that spike; and for each layer of neurons that
    spike. Neurons and pixels are numbered by row, column, channel.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback or GraphSNN
        The network.
    tables : Tables
        The same.
    inputs : Tensor
        As `run_inputs` has them.
    numbers : list of int
        Numbers of the images in their set.

    Returns
    -------
    text : str
        The file.
    num_steps : int
        Timesteps of each input.
    """
    takes_events = isinstance(model, GraphSNN)
    stepwise, _ = stepwise_copy(model)
    output = run_inputs(stepwise, inputs, numbers, dict.fromkeys(tables.names, "spikes"))
    num_steps = len(output.logits_by_step)
    spikes = [output.recorded[name]["spikes"] for name in tables.names]
    if output.is_open is None:
        blocked = torch.zeros_like(spikes[0])
    else:
        blocked = ~output.is_open
    if takes_events:
        spikes[0] = inputs.transpose(0, 1)  # each event, not whether there is one
    shapes = tables.shapes[: len(tables.names)]
    lists = join_lists([blocked, *spikes], [shapes[0], *shapes])
    rounds = tables.weights.dtype == np.float32
    parts = [
        '#include "network.h"\n',
        f"enum {{ golden_inputs = {len(inputs)} }};",
        f"static const double golden_tolerance = {TOLERANCE if rounds else 0};",
        "static " + c_array("uint32_t", "golden_key", key_for(SEED, "input")),
        "static " + c_array("uint32_t", "golden_numbers", numbers),
        "static "
        + c_array("uint8_t", "golden_pixels", [0] if takes_events else in_rows(inputs), 28),
        "static " + c_array("int32_t", "golden_lists", lists),
        "static "
        + c_array("float", "golden_logits", output.logits_by_step.transpose(0, 1).float()),
    ]
    return "\n".join(parts), num_steps


def join_lists(events: list[torch.Tensor], shapes: list[tuple]) -> np.ndarray:
    """Return lists of neurons in a row, by input, timestep and what is listed.

    Parameters
    ----------
    events : list of Tensor of shape (T, B, ...)
        Of each thing that is listed: how often each neuron is in the list.
    shapes : list of (C, H, W)
        Their neurons.

    Returns
    -------
    ndarray of int
        Each list ends in -1.
    """
    listed = []  # what an entry of a row of counts stands for: a neuron, or the end
    counts = []
    for values, shape in zip(events, shapes, strict=True):
        listed += [*range(prod(shape)), -1]
        rows = in_rows(values.reshape(*values.shape[:2], *shape)).swapaxes(0, 1).astype(np.int32)
        counts.append(np.pad(rows, ((0, 0), (0, 0), (0, 1)), constant_values=1))
    counts = np.concatenate(counts, -1)
    positions = counts.nonzero()
    return np.repeat(np.array(listed)[positions[2]], counts[positions])
