"""The energy ledger: recounted spike by spike, by hand, and what conventions make of it."""

import csv
import json
from collections import Counter
from dataclasses import replace
from math import prod

import pytest
import torch
from conftest import DATA, REPOSITORY, refused, run_here
from test_engines import STEPS, networks, on_grid
from torch import nn

from energy import in_eight_bits
from self_models import load, load_data
from self_models.basics import ModelError
from self_models.counting.evaluation import evaluate
from self_models.counting.ledger import EXECUTIONS, Entry, Ledger, ledger
from self_models.counting.operations import FIRST, OperationCounter
from self_models.counting.prices import FOLDER, Convention, conventions, conventions_with, read_convention


class Recount:
    """Walks every spike to every synapse, by index. It stands in the place of an OperationCounter, and shares nothing with it but
    what the network notes: what each layer and each maximum pool sends."""

    def __init__(self, model):
        self.model, self.noted, self.synops, self.reached = model, [], Counter(), Counter()
        self.names = {module: name for name, module in model.named_modules()}
        wiring = model.wiring
        self.sources = dict(enumerate(wiring.names)) | {pool.target: pool.name for pool in wiring.pools}

    def begin(self):
        self.noted = []

    def note(self, name, signal, steps):
        self.noted.append(("input" if name == FIRST else name, signal.detach(), list(steps)))

    def settle(self, schedules, images, ends=None):
        noted, wiring = self.noted, self.model.wiring
        self.noted = []
        now = {one.first + n: (one, decodes) for one in schedules for n, decodes in enumerate(one.decodes)}
        ends, first = [len(now)] * images if ends is None else ends.tolist(), schedules[0].first
        for one in (*wiring.forward, *wiring.feedback):
            last = next(module for module in reversed(one.modules) if hasattr(module, "weight"))
            end, size, is_decoder, is_late = self.names[last], prod(one.target_shape), one in wiring.feedback, self.is_late(last)
            synapses = [set(row.nonzero().flatten().tolist()) for row in self.impulses(one)]
            for name, signal, steps in noted:
                if name == self.sources[one.source]:
                    for step, sent in zip(steps, signal.unflatten(0, (len(steps), images)), strict=True):
                        if not (now[step][0].decoder_idle if is_decoder else is_late and now[step][0].waits):
                            self.walk(end, one, synapses, [sent[n] for n in range(images) if step - first < ends[n]])
            for step, (schedule, decodes) in now.items():
                phase = (step + 1 - self.model.gate.least_steps) // self.model.timesteps
                if self.model.phased and phase != wiring.depths[one.target] - 1:  # in which the target's neurons charge
                    continue
                if one.bias is not None and (decodes if is_decoder else not (is_late and schedule.waits)):
                    self.reached[end] += size * sum(step - first < ends[n] for n in range(images))

    def walk(self, end, one, synapses, sent):
        """One step: sent: of each image, what the source sends."""
        for image in sent:
            met = [synapses[n] for n in image.flatten().nonzero().flatten().tolist()]
            self.synops[end] += sum(map(len, met))
            self.reached[end] += len(set().union(*met)) if one.bias is None else 0

    def is_late(self, module):
        """Whether a layer stands behind the fork, in the encoder or the classifier."""
        stage, position = self.names[module].split(".")
        return stage == "classifier" or (stage == "features" and int(position) >= self.model.features.fork)

    @staticmethod
    def impulses(one):
        """For each neuron of a connection's source which neurons of the target it reaches, bool (N, N')."""
        signal = torch.eye(prod(one.source_shape)).reshape(-1, *one.source_shape)
        for module in one.modules:
            ones = {name: torch.ones_like(value) for name, value in module.named_parameters() if name == "weight"}
            ones |= {name: torch.zeros_like(value) for name, value in module.named_parameters() if name == "bias"}
            signal = signal.flatten(1) if isinstance(module, nn.Linear) else signal
            signal = torch.func.functional_call(module, ones, signal)
        return signal.flatten(1) != 0


