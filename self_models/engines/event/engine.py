"""The event engine: a trained SNN's spikes one by one, by the kernel, so that a run costs what its activity costs.

Same results as the model's own forward, the dense engine: the same draws give the same spikes, but for those that rounding
decides (see docs/explanation/event_engine.md). Evaluation only, on the CPU.
"""

from math import prod

import numpy as np
import torch

from self_models.basics import ModelError
from self_models.basics.devices import kept_in_memory
from self_models.basics.images import checked_images
from self_models.engines.event.build import Run, Settings, built, library
from self_models.engines.event.layout import has_form, lay_out
from self_models.engines.event.state import CHUNK, Rooms, StreamMemory, in_rows
from self_models.engines.event.tables import own_settings, settings_of, unknown_part, whole_form
from self_models.engines.fingerprint import fingerprint
from self_models.guests.phased.timing import schedule_of
from self_models.guests.streams.stream import forms_of
from self_models.layers.neurons import delayed
from self_models.layers.stages import LINEAR
from self_models.runtime.draws import draws_for, in_space, key_for
from self_models.runtime.known_parts import find_unknown_part, is_hooked
from self_models.runtime.loop import check_uniforms


def engine_of(kind, model, name):
    """(an Engine of this kind, or None where the model runs dense; why 'auto' leaves it so, or None). name: of ENGINE_NAMES in
    assembly. Raises ModelError where 'event' cannot be."""
    try:
        return kind(model) if name in ("auto", "event") else None, None
    except ModelError as error:
        if name == "event":
            raise
        return None, str(error)


class Engine:
    """Runs a model on the kernel, in torch.get_num_threads() threads. Its tables are laid out at the first run, and again when
    the model has changed as made_of() tells, or after refresh(). Raises ModelError without a C compiler, and for a model that
    the kernel cannot run."""

    def __init__(self, model):
        library("int8" if whole_form(model) else "float32")
        self.model, self._counted = model, None
        self.forget()
        self.update()

    def __getstate__(self):
        """Of a copy, or a pickle, which lays out tables of its own."""
        return {"model": self.model}

    def __setstate__(self, state):
        self.model, self._counted = state["model"], None
        self.forget()

    def refresh(self):
        """Lay the tables out again at the next run, but not while operations are counted."""
        if self._counted is None:
            self.forget()

    def forget(self):
        self.rooms, self._made_of, self._tensors, self._own, self._settings = (
            {},
            None,
            [],
            None,
            None,
        )

    def made_of(self):
        """(what is equal while the tables fit the model, its tensors)"""
        return fingerprint(self.model)

    def update(self):
        """Forget tables that are not the model's any more. Raises ModelError where its check() does: where the kernel cannot run
        the model as it is now."""
        made_of, tensors = self.made_of()
        if made_of != self._made_of:
            if self._counted is not None:
                raise ModelError("the weights or settings changed while operations were counted")
            self.forget()
            self.check()
            self._made_of = made_of
            self._tensors = kept_in_memory(tensors)

    def serves(self):
        """True if the kernel can run the model as it is now."""
        try:
            self.update()
        except ModelError:
            return False
        return True

    def current(self):
        """The Rooms of the tables."""
        if (counting := self._counted is not None) not in self.rooms:
            kind = library("int8" if whole_form(self.model) else "float32")
            self.rooms[counting] = Rooms(kind, lay_out(self.model, counting=counting))
        return self.rooms[counting]


