"""Command lines of all scripts, run in this process, and their results as plain data.

The table ``COMMAND_LINES`` begins with networks that train in a second; the lines after
them use these networks, often with flags that are seldom typed together. What is
recorded depends on the scripts' files, their flags, and public functions of torch and
matplotlib alone, so that the keys stay while the code behind them moves.
"""

import contextlib
import gzip
import io
import os
import random
import re
import runpy
import shlex
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.robustness.figure_data import DrawnFigure, catching_figures
from benchmarks.robustness.recorded_files import Normaliser, files_in

FILES = {  # those run by their files; all others are commands of `wfeedback`
    "ann": "ann_wFeedback.py",
    "snn": "snn_wFeedback.py",
    "analysis": "snn_wFeedback_posthoc_model_analysis.py",
    "obj1": "snn_wFeedback_posthoc_model_inference_obj1.py",
    "obj2": "snn_wFeedback_posthoc_model_inference_obj2.py",
    "obj3": "snn_wFeedback_posthoc_model_inference_obj3.py",
    "results": "studies/results.py",
}
COMMANDS = (*FILES, "stream", "compare", "report", "energy", "export", "nir", "demo")
TRAIN_IMAGES = 400  # of MNIST, in the folder that the command lines read
TEST_IMAGES = 70

# What many command lines share.
MNIST = "--data_dir data"
FEW = f"{MNIST} --limit_train 48 --limit_test 16 --batch_size 16"
MORE = f"{MNIST} --limit_train 320 --limit_test 40 --batch_size 20"
SMALL = "-a VGG5_wFeedback_small --fc_width 32 -lr 5e-3 --init kaiming --dropout 0 --fc_dropout 0"
SMALLEST = "-a VGG4_wFeedback_tiny --fc_width 8"
BALANCED = "--balance_images 16 --balance_timesteps 12 --scaling_factor 0.25"
SPIKING = f"--timesteps 5 --update immediate --readout membrane {BALANCED}"
TESTED = f"{MNIST} --limit_test 16 --batch_size 16"
ANN = "trained_models/ann/tiny.pth"
SNN = "trained_models/snn/tiny.pth"
BLOCKING = "trained_models/snn/blocking.pth"
BASELINE = "trained_models/snn/baseline.pth"
OWN_SNN = "trained_models/snn/own_images.pth"
RECORDED_SNN = "trained_models/snn/recorded.pth"


class CommandLine(NamedTuple):
    """A command line that is recorded.

    Attributes
    ----------
    script : str
        Name of the script in ``COMMANDS``.
    flags : str
        Its flags. ``{repository}`` stands for the folder of the code.
    interrupted_after : int or None
        The number of the weight update after which SIGINT is sent, as Ctrl-C does.
    """

    script: str
    flags: str
    interrupted_after: int | None = None


