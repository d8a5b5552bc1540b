"""A network exported to C.

It is built by cc as it comes, and sends the spikes that Python gives. Where it does
not, the first difference is named.
"""

import copy
import ctypes
import errno
import functools
import itertools
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from conftest import BIAS, build, commands_in, digests, refused, run_here, run_make, spiked
from test_engines import drawn, networks
from test_integers import one_pixel

import wfeedback.event.build
import wfeedback.event.engine
import wfeedback.export.c_folder
import wfeedback.export.c_golden
from self_models import ModelError, first_difference, from_nir, load, load_data
from self_models.errors import UserError
from self_models.places import HOME
from self_models.running.draws import EVALUATION, Draws, key_for
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN
from wfeedback.event.build import FOLDER, REQUIRED_FLAGS, KernelBuild, Settings, library
from wfeedback.event.engine import EventEngine
from wfeedback.event.layout import lay_out
from wfeedback.event.quantize import IntegerSNN, quantize
from wfeedback.event.state import StatePool
from wfeedback.event.tables import settings_of
from wfeedback.export.c_build import CBuild, encode_events
from wfeedback.export.c_folder import c_files, c_folder, c_tables, check_here, memory_needed
from wfeedback.export.c_golden import golden_recordings, stable_inputs
from wfeedback.export.formats import FORMATS, renamed
from wfeedback.runs.saving import write_folder

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, cc")
STRICT = "CFLAGS=-O1 -Wall -Wextra -Wconversion -Werror"
SANITIZERS = "-fsanitize=address,undefined"
SANITISED_CFLAGS = f"{STRICT} {SANITIZERS} -fno-sanitize-recover"
SANITISED_LDFLAGS = f"LDFLAGS={SANITIZERS}"
NUMBERS = [7, 2, 9, 0]  # of the images in golden.c


def pixels(model, count=4, seed=0):
    """Draw images of bytes for a model, with a fifth of the pixels black.

    In float32 images that are sent as they are consist of black and white, so that sums
    of their pixels are exact.
    """
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (count, *model.image_shape), generator=draw, dtype=torch.uint8)
    is_sent = model.settings["encoding"] == "direct" or model.settings.get("residual")
    if is_sent and not isinstance(model, IntegerSNN):
        x = (x > 128).to(torch.uint8) * 255
    return x * (torch.rand(x.shape, generator=draw) > 0.2)


def make_small(folder):
    """Have whole numbers take memory before time, as where a pointer has 32 bits."""
    header = folder / "network.h"
    text = header.read_text()
    header.write_text(text.replace("#if UINTPTR_MAX <= 0xFFFFFFFF", "#if UINTPTR_MAX"))


def write_c(folder, model, compact=False, numbers=NUMBERS, small=True):
    """Write a folder of C, not yet built, and return the images in its golden.c."""
    folder.mkdir(exist_ok=True)
    x = pixels(model)
    for name, text in c_files(model, c_tables(model, compact), x, numbers, "small").items():
        (folder / name).write_text(text)
    if small:
        make_small(folder)
    return x


class KernelRun:
    """A run of a network, driven by the functions of network.h."""

    def __init__(self, model):
        self.pool = StatePool(library(), lay_out(model))
        self.kernel_state = self.pool.new(settings_of(model))
        self.state = self.kernel_state.struct
        self.size = len(self.kernel_state.memory)

    def begin(self, settings, size):
        """Return whether a new run begins in so many bytes."""
        memory = np.empty(size, np.uint8)
        address = self.pool.library.network_begin(
            ctypes.byref(self.pool.network),
            ctypes.byref(settings),
            memory.ctypes.data,
            size,
        )
        return bool(address)

    def call(self, name, *values):
        """Call a function of network.h for this run."""
        function = getattr(self.pool.library, f"network_{name}")
        return function(ctypes.c_void_p(self.kernel_state.address), *values)

    def changed(self, **changes):
        """Return a copy of the current Settings with some changed."""
        settings = Settings.from_buffer_copy(self.state.settings)
        for name, value in changes.items():
            setattr(settings, name, value)
        return settings

    def show(self, image):
        """Show an image, uint8 (C, H, W)."""
        return self.call("show", image.permute(1, 2, 0).contiguous().numpy().tobytes())

    def spikes(self, layers, steps):
        """Return how many spikes each layer sends in each of the next timesteps."""
        spikes = []
        for _ in range(steps):
            if self.call("step") >= 0:
                spikes.append([self.call("spikes", layer) for layer in layers])
        return spikes


