"""Named sets of flags. `--preset NAME` stands for its flags; flags typed beside it hold instead of the preset's.

Each names a committed network in docs/tables.md. A twin is the same network by the same recipe without a decoder.
"""

COMMON = "--holdout 5000 --lr_schedule cosine --weight_decay 0 --no-amsgrad"
READOUT = "--readout membrane_linear --readout_slew 0.38 --latch --epsilon 0.2"

PLANS = {
    "feedback": "-a VGG5_wFeedback_linear --fc_width 256",
    "twin": "-a VGG5_small --fc_width 256",
    "residual_feedback": "-a VGG4_wFeedback_linear --fc_width 128 --precision bfloat16",
    "residual_twin": "-a VGG4_narrow --fc_width 128 --precision bfloat16",
}
for network in ("feedback", "twin"):
    PLANS[f"fast_{network}"] = PLANS[f"residual_{network}"]
    PLANS[f"accurate_{network}"] = f"{PLANS[network]} --precision bfloat16"
PLANS["fashion_feedback"] = "-a VGG4_wFeedback_linear --fc_width 256 --precision bfloat16"
PLANS["fashion_twin"] = "-a VGG4_narrow --fc_width 256 --precision bfloat16"

ANN_SHORT, ANN_LONG = "--dropout 0 --trade_off 0.01 --epochs", "--dropout 0 --trade_off 0.001 --epochs 16"
ANN_FASHION = "--dropout 0.3 --trade_off 0.001 --epochs 12"
ANN_RECIPES = {
    "feedback": f"{ANN_SHORT} 1",
    "twin": f"{ANN_SHORT} 1",
    "residual_feedback": f"{ANN_SHORT} 5",
    "residual_twin": f"{ANN_SHORT} 5",
    "accurate_feedback": ANN_LONG,
    "accurate_twin": ANN_LONG,
    "fashion_feedback": ANN_FASHION,
    "fashion_twin": ANN_FASHION,
}

STEPS_8 = "--timesteps 8 --epochs 8 -lr 2e-3 --spike_penalty 3e-6"
STEPS_3 = "--timesteps 3 --epochs 2 -lr 1e-3 --spike_penalty 2e-5"  # after the twin's own 4 epochs at 3e-3
STEPS_5 = "--timesteps 5 --epochs 6 -lr 3e-3 --spike_penalty 2e-5"
ACCURATE = "--activation Triangle --timesteps 8 --spike_penalty 5e-5 -lr 5e-4 --epochs"
FASHION = "--activation Triangle --encoding direct --timesteps 4 --spike_penalty 3e-6 -lr 5e-4 --distillation 0.7 --epochs"
LATER = "--readout membrane_linear --latch --trade_off_type mean_t"  # a decoder given to a trained twin
SNN_RECIPES = {
    "feedback": f"{STEPS_8} {READOUT} --trade_off 0.01 --trade_off_type linear_over_t",
    "twin": STEPS_8,
    "residual_feedback": f"{STEPS_5} {READOUT} --residual --trade_off 0.003 --trade_off_type mean_t",
    "residual_twin": STEPS_5,
    "fast_feedback": f"{STEPS_3} {LATER} --epsilon 0.2 --trade_off 1e-5",
    "fast_twin": STEPS_3,
    "accurate_feedback": f"{ACCURATE} 10 {READOUT} --trade_off 0.002 --trade_off_type linear_over_t",
    "accurate_twin": f"{ACCURATE} 10",
    "fashion_feedback": f"{FASHION} 3 --dropout 0.3 {LATER} --readout_slew 0.15 --epsilon 0.08 --trade_off 1e-5",
    "fashion_twin": f"{FASHION} 5",
}


def _data(name):
    return "--dataset FashionMNIST" if name.startswith("fashion") else "--dataset MNIST --augment"


ANN_PRESETS = {name: f"{PLANS[name]} {_data(name)} {COMMON} -lr 2e-3 {recipe}" for name, recipe in ANN_RECIPES.items()}
SNN_PRESETS = {
    name: f"{PLANS[name]} {_data(name)} {COMMON} --dropout 0 --scaling_factor 0.4 --update immediate {recipe}"
    for name, recipe in SNN_RECIPES.items()
}