TRAININGS = {
    "ann tiny": CommandLine(
        "ann", f"{SMALL} {MORE} --epochs 3 --trade_off 0.02 --select test --run_name tiny"
    ),
    "ann odd flags": CommandLine(
        "ann",
        f"{SMALL} {FEW} --seed 3 --epochs 3 --holdout 5 --timesteps 2 --optimizer SGD --nesterov "
        "--momentum 0.8 --lr_schedule cosine --warm_up 0.3 --trade_off 2 --label_smoothing 0.1 "
        "--augment --shift 1 --cutout 4 --train_acc_batches 1 "
        "--test_acc_every_batch --results_json odd.json --output_dir elsewhere",
    ),
    "ann with batch norm and qcfs": CommandLine(
        "ann",
        f"{SMALL} {FEW} --epochs 2 --norm batch --activation_ann qcfs --qcfs_levels 6 "
        "--fc_layers 1 --init kaiming --lr_interval '0.5 0.75' --lr_reduce 3 --weight_decay 0.01 "
        "--no-amsgrad --bias_lr_factor 2 --run_name normed",
    ),
    "ann taught, by updates": CommandLine(
        "ann",
        f"{SMALLEST} {FEW} --updates 5 --teacher_ann {ANN} --distillation 0.4 --temperature 3 "
        "--whitening --lr_schedule triangle --holdout 0 --run_name taught",
    ),
    "ann --seeds twice": CommandLine(
        "ann", f"{SMALLEST} {FEW} --epochs 1 --run_name pair --seeds 2 --seeds 1 0"
    ),
    "ann of own images": CommandLine(
        "ann",
        f"{SMALLEST} --dataset own --epochs 2 --batch_size 4 --augment "
        "--mirror alternate --run_name own_images --seed 5",
    ),
    "ann of recordings": CommandLine(
        "ann",
        "-a VGG4_tiny --fc_width 8 --dataset events --event_frames 4 --count_bound 2 "
        "--split_by number --epochs 1 --batch_size 4 --run_name recorded",
    ),
    "ann --test_only with idle flags": CommandLine(
        "ann",
        f"--pretrained_ann {ANN} --test_only {TESTED} --epochs 7 --dropout 0 --lr_reduce 4 "
        "--holdout 6 --seed 2",
    ),
    "snn tiny": CommandLine(
        "snn",
        f"--pretrained_ann {ANN} {SPIKING} {MORE} --epochs 1 --trade_off 0.02 -lr 2e-3 "
        "--dropout 0 --select test --run_name tiny",
    ),
    "snn blocking, odd flags": CommandLine(
        "snn",
        f"--pretrained_ann {ANN} {FEW} {BALANCED} --seed 3 --epochs 2 --holdout 8 --timesteps 5 "
        "--update immediate --readout membrane_linear --readout_slew 0.4 --readout_leak 0.9 "
        "--gate block --epsilon 0.3 --blocking dynamic --latch --residual --trade_off 0.5 "
        "--trade_off_type linear_over_t --classification_type mean_t --spike_penalty 1e-4 "
        "--activation STDB --alpha 0.4 --beta 0.02 --learn_threshold --learn_leak --leak 0.95 "
        "--bptt_segments 2 --optimizer SGD -lr 1e-4 --run_name blocking --results_json b.json",
    ),
    "snn baseline": CommandLine(
        "snn",
        f"-a VGG5_small --pretrained_ann {ANN} {FEW} {BALANCED} --epochs 1 --timesteps 7 "
        "--output_leak 0.9 --update immediate --precision bfloat16 "
        "--run_name baseline",
    ),
    "snn --train decoder": CommandLine(
        "snn",
        f"--pretrained_snn {SNN} {FEW} --train decoder --learn_threshold --learn_leak --epochs 1 "
        "--trade_off_type mean_t --run_name decoder",
    ),
    "snn from batch norm and qcfs": CommandLine(
        "snn",
        f"--pretrained_ann trained_models/ann/normed.pth {FEW} --epochs 1 --timesteps 6 "
        "--update immediate --readout membrane --run_name normed",
    ),
    "snn calibrated": CommandLine(
        "snn",
        f"--pretrained_ann {ANN} {FEW} {BALANCED} --balance_percentile 98 --epochs 0 "
        "--timesteps 4 --update immediate --encoding direct --readout spike_count_rescaled "
        "--calibrate --run_name calibrated --seed 1",
    ),
    "snn phased": CommandLine(
        "snn",
        f"--pretrained_ann {ANN} {FEW} --update phased --timesteps 3 --encoding direct "
        "--readout membrane_linear --dropout 0 --fc_dropout 0 --epochs 0 --run_name phased",
    ),
    "snn delayed from scratch": CommandLine(
        "snn",
        f"{SMALLEST} {FEW} --timesteps 8 --default_threshold 0.1 --membrane_floor 0.5 --bias "
        "--output_bias --epochs 1 --run_name delayed --seed 4",
    ),
    "snn --seeds": CommandLine(
        "snn",
        f"--pretrained_ann trained_models/ann/pair.pth {FEW} {SPIKING} --epochs 1 "
        "--seeds 0 1 --run_name pair --checkpoint_minutes 0",
    ),
    "snn --test_only with idle flags": CommandLine(
        "snn",
        f"--pretrained_snn {SNN} --test_only {TESTED} --engine reference --timesteps 3 --alpha 1 "
        "--epochs 5 --dropout 0 --latch --gap_bound 3 --results_json test.json",
    ),
    "snn --test_only on a folder of digits": CommandLine(
        "snn", f"--pretrained_snn {BLOCKING} --test_only --dataset digits --batch_size 8"
    ),
    "snn --seeds --test_only": CommandLine(
        "snn",
        f"--pretrained_snn trained_models/snn/pair.pth --test_only {TESTED} --seeds 0 1 "
        "--engine event",
    ),
    "snn --seeds --test_only again": CommandLine(
        "snn", f"--pretrained_snn trained_models/snn/pair.pth --test_only {TESTED} --seeds 1 0"
    ),
    "snn interrupted": CommandLine(
        "snn",
        f"--pretrained_ann {ANN} {SPIKING} {MNIST} --limit_train 40 --limit_test 16 "
        "--batch_size 8 --epochs 1 --train_acc_batches 2 --holdout 60 --trade_off 0.02 -lr 1e-3 "
        "--dropout 0 --run_name stopped",
        interrupted_after=3,
    ),
    "snn --resume after the interruption": CommandLine("snn", "--resume --run_name stopped"),
    "snn --resume with more epochs": CommandLine(
        "snn", "--resume trained_models/snn/stopped_last.pth --epochs 3"
    ),
    "snn of own images": CommandLine(
        "snn",
        "--pretrained_ann trained_models/ann/own_images.pth --dataset own --epochs 1 "
        f"--batch_size 4 --timesteps 4 --update immediate --readout membrane {BALANCED} "
        "--gate block --epsilon 0.4 --together --run_name own_images",
    ),
    "snn of recordings": CommandLine(
        "snn",
        f"{SMALLEST} --dataset events --event_frames 4 --epochs 1 "
        "--batch_size 4 --timesteps 4 --update immediate --default_threshold 0.2 "
        "--readout membrane_linear --predict next --run_name recorded",
    ),
    "snn of few pixels": CommandLine(  # in which most runs are over before their last timestep
        "snn",
        f"{SMALLEST} --dataset dots --epochs 0 --batch_size 4 --timesteps 30 --update immediate "
        "--readout membrane_linear --readout_leak 0.5 --gate block --epsilon 0.45 "
        "--blocking dynamic --default_threshold 0.2 --engine event --run_name dots",
    ),
    "snn by a recipe of one's own": CommandLine(
        "snn", f"--preset recipe.toml {FEW} --epochs 1 --seed 6"
    ),
}