def run_check_network(folder):
    return subprocess.run(["./check_network"], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def few_images(monkeypatch):
    """Leave 40 test images of MNIST, and no other data set."""

    def load_few(name, *args, **flags):
        if name != "MNIST":
            raise UserError(f"{name} is not there")
        train, selection, test = load_data(name, *args, **flags)
        return train, selection, test.part(0, 40)

    monkeypatch.setattr(wfeedback.export.c_golden, "load_data", load_few)


def runs_in_c(number):
    """Return whether C runs this random case of test_engines.

    It must be a network of images, without the contrast gate.
    """
    case = drawn(number)
    if case["gate"] == "contrast" or case["recorded"]:
        return False
    return bool([*networks([number])])


def first_cases(count):
    """Return the first numbers of random cases that C runs."""
    numbers = filter(runs_in_c, itertools.count())
    return [*itertools.islice(numbers, count)]


FORMS = ("folded", "compact", "int8")


@torch.no_grad()
def check_in_c(number, form, folder):
    """Compare the network of this random case, as C of this form, with Python.

    It compares spikes, potentials, logits and open pixels, of one image after the
    other, and of a stream. Both sanitisers watch. The compact form is built with plain
    loops, and with room for two windows of weights.
    """
    ((case, model),) = networks([number])
    cflags = SANITISED_CFLAGS
    tolerance = 1e-4
    with pytest.MonkeyPatch.context() as patch:
        if form == "int8":
            model = quantize(model)
            tolerance = 0
        if form == "compact":
            cflags = f"{SANITISED_CFLAGS} -DPLAIN"
            patch.setattr(wfeedback.export.c_folder, "MOST_WINDOWS", 2)
        x = write_c(folder, model, compact=form == "compact")
    done = run_make(folder, cflags, SANITISED_LDFLAGS)
    assert done.returncode == 0, done.stderr
    in_c = CBuild(folder, model)
    assert run_check_network(folder).stdout.startswith("equal: 4 images"), case

    record = dict.fromkeys(model.neurons(), ("spikes", "membrane"))
    record["input"] = "spikes"
    output = model(x, seed=0, record=record)
    assert first_difference(output, in_c(x, seed=0), tolerance=tolerance) is None, case
    assert output.spikes["input"].any(), case

    is_counted = model.settings.get("max_pool") == "count"
    if is_counted or model.timing.is_phased or not model.gate.follows_changes:
        return  # it has no streams
    model.change(rule="never")
    stream = model.stream(seed=0)
    trace = np.frombuffer(in_c.run(x, "-t", "-l", "-s", "3"), np.uint8)
    for image, rows in zip(x, np.split(trace, len(x)), strict=True):
        in_python = stream(image[None], 3, record=record)
        difference = first_difference(in_python, in_c.output(rows, 3), tolerance=tolerance)
        assert difference is None, case


@pytest.mark.parametrize(("number", "form"), [*zip(first_cases(15), itertools.cycle(FORMS))])
def test_same_spikes_and_pixels(tmp_path, number, form):
    """Each network in one of the forms.

    benchmarks/robustness/random_networks.py takes any number of networks in all forms.
    """
    check_in_c(number, form, tmp_path)


VECTOR_FLAGS = ["", "-O1 -DPLAIN"]  # the processor's vectors, and none
if platform.machine() in ("x86_64", "AMD64"):
    VECTOR_FLAGS.append("-O1 -mno-avx512f")  # shorter ones


@pytest.mark.parametrize("flags", VECTOR_FLAGS)
@torch.no_grad()
def test_wide_layers_send_the_same_spikes_by_events(monkeypatch, flags):
    monkeypatch.setenv("CFLAGS", flags)
    # Neither is cached for this process, since each has other flags.
    monkeypatch.setattr(wfeedback.event.build, "kernel_build", KernelBuild)
    monkeypatch.setattr(wfeedback.event.engine, "library", library.__wrapped__)

    # 512 channels that all spike at once. Two groups of them reach others by nine
    # weights, up to 31/16, which is 124 in whole numbers: 16 bits hold the sum of 264
    # of them.
    wide = build(
        VGG_SNN_STDB_wFeedback,
        plan=[[512, 64], []],
        image_shape=(1, 5, 6),
        fc_layers=0,
        timesteps=4,
    )
    wide.features[0].weight.data.fill_(1)
    wide.features[3].weight.data[32:, :400] = 31 / 16
    windows_of_five = build(
        VGG_SNN_STDB_wFeedback,
        plan=[[16, 32], []],
        kernel_size=5,
        image_shape=(66, 5, 5),
        fc_layers=0,
    )
    no_whole_vectors = build(
        plan=[[17, "D", 67], [33, "U", 15, "in"]], fc_width=115, image_shape=(1, 9, 8), **BIAS
    )

    for network in (wide, windows_of_five, no_whole_vectors):
        for model in (network, quantize(copy.deepcopy(network))):
            x = pixels(model)
            output = model(x, seed=0)
            by_events = EventEngine(model)(x, seed=0)
            assert first_difference(output, by_events, tolerance=0) is None
            assert spiked(output)


@torch.no_grad()
def test_a_ceiling_holds_behind_the_reset_by_hand():
    # In whole numbers a pixel's weight and the threshold are 64, and the bias is
    # 64 * (2^23 + 1) = 2^29 + 64.
    model = quantize(one_pixel(2**23 + 1))
    model.engine = EventEngine(model)
    stream = model.stream()

    potentials = []
    for _ in range(3):
        stream(torch.ones(1, 1, 1, 1), 1)
        potentials.append(stream.state_dict()["membranes.features.1"].item())

    # Each timestep adds 2^29 + 64 + 64, and each reset takes 64: V would be 2^30 + 128
    # after the second one, but for the ceiling of 2^30 - 1.
    assert potentials == [2**29 + 64, 2**30 - 1, 2**30 - 1]


@torch.no_grad()
def test_a_floor_holds_in_a_state_that_was_loaded_by_hand():
    """In a run from rest no timestep so early can be at the floor."""
    # In whole numbers the weight is -64 and the bias 32: a white pixel takes 32 from V,
    # and a black one adds 32. The floor is -(2^30 - 1).
    model = one_pixel(0.5)
    model.features[0].weight.data.fill_(-1.0)
    model = quantize(model)
    # No timestep moves V by more than 64 + 32 = 96.
    assert c_tables(model).nodes[1]["unbounded"] == (2**30 - 1) // 96

    floor = -(2**30) + 1
    white = torch.ones(1, 1, 1, 1)
    black = torch.zeros(1, 1, 1, 1)
    for engine in (None, EventEngine(model)):
        model.engine = engine
        stream = model.stream()
        stream(black, 1)
        state = stream.state_dict()
        state["membranes.features.1"] += floor + 10 - 32  # V, which is 32, becomes floor + 10
        stream.load_state_dict(state)
        stream(white, 1)
        stream(black, 3)
        assert stream.state_dict()["membranes.features.1"].item() == floor + 3 * 32, engine


def test_a_phased_network_answers_one_image_after_the_other_from_rest(tmp_path):
    model = build(update="phased", epsilon=0.0)
    x = write_c(tmp_path, model)
    run_make(tmp_path, STRICT)
    with pytest.raises(ModelError, match="-l: this network answers one image after the other"):
        CBuild(tmp_path, model).run(x, "-l")

    run = KernelRun(model)
    run.call("reset", 0, 0, 0)
    assert not run.call("streams")
    assert run.show(x[0])
    first_image = run.kernel_state.pixels("image").copy()
    assert not run.show(x[1])
    assert np.array_equal(run.kernel_state.pixels("image"), first_image)

    run.call("reset", 0, 0, 1)
    assert run.show(x[1])
    assert not np.array_equal(run.kernel_state.pixels("image"), first_image)


def spikes_of_stream(stream, layers, image, steps):
    """Return what KernelRun.spikes gives for an image, of a stream in Python."""
    spikes = stream(image[None], steps).spikes_by_step.values()
    return torch.cat([*spikes], 1)[:, layers].tolist()


@torch.no_grad()
def test_the_decoder_can_be_left_out_from_the_next_timestep_on():
    """In C by a setting.

    In Python another stream, with an open gate, takes over the state.
    """
    model = build(residual=True, readout="membrane")
    x = pixels(model)
    # A decoder that is off does not spike.
    layers = [
        number for number, name in enumerate(model.layers) if not name.startswith("generate")
    ]
    run = KernelRun(model)
    run.call("reset", *key_for(0, "input"), 0)
    with_decoder = model.stream()

    run.show(x[0])
    assert run.spikes(layers, 4) == spikes_of_stream(with_decoder, layers, x[0], 4)

    run.call("set", ctypes.byref(run.changed(feedback=0)))
    state = with_decoder.state_dict()
    without_decoder = model.change(gate="open").stream()
    without_decoder.load_state_dict(state)
    for image in x:
        run.show(image)
        assert run.spikes(layers, 4) == spikes_of_stream(without_decoder, layers, image, 4)


SPIKING_INPUT = {"plan": [[4, "D", 6], []], "epsilon": 0.0}  # and no decoder
INPUT_OF_VALUES = {"encoding": "direct", "residual": True}


@pytest.mark.parametrize(
    ("own", "is_taken"),
    [(SPIKING_INPUT, False), (INPUT_OF_VALUES, True)],
    ids=["spiking input", "input of values"],
)
@torch.no_grad()
def test_what_a_network_has_not_is_refused_and_changes_nothing(own, is_taken):
    """Settings, events of an input whose neurons do not spike, too little memory."""
    model = build(**own)
    x = pixels(model)
    run = KernelRun(model)

    for change in ({"feedback": 1}, {"residual": 1}, {"encoding": 1}):
        before = bytes(run.state.settings)
        settings = run.changed(**change)
        assert run.begin(settings, run.size) == is_taken
        assert run.call("set", ctypes.byref(settings)) == is_taken
        assert bytes(run.state.settings) == (bytes(settings) if is_taken else before)

    assert run.begin(run.changed(), run.size)
    assert not run.begin(run.changed(), run.size - 1)

    run.call("reset", 0, 0, 0)
    run.show(x[0])
    for neuron in (-1, run.state.pixels, 2**31 - 1):
        assert not run.call("arrive", (ctypes.c_int32 * 2)(3, neuron), 2), neuron
    events = (ctypes.c_int32 * 2)(3, 3)  # with a name, since the kernel does not copy them
    assert run.call("arrive", events, 2) == is_taken
    # Events arrive in one timestep, and the image is seen in the others.
    [with_events], [with_image] = run.spikes([0], 2)
    assert (with_events == 1) == is_taken
    assert with_image > 1


def test_an_image_behind_events_is_sent_by_its_values():
    """A timestep in which no events arrive is as one without an image."""
    model = build(encoding="direct", epsilon=0.0)
    grey = torch.full(model.image_shape, 100, dtype=torch.uint8)
    no_events = (ctypes.c_int32 * 1)()

    potentials = []
    for has_events in (False, True):
        run = KernelRun(model)
        run.call("reset", 0, 0, 0)
        if has_events:
            assert run.call("arrive", no_events, 0)
        run.call("step")
        run.show(grey)
        run.call("step")
        potentials.append(run.kernel_state.potentials(1).copy())

    without_events, behind_events = potentials
    assert np.array_equal(without_events, behind_events)
    assert without_events.any()


def programs_on_the_page():
    """Return the parts of programs in C that the page has."""
    page = (HOME / "docs/how_to/c_export.md").read_text()
    return re.findall(r"```c\n(.*?)```", page, re.DOTALL)


def as_initialiser(x):
    """Return images as C initialises an array with them."""
    return f"{{{', '.join(str(value) for value in x.flatten().tolist())}}}"


def compile_main(folder, *flags):
    """Compile main.c of a folder, with the kernel for blocks, to main."""
    sources = [FOLDER / "network.c", FOLDER / "block.c", "main.c", f"-I{FOLDER}"]
    command = ["cc", "-std=c99", "-ffp-contract=off", "-O1", *flags, *sources, "-lm", "-o", "main"]
    subprocess.run(command, cwd=folder, check=True)


def test_a_program_opens_several_files_as_on_the_page(tmp_path):
    *_, classify = programs_on_the_page()
    image = load_data("MNIST", limit_test=1)[2].images
    calls = ""
    for name in ("quick_feedback.snn", "quick_baseline.snn", "main.c"):
        calls += f'printf("%d\\n", classify("{name}", pixels, 784, 0));\n'
    array = f"const uint8_t pixels[] = {as_initialiser(image)};"
    (tmp_path / "main.c").write_text(f"{classify}\n{array} int main(void) {{ {calls} }}")
    for name in ("quick_feedback", "quick_baseline"):
        run_here("export", name, "--to block --output", tmp_path / f"{name}.snn")

    compile_main(tmp_path)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True)

    assert done.stdout.split() == ["7", "7", "-1"]
    assert done.stderr == "main.c: it is no network\n"


