"""Named sets of flags. `--preset NAME` stands for its flags; flags typed beside it hold instead of the preset's.

Each names a committed network in docs/results.md. A twin is the same network by the same recipe without a decoder.
"""

COMMON = "--dataset MNIST --augment --holdout 5000 --lr_schedule cosine --weight_decay 0 --no-amsgrad --dropout 0"
ANN_COMMON = f"{COMMON} -lr 2e-3 --trade_off 0.01"
SNN_COMMON = f"{COMMON} --scaling_factor 0.4 --update immediate"
READOUT = "--readout membrane_linear --readout_slew 0.38 --latch --epsilon 0.2"

PLANS = {
    "feedback": "-a VGG5_wFeedback_linear --fc_width 256",
    "twin": "-a VGG5_small --fc_width 256",
    "residual_feedback": "-a VGG4_wFeedback_linear --fc_width 128 --precision bfloat16",
    "residual_twin": "-a VGG4_narrow --fc_width 128 --precision bfloat16",
}
STEPS_8 = "--timesteps 8 --epochs 8 -lr 2e-3 --spike_penalty 3e-6"
STEPS_5 = "--timesteps 5 --epochs 6 -lr 3e-3 --spike_penalty 2e-5"

ANN_PRESETS = {name: f"{plan} {ANN_COMMON} --epochs {5 if 'residual' in name else 1}" for name, plan in PLANS.items()}
SNN_PRESETS = {
    "feedback": f"{SNN_COMMON} {STEPS_8} {READOUT} --trade_off 0.01 --trade_off_type linear_over_t",
    "twin": f"{SNN_COMMON} {STEPS_8}",
    "residual_feedback": f"{SNN_COMMON} {STEPS_5} {READOUT} --residual --trade_off 0.003 --trade_off_type mean_t",
    "residual_twin": f"{SNN_COMMON} {STEPS_5}",
}
SNN_PRESETS = {name: f"{PLANS[name]} {flags}" for name, flags in SNN_PRESETS.items()}