EVALUATIONS = {
    "analysis": CommandLine(
        "analysis",
        f"--pretrained_snn {SNN} {TESTED} --baseline {BASELINE} --gate block --epsilon 0.25 "
        "--images 2 --chart_images 8 --raster 3 --frame_seconds 0.3 --seed 1 --timesteps 3",
    ),
    "analysis of own images": CommandLine(
        "analysis",
        f"--pretrained_snn {BLOCKING} --images mine/one.png mine/two.png --invert --engine dense "
        "--rule confidence --gap_bound 0.02 --chart_images 2 --timesteps 3",
    ),
    "analysis in colour": CommandLine(
        "analysis",
        f"--pretrained_snn {OWN_SNN} --dataset own --index 1 --rule all_predicted "
        "--open_bound 0.6 --no-gpu --timesteps 2",
    ),
    "analysis of recordings": CommandLine(
        "analysis",
        f"--pretrained_snn {RECORDED_SNN} --dataset events --images 1 --epsilon 0.2 --timesteps 2",
    ),
    "obj1": CommandLine(
        "obj1",
        f"--pretrained_snn {BLOCKING} {TESTED} --epsilon 0 0.1 0.3 --baseline {BASELINE} "
        "--rule confidence --gap_bound 0.1 --no-residual --results_json blocking.json",
    ),
    "obj1 grid": CommandLine(
        "obj1",
        f"--pretrained_snn {BLOCKING} {MNIST} --epsilon 0.2 0.4 --readout_slew 0.2 0.6 "
        "--timesteps 3 5 --picture choices.png",
    ),
    "obj2": CommandLine(
        "obj2",
        f"--pretrained_snn {BLOCKING} {TESTED} --rules all_predicted confidence entropy both "
        "--open_bounds 0.3 0.6 --gap_bounds 0.05 0.2 --entropy_bounds 0.9 0.99",
    ),
    "obj3": CommandLine(
        "obj3",
        f"--pretrained_snn {SNN} {TESTED} --epsilon 0.3 --index 3 --frame_seconds 0.25 "
        "--timesteps 3",
    ),
    "obj3 of own images": CommandLine(
        "obj3", f"--pretrained_snn {SNN} --images mine --contrast original --timesteps 2"
    ),
    "stream of a scene": CommandLine(
        "stream",
        f"--pretrained_snn {BLOCKING} {TESTED} --scene part --scene_frames 4 "
        f"--baseline {BASELINE} --seed 2",
    ),
    "stream of frames": CommandLine(
        "stream",
        f"--pretrained_snn {SNN} --frames film.gif --invert --steps_per_frame 2 "
        "--gate reconstruct --epsilon 0.2 --frame_seconds 0.05",
    ),
    "stream of a baseline": CommandLine(
        "stream",
        f"--pretrained_snn {BASELINE} --frames film.gif --steps_per_frame 3 --update delayed",
    ),
}