class EventEngine(Engine):
    """Runs an SNN event by event: engine(x, uniforms) is model(x, uniforms), an SNNOutput. Epsilon, rule and the like are read at
    every run."""

    @classmethod
    def supports(cls, model):
        """Return why a network does not run on this engine, or None where it does."""
        try:
            cls(model)
        except ModelError as error:
            return str(error)
        return None

    @staticmethod
    def has_compiler():
        """Return whether this machine can build the kernel."""
        return not isinstance(built(), ModelError)

    def check(self):
        model = self.model
        if next(model.parameters()).device.type != "cpu":
            raise ModelError("the event engine runs on the CPU")
        if not whole_form(model):  # which was looked at when it was made
            if model.is_custom:
                raise ModelError(
                    f"the event engine does not know the methods or hooks of this {type(model).__name__}"
                )
            if part := find_unknown_part(model):
                raise ModelError(f"the event engine does not know {part}")
        if part := unknown_part(model):
            raise ModelError(f"the event engine has no form of the {' '.join(map(str, part))}")

    def made_of(self):
        model, (modules, tensors) = self.model, fingerprint(self.model)
        parts = [type(getattr(model, name)) for name in model.parts]
        return (
            modules,
            parts,
            unknown_part(model),
            model.replaces(),
            model.has_analog_input,
            model.output_leak,
        ), tensors

    def update(self):
        super().update()
        if (own := own_settings(self.model)) != self._own:
            self._own, self._settings = own, settings_of(self.model)

    def __call__(self, x, uniforms=None, draws=None, seed=None, frames=True):
        """x: (B, C, H, W), or recordings (B, T, C, H, W) -> SNNOutput. uniforms, draws, seed: as in the model's forward. frames:
        else predictions, errors, predicted and is_open are None, and sums has their place. Raises ModelError as forward and check
        do."""
        self.update()
        return self.run(x, uniforms, draws, seed, frames)

    def run(self, x, uniforms=None, draws=None, seed=None, frames=True):
        """The same of a model that has not changed since update()."""
        model, rooms = self.model, self.current()
        x = checked_images(x, model, model.frames)
        draws = draws_for(x, draws, seed)
        check_uniforms(uniforms, model.timesteps, x[:, 0] if model.frames else x)
        return self._run(
            x, uniforms, draws, frames, self._settings.timesteps, rooms, self._settings
        )

    # --- a stream

    def begun(self, x, draws):
        """The StreamMemory of images x with these Draws, at rest."""
        self.update()
        return StreamMemory(self.current(), draws, self._settings)

    def go_on(self, memory, x, steps, frames, asked=None):
        """(the SNNOutput of a stream's next steps, in which its networks see images x, the StreamMemory after them). asked:
        nothing, since what is recorded runs dense."""
        if memory.rooms.tables.header["counting"] != (
            self._counted is not None
        ):  # it has begun, or ended, in mid-stream
            state = self.state_of(memory) | {"steps": memory.states[0].state.steps}
            memory = self.restored(state, memory.draws)
        return self._run(
            x, None, memory.draws, frames, steps, memory.rooms, memory.settings, memory
        ), memory

    def state_of(self, memory):
        """As state_of of guests/streams/stream.py."""
        return memory.state_dict(forms_of(self.model))

    def restored(self, state, draws):
        """The StreamMemory of which that is the state_dict."""
        memory, steps = self.begun(state["image"], draws), state["steps"]
        memory.load(state, steps)
        return memory

    # --- counting

    def start_counting(self):
        """Count the inputs of each linear module from now on."""
        if self.serves():
            self.rooms.pop(True, None)
            self._counted = 0

    def stop_counting(self, counter):
        """Add to an OperationCounter what was counted since start_counting."""
        if rooms := self.rooms.pop(True, None):
            add_events(counter, rooms, self.model, self._counted)
        self._counted = None

    # --- a run

    def _run(self, x, uniforms, draws, frames, steps, rooms, settings, memory=None):
        """The SNNOutput of so many steps. memory: of a stream, whose state it goes on from."""
        model, tables, batch = self.model, rooms.tables, len(x)
        images = in_rows(x.float()).reshape(
            batch, x.shape[1] if x.dim() > 4 else 1, prod(tables.shapes[0])
        )
        given = {} if uniforms is None else {"uniforms": in_rows(uniforms.float())}
        of_decoder = [*(PICTURES if frames else SUMS)] if model.has_feedback else []
        results = new_results(tables, batch, steps, of_decoder)
        arrays, (key0, key1) = {"frames": images, **given, **results}, key_for(draws.seed, "input")
        stops, ahead = model.rule.stops and not memory, model.settings["predict"] == "next"
        runs = runs_of(
            batch,
            arrays,
            stride=images[:, :1].size,
            count=images.shape[1],
            steps=steps,
            stops=stops,
            ahead=ahead,
            key0=key0,
            key1=key1,
            number=draws.index.numpy(),
            epoch=draws.epoch,
        )
        if memory:
            runs["state"] = [room.address for room in memory.states]
        rooms.run(runs, settings, batch if memory else CHUNK)
        if self._counted is not None:
            self._counted += int(runs["taken"].sum())
        compared, taken = (
            torch.from_numpy(runs[name].astype(np.int64)) for name in ("comparisons", "taken")
        )
        shown = {"compared": compared[None]}
        results["spikes"] = results["counts"][..., : len(tables.names)].astype(np.float32)
        for name in ("spikes", "logits", *(of_decoder if model.gate.reacts else of_decoder[:1])):
            values = torch.from_numpy(results[name])
            if name in PICTURES:
                shown[name] = in_space(
                    values if name == "prediction" else values.bool(), model.image_shape
                )
            else:
                shown[name] = values.transpose(0, 1)
        return model.make_output(x, shown, taken, {}, tables.names)


SUMS, RUN = ("error", "open_share"), np.dtype(Run)
PICTURES = {"prediction": np.float32, "predicted": np.uint8, "is_open": np.uint8}


def new_results(tables, batch, steps, of_decoder=()):
    """Name of Run -> array that a run fills in: logits (B, T, labels), counts (B, T, nodes), and of_decoder, which of SUMS (B, T)
    and PICTURES (T, B, Q) are wanted."""
    pixels, labels = (prod(tables.shapes[node]) for node in (0, tables.header["output"]))
    results = {
        "logits": np.empty((batch, steps, labels), np.float32),
        "counts": np.zeros((batch, steps, len(tables.nodes)), np.int32),
    }
    for name in of_decoder:
        shape = (steps, batch, pixels) if name in PICTURES else (batch, steps)
        results[name] = np.empty(shape, PICTURES.get(name, np.float32))
    return results