SCARCE = """
#include <stddef.h>
#include <stdlib.h>
static int left; /* so often there is memory */
static void *scarce(size_t size) { return left-- > 0 ? malloc(size) : NULL; }
#define malloc scarce
"""
WITHOUT_MEMORY = """
#undef malloc
int main(int argc, char **argv)
{
    static const uint8_t pixels[784];
    static char block[20000000];
    NetworkTables network;
    NetworkSettings settings;
    FILE *file = fopen(argv[argc - 1], "rb");
    size_t count = fread(block, 1, sizeof block, file);
    const char *why = network_open(block, count, &network, &settings);
    for (int most = 0; most < 2; most++) {
        left = most;
        printf("%d\\n", classify(argv[argc - 1], pixels, 784, 0));
    }
    printf("%d %d\\n", !why, !network_begin(&network, &settings, NULL, network_size(&network)));
    return 0;
}
"""


def test_without_memory_nothing_begins(tmp_path):
    """The page's program says so where malloc gives none.

    For no memory network_begin returns 0, instead of writing there.
    """
    *_, classify = programs_on_the_page()
    (tmp_path / "main.c").write_text(f"{SCARCE}{classify}{WITHOUT_MEMORY}")
    run_here("export", "quick_feedback --to block --output", tmp_path / "one.snn")

    compile_main(tmp_path, "-Wall", "-Wextra", "-Wconversion", "-Werror")
    done = subprocess.run(["./main", "one.snn"], cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "-1\n-1\n1 1\n"), done
    assert done.stderr == "one.snn: it is empty, or too large for the memory\none.snn: no memory\n"


MAIN_OF_TWO = """
int main(void)
{
    const char *const names[] = N2_DIGITS_CLASS_NAMES;
    int n;
    for (n = 0; n < N2_DIGITS_CLASSES; n++)
        puts(names[n]);
    for (n = 0; n < 4; n++) {
        const uint8_t *image = images + n * sizeof images / 4;
        printf("%d %d\\n", n2_digits_classify(image), other_classify(image));
    }
    return 0;
}
"""


def page_for(folder):
    """Return the page's program and its settings for a folder of another name."""
    program, settings, _ = programs_on_the_page()
    text = f"{program}\nvoid network_own(DigitsState *run)\n{{\n{settings}}}\n"
    # What the page names without a prefix gets one, too, so that two can stand in one
    # file.
    text = re.sub("(?<= )(?=memory|classify)", "network_", text)
    for form in (str.lower, str.upper, str.title):
        text = re.sub(rf"\b{form('digits')}(?!/)", form("network"), text)
    text = text.replace("digits/", f"{folder}/")
    return renamed({"": text}, folder)[""]


