"""A network in C: built by cc as it comes, spike for spike what Python gives, or the first difference by its name."""

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
from pathlib import Path
from types import SimpleNamespace

import nir
import numpy as np
import pytest
import torch
from conftest import BIAS, build, commands_in, digests, refused, run_here, run_make, spiked
from test_engines import drawn, networks
from test_integers import one_pixel

import harness.exporting.c_folder
import harness.exporting.c_golden
import self_models.engines.event.build
import self_models.engines.event.engine
from harness import UserError
from harness.exporting.c_build import CBuild, encode_events
from harness.exporting.c_folder import c_files, c_folder, c_tables, check_here, memory_needed
from harness.exporting.c_golden import golden_recordings, stable_inputs
from harness.exporting.formats import FORMATS, renamed
from harness.runs.saving import write_folder
from self_models import ModelError, first_difference, from_nir, load, load_data
from self_models.basics import HOME
from self_models.engines.event.build import FOLDER, REQUIRED_FLAGS, KernelBuild, Settings, library
from self_models.engines.event.engine import EventEngine
from self_models.engines.event.layout import lay_out
from self_models.engines.event.state import StatePool
from self_models.engines.event.tables import settings_of
from self_models.guests.quantize import IntegerSNN, quantize
from self_models.runtime.draws import EVALUATION, Draws, key_for
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, cc")
STRICT = "CFLAGS=-O1 -Wall -Wextra -Wconversion -Werror"
SANITISED = (
    f"{STRICT} -fsanitize=address,undefined -fno-sanitize-recover",
    "LDFLAGS=-fsanitize=address,undefined",
)
NUMBERS = [7, 2, 9, 0]  # of the images in golden.c


def pixels(model, count=4, seed=0):
    """Random images of bytes; in float32 those that are sent as they are black or white, so that sums of them are exact."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (count, *model.image_shape), generator=draw, dtype=torch.uint8)
    if not isinstance(model, IntegerSNN) and (
        model.settings["encoding"] == "direct" or model.settings.get("residual")
    ):
        x = (x > 128).to(torch.uint8) * 255
    return x * (torch.rand(x.shape, generator=draw) > 0.2)


def make_small(folder):
    """Whole numbers take memory before time, as where a pointer has 32 bits."""
    header = folder / "network.h"
    header.write_text(
        header.read_text().replace("#if UINTPTR_MAX <= 0xFFFFFFFF", "#if UINTPTR_MAX")
    )


def write(folder, model, compact=False, numbers=NUMBERS, small=True):
    """A folder of the model's, in which make was not called yet; returns the images in its golden.c."""
    folder.mkdir(exist_ok=True)
    x = pixels(model)
    for name, text in c_files(model, c_tables(model, compact), x, numbers, "small").items():
        (folder / name).write_text(text)
    if small:
        make_small(folder)
    return x


class Running:
    """A state of a network's, by the functions of network.h."""

    def __init__(self, model):
        self.model, self.pool = model, StatePool(library(), lay_out(model))
        self.kernel_state = self.pool.new(settings_of(model))
        self.state, self.size = self.kernel_state.struct, len(self.kernel_state.memory)

    def begin(self, settings, size):
        network, memory = ctypes.byref(self.pool.network), np.empty(size, np.uint8)
        return bool(
            self.pool.library.network_begin(
                network, ctypes.byref(settings), memory.ctypes.data, size
            )
        )

    def call(self, name, *values):
        return getattr(self.pool.library, f"network_{name}")(
            ctypes.c_void_p(self.kernel_state.address), *values
        )

    def changed(self, **changes):
        """The Settings of now with these changes."""
        settings = Settings.from_buffer_copy(self.state.settings)
        for name, value in changes.items():
            setattr(settings, name, value)
        return settings

    def show(self, image):
        """image: uint8 (C, H, W)"""
        return self.call("show", image.permute(1, 2, 0).contiguous().numpy().tobytes())

    def spikes(self, layers, steps):
        """Of each layer in each of the next steps, (steps, layers)."""
        return [
            [self.call("spikes", layer) for layer in layers]
            for _ in range(steps)
            if self.call("step") >= 0
        ]