OTHERS = {
    "compare logs": CommandLine(
        "compare", "decoder normed --equivalence 15 --output compared.csv"
    ),
    "compare --evaluate": CommandLine(
        "compare",
        f"pair trained_models/snn/pair.pth --seeds 0 1 --evaluate {TESTED} --equivalence 15 "
        "--timesteps 4 --gate block --epsilon 0.3 --output compared.json",
    ),
    "compare at equal accuracy": CommandLine(
        "compare",
        f"{SNN} {BLOCKING} --evaluate --at_accuracy 10 {TESTED} --overwrite --timesteps 3",
    ),
    "energy": CommandLine(
        "energy", f"{SNN} {BASELINE} --against {ANN} {TESTED} --picture energy.png --seed 1"
    ),
    "energy for programs": CommandLine(
        "energy", f"{BLOCKING} {TESTED} --convention prices.toml --format json"
    ),
    "energy as Markdown": CommandLine("energy", f"{SNN} {TESTED} --format md --timesteps 3"),
    "export nir": CommandLine("export", f"{BLOCKING} --to nir"),
    "export torch": CommandLine("export", f"{BASELINE} --to torch"),
    "export block": CommandLine("export", f"{SNN} --to block --weights int8"),
    "export page": CommandLine("export", f"{SNN} --to page {MNIST} --output page.html"),
    "export c": CommandLine("export", f"{BLOCKING} --to c {MNIST}"),
    "export arduino": CommandLine(
        "export", f"{BASELINE} --to arduino --weights int8_folded {MNIST}"
    ),
    "nir": CommandLine(
        "nir",
        "{repository}/examples/nmnist.nir --limit 20 --wrong --gif "
        "{repository}/data/nmnist/3/00013.bin --batch_size 7 --steps 7 --dt 0.04",
    ),
    "nir --like": CommandLine(
        "nir",
        "{repository}/examples/nmnist.nir --like snntorch --dt 0.01 --reset subtract "
        "--reset_delay --membrane_floor 0.5 --engine dense --limit 10 --steps 20 --no-log",
    ),
    "nir by events": CommandLine(
        "nir",
        "{repository}/examples/nmnist.nir --events_per_step 100 --limit 10 --run_name by_events "
        "--output_dir elsewhere",
    ),
    "nir of a file with metadata": CommandLine(
        "nir", "trained_models/snn/blocking.nir frames --like norse"
    ),
    "nir without --like": CommandLine("nir", "trained_models/snn/blocking.nir frames"),
    "results": CommandLine("results", "--only"),
    "report": CommandLine(
        "report",
        "stopped blocking_epsilon_0.0_0.1_0.3 blocking_adaptive --output report.html",
    ),
    "snn with a loss of one's own": CommandLine(
        "snn",
        f"--pretrained_snn {SNN} {FEW} --epochs 1 --model "
        "{repository}/examples/prediction_variance.py --variance_weight 0.1 --variance_steps 3 "
        "--run_name steady",
    ),
    "analysis with a gate of one's own": CommandLine(
        "analysis",
        f"--pretrained_snn {SNN} {TESTED} --model {{repository}}/examples/neighbours.py "
        "--gate neighbours --epsilon 0.5 --images 1 --chart_images 4 --timesteps 2",
    ),
    "snn of a class of one's own": CommandLine(
        "snn",
        f"--pretrained_snn {SNN} {FEW} --epochs 1 --model "
        "{repository}/examples/two_decoders.py:TwoDecoders --run_name two_decoders",
    ),
    "snn --test_only of a class of one's own": CommandLine(
        "snn",
        f"--pretrained_snn trained_models/snn/two_decoders.pth {TESTED} --test_only --model "
        "{repository}/examples/two_decoders.py:TwoDecoders --timesteps 4",
    ),
}