@pytest.mark.parametrize("first", range(0, 100, 25))
@torch.no_grad()
def test_a_plain_recount_finds_the_same(first):
    """Synaptic operations and reached neurons, to the unit; of images, recordings, or a stream in two pieces."""
    for case, model in networks(range(first, first + 25)):
        x, u = on_grid(model, case["run"], case["seed"])
        streams = case["run"]["ties"] and case["max_pool"] == "or" and model.gate.follows_changes
        if streams := streams and not model.frames and not model.phased:
            model.change(rule="never")
        counter, recount = OperationCounter(model, reaches=True), Recount(model)
        for model.watcher in (counter, recount):
            if streams:
                stream = model.stream(seed=1)
                stream(x, 3), stream(x.flip(0), STEPS - 3)
            else:
                model(x, u)
        for name, count in counter.events.items():
            assert float(count) == recount.synops[name], (name, case)
            reached = counter.biases[name] if name in counter.biases else counter.reached.get(name, 0)
            assert float(reached) == recount.reached[name], (name, case)


@pytest.fixture(scope="module")
def quick():
    test = load_data("MNIST", limit_test=32)[2]
    model = load(REPOSITORY / "trained_models/snn/quick_feedback.pth")
    return model, test, ledger(model, test, name="quick")


def test_a_ledger_costs_what_an_evaluation_says(quick):
    model, test, found = quick
    figures, convention = evaluate(model, test), conventions()["arithmetic_45nm"]
    assert found.total("spikes") == pytest.approx(figures["parts"]["total"]) and found.accuracy == figures["accuracy"]
    event, layer = (found.joules(convention, execution) for execution in EXECUTIONS)
    assert (event, layer) == pytest.approx((figures["energy_event_joules"], figures["energy_joules"]))
    parts = [found.joules(convention, EXECUTIONS[0], part) for part in dict.fromkeys(entry.part for entry in found.entries)]
    assert sum(parts) == pytest.approx(event) and len(parts) == 4  # no layer of the decoder spikes


def test_the_ann_beside_it_by_hand(quick):
    """One pass of 16 D 32 32 D and 256 256 10 on 28x28 pixels, exact at borders, in MACs of 4.6 and 0.23 pJ."""
    *_, found = quick
    inner = (28 * 3 - 2) ** 2 * 16 + 14 * 14 * (16 * 16 * 4) + (14 * 3 - 2) ** 2 * (16 * 32 + 32 * 32)
    macs = inner + 7 * 7 * 32 * 32 * 4 + 7 * 7 * 32 * 256 + 256 * 256 + 256 * 10
    convention = conventions()["arithmetic_45nm"]
    assert (found.ann_joules(convention), found.ann_joules(convention, 8)) == pytest.approx((4.6e-12 * macs, 0.23e-12 * macs))


def test_at_the_break_even_it_costs_what_its_ann_costs(quick):
    """With all counts of spikes scaled to it."""
    *_, found = quick
    for convention in conventions().values():
        factor = found.break_even(convention) / (found.total("spikes") / found.neurons)
        entries = [
            type(entry)(**vars(entry) | {name: factor * getattr(entry, name) for name in ("spikes", "synops", "rate", "reached")})
            for entry in found.entries
        ]
        scaled = type(found)(**vars(found) | {"entries": entries})
        assert scaled.joules(convention, EXECUTIONS[0]) == pytest.approx(found.ann_joules(convention, 8))


def test_a_layers_energy_by_hand():
    """An addition 100 pJ, a multiply-add 1000, and an access to a memory of n words n pJ: 9 biases and 8 comparisons, each with
    two accesses, cost 1748 in either execution; then spike by spike 5 synapses, each a weight and a potential read and written,
    and 2 events written and read; or by layers 13 operations, each a weight and an input, and 30 potentials read and written."""
    price = {"add": 100, "multiply_add": 1000, "add_int8": 3, "multiply_add_int8": 10}
    priced = Convention("", "", 0, "", "", price, {"bytes": [4, 4000], "picojoules": [1, 1000]})
    counts = {"spikes": 2, "synops": 5, "acs": 7, "macs": 6, "updates": 30, "reached": 11, "biases": 9, "comparisons": 8}
    own = {"neurons": 3, "weights": 12, "sources": 4, "one_pass": 10, **counts}
    event, by_layer = 1748 + 5 * (100 + 12 + 2 * 3) + 2 * 2 * 3, 1748 + 7 * 100 + 6 * 1000 + 13 * (12 + 4) + 30 * 2 * 3
    for real, leaks, wanted in (
        (False, False, (event, by_layer)),
        (True, False, (event + 5 * 900, by_layer)),
        (False, True, (event + 11 * 900, by_layer + 30 * 900)),  # of what is reached, or of all: kept by a multiplication
    ):
        one = Ledger("", 1, 1.0, 10, 10.0, leaks, [Entry("features.1", "encoder", real=real, **own)])
        assert [1e12 * one.joules(priced, execution) for execution in EXECUTIONS] == pytest.approx(wanted)
    assert 1e12 * one.ann_joules(priced) == pytest.approx(10 * (1000 + 12 + 4) + 3 * 3)
    assert 1e12 * one.ann_joules(priced, 8) == pytest.approx(10 * (10 + 3 / 4 + 1 / 4) + 3 * 1 / 4)  # bytes, of words at least


