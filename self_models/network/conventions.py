"""Neurons as other simulators run them, where NIR has no word for it: how they reset, how often they fire in a timestep."""

from self_models.network.neurons import NeuronState, SpikingNeuron


class AsElsewhere(SpikingNeuron):
    """Neurons of another convention. V' = leak V + I is what a timestep charges, R = H(V > theta) before it.

    subtracts, reset_delay (snnTorch): V = V' - theta R, s = H(V > theta): a spike is subtracted in the next timestep.
    subtracts (snnTorch, reset_delay=False): s = H(V' - theta R > theta), V = V' - theta s.
    several (sinabs): s = floor(V' / theta), V = V' - theta s.
    whole, reset_delay (Synaptic and RLeaky of snnTorch, zero): V = (1 - R) V': what arrives behind a spike is lost.
    none of them: V is never reset."""

    subtracts = reset_delay = several = whole = False

    def forward(self, current, state=None):
        v, age, synapse = state or self.at_rest(current)
        current, synapse = self.received(current, synapse)
        theta, charged, before = self.threshold, self.leak * v + current, (v > self.threshold).to(v.dtype)
        if self.several:
            spikes = (charged / theta).floor().clamp(min=0)
            return spikes, NeuronState(self.floored(charged - spikes * theta), age, synapse)
        if self.subtracts:
            charged = charged - before * theta
        elif self.whole:
            charged = charged - before * charged
        spikes = self.spike(charged, theta, age)
        if self.subtracts and not self.reset_delay:
            charged = charged - (spikes.detach() - before) * theta
        return spikes, NeuronState(self.floored(charged), age, synapse)