REFUSALS = {
    "refused: a mistyped flag": CommandLine("ann", "--epoch 3"),
    "refused: nothing to evaluate": CommandLine("obj1", "--run_name x"),
    "refused: files are there": CommandLine("ann", f"{SMALL} {FEW} --run_name tiny"),
    "refused: a value out of range": CommandLine("snn", "--leak 1.5 --epochs -1"),
    "refused: an ANN for an SNN": CommandLine("obj2", f"--pretrained_snn {ANN}"),
    "refused: --seeds and --results_json": CommandLine("snn", "--seeds 0 1 --results_json x.json"),
    "refused: --epochs and --updates": CommandLine("ann", "--epochs 3 --updates 5"),
    "refused: other settings with --resume": CommandLine(
        "snn", "--resume --run_name stopped --timesteps 9"
    ),
    "refused: nothing left to train": CommandLine("snn", "--resume --run_name stopped"),
    "refused: bounds of unequal number": CommandLine(
        "obj2",
        f"--pretrained_snn {BLOCKING} {MNIST} --rules both --gap_bounds 1 2 --open_bounds 0",
    ),
    "refused: no decoder": CommandLine("analysis", f"--pretrained_snn {BASELINE} {MNIST}"),
    "refused: too few images": CommandLine(
        "obj1", f"--pretrained_snn {SNN} {MNIST} --limit_test 100"
    ),
    "refused: no such recipe": CommandLine("snn", "--preset quick_feedbck"),
    "refused: no such run": CommandLine("report", "no_such_run"),
    "refused: a file is there": CommandLine("export", f"{SNN} --to block --weights int8"),
    "refused: two sources of a stream": CommandLine(
        "stream", f"--pretrained_snn {SNN} --frames film.gif --scene part"
    ),
    "refused: other classes than outputs": CommandLine(
        "nir", "{repository}/examples/nmnist.nir own/train"
    ),
}
HELP = {f"{script} --help_all": CommandLine(script, "--help_all") for script in COMMANDS}

# Files of one's own register parts for the whole process, so help and recipes come
# first.
COMMAND_LINES = {
    **HELP,
    "ann --preset list": CommandLine("ann", "--preset list"),
    **TRAININGS,
    **EVALUATIONS,
    **OTHERS,
    **REFUSALS,
}

RECIPE = f"""# Of the record: starts from the ANN of the record.

[snn]
pretrained_ann = "{ANN}"
dataset = "MNIST"
timesteps = 4
update = "immediate"
readout = "membrane_rescaled"
scaling_factor = 0.3
balance_images = 8
balance_timesteps = 12
"""
PRICES = """title = "round figures"
source = "made up"
year = 2026
technology = "none"
leaves_out = "all else"

[picojoules]
add = 1
multiply_add = 5
add_int8 = 0.1
multiply_add_int8 = 0.5
"""


def record_commands(
    repository: Path, command_lines: Mapping[str, CommandLine] | None = None
) -> Iterator[tuple[str, object]]:
    """Run command lines one after the other, and record what comes of each.

    Parameters
    ----------
    repository : Path
        Folder of the code.
    command_lines : dict of {str: CommandLine}, optional
        Name -> command line, in the order in which they are run. By default all.

    Yields
    ------
    key : str
        ``command NAME: ASPECT``; aspects are the exit status, what was printed, each
        file that was written, and each figure that was drawn.
    value : object
        Numbers, texts, lists and dicts.
    """
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, repository)
        os.chdir(folder)
        try:
            for name, command in (command_lines or COMMAND_LINES).items():
                print(name, file=sys.stderr, flush=True)
                for aspect, value in record_command(command, folder, repository).items():
                    yield f"command {name}: {aspect}", value
        finally:
            os.chdir(before)


