"""A link between a sensor and a receiver, and predictors that save events on it.

    SENSOR                                     LINK      RECEIVER

    frame ------------+
                      +-- |difference| >= epsilon:
    prediction -------+   the pixel is sent --> events --> rebuilt frame
        ^                                                       |
        |          +--------------------------------------------+
    predictor <----+----------------------------> predictor --> prediction

The rebuilt frame is the prediction, with the sent pixels put in. Sensor and receiver
both know it, so both make the same prediction of the next frame.

`run_link` sends films frame by frame. It takes any predictor: `SendOnDelta`,
`BestShift`, `MotionPredictor`, which shifts blocks, or a network of one's own.
`TorusMatching` and `VelocityNetwork`, a network of spikes, are for scenes on a torus.
`LinkCount` says what was sent. studies/findings/moving.py and video.py are studies
with it, and studies/sensor_link.py serves a film of one's own.

What it adds to the method: nothing, it only uses the gate "reconstruct". What it does
not do: colour, and rebuilding frames at another rate than they come.
"""

from studies.link.arms import PLACES, RUNGS, motion_on_rung
from studies.link.competition import Race, race
from studies.link.films import read_film, reduction_to
from studies.link.learned import LearnedSynapses
from studies.link.loop import LinkStep, run_link
from studies.link.measures import LinkCount, LinkFigures, price_that_pays
from studies.link.predictors import BestShift, Motion, MotionPredictor, Report, SendOnDelta
from studies.link.shifts import Shifts
from studies.link.torus import TorusMatching
from studies.link.velocities import VelocityNetwork, Wiring

__all__ = [
    "PLACES",
    "RUNGS",
    "BestShift",
    "LearnedSynapses",
    "LinkCount",
    "LinkFigures",
    "LinkStep",
    "Motion",
    "MotionPredictor",
    "Race",
    "Report",
    "SendOnDelta",
    "Shifts",
    "TorusMatching",
    "VelocityNetwork",
    "Wiring",
    "motion_on_rung",
    "price_that_pays",
    "race",
    "read_film",
    "reduction_to",
    "run_link",
]
