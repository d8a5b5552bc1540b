"""Named sets of flags. `--preset NAME` stands for its flags; flags typed beside it hold instead of the preset's."""

COMMON = "--fc_width 128 --lr_schedule cosine --weight_decay 0 --no-amsgrad --dropout 0 --holdout 5000 --precision bfloat16"
ANN = "--epochs 5 -lr 2e-3 --trade_off 0.01"
SNN = "--epochs 6 -lr 3e-3 --scaling_factor 0.4 --timesteps 5 --update immediate --spike_penalty 2e-5"
FEEDBACK = (
    "--readout membrane_linear --readout_slew 0.38 --latch --residual --epsilon 0.2 --trade_off 0.003 --trade_off_type mean_t"
)
PLANS = {"feedback": "VGG4_wFeedback_linear", "twin": "VGG4_narrow"}  # the twin: the same network without a decoder
DATA = {"mnist": "--dataset MNIST --augment", "fashion": "--dataset FashionMNIST"}


def presets(recipe, feedback=""):
    """Name -> flags, for each data set and network. feedback: flags of the network with a decoder alone."""
    return {
        f"{name}_{kind}": f"-a {plan} {data} {COMMON} {recipe} {feedback if kind == 'feedback' else ''}".strip()
        for name, data in DATA.items()
        for kind, plan in PLANS.items()
    }


ANN_PRESETS, SNN_PRESETS = presets(ANN), presets(SNN, FEEDBACK)