def record_command(command: CommandLine, folder: Path, repository: Path) -> dict[str, object]:
    """Run one command line in this process.

    Parameters
    ----------
    command : CommandLine
        The command line.
    folder : Path
        The current folder, whose files are recorded where they are written.
    repository : Path
        Folder of the code.

    Returns
    -------
    dict of {str: object}
        For each aspect what came of it, as in ``record_commands``.
    """
    normaliser = Normaliser({"REPOSITORY": repository, "FOLDER": folder})
    script = FILES.get(command.script)
    if script:
        # results.py writes into the repository that it lies in, so a copy of it is run
        script = (folder / "results" if command.script == "results" else repository) / script
    flags = shlex.split(command.flags.format(repository=repository))
    if not script:
        flags = [command.script, *flags]
    files_before = files_in(folder)
    with catching_figures() as figures:
        status, output, errors = run_as_typed(script, flags, command.interrupted_after)
    if "--help_all" in flags:
        output = unwrapped(output)
    if status == 130 and command.interrupted_after is None:
        raise KeyboardInterrupt  # it was the user who ended the script, and means the record
    record = {
        "status": normaliser.value(status),
        "output": normaliser.text(output),
        "errors": normaliser.text(errors),
    }
    files_after = files_in(folder)
    files = {}
    for path, written in files_after.items():
        if files_before.get(path) != written:
            files[f"file {path}"] = normaliser.file(folder / path)
    record["files gone"] = sorted(files_before.keys() - files_after.keys())
    for name, figure in named_figures(figures, files).items():
        record[name] = normaliser.value(figure.data())
    return record | files  # a reader of differences sees figures as data before their pixels


def unwrapped(help_text: str) -> str:
    """Put each flag of a help on one line.

    argparse breaks lines by their width, and so by the length of the folder's path.
    """
    words = " ".join(help_text.split())
    return re.sub(r" (?=--?[a-z])", "\n", words)


def named_figures(
    figures: Iterable[DrawnFigure], files: Mapping[str, object]
) -> dict[str, DrawnFigure]:
    """Name figures by the files that they are in, since the order of drawing may vary.

    Parameters
    ----------
    figures : list of DrawnFigure
        The figures in the order in which they were drawn.
    files : dict of {str: object}
        What was recorded of the files that were written.

    Returns
    -------
    dict of {str: DrawnFigure}
        ``figure FILE`` -> the figure. Those that no file shows as they were drawn, such
        as the frames of a GIF, which has fewer colours, are numbered.
    """
    names = {}
    for aspect, value in files.items():
        if aspect.endswith(".png"):
            names[value["frames"][0]] = aspect.removeprefix("file ")
    named = {}
    count_unnamed = 0
    for figure in figures:
        name = names.pop(figure.pixels, None)
        if name is None:
            count_unnamed += 1
            name = str(count_unnamed)
        named[f"figure {name}"] = figure
    return named


