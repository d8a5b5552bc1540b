"""python -m self_models.fast.event: compile the event engine now, so that no evaluation waits for it. Without numba: one line."""

import torch

from self_models.basics.errors import ModelError
from self_models.fast.compiling import telling
from self_models.fast.event.engine import EventEngine
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


def main():
    model = InputBlockingSNN("VGG5_wFeedback_small", timesteps=2, fc_width=8).eval()
    try:
        with telling(lambda line: print(line, flush=True)):
            EventEngine(model)(torch.zeros(1, *model.image_shape), seed=0)
    except ModelError as error:
        print(error)
    else:
        print("the event engine is compiled")


if __name__ == "__main__":
    main()