def test_networks_link_into_one_program_as_on_the_page(tmp_path):
    """One in float32, one in whole numbers, in C and C++, beside names of an Arduino.

    A folder's name may be no word of C, and classes may have any name.
    """
    class_names = ["network_cable", 'a "b"??/\\', "Kä", *"3456789"]
    digits = build(timesteps=7, fc_layers=1)
    digits.classes = class_names
    other = quantize(build(timesteps=7, fc_layers=0))

    text = "#define OUTPUT 1\n#include <stdio.h>\n"
    objects = []
    for name, model in {"2 digits": digits, "OTHER": other}.items():
        folder = tmp_path / name
        x = write_c(folder, model, small=False)
        files = {path.name: path.read_text() for path in folder.iterdir()}
        for file, content in renamed(files, name).items():
            (folder / file).write_text(content)
        goals = ["network.o", "weights.o"]
        subprocess.run(["make", "CFLAGS=-O1", *goals], cwd=folder, check=True)
        text += page_for(name)
        objects += [f"{name}/{goal}" for goal in goals]
    text += f"static const uint8_t images[] = {as_initialiser(x)};\n{MAIN_OF_TWO}"

    answers = []
    for image in x:
        classes = [model(image[None], seed=0).logits.argmax().item() for model in (digits, other)]
        answers.append(f"{classes[0]} {classes[1]}")
    assert len({*answers}) == 4

    for compiler, file in ((["cc", "-std=c99", "-pedantic"], "main.c"), (["c++"], "main.cpp")):
        (tmp_path / file).write_text(text)
        flags = ["-Wall", "-Wextra", "-Werror"]
        command = [*compiler, *flags, file, *objects, "-lm", "-o", "main"]
        subprocess.run(command, cwd=tmp_path, check=True)
        printed = subprocess.check_output([tmp_path / "main"], text=True)
        assert printed.splitlines() == class_names + answers


class OtherRoundings:
    """An engine that runs another network, up to the last timestep."""

    def __init__(self, network):
        self.network = network

    def serves(self):
        return True

    def run(self, *args, **flags):
        return self.network.change(rule="never")(*args, **flags)


def test_golden_images_are_free_of_ties_in_all_timesteps():
    """Weights a little off stand for other roundings.

    Some images show them only in timesteps after the rule would have ended them.
    """
    own = {"rule": "confidence", "gap_bound": 0.0, "on_grid": False}
    model = build(VGG_SNN_STDB_wFeedback, **own)
    other = build(VGG_SNN_STDB_wFeedback, **own)
    other.features[0].weight.data *= 1 + 1e-4
    x = pixels(model, 30)

    model.engine = OtherRoundings(other)
    chosen = stable_inputs(model, x)
    model.engine = None

    spikes = []
    for network in (model, other):
        by_layer = network.change(rule="never")(x, seed=0).spikes_by_step
        spikes.append(torch.stack([*by_layer.values()]))
    is_same = (spikes[0] == spikes[1]).all(0)  # (T, B)
    is_free = is_same.all(0)
    assert chosen == is_free.nonzero().flatten().tolist()
    assert 0 < is_free.sum() < is_same[0].sum()


@torch.no_grad()
def test_first_difference_names_a_weight_changed_by_hand(tmp_path):
    model = build(timesteps=7, fc_width=12)
    x = write_c(tmp_path, model, numbers=range(4))
    other = copy.deepcopy(model)
    other.features[3].weight.data[0, 0, 1, 1] += 2
    other_files = c_files(other, c_tables(other), x, range(4), "small")
    (tmp_path / "weights.c").write_text(other_files["weights.c"])
    run_make(tmp_path, STRICT)

    difference = first_difference(model, CBuild(tmp_path, model), x)
    files = {path.name: path.read_text() for path in tmp_path.glob("*.[ch]")}
    fault = r"its C is not equal to step\(\), a fault of this program"
    with pytest.raises(UserError, match=fault) as said:
        check_here(files)

    words = (
        r"differs: image (\d+), timestep (\d+), layer features\.4, neuron \d+: it .* here; "
        r"potential after the timestep (.*)"
    )
    image, step, potential = re.search(words, str(said.value)).groups()
    assert (difference.image, difference.step) == (int(image), int(step))
    assert difference.layer == "features.4"
    assert float(potential) in difference.potentials
    assert run_check_network(tmp_path).returncode == 1


@dataclass(frozen=True)
class BoardRun:
    """What `make qemu` writes of a board: bytes, and instructions for each input."""

    output: str
    flash: int
    mean_instructions: int
    fewest_instructions: int
    most_instructions: int
    ram: int
    stack: int