def run_as_typed(
    script: Path | None, flags: Sequence[str], interrupted_after: int | None = None
) -> tuple[int | str, str, str]:
    """Run the file of a script as Python does, or `wfeedback`, in this process.

    Parameters
    ----------
    script : Path or None
        The file. Default: the command `wfeedback`.
    flags : list of str
        Words of the command line after the name of the script, or after `wfeedback`.
    interrupted_after : int, optional
        Number of the weight update after which this process gets SIGINT.

    Returns
    -------
    status : int or str
        The exit status; of an error that the script has not caught what it was.
    output, errors : str
        What was written to standard output, and to standard error.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    updates = 0

    def count_updates(*_):
        nonlocal updates
        updates += 1
        if updates == interrupted_after:
            os.kill(os.getpid(), signal.SIGINT)

    argv_before = sys.argv
    sys.argv = [str(script or "wfeedback"), *flags]
    hook = register_optimizer_step_post_hook(count_updates)
    output = io.StringIO()
    errors = io.StringIO()
    status = 0
    try:
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            plain_warnings(),
        ):
            if script:
                runpy.run_path(str(script), run_name="__main__")
            else:
                runpy.run_module("wfeedback", run_name="__main__")
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException as error:  # the record says that it ended so, and goes on
        status = f"{type(error).__name__}: {error}"
    finally:
        hook.remove()
        sys.argv = argv_before
    return status, output.getvalue(), errors.getvalue()


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings without the file and line that they come from, which may move."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


# --- what the command lines read


def make_inputs(folder: Path, repository: Path) -> None:
    """Write the images, recordings and other files that the command lines read.

    Parameters
    ----------
    folder : Path
        Where they are written.
    repository : Path
        Folder of the code, whose MNIST they take the first images of.
    """
    draws = np.random.default_rng(0)
    make_mnist(folder / "data/mnist", repository / "data/mnist")
    for part in ("train", "test"):
        for label in range(2):
            make_pictures(folder / f"own/{part}/{('cat', 'dog')[label]}", draws, 6, (12, 12, 3))
            make_recordings(folder / f"events/{part}/{label}", draws, 6)
            make_dots(folder / f"dots/{part}/{label}", draws, 6)
    make_pictures(folder / "mine", draws, 2, (20, 24), names=("one", "two"))
    frames = [Image.fromarray(draws.integers(0, 256, (28, 28), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:], duration=100)
    for label in range(10):
        for part in ("train", "test"):
            make_pictures(folder / f"digits/{part}/{label}", draws, 1, (28, 28))
        (folder / f"frames/{label}").mkdir(parents=True)
        counts = draws.integers(0, 2, (6, 1, 28, 28), dtype=np.uint8)
        np.save(folder / f"frames/{label}/0.npy", counts)
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "prices.toml").write_text(PRICES)
    for name in (
        "studies/results.py",
        "README.md",
        "studies/notebook/tables.md",
        "docs/reference/zoo.md",
    ):
        copy = folder / "results" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / name, copy)
    shutil.copytree(repository / "results", folder / "results/results")


def make_mnist(folder: Path, source: Path) -> None:
    """Write the first images and labels of MNIST as uncompressed IDX files."""
    folder.mkdir(parents=True)
    for part, count in (("train", TRAIN_IMAGES), ("t10k", TEST_IMAGES)):
        for kind, head_size, item_size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
            name = f"{part}-{kind}-ubyte"
            with gzip.open(source / f"{name}.gz") as file:
                head = file.read(head_size)
                items = file.read(count * item_size)
            number = count.to_bytes(4, "big")
            (folder / name).write_bytes(head[:4] + number + head[8:] + items)


def make_pictures(
    folder: Path,
    draws: np.random.Generator,
    count: int,
    shape: tuple[int, ...],
    names: Sequence[str] | None = None,
) -> None:
    """Write pictures of random values, each with a darker half."""
    folder.mkdir(parents=True)
    for number in range(count):
        values = draws.integers(0, 256, shape, dtype=np.uint8)
        values[: shape[0] // 2] //= 4
        name = names[number] if names else number
        Image.fromarray(values).save(folder / f"{name}.png")


def make_dots(folder: Path, draws: np.random.Generator, count: int) -> None:
    """Write pictures of 4 x 4 pixels of which one is not black."""
    folder.mkdir(parents=True)
    for number in range(count):
        values = np.zeros((4, 4), np.uint8)
        values[draws.integers(4), draws.integers(4)] = draws.integers(100, 256)
        Image.fromarray(values).save(folder / f"{number}.png")


def make_recordings(folder: Path, draws: np.random.Generator, count: int) -> None:
    """Write recordings of an event camera of 12 x 12 pixels: random events in 10 ms."""
    folder.mkdir(parents=True)
    for number in range(count):
        events = {
            "x": draws.integers(0, 12, 80),
            "y": draws.integers(0, 12, 80),
            "p": draws.integers(0, 2, 80),
            "t": np.sort(draws.integers(0, 10_000, 80)),
        }
        np.savez(folder / f"{number}.npz", **events)
