"""A network that is left on: it answers at every step while its images change, and keeps its state in between."""

from dataclasses import replace

import torch

from self_models.basics.errors import ModelError
from self_models.basics.images import checked_images
from self_models.basics.settings import COUNT, WHOLE, required
from self_models.running.chunks import all_steps
from self_models.running.draws import EVALUATION, Draws
from self_models.running.outputs import share_of_active
from self_models.running.recording import Recorder, spaces_of

MEMBRANES = "membranes."  # begins the name of a layer's in a state_dict


class Stream:
    """stream(images, steps) -> SNNOutput of these steps: the network goes on from where it is, looking at images (B, C, H, W).

    The first call says how many images there are at once, each with a network of its own. No stopping rule is asked. Draws follow
    from the seed, the image's place in the batch and the stream's own step, so a stream in pieces is the same as one at once.
    """

    def __init__(self, model, seed=0):
        self.model, self.seed, self._run = model, required(WHOLE, "seed", seed), None

    steps = property(lambda self: self._run.steps if self._run else 0)  # taken so far

    def reset(self):
        """Bring the network to rest, at step 0; then the batch may be another."""
        self._run = None

    @torch.no_grad()
    def __call__(self, images, steps=1, frames=True, record=None):
        """frames, record: as in the model's forward. Raises ModelError for images that the model does not take, another batch,
        a gate that cannot go on with other images, or a model in training mode; then the stream is as it was."""
        model, steps = self.model, required(COUNT, "steps", steps)
        x, recorder = checked_images(images, model), Recorder(record, model.wiring)
        if model.training:
            raise ModelError("a stream is for evaluation: call eval() of the model first")
        if not model.gate.turns:
            raise ModelError(f"gate {model.settings['gate']} is for one image: for a stream choose block, or open")
        if self._run and len(x) != len(self._run.image):
            raise ModelError(f"this stream has {len(self._run.image)} images at once, not {len(x)}: call reset() to begin anew")
        run = turned(model, self._run, x) if self._run else self._begun(x)
        shown, taken, self._run = all_steps(model, replace(run, recorder=recorder), steps, frames=frames)
        return model.output(x, shown, taken, recorder)

    def _begun(self, x):
        return replace(self.model.start(x, Draws(self.seed, EVALUATION, torch.arange(len(x)))), last=None)

    def state_dict(self):
        """What the next step needs: seed, steps, and tensors (B, ...) by name, for torch.save."""
        return {"seed": self.seed, "steps": self.steps, **(state_of(self._run) if self._run else {})}

    def load_state_dict(self, state):
        """Go on from what state_dict gave. Raises ModelError where that is of another network; then the stream is as it was."""
        state = dict(state)
        seed, steps = (required(WHOLE, name, state.pop(name, None)) for name in ("seed", "steps"))
        image = state.get("image", torch.zeros(0, *self.model.image_shape))
        begun = replace(Stream(self.model, seed)._begun(image), steps=steps)
        self.seed, self._run = seed, restored(self.model, begun, state) if state else None


def state_of(run):
    """What the next step of a run needs, name -> tensor (B, ...): of its state what is there."""
    view = run.view
    found = {"image": run.image, "logits": run.logits, "trace": run.trace, "waiting": run.waiting}
    found |= {"is_open": view.is_open, "predicted": view.predicted, "explained": view.explained}
    found |= {MEMBRANES + name: one.v for name, one in run.memory.items()}
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def restored(model, run, state):
    """A run that has just begun, in a state that state_of gave. Raises ModelError for one of another network."""
    wiring, neurons, count = model.wiring, model.neurons(), len(run.image)
    spaces = spaces_of(wiring)
    shapes = {"logits": run.logits.shape[1:], "waiting": wiring.shapes[wiring.forked]}
    shapes |= dict.fromkeys(("image", "trace", "is_open", "predicted", "explained"), model.image_shape)
    shapes |= {MEMBRANES + name: spaces[name] for name in neurons}
    for name, value in state.items():
        if name not in shapes or value.shape != (count, *shapes[name]):
            raise ModelError(f"{name} of shape {tuple(value.shape)}: this is the state of another network's stream")
    if lacking := [name for name in state_of(run) if name not in state]:
        raise ModelError(f"there is no {lacking[0]}: this is not the state of a stream of this network")
    held = {name: state[name] for name in ("logits", "trace", "waiting") if name in state}
    view = {name: state[name] for name in ("is_open", "predicted", "explained") if name in state}
    if "is_open" in view:
        view["image"] = run.image * view["is_open"]
    layers = {name: neuron for name, neuron in neurons.items() if MEMBRANES + name in state}
    potentials = {name: state[MEMBRANES + name] for name in layers}
    memory = {name: neuron.at_rest(potentials[name])._replace(v=potentials[name]) for name, neuron in layers.items()}
    return replace(run, view=run.view._replace(**view), memory=memory, **held)


def turned(model, run, image):
    """The run (a RunState) with another image (B, C, H, W) in place of its own, from its next step on."""
    changed = image != run.image
    if not changed.any():
        return run
    view = model.gate.turned(image, predicted(model, run), run.view, changed)
    after = replace(run, image=image, view=view)
    return surprised(model, after, view.is_open & ~run.view.is_open) if model.settings["surprise"] else after


def surprised(model, run, opened):
    """The run once it has forgotten as much as its image surprises, of which these pixels, bool (B, C, H, W), have just opened
    again: a share r of the active ones. Outputs, membranes, as far as they are from rest, and the read-out's trace keep
    1 - min(1, gain r), the trace of these pixels nothing; and all pixels are judged anew by what is then predicted."""
    keep = 1 - (model.settings["surprise"] * share_of_active(opened, run.image)).clamp(max=1)
    memory, neurons = dict(run.memory), model.neurons()
    for name in memory.keys() & neurons.keys():
        rest = neurons[name].initial_potential * neurons[name].threshold
        memory[name] = memory[name]._replace(v=rest + kept(memory[name].v - rest, keep))
    trace = kept(run.trace, keep).masked_fill(opened, 0)
    run = replace(run, memory=memory, trace=trace, logits=kept(run.logits, keep))
    return replace(run, view=model.gate.next_view(run.image, predicted(model, run), run.view))


def kept(values, keep):
    """Values (B, ...), each image's times keep (B,)."""
    return values * keep.view(-1, *[1] * (values.dim() - 1))


def predicted(model, run):
    """What a run predicts now, on the scale on which its gate compares it with the image."""
    return model.guess(model.readout.prediction(run.trace)) if model.has_feedback else 0.0