def run_on_board(folder, board):
    """Run `make qemu` for a board; without the board's tools skip the test."""
    done = subprocess.run(["make", f"qemu_{board}"], cwd=folder, capture_output=True, text=True)
    if "untried" in done.stdout or "tools are missing" in done.stderr:
        pytest.skip(done.stdout or done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    words = (
        r"flash: (?P<flash>\d+) bytes; instructions per \w+: (?P<mean_instructions>\d+) "
        r"\((?P<fewest_instructions>\d+) to (?P<most_instructions>\d+)\); "
        r"RAM: (?P<ram>\d+) bytes, and (?P<stack>\d+) of stack"
    )
    figures = re.search(words, done.stdout).groupdict()
    return BoardRun(done.stdout, **{name: int(figure) for name, figure in figures.items()})


@torch.no_grad()
def test_files_of_one_program_may_have_other_flags(tmp_path):
    """A kernel built for this processor might take more memory than the check gives."""
    model = quantize(build(timesteps=7, fc_width=12, on_grid=False))
    write_c(tmp_path, model, small=False)

    native = f"{SANITISED_CFLAGS} -march=native --param=asan-stack=0"
    subprocess.run(["make", "network.o", native], cwd=tmp_path, check=True, capture_output=True)
    command = ["make", "check", SANITISED_CFLAGS, SANITISED_LDFLAGS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert "equal: 4 images" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("more_timesteps", "initial_potential", "fits"),
    [(0, 0.0, True), (1, 0.0, False), (0, 0.5, False)],
)
@torch.no_grad()
def test_potentials_of_spiking_inputs_have_sixteen_bits_where_they_surely_fit(
    more_timesteps, initial_potential, fits
):
    # Nine equal weights, all of whose inputs spike in each timestep: with the initial
    # potential their sum must not be above 32,767, since potentials saturate there.
    model = build(
        plan=[[2, "M"], []],
        image_shape=(1, 6, 6),
        epsilon=0.0,
        default_threshold=50.0,
        initial_potential=initial_potential,
    )
    model.features[0].weight.fill_(1)
    weight = int(quantize(model).features[0].weight.max())
    most_timesteps = 32_767 // (9 * weight)
    model.change(timesteps=most_timesteps + more_timesteps)
    assert c_tables(quantize(model)).nodes[1]["narrow"] == fits


@pytest.mark.parametrize("residual", [False, True])
@torch.no_grad()
def test_potentials_of_values_have_sixteen_bits_where_they_surely_fit(residual):
    # Two timesteps of a pixel of 255 and a weight of 64 make 2 * 255 * 64 = 32,640,
    # which fits. A residual is up to twice as large as a pixel.
    model = build(
        plan=[[1], ["in"]],
        residual=residual,
        image_shape=(1, 6, 6),
        kernel_size=1,
        encoding="direct",
        timesteps=2,
        default_threshold=0.5,
    )
    model.features[0].weight.fill_(1)
    assert c_tables(quantize(model)).nodes[1]["narrow"] == (not residual)


def test_the_committed_network_has_potentials_of_sixteen_bits():
    folded = c_tables(load(HOME / "trained_models/snn/quick_feedback.pth", weights="int8_folded"))
    assert folded.nodes["narrow"][1:4].all()
    assert memory_needed(folded).ram < 73e3


@pytest.mark.parametrize("board", ["m4", "m7", "m33", "rv32"])
@torch.no_grad()
def test_microcontrollers(tmp_path, board):
    model = build(timesteps=7, fc_width=12)
    write_c(tmp_path, model)

    run = run_on_board(tmp_path, board)

    assert "equal: 4 images, 7 timesteps each" in run.output
    assert 0 < run.fewest_instructions <= run.mean_instructions <= run.most_instructions
    assert 200 < run.stack < 3000
    expected = memory_needed(c_tables(model))
    assert abs(run.ram - expected.ram) < 100
    assert expected.flash < run.flash < expected.flash + 40e3


@pytest.mark.parametrize("board", ["m4", "rv32"])
def test_a_nir_network_on_microcontrollers(tmp_path, board):
    folder = tmp_path / "c"
    run_here("export", "examples/nmnist.nir --to c --output", folder)

    run = run_on_board(folder, board)

    assert "equal: 3 recordings, 40 timesteps each" in run.output
    assert 76e3 < run.flash < 120e3
    assert 65e3 < run.ram < 75e3
    assert run.stack < 3000


ON_BOARDS = [
    {"image_shape": (3, 8, 12), "encoding": "direct", "leak": 0.9},
    {"residual": True, "blocking": "dynamic"},
    {"rule": "entropy", "cls": AdaptiveTimestepsSNN},
    {"plan": [[20, "D", 9, "M"], ["U", "U", "in"]], "max_pool": "count"},
    {"plan": [[6, "A", 40, "D"], ["U", 4, "U", "in"]]},
]
# Of the compiler and its library, called by int8 on a Cortex-M4.
CALLED = {"memcpy", "memset", "memmove", "__popcountsi2"}


@pytest.mark.parametrize("fold", [False, True], ids=["", "folded"])
@pytest.mark.parametrize("settings", ON_BOARDS, ids=str)
@torch.no_grad()
def test_int8_on_a_cortex_m4_needs_no_libm_no_double_and_no_allocation(tmp_path, settings, fold):
    """By its instructions for two or four numbers of 8 or 16 bits at once."""
    model = build(timesteps=7, fc_width=12, on_grid=False, **settings)
    write_c(tmp_path, quantize(model, fold))

    run = run_on_board(tmp_path, "m4")

    assert "equal" in run.output
    assert run.stack < 2000
    for part in ("network", "weights"):
        command = ["arm-none-eabi-nm", "-u", f"m4_{part}.o"]
        listing = subprocess.check_output(command, cwd=tmp_path, text=True)
        undefined = {*listing.split()} - {"U"}
        assert undefined <= CALLED, part


ARDUINO_H = """
#include <cstdint>
#include <cstdlib>
#include <iostream>
static struct {
    void begin(long) {}
    template <typename Any> void print(Any value) { std::cout << value; }
    template <typename Any = const char *>
    void println(Any value = "") { std::cout << value << '\\n'; }
} Serial;
static unsigned long millis() { return 0; }
static void delay(long) { static int calls; if (++calls == 2) exit(0); }
"""
SKETCH = """
#include "Arduino.h"
#include "Digits.ino"
int main() { setup(); for (;;) loop(); }
"""


@torch.no_grad()
def test_arduino_library(tmp_path):
    """By this stub of Arduino.h in place of a board's."""
    model = build(timesteps=7, fc_width=12)
    x = pixels(model)
    files = c_files(model, c_tables(model), x, NUMBERS, "small", arduino=True)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert "name=small" in (tmp_path / "library.properties").read_text()
    (tmp_path / "Arduino.h").write_text(ARDUINO_H)
    (tmp_path / "main.cpp").write_text(SKETCH)

    parts = ["network.o", "weights.o"]
    for part in parts:
        source = f"src/{Path(part).stem}.c"
        flags = ["-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
        subprocess.run(["cc", "-c", *flags, source, "-o", part], cwd=tmp_path, check=True)
    flags = ["-Wall", "-Wextra", "-Wno-unused-variable", "-Werror"]
    folders = ["-Isrc", "-I.", "-Iexamples/Digits"]
    command = ["c++", *flags, *folders, "main.cpp", *parts, "-o", "sketch"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "sketch"], capture_output=True, text=True)
    *drawing, last = done.stdout.splitlines()

    # delay() ends it at its second call, so that the second image is the last one.
    output = model(x, draws=Draws(0, EVALUATION, torch.tensor(NUMBERS)))
    spikes = int(sum(output.spikes.values())[1])
    answer = model.classes[output.logits[1].argmax()]
    assert last == f"class {answer}, timesteps 7, spikes {spikes}, milliseconds 0"
    height = model.image_shape[1]
    first_row, *_ = drawing[-height].split(" | ")
    levels = [" .:-=+*#%@".index(character) for character in first_row]
    assert levels == (x[1, 0, 0].double() / 255 * 10).long().clamp(max=9).tolist()


def test_a_program_whose_network_does_not_begin_says_so(tmp_path):
    """Here for want of memory, as if it had been built for another machine."""
    write_c(tmp_path, build())
    weights = tmp_path / "weights.h"
    text = re.sub(r"#define NETWORK_BYTES .*", "#define NETWORK_BYTES 64", weights.read_text())
    weights.write_text(text)
    assert run_make(tmp_path, STRICT).returncode == 0

    words = "the network does not begin, see network_begin in network.h\n"
    done = run_check_network(tmp_path)
    assert (done.returncode, done.stdout) == (1, f"differs: {words}")
    done = subprocess.run(["./run"], cwd=tmp_path, input="", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", words)


@pytest.fixture(scope="module")
def c_build(tmp_path_factory):
    """Build a network in C."""
    folder = tmp_path_factory.mktemp("c")
    model = build()
    write_c(folder, model)
    run_make(folder, STRICT)
    return CBuild(folder, model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-s", "0"], "is not a number from 1 to 2147483647"),
        (["-s", "3.7"], "-s 3.7 is not a whole number"),
        (["-z", "1"], "usage"),
    ],
    ids=["-s 0", "-s 3.7", "-z 1"],
)
def test_options_that_run_does_not_know_are_refused(c_build, options, words):
    command = [c_build.folder / "run", *options]
    done = subprocess.run(command, input="", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr


def test_an_image_that_is_cut_short_is_left_out(c_build):
    size = np.prod(c_build.spaces["input"])
    done = subprocess.run([c_build.folder / "run"], input=bytes(size + 9), capture_output=True)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert b"the last one has 9: it is left out" in done.stderr


def test_numbers_may_be_written_in_any_way_of_c(c_build):
    x = pixels(build())
    by_tens = c_build.run(x, "-n", "2", "-k", "1000", "4294967295")
    assert c_build.run(x, "-n", "0x2", "-k", "1e3", "0xffffffff") == by_tens


def test_run_says_that_a_disk_is_full(c_build):
    raw = pixels(build()).numpy().tobytes()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [c_build.folder / "run"], input=raw, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert done.stderr == b"not all could be written: is the disk full?\n"


def test_images_that_run_cannot_take_are_refused(c_build):
    x = pixels(build())
    with pytest.raises(ModelError, match="numbers that follow each other"):
        c_build(x, draws=Draws(0, EVALUATION, torch.tensor([0, 2, 3, 4])))
    with pytest.raises(ModelError, match="images of a C build must be uint8"):
        c_build.run(x.float())


def bytes_in(size):
    """Return the number in a text such as "73 kB"."""
    number, unit = size.split()
    return float(number) * {"MB": 1e6, "kB": 1e3}[unit]


def section_sizes(listing):
    """Return what `size` lists: file name -> section, such as "bss" -> its bytes."""
    sizes = {}
    for row in listing.splitlines()[1:]:
        text, data, bss, _, _, name = row.split()
        sizes[name] = {"text": int(text), "data": int(data), "bss": int(bss)}
    return sizes


def test_a_committed_network_takes_the_memory_that_is_said(tmp_path, few_images):
    folder = tmp_path / "c"
    said = run_here("export", "quick_feedback --to c --weights int8 --output", folder)[1]
    make_small(folder)
    optimised = STRICT.replace("O1", "O2")
    subprocess.run(["make", "run", optimised], cwd=folder, check=True, capture_output=True)
    assert "accuracy on 40 test images" in said
    flash, ram = re.search(r"memory: (.*) of flash .*; (.*) of RAM", said).groups()

    command = ["size", "network.o", "weights.o", "run"]
    sizes = section_sizes(subprocess.check_output(command, cwd=folder, text=True))

    code = sizes["network.o"]["text"]
    constants = sizes["weights.o"]["text"]
    zeroed = sizes["run"]["bss"]
    # Pointers of 64 bits are larger than those that the export counts.
    assert np.allclose([bytes_in(flash), bytes_in(ram)], [constants, zeroed], rtol=0.03)
    assert code + constants < 532e3


@pytest.mark.parametrize("page", ["c_export", "microcontroller"])
def test_the_commands_of_the_pages_run(tmp_path, few_images, page):
    for _, (*words, name) in commands_in(f"docs/how_to/{page}.md"):
        if "c" in words and "--weights" not in words:
            # gcc takes 15 s less for the weights of this smaller network.
            words = [word.replace("quick_feedback", "tiny_feedback") for word in words]
        run_here("export", *words, tmp_path / name)
        if "c" in words:
            done = run_make(tmp_path / name, "CFLAGS=-O0", goals=("check", "all"))
            assert done.returncode == 0, done.stdout + done.stderr
            assert "equal: " in done.stdout, done.stdout + done.stderr


def test_a_network_without_golden_images_is_refused(tmp_path, trained, few_images, monkeypatch):
    monkeypatch.setattr(wfeedback.export.c_folder, "stable_inputs", lambda *_: [])
    line = refused("export", trained.snn, "--to c --output", tmp_path / "c")
    assert "in each of 30 images rounding decides a spike" in line
    assert not (tmp_path / "c").exists()


def test_a_folder_of_other_files_is_not_replaced(tmp_path, trained, few_images, monkeypatch):
    monkeypatch.setattr(wfeedback.export.c_folder, "check_here", lambda files: "equal")
    folder = tmp_path / "c"
    run_here("export", trained.snn, "--to c --output", folder)
    (folder / "mine.txt").write_text("mine")
    before = digests(tmp_path)

    line = refused("export", trained.snn, "--to c --overwrite --output", tmp_path)
    assert "other files" in line
    assert digests(tmp_path) == before

    run_here("export", trained.snn, "--to c --overwrite --weights int8 --output", folder)
    assert (folder / "mine.txt").read_text() == "mine"
    assert "#define C_INT8" in (folder / "network.h").read_text()


# --- networks of NIR files, read as flags say

OPENED = """
#include "network.h"
#include <stdio.h>
#include <stdlib.h>

/* ./opened BLOCK: reads of each timestep the count and the numbers of its events, and writes
   the outputs' sums. */
int main(int argc, char **argv)
{
    NetworkTables network;
    NetworkSettings settings;
    static char block[1 << 20];
    static int32_t events[1 << 16];
    int32_t arriving;
    FILE *file = fopen(argv[argc - 1], "rb");
    size_t count = fread(block, 1, sizeof block, file);
    const char *why = network_open(block, count, &network, &settings);
    size_t size = why ? 0 : network_size(&network);
    NetworkState *run = why ? NULL : network_begin(&network, &settings, malloc(size), size);
    if (!run)
        return 2;
    network_reset(run, 0, 0, 0);
    while (fread(&arriving, 4, 1, stdin) == 1) {
        network_arrive(run, events, (int32_t)fread(events, 4, (size_t)arriving, stdin));
        network_step(run);
        fwrite(run->logits, 4, (size_t)run->classes, stdout);
    }
    return 0;
}
"""
SCRATCH = tempfile.TemporaryDirectory()  # of what is compiled once; removed when Python ends
FAST_TO_COMPILE = ["-O0", "-DPLAIN"]
CC = ["cc", "-std=c99", "-ffp-contract=off", *FAST_TO_COMPILE]


@functools.cache
def program_for_blocks():
    """Compile OPENED, once."""
    folder = Path(SCRATCH.name)
    (folder / "opened.c").write_text(OPENED)
    sources = [FOLDER / "network.c", FOLDER / "block.c", folder / "opened.c", f"-I{FOLDER}"]
    subprocess.run([*CC, *sources, "-lm", "-o", folder / "opened"], check=True)
    return folder / "opened"


@functools.cache
def kernel_object(text):
    """Compile network.o, once, for folders whose network.h has this text."""
    folder = Path(SCRATCH.name, "net")
    folder.mkdir()
    for path in FOLDER.glob("*.[ch]"):
        (folder / path.name).write_text(renamed({"": path.read_text()}, "net")[""])
    assert (folder / "network.h").read_text() == text
    subprocess.run([*CC, "-c", "network.c"], cwd=folder, check=True)
    return folder / "network.o"


def block_spikes(path, events):
    """Return what the outputs of a block send (B, T, outputs).

    Parameters
    ----------
    path : Path
        The block.
    events : Tensor of shape (B, T, ...), whole numbers
        How many events each input gets in a timestep.
    """
    sent = []
    for recording in events:
        words = []
        for counts in recording.flatten(1):
            neurons = np.repeat(np.arange(len(counts)), counts)
            words += [len(neurons), *neurons]
        raw = np.array(words, "<i4").tobytes()
        done = subprocess.run([program_for_blocks(), path], input=raw, capture_output=True)
        assert done.returncode == 0, done
        sums = np.frombuffer(done.stdout, "<f4").reshape(len(recording), -1)
        sent.append(np.diff(sums, axis=0, prepend=0))
    return np.array(sent)


def folder_spikes(folder, events):
    """Return what block_spikes does, of a folder of C called net; build it first."""
    shutil.copy(kernel_object((folder / "network.h").read_text()), folder)
    flags = " ".join(FAST_TO_COMPILE)
    subprocess.run(["make", "-s", "-C", folder, "run", f"CFLAGS={flags}"], check=True)
    steps = events.shape[1]
    command = [folder / "run", "-t", "-s", str(steps)]
    done = subprocess.run(command, input=encode_events(events), capture_output=True)

    rows = np.frombuffer(done.stdout, np.uint8).reshape(len(events) * steps, -1)
    outputs = int(re.search(r"_CLASSES (\d+)", (folder / "weights.h").read_text())[1])
    # A row ends in the sums of the outputs, four bytes each, and a byte for is_last.
    sums = np.frombuffer(rows[:, -1 - 4 * outputs : -1].tobytes(), "<f4")
    return np.diff(sums.reshape(len(events), steps, outputs), axis=1, prepend=0)


def exported_spikes(folder, graph, flags, events):
    """Return what a NIR graph's outputs send, exported as a block and as a folder of C.

    Parameters
    ----------
    folder : Path
        Gets the files.
    graph : nir.NIRGraph
        The network.
    flags : str
        How the file is read.
    events : Tensor of shape (B, T, ...), whole numbers
        How many events each input gets in a timestep.

    Returns
    -------
    of_block, of_folder : ndarray of shape (B, T, outputs)
        Spikes.
    """
    nir.write(folder / "net.nir", graph)
    run_here("export", folder / "net.nir", f"--to block {flags} --output", folder / "net.snn")
    run_here("export", folder / "net.nir", f"--to c {flags} --output", folder / "net")
    return block_spikes(folder / "net.snn", events), folder_spikes(folder / "net", events)


def float32(value):
    return np.array([value], np.float32)


def one_neuron(neuron, weight=0.5):
    """Return a graph of an input, a weight, and a neuron."""
    nodes = {
        "input": nir.Input(np.array([1])),
        "weight": nir.Linear(float32(weight)[None]),
        "neuron": neuron,
        "output": nir.Output(np.array([1])),
    }
    return nir.NIRGraph(nodes, [*itertools.pairwise(nodes)], type_check=False)


def if_node(weight=0.5):
    """Return an IFNode(v_reset=0.) as SpikingJelly writes it."""
    neuron = nir.IF(r=float32(1e4), v_threshold=float32(1), v_reset=float32(0))
    return one_neuron(neuron, weight)


def lif(tau, r):
    """Return a LIF with threshold 1 that falls to 0."""
    return nir.LIF(
        tau=float32(tau),
        r=float32(r),
        v_leak=float32(0),
        v_threshold=float32(1),
        v_reset=float32(0),
    )


def leaky(beta=0.95):
    """Return a Leaky(beta) as snnTorch writes it."""
    gain = 1 / (1 - beta)
    return one_neuron(lif(tau=1e-4 * gain, r=gain))


BY_HAND = [
    pytest.param(
        if_node(),
        "--like spikingjelly",
        [0, 1, 0, 1, 0, 1, 0, 1],  # V is 0.5, then 1, at which it spikes, and 0 again
        id="IFNode",
    ),
    pytest.param(
        if_node(),
        "",
        [1, 1, 1, 1, 1, 1, 1, 1],  # r is read as 10,000: it spikes at once, each time
        id="IFNode without flags",
    ),
    pytest.param(
        if_node(0.75),
        "--like spikingjelly --reset subtract",
        # V is 0.75, 1.5, 1.25, 1, 0.75, 1.5, 1.25, 1: each spike takes 1 from it
        [0, 1, 1, 1, 0, 1, 1, 1],
        id="IFNode(v_reset=None)",
    ),
    pytest.param(
        leaky(),
        "--like snntorch",
        # V is 0.5, 0.975, 1.426; 0.95 * 1.426 + 0.5 - 1 is 0.855, 1.312; then 0.746,
        # 1.209, and 0.649
        [0, 0, 1, 0, 1, 0, 1, 0],
        id="Leaky",
    ),
    pytest.param(
        leaky(),
        "--like snntorch --reset zero",
        [0, 0, 1, 0, 0, 1, 0, 0],  # V is 0.5, 0.975, 1.426, 0.5, 0.975, 1.426, 0.5, 0.975
        id="Leaky zero",
    ),
    pytest.param(
        leaky(),
        "--like snntorch --reset none",
        [0, 0, 1, 1, 1, 1, 1, 1],  # once V is above 1 it stays there
        id="Leaky none",
    ),
]


@pytest.mark.parametrize(("graph", "flags", "spikes"), BY_HAND)
def test_flags_say_whose_network_a_nir_file_is_by_hand(tmp_path, graph, flags, spikes):
    """An event in each timestep, to one neuron, as a block and as a folder of C."""
    events = torch.ones(1, 8, 1, dtype=torch.int)
    of_block, of_folder = exported_spikes(tmp_path, graph, flags, events)
    assert of_block[0, :, 0].tolist() == spikes
    assert of_folder[0, :, 0].tolist() == spikes


def test_make_check_finds_a_network_that_was_read_differently(tmp_path):
    """Weights of the same file with another reset are not equal to golden.c."""
    nir.write(tmp_path / "net.nir", if_node(0.75))
    folders = {}
    for reset in ("zero", "subtract"):
        reading = {"like": "spikingjelly", "reset": reset}
        folders[reset], *_ = c_folder(tmp_path / "net.nir", None, reading=reading)
    mixed = folders["zero"] | {"weights.c": folders["subtract"]["weights.c"]}

    words = "recording 0, timestep 2, layer neuron, neuron 0: it spiked"
    with pytest.raises(UserError, match=words):
        check_here(mixed)


def test_an_export_says_how_a_nir_file_was_read(tmp_path):
    """A name that begins as names of C do stays as it is."""
    path = tmp_path / "network_1.nir"
    nir.write(path, leaky())
    flags = "--like snntorch --reset zero --no-reset_delay --dt 0.0001 --membrane_floor 1"
    how = (
        'read from "network_1.nir" with --like snntorch --dt 0.0001 --reset zero '
        "--no-reset_delay --membrane_floor 1.0: timesteps of 0.1 ms; neurons spike where V > "
        "threshold; after a spike V becomes the file's v_reset; V does not fall below -1 "
        "thresholds"
    )
    said = run_here("export", path, f"--to block {flags} --output", tmp_path / "net.snn")[1]
    assert how in said
    said = run_here("export", path, f"--to c {flags} --output", tmp_path / "digits")[1]
    assert how in said
    for name in ("README.md", "weights.h", "golden.c"):
        words = " ".join((tmp_path / "digits" / name).read_text().split())
        assert how in words, name
    said = run_here("export", path, "--to block --overwrite --output", tmp_path / "net.snn")[1]
    assert 'read from "network_1.nir" without flags: timesteps of 1 ms' in said
    assert "does not say who wrote it: --like nir|snntorch|norse|sinabs|spikingjelly sets" in said


@pytest.mark.parametrize("to", ["block", "c"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--like sinabs", "node 'neuron' sends several spikes in a timestep, as in sinabs"),
        (
            "--like snntorch --no-reset_delay",
            "subtracts its threshold as snnTorch does with reset_delay=False",
        ),
    ],
    ids=["sinabs", "snntorch"],
)
def test_neurons_that_c_does_not_know_are_not_exported_as_others(tmp_path, flags, words, to):
    nir.write(tmp_path / "net.nir", leaky())
    line = refused("export", tmp_path / "net.nir", f"--to {to} {flags}")
    assert words in line
    assert "which C does not know: it cannot be exported; wfeedback nir runs it" in line
    assert [path.name for path in tmp_path.iterdir()] == ["net.nir"]


def test_flags_that_read_a_nir_file_are_refused_for_a_checkpoint(tmp_path, trained):
    line = refused("export", trained.snn, "--to c --like snntorch --output", tmp_path / "c")
    assert f"--like says how a NIR file (.nir) is read, and {trained.snn} is none" in line
    flags = "--to nir --dt 1 --no-reset_delay --output"
    line = refused("export", trained.snn, flags, tmp_path / "n")
    assert "--dt, --reset_delay say how" in line
    assert not [*tmp_path.iterdir()]


def test_flags_of_images_are_refused_where_nothing_is_tried_on_images(tmp_path, trained):
    nir.write(tmp_path / "net.nir", if_node())
    for network, to in ((tmp_path / "net.nir", "c"), (trained.snn, "torch")):
        line = refused("export", network, f"--to {to} --dataset MNIST --output", tmp_path / "out")
        assert "--dataset: only a checkpoint by --to page, c, arduino is tried on images" in line


def test_a_class_of_ones_own_is_refused_for_a_nir_file(tmp_path):
    (tmp_path / "own.py").write_text("class Own:\n    pass\n")
    nir.write(tmp_path / "net.nir", if_node())
    line = refused("export", tmp_path / "net.nir", f"--to c --model {tmp_path}/own.py:Own")
    assert "is a NIR file, and --model is for checkpoints: leave it out" in line


def test_a_hint_can_be_followed_where_it_is_given(tmp_path):
    """Scripts name flags, and Python names arguments."""
    folder = tmp_path / "dt=1"  # looks like an argument, but must not be changed
    folder.mkdir()
    path = folder / "net.nir"
    nir.write(path, one_neuron(lif(tau=2e-4, r=2)))  # two timesteps of 0.1 ms

    what = f"{path}: node 'neuron': its time constant of 0.0002 s is shorter than dt, 0.001 s"
    for command in (["nir"], ["export", "--to block"]):
        line = refused(*command, path)
        assert line == f"error: {what}: give --dt 0.0001, or --like snntorch"
    with pytest.raises(ModelError) as error:
        load(path)
    assert str(error.value) == f"{what}: give dt=0.0001, or like='snntorch'"

    for flags in ("--dt 0.0001", "--like snntorch"):
        run_here("export", path, f"--to block --overwrite {flags}")
    assert load(path, dt=0.0001).dt == load(path, like="snntorch").dt


@pytest.mark.parametrize(
    ("weight", "spikes"),
    [
        (1.5, True),
        (0.004, True),  # needs 251 events in 40 timesteps
        (-1.0, False),
    ],
)
def test_golden_recordings_make_the_neurons_spike_if_they_can(tmp_path, weight, spikes):
    """Where none can help, as with a weight below 0, that is said."""
    path = tmp_path / "net.nir"
    neuron = nir.IF(r=float32(1), v_threshold=float32(1), v_reset=float32(0))
    nir.write(path, one_neuron(neuron, weight))

    _, *lines = c_folder(path, None)
    recordings, numbers, _ = golden_recordings(from_nir(path))

    note = (
        "note: in the recordings of golden.c no neuron of neuron spikes, "
        "so make check does not show how it resets"
    )
    assert (note not in lines) == spikes
    assert "checked here: equal: 3 recordings, 40 timesteps each, spike for spike" in lines
    output = from_nir(path)(recordings[numbers])
    assert bool(output.logits.all()) == spikes


# --- a full disk


class FullDisk:
    """Stand for os.fsync on a disk that is full at one file, counted from 1."""

    def __init__(self, full_at):
        self.full_at = full_at
        self.files = 0

    def __call__(self, descriptor):
        self.files += 1
        if self.files == self.full_at:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("to", ["c", "arduino"])
def test_a_full_disk_leaves_no_part_of_a_folder(to, tmp_path, monkeypatch):
    """So that the same command works once there is room."""
    files = {"README.md": "1", "src/a.c": "2", "src/b.c": "3"}
    monkeypatch.setitem(FORMATS, to, (f"_{to}", lambda *_, **__: (files, "three files")))
    checkpoint = HOME / "trained_models/snn/quick_feedback.pth"
    folder = tmp_path / "digits"
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", FullDisk(full_at=3))
        line = refused("export", checkpoint, f"--to {to} --output", folder)
    assert "digits: No space left on device; nothing of it was written" in line
    assert list(tmp_path.iterdir()) == []

    run_here("export", checkpoint, f"--to {to} --output", folder)
    assert (folder / "src/b.c").read_text() == "3"


def test_a_folder_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    """What is in it beside the files of the export stays for good."""
    folder = tmp_path / "c"
    write_folder(folder, {"a.c": "old", "in/b.c": "old"})
    (folder / "mine.txt").write_text("mine")
    before = digests(tmp_path)
    new = {"a.c": "new", "in/b.c": "new", "in/deep/c.c": "new"}
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", FullDisk(full_at=2))
        with pytest.raises(UserError, match="c: No space left on device; it is as it was"):
            write_folder(folder, new)
    assert digests(tmp_path) == before

    write_folder(folder, new)
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.*")}
    assert found == new | {"mine.txt": "mine"}


def test_an_export_is_checked_with_the_flags_that_round_sums_one_by_one(monkeypatch):
    """The check must not be the one program that a compiler may compute otherwise."""
    commands = []

    def refuse(folder, command):
        commands.append(command)
        raise OSError("no compiler")

    monkeypatch.setattr(wfeedback.export.c_folder, "run_compiler", refuse)
    said = wfeedback.export.c_folder.check_here({"check.c": "", "network.c": "", "weights.c": ""})
    assert said == "it cannot be checked (no compiler)"
    assert {*REQUIRED_FLAGS} <= {*commands[0]}
    assert "-shared" not in commands[0]