def check(folder):
    return subprocess.run(["./check_network"], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def few_images(monkeypatch):
    """Of MNIST 40 test images; of other sets none are there."""

    def load_few(name, *args, **flags):
        if name != "MNIST":
            raise UserError(f"{name} is not there")
        train, selection, test = load_data(name, *args, **flags)
        return train, selection, test.part(0, 40)

    monkeypatch.setattr(harness.exporting.c_golden, "load_data", load_few)


def runs_in_c(number):
    """Whether C runs this random case of test_engines: an open gate, or one that blocks, of images."""
    case = drawn(number)
    return case["gate"] != "contrast" and not case["recorded"] and bool([*networks([number])])


def cases(count):
    """So many numbers of random cases that C runs."""
    return [*itertools.islice(filter(runs_in_c, itertools.count()), count)]


FORMS = ("folded", "compact", "int8")


@torch.no_grad()
def check_in_c(number, form, folder):
    """Compare the network of this random case, as C of this form, with Python.

    Spikes, potentials, logits and open pixels, one image after the other, and streaming; clean for both
    sanitisers. The compact form by plain loops, and with room for two windows of weights.
    """
    flags, is_compact = SANITISED, form == "compact"
    ((case, model),) = networks([number])
    model = quantize(model) if form == "int8" else model
    with pytest.MonkeyPatch.context() as patch:
        if is_compact:
            patch.setattr(harness.exporting.c_folder, "MOST_WINDOWS", 2)
            flags = f"{flags[0]} -DPLAIN", flags[1]
        x = write(folder, model, is_compact)
    done = run_make(folder, *flags)
    assert done.returncode == 0, done.stderr
    found = CBuild(folder, model)
    assert check(folder).stdout.startswith("equal: 4 images"), case
    record, tolerance = (
        dict.fromkeys(model.neurons(), ("spikes", "membrane")),
        0 if form == "int8" else 1e-4,
    )
    record |= {"input": "spikes"}
    output = model(x, seed=0, record=record)
    assert (
        first_difference(output, found(x, seed=0), tolerance=tolerance) is None
        and output.spikes["input"].any()
    ), case
    if (
        model.settings.get("max_pool") != "count"
        and not model.timing.is_phased
        and model.gate.follows_changes
    ):
        model.change(rule="never")
        stream, trace = (
            model.stream(seed=0),
            np.frombuffer(found.run(x, "-t", "-l", "-s", "3"), np.uint8),
        )
        for image, rows in zip(x, np.split(trace, len(x)), strict=True):
            wanted = stream(image[None], 3, record=record)
            assert first_difference(wanted, found.output(rows, 3), tolerance=tolerance) is None, (
                case
            )


@pytest.mark.parametrize(("number", "form"), [*zip(cases(15), itertools.cycle(FORMS))])
def test_same_spikes_and_pixels(tmp_path, number, form):
    """Each network in one of the forms.

    benchmarks/robustness/random_networks.py takes any number of networks in all forms.
    """
    check_in_c(number, form, tmp_path)


INTEL = platform.machine() in ("x86_64", "AMD64")


@pytest.mark.parametrize("flags", ["", "-O1 -DPLAIN", *["-O1 -mno-avx512f"] * INTEL])
@torch.no_grad()
def test_wide_layers(monkeypatch, flags):
    """512 channels that all spike at once, two groups of which reach others by nine weights, up to 31/16, which is 124 in whole
    numbers: 16 bits hold 264 of them. Windows of five, of 66 channels of the input; and layers that fill no whole vectors."""
    monkeypatch.setenv("CFLAGS", flags)
    monkeypatch.setattr(self_models.engines.event.build, "kernel_build", KernelBuild)
    monkeypatch.setattr(self_models.engines.event.engine, "library", library.__wrapped__)
    wide = build(
        VGG_SNN_STDB_wFeedback,
        plan=[[512, 64], []],
        image_shape=(1, 5, 6),
        fc_layers=0,
        timesteps=4,
    )
    wide.features[0].weight.data.fill_(1)
    wide.features[3].weight.data[32:, :400] = 31 / 16
    five = build(
        VGG_SNN_STDB_wFeedback,
        plan=[[16, 32], []],
        kernel_size=5,
        image_shape=(66, 5, 5),
        fc_layers=0,
    )
    odd = build(
        plan=[[17, "D", 67], [33, "U", 15, "in"]], fc_width=115, image_shape=(1, 9, 8), **BIAS
    )
    for whole in (wide, five, odd):
        for model in (whole, quantize(copy.deepcopy(whole))):
            x = pixels(model)
            output = model(x, seed=0)
            assert first_difference(
                output, EventEngine(model)(x, seed=0), tolerance=0
            ) is None and spiked(output)


@torch.no_grad()
def test_a_ceiling_holds_behind_the_reset_by_hand():
    """In whole numbers a bias of 2^29 + 64, and a pixel's weight and a threshold of 64: V is 2^29 + 64 after the first reset, and
    after the second 2^30 + 128, but for the ceiling of 2^30 - 1."""
    model = quantize(one_pixel(2**23 + 1))
    model.engine = EventEngine(model)
    stream, found = model.stream(), []
    for _ in range(3):
        stream(torch.ones(1, 1, 1, 1), 1)
        found.append(stream.state_dict()["membranes.features.1"].item())
    assert found == [2**29 + 64, 2**30 - 1, 2**30 - 1]


@torch.no_grad()
def test_a_floor_holds_in_a_state_that_was_loaded_by_hand():
    """From 10 above the floor: a white pixel takes 64 - 32 away, which the floor stops, a black one lets a bias of 32 add up. In
    a run from rest no step so early can be at the floor."""
    model = one_pixel(0.5)
    model.features[0].weight.data.fill_(-1.0)
    model = quantize(model)
    assert c_tables(model).nodes[1]["unbounded"] == (2**30 - 1) // 96
    for engine in (None, EventEngine(model)):
        model.engine = engine
        stream = model.stream()
        stream(torch.zeros(1, 1, 1, 1), 1)
        state = stream.state_dict()
        state["membranes.features.1"] += 10 - 2**30 + 1 - 32
        stream.load_state_dict(state)
        stream(torch.ones(1, 1, 1, 1), 1), stream(torch.zeros(1, 1, 1, 1), 3)
        assert stream.state_dict()["membranes.features.1"].item() == -(2**30) + 1 + 3 * 32, engine


def test_a_phased_network_answers_one_image_after_the_other_from_rest(tmp_path):
    model = build(update="phased", epsilon=0.0)
    x, run = write(tmp_path, model), Running(model)
    run_make(tmp_path, STRICT)
    with pytest.raises(ModelError, match="-l: this network answers one image after the other"):
        CBuild(tmp_path, model).run(x, "-l")
    run.call("reset", 0, 0, 0)
    assert not run.call("streams") and run.show(x[0])
    before = run.kernel_state.pixels("image").copy()
    assert not run.show(x[1]) and np.array_equal(run.kernel_state.pixels("image"), before)
    run.call("reset", 0, 0, 1)
    assert run.show(x[1]) and not np.array_equal(run.kernel_state.pixels("image"), before)


@torch.no_grad()
def test_the_decoder_can_be_left_out_from_the_next_timestep_on():
    """In C; in Python another stream, whose gate is open, goes on from the state so far. A decoder that is off does not spike."""
    model = build(residual=True, readout="membrane")
    x, run = pixels(model), Running(model)
    layers = [n for n, name in enumerate(model.layers) if not name.startswith("generate")]
    stream, found, wanted = model.stream(), [], []

    def look(image):
        run.show(image)
        found.append(run.spikes(layers, 4))
        wanted.append(
            torch.cat([*stream(image[None], 4).spikes_by_step.values()], 1)[:, layers].tolist()
        )

    run.call("reset", *key_for(0, "input"), 0)
    look(x[0])
    run.call("set", ctypes.byref(run.changed(feedback=0)))
    state, stream = stream.state_dict(), model.change(gate="open").stream()
    stream.load_state_dict(state)
    for image in x:
        look(image)
    assert found == wanted


@torch.no_grad()
def test_what_a_network_has_not_is_refused_and_changes_nothing():
    """Settings, events of an input whose neurons spike or not, and memory that is too small."""
    plain, values = (
        build(plan=[[4, "D", 6], []], epsilon=0.0),
        build(encoding="direct", residual=True),
    )
    for model, takes in ((plain, 0), (values, 1)):
        x, run = pixels(model), Running(model)
        for change in ({"feedback": 1}, {"residual": 1}, {"encoding": 1}):
            settings, before = run.changed(**change), bytes(run.state.settings)
            assert (
                run.begin(settings, run.size) == run.call("set", ctypes.byref(settings)) == takes
            )
            assert bytes(run.state.settings) == (bytes(settings) if takes else before)
        assert run.begin(run.changed(), run.size) and not run.begin(run.changed(), run.size - 1)
        run.call("reset", 0, 0, 0)
        run.show(x[0])
        for number in (-1, run.state.pixels, 2**31 - 1):
            assert not run.call("arrive", (ctypes.c_int32 * 2)(3, number), 2), number
        events = (ctypes.c_int32 * 2)(3, 3)
        assert run.call("arrive", events, 2) == takes
        found = [run.spikes([0], 1)[0][0] for _ in range(2)]
        assert (found[0] == 1) == takes and found[1] > 1, (
            "events arrive in one timestep, and the image is seen in the others"
        )


def test_an_image_behind_events_is_sent_by_its_values():
    """Behind a timestep in which events arrive, each worth 1: here none do, so it is as a timestep without an image."""
    model, found = build(encoding="direct", epsilon=0.0), []
    for has_events in (False, True):
        run = Running(model)
        run.call("reset", 0, 0, 0)
        assert not has_events or run.call("arrive", (ctypes.c_int32 * 1)(), 0)
        run.call("step")
        run.show(torch.full(model.image_shape, 100, dtype=torch.uint8))
        run.call("step")
        found.append(run.kernel_state.potentials(1).copy())
    assert np.array_equal(*found) and found[0].any()


MAIN = """
int main(void)
{
    const char *const names[] = N2_DIGITS_CLASS_NAMES;
    int n;
    for (n = 0; n < N2_DIGITS_CLASSES; n++)
        puts(names[n]);
    for (n = 0; n < 4; n++)
        printf("%d %d\\n", n2_digits_classify(images + n * sizeof images / 4), other_classify(images + n * sizeof images / 4));
    return 0;
}
"""


def on_the_page():
    """The parts of programs that the page has."""
    return re.findall(r"```c\n(.*?)```", (HOME / "docs/how_to/c_export.md").read_text(), re.DOTALL)


def test_a_program_opens_several_files_as_on_the_page(tmp_path):
    image = load_data("MNIST", limit_test=1)[2].images
    files = "quick_feedback.snn", "quick_baseline.snn", "main.c"
    calls = " ".join(f'printf("%d\\n", classify("{name}", pixels, 784, 0));' for name in files)
    pixels = f"const uint8_t pixels[] = {{{', '.join(map(str, image.flatten().tolist()))}}};"
    (tmp_path / "main.c").write_text(f"{on_the_page()[2]}\n{pixels} int main(void) {{ {calls} }}")
    for name in ("quick_feedback", "quick_baseline"):
        run_here("export", name, "--to block --output", tmp_path / f"{name}.snn")
    sources = [FOLDER / "network.c", FOLDER / "block.c", "main.c", f"-I{FOLDER}"]
    subprocess.run(
        ["cc", "-std=c99", "-ffp-contract=off", "-O1", *sources, "-lm", "-o", "main"],
        cwd=tmp_path,
        check=True,
    )
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["7", "7", "-1"] and done.stderr == "main.c: it is no network\n"


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
    const char *why = network_open(block, fread(block, 1, sizeof block, file), &network, &settings);
    for (int most = 0; most < 2; most++) {
        left = most;
        printf("%d\\n", classify(argv[argc - 1], pixels, 784, 0));
    }
    printf("%d %d\\n", !why, !network_begin(&network, &settings, NULL, network_size(&network)));
    return 0;
}
"""


def test_without_memory_nothing_begins(tmp_path):
    """The page's program says so where malloc gives none, and network_begin returns 0 for no memory, instead of writing there."""
    (tmp_path / "main.c").write_text(f"{SCARCE}{on_the_page()[2]}{WITHOUT_MEMORY}")
    run_here("export", "quick_feedback --to block --output", tmp_path / "one.snn")
    words = ["-std=c99", "-ffp-contract=off", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    sources = [FOLDER / "network.c", FOLDER / "block.c", "main.c", f"-I{FOLDER}"]
    subprocess.run(["cc", *words, *sources, "-lm", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main", "one.snn"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "-1\n-1\n1 1\n"), done
    assert done.stderr == "one.snn: it is empty, or too large for the memory\none.snn: no memory\n"


def test_networks_link_into_one_program_as_on_the_page(tmp_path):
    """One in float32 and one in whole numbers, in C and in C++, beside names of an Arduino core. A folder's name may be no word
    of C; classes may have any name."""
    networks = {
        "2 digits": build(timesteps=7, fc_layers=1),
        "OTHER": quantize(build(timesteps=7, fc_layers=0)),
    }
    networks["2 digits"].classes = names = ["network_cable", 'a "b"??/\\', "Kä", *"3456789"]
    page, settings, _ = on_the_page()
    page = re.sub(
        "(?<= )(?=memory|classify)",
        "network_",
        f"{page}\nvoid network_own(DigitsState *run)\n{{\n{settings}}}\n",
    )
    for form in (str.lower, str.upper, str.title):
        page = re.sub(rf"\b{form('digits')}(?!/)", form("network"), page)
    text, objects = "#define OUTPUT 1\n#include <stdio.h>\n", []
    for folder, model in networks.items():
        x = write(tmp_path / folder, model, small=False)
        for name, text_of in renamed(
            {path.name: path.read_text() for path in (tmp_path / folder).iterdir()}, folder
        ).items():
            (tmp_path / folder / name).write_text(text_of)
        text += renamed({"": page.replace("digits/", f"{folder}/")}, folder)[""]
        goals = ["CFLAGS=-O1", "network.o", "weights.o"]
        subprocess.run(["make", *goals], cwd=tmp_path / folder, check=True)
        objects += [f"{folder}/network.o", f"{folder}/weights.o"]
    wanted = [
        " ".join(
            str(model(one[None], seed=0).logits.argmax().item()) for model in networks.values()
        )
        for one in x
    ]
    assert len({*wanted}) == 4
    text += (
        f"static const uint8_t images[] = {{{', '.join(map(str, x.flatten().tolist()))}}};\n{MAIN}"
    )
    for compiler, file in (("cc -std=c99 -pedantic", "main.c"), ("c++", "main.cpp")):
        (tmp_path / file).write_text(text)
        command = [
            *compiler.split(),
            "-Wall",
            "-Wextra",
            "-Werror",
            file,
            *objects,
            "-lm",
            "-o",
            "main",
        ]
        subprocess.run(command, cwd=tmp_path, check=True)
        assert (
            subprocess.check_output([tmp_path / "main"], text=True).splitlines() == names + wanted
        )


def test_golden_images_are_free_of_ties_in_all_timesteps():
    """A second network stands for other roundings: weights a little off, in images that the rule ends before they tell."""
    model, other = (
        build(VGG_SNN_STDB_wFeedback, rule="confidence", gap_bound=0.0, on_grid=False)
        for _ in range(2)
    )
    other.features[0].weight.data *= 1 + 1e-4
    x = pixels(model, 30)
    model.engine = SimpleNamespace(
        serves=lambda: True, run=lambda *args, **flags: other.change(rule="never")(*args, **flags)
    )
    free, model.engine = stable_inputs(model, x), None
    runs = [each.change(rule="never")(x, seed=0).spikes_by_step for each in (model, other)]
    spikes = [torch.stack([*run.values()]) for run in runs]
    same = (spikes[0] == spikes[1]).all(0)  # (T, B)
    assert (
        free == same.all(0).nonzero().flatten().tolist() and 0 < same.all(0).sum() < same[0].sum()
    )


@torch.no_grad()
def test_first_difference_names_a_weight_changed_by_hand(tmp_path):
    model = build(timesteps=7, fc_width=12)
    x = write(tmp_path, model, numbers=range(4))
    other = copy.deepcopy(model)
    other.features[3].weight.data[0, 0, 1, 1] += 2
    (tmp_path / "weights.c").write_text(
        c_files(other, c_tables(other), x, range(4), "small")["weights.c"]
    )
    run_make(tmp_path, STRICT)
    difference = first_difference(model, CBuild(tmp_path, model), x)
    with pytest.raises(
        UserError, match=r"its C is not equal to step\(\), a fault of this program"
    ) as said:
        check_here({path.name: path.read_text() for path in tmp_path.glob("*.[ch]")})
    words = r"differs: image (\d+), timestep (\d+), layer features\.4, neuron \d+: it .* here; potential after the timestep (.*)"
    image, step, potential = re.search(words, str(said.value)).groups()
    assert (difference.image, difference.step, difference.layer) == (
        int(image),
        int(step),
        "features.4",
    )
    assert float(potential) in difference.potentials and check(tmp_path).returncode == 1


def played(folder, board):
    """What `make qemu` writes, and (flash, mean instructions, least, most, RAM, stack); skips without the board's tools."""
    done = subprocess.run(["make", f"qemu_{board}"], cwd=folder, capture_output=True, text=True)
    if "untried" in done.stdout or "tools are missing" in done.stderr:
        pytest.skip(done.stdout or done.stderr)
    words = r"flash: (\d+) bytes; instructions per \w+: (\d+) \((\d+) to (\d+)\); RAM: (\d+) bytes, and (\d+) of stack"
    found = re.search(words, done.stdout)
    return done, [*map(int, found.groups())] if found else None


ON_BOARDS = [
    {"image_shape": (3, 8, 12), "encoding": "direct", "leak": 0.9},
    {"residual": True, "blocking": "dynamic"},
    {"rule": "entropy", "cls": AdaptiveTimestepsSNN},
    {"plan": [[20, "D", 9, "M"], ["U", "U", "in"]], "max_pool": "count"},
    {"plan": [[6, "A", 40, "D"], ["U", 4, "U", "in"]]},
]


@torch.no_grad()
def test_files_of_one_program_may_have_other_flags(tmp_path):
    """Of int8 one is built for this processor, and might take more memory than the other gives."""
    write(tmp_path, quantize(build(timesteps=7, fc_width=12, on_grid=False)), small=False)
    for flags in (
        ["network.o", f"{SANITISED[0]} -march=native --param=asan-stack=0"],
        ["check", *SANITISED],
    ):
        done = subprocess.run(["make", *flags], cwd=tmp_path, capture_output=True, text=True)
    assert "equal: 4 images" in done.stdout, done.stderr


@torch.no_grad()
def test_potentials_have_sixteen_bits_where_they_surely_fit():
    """Nine equal weights, all of whose inputs spike in each timestep: 32,767 is the largest sum, with that of the start. Beyond,
    they saturate. Two pixels of 255 and a weight of 64 make 32,640; a residual is up to twice as large as a pixel."""
    for more, start in ((0, 0.0), (1, 0.0), (0, 0.5)):
        own = {"default_threshold": 50.0, "initial_potential": start}
        model = build(plan=[[2, "M"], []], image_shape=(1, 6, 6), epsilon=0.0, **own)
        model.features[0].weight.fill_(1)
        weight = int(quantize(model).features[0].weight.max())
        model.change(timesteps=32_767 // (9 * weight) + more)
        assert c_tables(quantize(model)).nodes[1]["narrow"] == (not more and not start)
    for residual in (False, True):
        own = {
            "image_shape": (1, 6, 6),
            "kernel_size": 1,
            "encoding": "direct",
            "timesteps": 2,
            "default_threshold": 0.5,
        }
        model = build(plan=[[1], ["in"]], residual=residual, **own)
        model.features[0].weight.fill_(1)
        assert c_tables(quantize(model)).nodes[1]["narrow"] == (not residual)
    folded = c_tables(load(HOME / "trained_models/snn/quick_feedback.pth", weights="int8_folded"))
    assert folded.nodes["narrow"][1:4].all() and memory_needed(folded).ram < 73e3


@pytest.mark.parametrize("board", ["m4", "m7", "m33", "rv32"])
@torch.no_grad()
def test_microcontrollers(tmp_path, board):
    write(tmp_path, model := build(timesteps=7, fc_width=12))
    done, figures = played(tmp_path, board)
    assert done.returncode == 0 and "equal: 4 images, 7 timesteps each" in done.stdout, (
        done.stdout + done.stderr
    )
    flash, mean, least, most, ram, stack = figures
    assert 0 < least <= mean <= most and 200 < stack < 3000
    expected = memory_needed(c_tables(model))
    assert abs(ram - expected.ram) < 100 and expected.flash < flash < expected.flash + 40e3


@pytest.mark.parametrize("board", ["m4", "rv32"])
def test_a_nir_network_on_microcontrollers(tmp_path, board):
    folder = tmp_path / "c"
    run_here("export", "examples/nmnist.nir --to c --output", folder)
    done, (flash, _, _, _, ram, stack) = played(folder, board)
    assert done.returncode == 0 and "equal: 3 recordings, 40 timesteps each" in done.stdout, (
        done.stdout + done.stderr
    )
    assert 76e3 < flash < 120e3 and 65e3 < ram < 75e3 and stack < 3000


CALLED = {
    "memcpy",
    "memset",
    "memmove",
    "__popcountsi2",
}  # of the compiler and its library, by int8 on a Cortex-M4


@pytest.mark.parametrize("fold", [False, True], ids=["", "folded"])
@pytest.mark.parametrize("settings", ON_BOARDS, ids=str)
@torch.no_grad()
def test_int8_on_a_cortex_m4_needs_no_libm_no_double_and_no_allocation(tmp_path, settings, fold):
    """By its instructions for two or four numbers of 8 or 16 bits at once."""
    write(
        tmp_path,
        quantize(build(timesteps=7, fc_width=12, on_grid=False, **settings), fold),
    )
    done, (*_, stack) = played(tmp_path, "m4")
    assert "equal" in done.stdout and stack < 2000
    for part in ("network", "weights"):
        command = ["arm-none-eabi-nm", "-u", f"m4_{part}.o"]
        named = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.split()
        assert {*named} - {"U"} <= CALLED, part


ARDUINO_H = """
#include <cstdint>
#include <cstdlib>
#include <iostream>
static struct {
    void begin(long) {}
    template <typename Any> void print(Any value) { std::cout << value; }
    template <typename Any = const char *> void println(Any value = "") { std::cout << value << '\\n'; }
} Serial;
static unsigned long millis() { return 0; }
static void delay(long) { static int calls; if (++calls == 2) exit(0); }
"""


@torch.no_grad()
def test_arduino_library(tmp_path):
    """By this stub of Arduino.h in place of a board's."""
    model, images = build(timesteps=7, fc_width=12), pixels(build())
    for name, text in c_files(
        model, c_tables(model), images, NUMBERS, "small", arduino=True
    ).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert "name=small" in (tmp_path / "library.properties").read_text()
    (tmp_path / "Arduino.h").write_text(ARDUINO_H)
    (tmp_path / "main.cpp").write_text(
        '#include "Arduino.h"\n#include "Digits.ino"\nint main() { setup(); for (;;) loop(); }\n'
    )
    build_c = "for part in network weights; do cc -c -O1 -Wall -Wextra -Wconversion -Werror src/$part.c -o $part.o || exit; done; "
    build_cpp = "c++ -Wall -Wextra -Wno-unused-variable -Werror -Isrc -I. -Iexamples/Digits main.cpp *.o -o sketch"
    subprocess.run(["sh", "-c", f"{build_c}{build_cpp}"], cwd=tmp_path, check=True)
    *drawn, last = subprocess.run(
        [tmp_path / "sketch"], capture_output=True, text=True
    ).stdout.splitlines()
    output = model(images, draws=Draws(0, EVALUATION, torch.tensor(NUMBERS)))
    spikes, answer = int(sum(output.spikes.values())[1]), model.classes[output.logits[1].argmax()]
    assert last == f"class {answer}, timesteps 7, spikes {spikes}, milliseconds 0"
    levels = [" .:-=+*#%@".index(one) for one in drawn[-model.image_shape[1]].split(" | ")[0]]
    assert levels == (images[1, 0, 0].double() / 255 * 10).long().clamp(max=9).tolist()


def test_a_program_whose_network_does_not_begin_says_so(tmp_path):
    """Here for want of memory, as if the programs had been built for another machine."""
    write(tmp_path, build())
    weights = tmp_path / "weights.h"
    text = re.sub(r"#define NETWORK_BYTES .*", "#define NETWORK_BYTES 64", weights.read_text())
    weights.write_text(text)
    assert run_make(tmp_path, STRICT).returncode == 0
    words = "the network does not begin, see network_begin in network.h\n"
    done = check(tmp_path)
    assert (done.returncode, done.stdout) == (1, f"differs: {words}")
    done = subprocess.run(["./run"], cwd=tmp_path, input="", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", words)


def test_what_run_cannot_read_is_refused(tmp_path):
    write(tmp_path / "c", model := build())
    run_make(tmp_path / "c", STRICT)
    runner, x = CBuild(tmp_path / "c", model), pixels(model)
    refusals = {
        "-s 0": "is not a number from 1 to 2147483647",
        "-s 3.7": "-s 3.7 is not a whole number",
        "-z 1": "usage",
    }
    for option, words in refusals.items():
        done = subprocess.run(
            [runner.folder / "run", *option.split()], input="", capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (
            2,
            "",
            1,
        ) and words in done.stderr, option
    done = subprocess.run(
        [runner.folder / "run"], input=bytes(x[0].numel() + 9), capture_output=True
    )
    assert (
        done.returncode == 2
        and len(done.stdout.splitlines()) == 1
        and b"the last one has 9: it is left out" in done.stderr
    )
    same = runner.run(x, "-n", "2", "-k", "1000", "4294967295")
    assert runner.run(x, "-n", "0x2", "-k", "1e3", "0xffffffff") == same
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [runner.folder / "run"], input=x.numpy().tobytes(), stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2 and done.stderr == b"not all could be written: is the disk full?\n"
    with pytest.raises(ModelError, match="numbers that follow each other"):
        runner(x, draws=Draws(0, EVALUATION, torch.tensor([0, 2, 3, 4])))
    with pytest.raises(ModelError, match="images of a C build must be uint8"):
        runner.run(x.float())


def test_a_committed_network_takes_the_memory_that_is_said(tmp_path, few_images):
    said = run_here("export", "quick_feedback --to c --weights int8 --output", tmp_path / "c")[1]
    make_small(tmp_path / "c")
    subprocess.run(
        ["make", "all", STRICT.replace("O1", "O2")],
        cwd=tmp_path / "c",
        check=True,
        capture_output=True,
    )
    assert "accuracy on 40 test images" in said
    flash, ram = re.search(r"memory: (.*) of flash .*; (.*) of RAM", said).groups()
    size = subprocess.run(
        ["size", "network.o", "weights.o", "run"],
        cwd=tmp_path / "c",
        capture_output=True,
        text=True,
    ).stdout
    (code, *_), (text, *_), (_, _, bss) = (
        map(int, line.split()[:3]) for line in size.splitlines()[1:]
    )
    assert np.allclose(
        [value_of(flash), value_of(ram)], [text, bss], rtol=0.03
    )  # pointers of 64 bits are larger
    assert code + text < 532e3


def value_of(size):
    number, unit = size.split()
    return float(number) * {"MB": 1e6, "kB": 1e3}[unit]


@pytest.mark.parametrize("page", ["c_export", "microcontroller"])
def test_the_commands_of_the_pages_run(tmp_path, few_images, page):
    """The float32 network that is built is a smaller one than the page's: its weights take gcc 15 s less."""
    for _, (*words, name) in commands_in(f"docs/how_to/{page}.md"):
        if "c" in words and "--weights" not in words:
            words = [word.replace("quick_feedback", "tiny_feedback") for word in words]
        run_here("export", *words, tmp_path / name)
        if "c" in words:
            done = run_make(tmp_path / name, "CFLAGS=-O1", goals=("check", "all"))
            assert done.returncode == 0 and "equal: " in done.stdout, done.stdout + done.stderr


def test_a_network_without_golden_images_is_refused(tmp_path, trained, few_images, monkeypatch):
    monkeypatch.setattr(harness.exporting.c_folder, "stable_inputs", lambda *_: [])
    assert "in each of 30 images rounding decides a spike" in refused(
        "export", trained.snn, "--to c --output", tmp_path / "c"
    )
    assert not (tmp_path / "c").exists()


def test_a_folder_of_other_files_is_not_replaced(tmp_path, trained, few_images, monkeypatch):
    monkeypatch.setattr(harness.exporting.c_folder, "check_here", lambda files: "equal")
    run_here("export", trained.snn, "--to c --output", tmp_path / "c")
    (tmp_path / "c" / "mine.txt").write_text("mine")
    before = digests(tmp_path)
    assert "other files" in refused("export", trained.snn, "--to c --overwrite --output", tmp_path)
    assert digests(tmp_path) == before
    run_here("export", trained.snn, "--to c --overwrite --weights int8 --output", tmp_path / "c")
    assert (tmp_path / "c" / "mine.txt").read_text() == "mine" and "#define C_INT8" in (
        tmp_path / "c" / "network.h"
    ).read_text()


# --- networks of NIR files, read as flags say

OPENED = """
#include "network.h"
#include <stdio.h>
#include <stdlib.h>

/* ./opened BLOCK: reads of each timestep the count and the numbers of its events, writes the outputs' sums. */
int main(int argc, char **argv)
{
    NetworkTables network;
    NetworkSettings settings;
    static char block[1 << 20];
    static int32_t events[1 << 16];
    int32_t count;
    FILE *file = fopen(argv[argc - 1], "rb");
    const char *why = network_open(block, fread(block, 1, sizeof block, file), &network, &settings);
    size_t size = why ? 0 : network_size(&network);
    NetworkState *run = why ? NULL : network_begin(&network, &settings, malloc(size), size);
    if (!run)
        return 2;
    network_reset(run, 0, 0, 0);
    while (fread(&count, 4, 1, stdin) == 1) {
        network_arrive(run, events, (int32_t)fread(events, 4, (size_t)count, stdin));
        network_step(run);
        fwrite(run->logits, 4, (size_t)run->classes, stdout);
    }
    return 0;
}
"""
SCRATCH = tempfile.TemporaryDirectory()  # of what is compiled once; removed when Python ends
QUICKLY = ["cc", "-std=c99", "-ffp-contract=off", "-O0", "-DPLAIN"]


@functools.cache
def program_for_blocks():
    """The path of OPENED as a program, which is compiled once."""
    folder = Path(SCRATCH.name)
    (folder / "opened.c").write_text(OPENED)
    sources = [FOLDER / "network.c", FOLDER / "block.c", folder / "opened.c", f"-I{FOLDER}"]
    subprocess.run([*QUICKLY, *sources, "-lm", "-o", folder / "opened"], check=True)
    return folder / "opened"


@functools.cache
def kernel_object(text):
    """The path of network.o for a folder whose network.h has this text; compiled once."""
    folder = Path(SCRATCH.name, "net")
    folder.mkdir()
    for path in FOLDER.glob("*.[ch]"):
        (folder / path.name).write_text(renamed({"": path.read_text()}, "net")[""])
    assert (folder / "network.h").read_text() == text
    subprocess.run([*QUICKLY, "-c", "network.c"], cwd=folder, check=True)
    return folder / "network.o"


def block_spikes(path, events):
    """What the outputs of a block send (B, T, outputs), for events (B, T, N), whole numbers."""
    sent = []
    for recording in events:
        words = []
        for counts in recording.flatten(1):
            numbers = np.repeat(np.arange(len(counts)), counts)
            words += [len(numbers), *numbers]
        given = np.array(words, "<i4").tobytes()
        done = subprocess.run([program_for_blocks(), path], input=given, capture_output=True)
        assert done.returncode == 0, done
        sums = np.frombuffer(done.stdout, "<f4").reshape(len(recording), -1)
        sent.append(np.diff(sums, axis=0, prepend=0))
    return np.array(sent)


def folder_spikes(folder, events):
    """The same of a folder of C that is called net, whose run is made at once."""
    shutil.copy(kernel_object((folder / "network.h").read_text()), folder)
    flags = " ".join(QUICKLY[3:])
    subprocess.run(["make", "-s", "-C", folder, "run", f"CFLAGS={flags}"], check=True)
    steps = events.shape[1]
    done = subprocess.run(
        [folder / "run", "-t", "-s", str(steps)], input=encode_events(events), capture_output=True
    )
    rows = np.frombuffer(done.stdout, np.uint8).reshape(len(events) * steps, -1)
    outputs = int(re.search(r"_CLASSES (\d+)", (folder / "weights.h").read_text())[1])
    sums = np.frombuffer(rows[:, -1 - 4 * outputs : -1].tobytes(), "<f4")  # before is_last
    return np.diff(sums.reshape(len(events), steps, outputs), axis=1, prepend=0)


def exported_spikes(folder, graph, flags, events):
    """What a NIR graph's outputs send (B, T, outputs) as a block and as a folder of C, read with these flags; see block_spikes."""
    nir.write(folder / "net.nir", graph)
    run_here("export", folder / "net.nir", f"--to block {flags} --output", folder / "net.snn")
    run_here("export", folder / "net.nir", f"--to c {flags} --output", folder / "net")
    return block_spikes(folder / "net.snn", events), folder_spikes(folder / "net", events)


def of(*values):
    return np.array(values, np.float32)


def one_neuron(neuron, weight=0.5):
    """A graph of an input, a weight, and a neuron."""
    nodes = {
        "input": nir.Input(np.array([1])),
        "weight": nir.Linear(of([weight])),
        "neuron": neuron,
        "output": nir.Output(np.array([1])),
    }
    return nir.NIRGraph(nodes, [*itertools.pairwise(nodes)], type_check=False)


def if_node(weight=0.5):
    """IFNode(v_reset=0.) as SpikingJelly writes it."""
    return one_neuron(nir.IF(r=of(1e4), v_threshold=of(1), v_reset=of(0)), weight)


def leaky(beta=0.95):
    """Leaky(beta) as snnTorch writes it."""
    gain = 1 / (1 - beta)
    tau = 1e-4 * gain
    return one_neuron(nir.LIF(of(tau), of(gain), v_leak=of(0), v_threshold=of(1), v_reset=of(0)))


BY_HAND = {
    # V is 0.5, then 1, at which it spikes, and 0 again
    "IFNode": (if_node(), "--like spikingjelly", [0, 1, 0, 1, 0, 1, 0, 1]),
    # r is read as 10,000: it spikes at once, each time
    "IFNode without flags": (if_node(), "", [1] * 8),
    # V is 0.75, 1.5, 1.25, 1, 0.75, 1.5, 1.25, 1: each spike takes 1 from it
    "IFNode(v_reset=None)": (
        if_node(0.75),
        "--like spikingjelly --reset subtract",
        [0, 1, 1, 1, 0, 1, 1, 1],
    ),
    # V is 0.5, 0.975, 1.426; 0.95 * 1.426 + 0.5 - 1 is 0.855, 1.312; then 0.746, 1.209, and 0.649
    "Leaky": (leaky(), "--like snntorch", [0, 0, 1, 0, 1, 0, 1, 0]),
    # V is 0.5, 0.975, 1.426, 0.5, 0.975, 1.426, 0.5, 0.975
    "Leaky zero": (leaky(), "--like snntorch --reset zero", [0, 0, 1, 0, 0, 1, 0, 0]),
    # once above 1 it stays there
    "Leaky none": (leaky(), "--like snntorch --reset none", [0, 0, 1, 1, 1, 1, 1, 1]),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_flags_say_whose_network_a_nir_file_is_by_hand(tmp_path, case):
    """An event in each timestep, to one neuron, as a block and as a folder of C."""
    graph, flags, spikes = BY_HAND[case]
    for found in exported_spikes(tmp_path, graph, flags, torch.ones(1, 8, 1, dtype=torch.int)):
        assert found[0, :, 0].tolist() == spikes


def test_make_check_finds_a_network_that_was_read_differently(tmp_path):
    """The weights of the same file, read for another simulator, are not equal to golden.c."""
    nir.write(tmp_path / "net.nir", if_node(0.75))
    folders = [
        c_folder(tmp_path / "net.nir", None, reading={"like": "spikingjelly", "reset": reset})[0]
        for reset in ("zero", "subtract")
    ]
    zero, subtract = folders
    with pytest.raises(
        UserError, match="recording 0, timestep 2, layer neuron, neuron 0: it spiked"
    ):
        check_here(zero | {"weights.c": subtract["weights.c"]})


def test_an_export_says_how_a_nir_file_was_read(tmp_path):
    """A name that begins as names of C do stays as it is."""
    path = tmp_path / "network_1.nir"
    nir.write(path, leaky())
    flags = "--like snntorch --reset zero --no-reset_delay --dt 0.0001 --membrane_floor 1"
    how = (
        'read from "network_1.nir" with --like snntorch --dt 0.0001 --reset zero '
        "--no-reset_delay --membrane_floor 1.0: timesteps of 0.1 ms; neurons spike where V > "
        "threshold; after a spike V becomes the file's v_reset; V does not fall below -1 thresholds"
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


UNKNOWN_TO_C = {
    "--like sinabs": "node 'neuron' sends several spikes in a timestep, as in sinabs",
    "--like snntorch --no-reset_delay": "subtracts its threshold as snnTorch does with reset_delay=False",
}


@pytest.mark.parametrize("to", ["block", "c"])
@pytest.mark.parametrize("flags", UNKNOWN_TO_C)
def test_neurons_that_c_does_not_know_are_not_exported_as_others(tmp_path, to, flags):
    nir.write(tmp_path / "net.nir", leaky())
    line = refused("export", tmp_path / "net.nir", f"--to {to} {flags}")
    assert UNKNOWN_TO_C[flags] in line
    assert "which C does not know: it cannot be exported; wfeedback nir runs it" in line
    assert [path.name for path in tmp_path.iterdir()] == ["net.nir"]


def test_flags_that_read_a_nir_file_are_refused_for_a_checkpoint(tmp_path, trained):
    line = refused("export", trained.snn, "--to c --like snntorch --output", tmp_path / "c")
    assert f"--like says how a NIR file (.nir) is read, and {trained.snn} is none" in line
    line = refused(
        "export", trained.snn, "--to nir --dt 1 --no-reset_delay --output", tmp_path / "n"
    )
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
    """A time constant of two timesteps of 0.1 ms: as flags in scripts, as arguments in Python; a folder's name is not changed."""
    folder = tmp_path / "dt=1"
    folder.mkdir()
    nodes = one_neuron(nir.LIF(of(2e-4), of(2), v_leak=of(0), v_threshold=of(1), v_reset=of(0)))
    nir.write(folder / "net.nir", nodes)
    what = f"{folder}/net.nir: node 'neuron': its time constant of 0.0002 s is shorter than dt, 0.001 s"
    for command in (["nir"], ["export", "--to block"]):
        line = refused(*command, folder / "net.nir")
        assert line == f"error: {what}: give --dt 0.0001, or --like snntorch"
    with pytest.raises(ModelError) as found:
        load(folder / "net.nir")
    assert str(found.value) == f"{what}: give dt=0.0001, or like='snntorch'"
    for flags in ("--dt 0.0001", "--like snntorch"):
        run_here("export", folder / "net.nir", f"--to block --overwrite {flags}")
    assert load(folder / "net.nir", dt=0.0001).dt == load(folder / "net.nir", like="snntorch").dt


@pytest.mark.parametrize(("weight", "spikes"), [(1.5, True), (0.004, True), (-1.0, False)])
def test_golden_recordings_make_the_neurons_spike_if_they_can(tmp_path, weight, spikes):
    """A weight of 0.004 needs 251 events in 40 timesteps, and one below 0 none can help: that is said."""
    nir.write(tmp_path / "net.nir", one_neuron(nir.IF(of(1), of(1), of(0)), weight))
    _, *lines = c_folder(tmp_path / "net.nir", None)
    recordings, numbers, _ = golden_recordings(from_nir(tmp_path / "net.nir"))
    note = "note: in the recordings of golden.c no neuron of neuron spikes, so make check does not show how it resets"
    assert (note not in lines) == spikes
    assert "checked here: equal: 3 recordings, 40 timesteps each, spike for spike" in lines
    assert bool(from_nir(tmp_path / "net.nir")(recordings[numbers]).logits.all()) == spikes


# --- a full disk


def disk_full_at(count):
    """os.fsync for a disk that is full at the count-th file."""
    calls = []

    def fsync(_):
        calls.append(1)
        if len(calls) == count:
            raise OSError(errno.ENOSPC, "No space left on device")

    return fsync


@pytest.mark.parametrize("to", ["c", "arduino"])
def test_a_full_disk_leaves_no_part_of_a_folder(to, tmp_path, monkeypatch):
    """So that the same command works once there is room."""
    files = {"README.md": "1", "src/a.c": "2", "src/b.c": "3"}
    monkeypatch.setitem(FORMATS, to, (f"_{to}", lambda *_, **__: (files, "three files")))
    flags = (HOME / "trained_models/snn/quick_feedback.pth", "--to", to, "--output")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", disk_full_at(3))
        line = refused("export", *flags, tmp_path / "digits")
        assert "digits: No space left on device; nothing of it was written" in line
    assert list(tmp_path.iterdir()) == []
    run_here("export", *flags, tmp_path / "digits")
    assert (tmp_path / "digits/src/b.c").read_text() == "3"


def test_a_folder_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    """What is in it beside the files of the export stays for good."""
    folder = tmp_path / "c"
    write_folder(folder, {"a.c": "old", "in/b.c": "old"})
    (folder / "mine.txt").write_text("mine")
    before = digests(tmp_path)
    new = {"a.c": "new", "in/b.c": "new", "in/deep/c.c": "new"}
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", disk_full_at(2))
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

    monkeypatch.setattr(harness.exporting.c_folder, "run_compiler", refuse)
    said = harness.exporting.c_folder.check_here({"check.c": "", "network.c": "", "weights.c": ""})
    assert said == "it cannot be checked (no compiler)"
    assert {*REQUIRED_FLAGS} <= {*commands[0]}
    assert "-shared" not in commands[0]
