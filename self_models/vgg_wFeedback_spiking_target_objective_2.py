"""Objective 2, adaptive number of steps: an image stops as soon as a rule holds, and leaves the batch."""

import torch

from self_models.basics.errors import ModelError, choose
from self_models.running.draws import draws_for
from self_models.running.outputs import SNNOutput, share_of_active
from self_models.running.steps import Step, stack_steps
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


def open_share(run):
    """Share of each image's active (non-zero) input pixels that are still open (B,), 0 where none is active."""
    return share_of_active(run.view.is_open, run.image)


def output_gap(logits):
    """Gap between the two best outputs, in units of the output (B,)."""
    best, second = logits.topk(2).values.unbind(1)
    return best - second


def output_entropy(logits):
    """Entropy of softmax(logits) as a part of its largest value, 0 (sure) to 1 (B,) (as in DT-SNN, Li et al., DAC 2023)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1) / torch.tensor(float(logits.shape[1])).log()


BOUNDS = {  # rule -> the bounds it uses
    "all_predicted": ("open_bound",),
    "confidence": ("gap_bound",),
    "entropy": ("entropy_bound",),
    "both": ("open_bound", "gap_bound"),
}
RULES = {  # rule -> (run, bounds) -> images that may stop (B,)
    "all_predicted": lambda run, bounds: open_share(run) <= bounds["open_bound"],
    "confidence": lambda run, bounds: output_gap(run.logits) >= bounds["gap_bound"],
    "entropy": lambda run, bounds: output_entropy(run.logits) <= bounds["entropy_bound"],
    "both": lambda run, bounds: RULES["all_predicted"](run, bounds) & RULES["confidence"](run, bounds),
}
NEVER = {"open_bound": -1.0, "gap_bound": float("inf"), "entropy_bound": -1.0}  # bounds that never hold


class AdaptiveTimestepsSNN(InputBlockingSNN):
    """Input blocking, and each image stops after the first step at which its rule holds, or after T steps.

    rule: all_predicted (share of active input pixels still open <= open_bound), confidence (gap between the two best
    outputs >= gap_bound), entropy (of the outputs, 0 to 1, <= entropy_bound), both (all_predicted and confidence).
    Raises ModelError for an unknown rule, a rule on predictions in a plan without feedback, and as InputBlockingSNN does.

    The output's frames after an image has stopped repeat its last one; its spikes are those until it stopped.
    """

    objective = "adaptive_timesteps"  # in the records

    def __init__(self, *args, rule="all_predicted", open_bound=0.0, gap_bound=8.0, entropy_bound=0.05, **kwargs):
        super().__init__(*args, **kwargs)
        self.set_rule(rule, open_bound=open_bound, gap_bound=gap_bound, entropy_bound=entropy_bound)

    def set_rule(self, rule, **bounds):
        """Stop by this rule and these bounds from now on. Raises ModelError as the constructor does."""
        self.finished = choose("rule", rule, RULES)
        if "open_bound" in BOUNDS[rule] and not self.has_feedback:
            raise ModelError(f"rule {rule} needs a plan with feedback; choose confidence or entropy")
        self.bounds = {**getattr(self, "bounds", {}), **bounds}
        self.settings |= {"rule": rule, **self.bounds}

    def forward(self, x, uniforms=None, draws=None, seed=None):
        run, running, steps, parts = self.start(x, draws_for(x, draws, seed)), torch.arange(len(x), device=x.device), [], []
        for t, (drawn,) in enumerate(self.drawn(x, uniforms, run.draws), 1):
            steps.append(_among_all(self.step(run, drawn[running]), running, steps))
            done = self.finished(run, self.bounds) if t < self.timesteps else torch.ones_like(running, dtype=torch.bool)
            if done.any():
                parts.append((running[done], self.output(run.select(done), Step(), torch.full_like(running[done], t))))
                run, running = run.select(~done), running[~done]
            if not len(running):
                break
        steps += steps[-1:] * (self.timesteps - len(steps))
        return _join(parts, stack_steps(steps))


def _among_all(step, running, earlier):
    """The running images' Step put among all images; those that have stopped keep what the step before shows."""
    if not earlier:
        return step
    return Step(*(None if now is None else old.index_copy(0, running, now) for now, old in zip(step, earlier[-1], strict=True)))


def _join(parts, frames):
    """One SNNOutput, in the order of the batch, from (positions, SNNOutput without frames) pairs and all images' frames."""
    order = torch.cat([positions for positions, _ in parts]).argsort()
    outputs = [output for _, output in parts]
    return SNNOutput(
        torch.cat([output.logits for output in outputs])[order],
        frames.prediction,
        frames.error,
        {name: torch.cat([output.spikes[name] for output in outputs])[order] for name in outputs[0].spikes},
        torch.cat([output.steps for output in outputs])[order],
        frames.predicted,
        frames.is_open,
        torch.cat([output.comparisons for output in outputs])[order],
    )