def runs_of(batch, arrays, **alike):
    """An array of Run, one for each image. arrays: by field those in which each image has its part; alike: what all have, or one
    number for each."""
    runs, number = np.zeros(batch, RUN), np.arange(batch)
    for name, value in alike.items():
        runs[name] = value
    for name, array in arrays.items():
        runs[name] = (
            array.ctypes.data + array.strides[name in PICTURES or name == "uniforms"] * number
        )
    return runs


def add_events(counter, rooms, model, steps):
    """Add to an OperationCounter what Rooms have counted in this many steps of images."""
    tables, graph, numbers = rooms.tables, model.graph, rooms.tables.numbers
    names, of_map = {module: name for name, module in model.named_modules()}, tables.maps

    def sent_by(node):
        """How often each neuron has sent 1 or -1, and another value, (2, N)."""
        return in_space(
            torch.from_numpy(rooms.events(node)).double(), tables.shapes[node]
        ).flatten(1)

    for name in (*tables.names, *graph.pools):
        counter.sent[name] += sent_by(numbers[name])
    done = set()
    for target, chain in tables.chains.items():
        for count, module in enumerate(chain.modules[1:] if target < tables.maps else (), 1):
            shared = int(tables.nodes[target]["source"]), *chain.modules[: count + 1]
            if (
                isinstance(module, LINEAR) and shared not in done
            ):  # the encoder's last feed both classifier and decoder
                counter.inputs[names[module]] += sent_by(of_map)
            done.add(shared)
            of_map += 1
    phases = schedule_of(graph).phases if model.timing.is_phased else 1
    counter.ran += steps // phases  # of a phased network each layer charges in one phase


class GraphEngine(Engine):
    """Runs a GraphSNN event by event, with the spikes of its step()."""

    def check(self):
        graph = self.model.graph
        for name, module in graph.modules.items():
            if is_hooked(module) or not has_form(module):
                raise ModelError(
                    f"node {name!r} ({type(module).__name__}) has no form on the kernel: it runs dense"
                )
        if len({neuron.update for neuron in self.model.neurons().values() if neuron.fires}) > 1:
            raise ModelError(
                "some neurons fire before they are charged, and some after: it runs dense"
            )
        self.current()

    def __call__(self, recordings, timesteps, asked):
        """What timesteps show, by name, of recordings, each (first, events, values): see Run in network.h. asked: of
        parse_record()."""
        rooms, settings, batch = self.current(), self.settings(timesteps), len(recordings)
        tables, results = rooms.tables, new_results(rooms.tables, batch, timesteps)
        runs = runs_of(batch, results, steps=timesteps)
        for run, (first, events, values) in zip(runs, recordings, strict=True):
            run["first"], run["events"] = first.ctypes.data, events.ctypes.data
            run["values"] = 0 if values is None else values.ctypes.data
        shown = {
            (name, kind): []
            for name, wanted in asked.items()
            for kind in wanted.kinds
            if name != "output"
        }
        if not shown:
            rooms.run(runs, settings)
        for run in runs if shown else ():
            self.record(rooms, run, settings, timesteps, shown)
        for (name, kind), values in shown.items():
            values = (
                torch.from_numpy(np.stack(values)).reshape(batch, timesteps, -1).transpose(0, 1)
            )
            values = in_space(values, tables.shapes[tables.numbers[name]]).reshape(
                timesteps, batch, *asked[name].shape
            )
            shown[name, kind] = asked[name].select(values)
        counts = torch.from_numpy(results["counts"].astype(np.float32)).transpose(0, 1)
        shown |= {name: counts[..., n] for n, name in enumerate(tables.names)}
        return shown | {"logits": torch.from_numpy(results["logits"]).transpose(0, 1).contiguous()}

    def settings(self, timesteps):
        is_delayed = any(neuron.update is delayed for neuron in self.model.neurons().values())
        return Settings(
            immediate=not is_delayed, decoded_scale=1, logits_scale=1, timesteps=timesteps
        )

    def record(self, rooms, run, settings, timesteps, shown):
        """Run one recording, timestep by timestep, and add to what is shown, (layer, kind) -> values."""
        room, tables, step = rooms.new(settings), rooms.tables, np.array([run])
        rooms.library.network_reset(room.address, 0, 0, 0)
        step["state"], step["steps"] = room.address, 1
        for _ in range(timesteps):
            rooms.library.network_runs(room.address, step.ctypes.data, 1)
            rooms.library.network_settle(room.address)
            for (name, kind), values in shown.items():
                n = tables.numbers[name]
                values.append(room.potentials(n).copy() if kind == "membrane" else room.spikes(n))
            step["first"] += 4
            step["logits"] += 4 * prod(tables.shapes[tables.header["output"]])
            step["counts"] += 4 * len(tables.nodes)