def test_a_ledger_says_whether_membranes_leak(quick):
    """A leak is a multiplication where a potential is updated, and no addition more."""
    *_, found = quick
    model = load(REPOSITORY / "trained_models/snn/quick_feedback.pth")
    model.set_leak(0.75)
    leaking, convention = ledger(model, load_data("MNIST", limit_test=2)[2]), conventions()["arithmetic_45nm"]
    costs = [replace(leaking, leaks=leaks).joules(convention, EXECUTIONS[0]) for leaks in (False, True)]
    assert leaking.leaks and not found.leaks
    assert costs[1] - costs[0] == pytest.approx((4.6 - 0.9) * 1e-12 * leaking.total("reached"))


def test_memory_is_priced_by_its_size():
    access = conventions()["with_memory"].access
    assert [access(words) for words in (10, 2048, 8192, 262144)] == [10, 10, 20, 100]
    assert access(5120) == pytest.approx(15) and access(524288) > 180 and access(8192, word=1) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("add = 0.1\n", ""), "picojoules.add is missing"), (("year", "jear"), "jear is unknown"),
        (("title =", "title"), "Expected"), (("add_int8", "ad_int8"), "picojoules.ad_int8 is unknown: it wants add, "),
        (("add = 0.1", "add = -1"), "picojoules.add is -1, and must be a number from 0 to 1e"),
        (("add = 0.1", "add = nan"), "picojoules.add is nan"), (("3.2", "inf"), "picojoules.multiply_add is inf"),
        (("add = 0.1", 'add = "0.1"'), "picojoules.add is '0.1'"), (("add = 0.1", "add = true"), "picojoules.add is True"),
        (("source = ", 'counts = "some"\nsource = '), "counts is 'some'"),
        (("source = ", 'counts = "rate"\nsource = '), "counts 'rate' knows operations alone"),
        (('title = "with memory, 45 nm"', "title = 3"), "title is 3, and must be a text in quotes"),
        (("year = 2022", "year = true"), "year is True, and must be a whole number"),
        (("[memory]", "[memory]\nwords = [1, 2]"), "memory.words is unknown"),
        (("picojoules = [10, 20, 100]", ""), "memory.picojoules is missing"),
        (("[8192, 32768, 1048576]", "5"), "memory.bytes is 5: give two numbers or more"),
        (("[8192, 32768, 1048576]", "[8192]"), "memory.bytes is .8192.: give two numbers or more"),
        (("[8192, 32768, 1048576]", "[8192, 32768]"), "memory has 2 bytes and 3 picojoules"),
        (("[8192, 32768, 1048576]", "[8192, 8192, 1048576]"), "memory.bytes must rise, and"),
        (("[8192, 32768, 1048576]", "[8192, 1048576, 32768]"), "memory.bytes must rise, and"),
        (("[10, 20, 100]", "[10, 20, 1]"), "memory.bytes must rise, and memory.picojoules must not fall"),
        (("[10, 20, 100]", "[10, 20, nan]"), "memory.picojoules is nan"),
    ],
)  # fmt: skip
def test_a_convention_that_is_none_is_refused(tmp_path, change, words):
    path, text = tmp_path / "own.toml", (FOLDER / "with_memory.toml").read_text()
    path.write_text(text.replace(*change, 1))
    assert path.read_text() != text
    with pytest.raises(ModelError, match=f"own.toml: {words}"):
        read_convention(path)


@pytest.mark.parametrize(
    ("name", "line"), [("picojoules", "3"), ("picojoules", '"cheap"'), ("memory", "5"), ("memory", "[1, 2]")]
)
def test_what_is_no_table_is_refused(tmp_path, name, line):
    path, tables = tmp_path / "own.toml", (FOLDER / "with_memory.toml").read_text().split("\n[")
    path.write_text("\n[".join([f"{name} = {line}\n{tables[0]}", *(table for table in tables[1:] if not table.startswith(name))]))
    with pytest.raises(ModelError, match=f"own.toml: {name} is .*, and must be a table"):
        read_convention(path)


def test_a_convention_of_ones_own_stands_beside_the_others(tmp_path):
    """Its file and its title have names of their own: else a column would be another's, or two would have one head."""
    path, text = tmp_path / "own.toml", (FOLDER / "rate.toml").read_text()
    path.write_text(text.replace("rate x", "our rate x").replace("add = 0.9", "add = 2"))
    found = conventions_with([path, path])
    assert list(found) == [*conventions(), "own"] and found["own"].picojoules["add"] == 2
    for name, said, words in (("own", text, r"title 'rate x operations x T' is that of the convention rate"),
                              ("rate", path.read_text(), "file name is that of the convention rate")):  # fmt: skip
        (tmp_path / f"{name}.toml").write_text(said)
        with pytest.raises(ModelError, match=f"{name}.toml: its {words}: choose another"):
            conventions_with([tmp_path / f"{name}.toml"])


# --- the script


def test_the_tables_of_a_network_by_the_script(trained, tmp_path, capsys):
    """For readers and for programs; in 8 bits the ANN is nearly what it was."""
    flags = f"{trained.snn} --against {trained.ann} {DATA} --output_dir {tmp_path}"
    found, said = run_here("energy", flags, f"--picture {tmp_path / 'x.png'}")
    lines = said.splitlines()
    assert (
        lines[0].startswith(f"{trained.snn}, means over 16 images; event-driven it costs ")
        and "than its ANN in 8 bits under: " in lines[0]
    )
    assert any(line.startswith("network") and "with memory, 45 nm" in line for line in lines)
    assert (tmp_path / "x.png").stat().st_size > 5000
    told = json.loads(run_here("energy", flags, "--format json")[1])[str(trained.snn)]
    assert abs(told["ann_accuracy"] - told["ann_8_bits_accuracy"]) <= 2 / 16
    assert told["joules"]["rate"]["ann"] == found[str(trained.snn)].ann_joules(conventions()["rate"])
    table = run_here("energy", flags, "--format csv")[1].split("\n\n")[1]
    assert len(next(csv.reader(table.splitlines()))) == 6
    run_here("report", f"tiny_energy --output_dir {tmp_path} --output {tmp_path / 'page.html'}")
    assert "Energy under conventions" in (tmp_path / "page.html").read_text()


def test_eight_bits_are_integers_times_a_scale():
    model = load(REPOSITORY / "trained_models/ann/ann_feedback.pth")
    test = load_data("MNIST", limit_test=200)[2]
    small = in_eight_bits(model, test.batch(torch.arange(128)).images)
    weight = small.features[0].weight[0]
    whole = weight / (weight.abs().max() / 127)
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-4)
    assert evaluate(small, test)["accuracy"] == pytest.approx(evaluate(model, test)["accuracy"], abs=0.01)
    x = test.batch(torch.arange(8)).images
    with torch.no_grad():  # of a decoder, too, however many images there are
        found, wanted = (torch.cat([one(each).predictions for each in x.split(1)], 1) for one in (small, model))
        torch.testing.assert_close(found, small(x).predictions)
    assert (found - wanted).abs().mean() < 0.02 < wanted.std()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("{ann}", "holds an ANN; --pretrained_snn wants an SNN"), ("nowhere.pth", "nowhere.pth: no such checkpoint file"),
        ("{snn} --against trained_models/ann/deep_base.pth", "is not the ANN of {snn}: its features.0.weight differs"),
        ("{snn} --convention nowhere.toml", "nowhere.toml: "),
    ],
)  # fmt: skip
def test_what_the_script_cannot_tell_is_refused(trained, flags, line, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    names = {"ann": trained.ann, "snn": trained.snn}
    assert line.format(**names) in refused("energy", flags.format(**names), DATA, "--no-log")
