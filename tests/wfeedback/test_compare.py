"""wfeedback compare, and --seeds of the scripts that train.

What a user types, the table against sums by hand, and bad input.
"""

import csv
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import (
    BALANCE,
    DATA,
    REPOSITORY,
    build,
    commands_in,
    digests,
    module_of,
    records,
    refused,
    run_as_program,
    run_here,
    same_weights,
)

from self_models.errors import UserError
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from snn_wFeedback import build_parser
from wfeedback.command_line import scripts
from wfeedback.command_line.posthoc import open_evaluated, posthoc_parser
from wfeedback.command_line.scripts import SeedsFailed, train_each
from wfeedback.measuring import comparing
from wfeedback.measuring.comparing import (
    FIGURES,
    Difference,
    Series,
    Spread,
    at_accuracy,
    difference,
    interval,
    surviving,
)
from wfeedback.measuring.read_logs import read_run
from wfeedback.runs.ranks import Interrupted
from wfeedback.runs.saving import save_checkpoint

PAGE = "docs/how_to/compare.md"
HELD_OUT = f"--fc_width 16 --holdout 8 --epochs 1 {DATA}"
SHORT = f"{HELD_OUT} --timesteps 3 --update immediate"
FED = f"{SHORT} {BALANCE} --readout membrane_rescaled --epsilon 0.2"


@dataclass
class Recipes:
    """Two tiny recipes, `fed` with a decoder and `baseline`, of seeds 0 and 1 each."""

    folder: Path
    printed: str  # by the training of `fed`


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Train both recipes with both seeds."""
    folder = tmp_path_factory.mktemp("recipes")
    here = f"--seeds 0 1 --output_dir {folder}"
    run_here("ann", f"-a VGG5_wFeedback_small -lr 5e-3 {HELD_OUT} --run_name ann {here}")
    ann = folder / "trained_models/ann/ann.pth"
    _, printed = run_here("snn", "--pretrained_ann", ann, f"{FED} --run_name fed {here}")
    run_here("snn", f"-a VGG5_small {SHORT} --run_name baseline {here}")
    return Recipes(folder, printed)


def test_each_seed_starts_from_the_ann_of_that_seed(recipes):
    anns = recipes.folder / "trained_models/ann"
    assert re.findall("== seed .*", recipes.printed) == [
        f"== seed 0: fed; --pretrained_ann {anns}/ann.pth",
        f"== seed 1: fed_1; --pretrained_ann {anns}/ann_1.pth",
    ]


def test_each_run_of_seeds_is_what_seed_makes_of_it(recipes, tmp_path):
    ann = recipes.folder / "trained_models/ann/ann_1.pth"
    here = f"--run_name alone --output_dir {tmp_path}"

    run_here("snn", "--pretrained_ann", ann, FED, f"--seed 1 {here}")

    alone = tmp_path / "trained_models/snn/alone.pth"
    assert same_weights(alone, recipes.folder / "trained_models/snn/fed_1.pth")
    assert not same_weights(alone, recipes.folder / "trained_models/snn/fed.pth")


def test_seeds_that_are_trained_are_left_as_they_are(recipes):
    before = digests(recipes.folder)
    here = f"--output_dir {recipes.folder}"

    results, printed = run_here("snn", f"--run_name fed --seeds 0 1 --resume {here}")
    assert results == []
    assert printed.count("left as it is: ") == 2

    # Refused before seed 2 trains
    line = refused("snn", f"-a VGG5_small {SHORT} --run_name baseline --seeds 2 1 {here}")
    assert "baseline_1.pth exists: --resume goes on with that run" in line
    assert digests(recipes.folder) == before


def test_seeds_are_evaluated_again_under_the_next_free_names(recipes, tmp_path):
    """As without --seeds: --test_only replaces nothing, so it need not be refused."""
    ann = recipes.folder / "trained_models/ann/ann.pth"
    flags = f"--test_only --seeds 0 1 --limit_test 4 --run_name x --output_dir {tmp_path}"
    for _ in range(2):
        run_here("ann", "--pretrained_ann", ann, flags)
    logs = sorted(path.stem for path in (tmp_path / "logs/ann").glob("*.jsonl"))
    assert logs == ["x", "x_1", "x_1_2", "x_2"]


def test_one_seed_fails_and_the_others_are_trained(tmp_path):
    begun = []

    def train(args):
        begun.append(args.seed)
        if args.seed == 0:
            raise UserError("the disk\nis full")
        return args.seed

    words = f"-a VGG5_small --run_name x --seeds 0 1 2 --output_dir {tmp_path}".split()
    with pytest.raises(SeedsFailed, match=r"^seed 0, run x: the disk is full$"):
        train_each(train, build_parser(), words, "snn")
    assert begun == [0, 1, 2]


@pytest.mark.parametrize(("failing", "status"), [(0, 2), (1, 1)])
def test_the_status_of_a_rank_whose_seed_fails(tmp_path, capsys, monkeypatch, failing, status):
    """It is that of bad input only where no seed has begun."""

    def train(args):
        if args.seed == failing:
            raise UserError("the disk is full")

    words = f"-a VGG5_small --run_name x --seeds 0 1 2 --output_dir {tmp_path}".split()
    monkeypatch.setattr(scripts.ranks, "count", lambda: 2)
    with pytest.raises(SystemExit) as stop:
        scripts.run_script(lambda: train_each(train, build_parser(), words, "snn"))
    assert stop.value.code == status
    line = capsys.readouterr().err
    assert line.startswith(f"error (rank 0): seed {failing}, run x")
    assert "the disk is full; not begun: --seeds " in line


def test_lines_and_status_where_seeds_fail(tmp_path, capsys):
    """A line for each run that has begun; a single one if none could begin."""
    names = f"--run_name x --seeds 0 1 --output_dir {tmp_path}"
    flags = f"-a VGG5_small --fc_width 8 {HELD_OUT} {names}"

    with pytest.raises(SystemExit) as stop:
        scripts.run_script(lambda: module_of("ann").main(f"{flags} -lr 1e30".split()))

    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1
    assert [line.split(": ")[1] for line in lines] == ["seed 0, run x", "seed 1, run x_1"]
    assert all("training stopped" in line for line in lines)

    before = digests(tmp_path)
    line = refused("ann", f"{flags} --run_name y --dataset {tmp_path}/none")
    assert "nor a folder that is there" in line
    assert digests(tmp_path) == before


def figures_by_hand(folder, name):
    """Take the figures of a run from the one evaluation in its log: title -> figure."""
    (record,) = records(folder / f"logs/snn/{name}.jsonl", "evaluation")
    figures = {
        "accuracy, %": 100 * record["accuracy"],
        "spikes, input": record["spikes"]["input"],
        "spikes, encoder": record["spikes"]["encoder"],
        "spikes, classifier": record["spikes"]["classifier"],
        "spikes, all parts": record["spikes"]["total"],
        "timesteps": record["mean_steps"],
        "energy layer by layer, µJ": 1e6 * record["energy_joules"],
        "energy event-driven, µJ": 1e6 * record["energy_event_joules"],
    }
    if record["feedback"]:
        figures["spikes, decoder"] = record["spikes"]["decoder"]
    if record["epsilon"]:
        figures["input open at the end, %"] = 100 * record["open_share"][-1]
    return figures


@pytest.fixture(scope="module")
def figures(recipes):
    """Name of a network -> its figures with seed 0, and with seed 1."""
    found = {}
    for name in ("fed", "baseline"):
        with_seed_0 = figures_by_hand(recipes.folder, name)
        with_seed_1 = figures_by_hand(recipes.folder, f"{name}_1")
        found[name] = (with_seed_0, with_seed_1)
    return found


@dataclass
class Table:
    """What `wfeedback compare` makes of both recipes."""

    printed: str
    rows: dict[tuple[str, str], dict]  # keys: name of the recipe, and title of the figure


@pytest.fixture(scope="module")
def table(recipes, figures):
    """Compare the recipes, after the figures by hand have been read from their logs."""
    path = recipes.folder / "table.json"
    flags = f"fed baseline --seeds 0 1 --output_dir {recipes.folder} --output {path}"
    printed = run_as_program("compare", flags).stdout
    rows = {(row["network"], row["figure"]): row for row in json.loads(path.read_text())}
    return Table(printed, rows)


def test_the_table_has_all_figures_of_each_network(table, figures):
    by_network = {"fed": set(), "baseline": set()}
    for network, title in table.rows:
        by_network[network].add(title)

    assert by_network["fed"] == figures["fed"][0].keys()
    assert by_network["fed"] == {figure.title for figure in FIGURES.values()}
    assert by_network["baseline"] == figures["baseline"][0].keys()


@pytest.mark.parametrize("network", ["fed", "baseline"])
def test_means_and_deviations_by_hand(table, figures, network):
    """The mean of x and y is (x + y) / 2, their standard deviation |x - y| / sqrt 2."""
    with_seed_0, with_seed_1 = figures[network]
    for title, x in with_seed_0.items():
        y = with_seed_1[title]
        row = table.rows[network, title]
        assert row["by_seed"] == {"0": pytest.approx(x), "1": pytest.approx(y)}
        assert row["mean"] == pytest.approx((x + y) / 2)
        assert row["standard_deviation"] == pytest.approx(abs(x - y) / 2**0.5)


def test_differences_by_hand(table, figures):
    """Of differences a and b, half the interval is t(1) * |a - b| / 2, t(1) = 12.7062.

    For their standard deviation is |a - b| / sqrt 2, and the standard error is that,
    divided by sqrt 2.
    """
    for title in figures["baseline"][0]:
        row = table.rows["fed", title]
        is_relative = title.startswith(("spikes", "energy"))
        fed = [by_title[title] for by_title in figures["fed"]]
        baseline = [by_title[title] for by_title in figures["baseline"]]
        if is_relative and 0 in baseline:
            assert row["difference"] is None
            continue

        if is_relative:
            a = 100 * (fed[0] / baseline[0] - 1)
            b = 100 * (fed[1] / baseline[1] - 1)
        else:
            a = fed[0] - baseline[0]
            b = fed[1] - baseline[1]
        half = 12.7062 * abs(a - b) / 2
        assert row["difference"] == pytest.approx((a + b) / 2)
        assert row["compared_with"] == "baseline"
        assert row["pairs"] == 2
        assert row["half_of_95_percent_interval"] == pytest.approx(half, rel=1e-4)


def test_the_table_prints_what_its_rows_hold(table):
    title = "spikes, all parts"
    fed = table.rows["fed", title]
    baseline = table.rows["baseline", title]
    change = Difference(fed["difference"], fed["half_of_95_percent_interval"], 2)

    (line,) = re.findall(f"{title} .*", table.printed)

    assert re.split("  +", line) == [
        title,
        f"{fed['mean']:,.0f} ± {fed['standard_deviation']:,.0f}",
        f"{baseline['mean']:,.0f} ± {baseline['standard_deviation']:,.0f}",
        change.text(FIGURES["spikes"]),
    ]
    assert "read from logs" in table.printed
    assert table.rows["fed", "timesteps"]["run_with"] == "T = 3, ε = 0.2"
    assert table.rows["baseline", "timesteps"]["images"] == "16 MNIST test images"


def lines_of_figures(printed):
    """Find the lines of a printed table, apart from its head and notes."""
    pattern = "^(?:accuracy|spikes|energy|timesteps|input open).*"
    return re.findall(pattern, printed, re.MULTILINE)


def test_measured_anew_it_is_the_same(recipes):
    flags = f"fed baseline --seeds 0 1 --output_dir {recipes.folder}"
    as_trained = DATA.replace("--limit_train 32 ", "")

    _, read = run_here("compare", f"{flags} --equivalence 1e6")
    _, anew = run_here("compare", f"{flags} --evaluate {as_trained}")

    assert "\nCorrected for " in read
    equivalent = r"^Equivalent within ± 1e\+06 % .*spikes, input; "
    assert re.search(equivalent, read, re.MULTILINE)
    assert len(lines_of_figures(read)) == len(FIGURES)
    assert lines_of_figures(anew) == lines_of_figures(read)


def test_the_table_as_csv(recipes):
    path = recipes.folder / "table.csv"

    run_here("compare", f"fed baseline --seeds 0 1 --output_dir {recipes.folder} --output {path}")

    with path.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["by_seed"].startswith("0:")
    assert float(rows[0]["mean"]) <= 100  # accuracy in %


def test_flags_say_how_to_evaluate(recipes):
    small = "--evaluate --limit_test 8 --batch_size 8 --timesteps 2"
    here = f"--output_dir {recipes.folder}"

    _, printed = run_here("compare", f"fed baseline --seeds 0 1 {here}", small)

    assert "T = 2, ε = 0.2" in printed
    assert "8 MNIST test images" in printed


def test_a_network_is_named_by_the_path_of_its_checkpoint(recipes):
    path = recipes.folder / "trained_models/snn/fed.pth"
    small = "--evaluate --limit_test 8 --batch_size 8 --timesteps 2"

    pairs, _ = run_here("compare", path, f"{small} --seeds 1 0 --output_dir {recipes.folder}")

    ((network, _),) = pairs
    assert network.name == "fed"
    assert list(network.results) == [1, 0]


def results_with(*totals):
    """Make results of seeds 0, 1, ... that have so many spikes."""
    return {seed: {"spikes": {"total": total}} for seed, total in enumerate(totals)}


def test_what_is_wider_than_everything_is_not_known():
    ours = results_with(100, 300)

    # Of +0 % and +200 % the mean is 100 %.
    found = difference("spikes", ours, results_with(100, 100))

    assert found.mean == 100
    assert found.pairs == 2
    assert found.text(FIGURES["spikes"]) == "too uncertain"


@pytest.mark.parametrize("theirs", [results_with(0), {}], ids=["of no spikes", "of no seed"])
def test_there_is_no_difference_in_percent(theirs):
    assert difference("spikes", results_with(100, 300), theirs) is None


def test_what_survives_a_correction_by_hand():
    """Of 3 pairs, t(2) = 4.3027 has p = 0.05. With that half interval t is the mean."""
    found = {
        "c": Difference(4.3028, 4.3027, 3),
        "a": Difference(12.0, 4.3027, 3),
        "b": Difference(9.925, 4.3027, 3),
        "d": Difference(-1.0, 4.3027, 3),
    }

    p_values = [found["a"].p, found["b"].p, found["c"].p]
    assert p_values == pytest.approx([0.0069, 0.01, 0.05], abs=1e-4)

    # Holm: 0.0069 <= 0.05 / 4 and 0.01 <= 0.05 / 3, but 0.05 > 0.05 / 2
    assert surviving(found) == ["a", "b"]
    assert surviving({"c": found["c"]}) == ["c"]
    assert surviving({"d": found["d"]}) == []


def test_equivalence_by_hand():
    """For 90 %, t(2) is 2.920 in place of 4.3027: -1 ± 2.92 reaches down to -3.92."""
    found = Difference(-1.0, 4.3027, 3)
    assert found.is_within(3.93)
    assert not found.is_within(3.91)

    assert interval([0.0, 0.0]).is_within(1)
    assert interval([2.0, 2.0]).is_within(2.1)
    assert not interval([2.0, 2.0]).is_within(2)


def test_equal_networks_differ_in_no_share():
    result = {"accuracy": 0.5, "spikes": {"total": 9}}
    alike = Series("twin", {"T": "3"}, "16 images", {0: result, 1: result})

    shares = comparing.differences([(alike, alike)], only_shares=True)
    assert list(shares) == ["spikes, all parts"]
    assert not comparing.differences([(alike, alike)])


def test_equivalence_needs_several_seeds():
    line = comparing.equivalence_line({}, 10)
    assert line.startswith("Equivalence was not tested: it needs several seeds")


def test_the_page_shows_what_is_printed():
    script, words = commands_in(PAGE)[3]
    text = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    (shown,) = re.findall(r"--equivalence 10\n\n(.*?)\n\n- ", text, re.DOTALL)

    _, printed = run_here(script, *words)

    printed_lines = {line.strip() for line in printed.splitlines()}
    assert {line.strip() for line in shown.splitlines()} <= printed_lines


@pytest.mark.parametrize(
    ("name", "mean", "half", "text"),
    [
        ("input", -28.4, 27.9, "-28.4 ± 27.9 %"),  # not -28 ± 28, which would hold 0
        ("input", 27.6, 28.4, "+28 ± 28 %"),  # which holds it, too
        ("input", 8.44, 8.42, "+8.44 ± 8.42 %"),  # 8 ± 8 and 8.4 ± 8.4 hold it
        ("accuracy", 0.134, 0.131, "+0.134 ± 0.131"),
        ("input", -28.4, None, "-28 %"),
        ("input", 20.0, 50.0, "+20 ± 50 %"),  # as wide as the whole
        ("input", 20.0, 50.1, "too uncertain"),  # and wider
    ],
)
def test_rounding_does_not_move_an_interval_onto_0_or_off_it(name, mean, half, text):
    assert Difference(mean, half, 2).text(FIGURES[name]) == text


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (-0.135, "-0.14"),
        (0.135, "+0.14"),
        (98.65 - 98.785, "-0.14"),  # -0.13499999999999091, for -0.135
        (0.125, "+0.13"),
        (-0.1349, "-0.13"),
        (-0.004, "+0.00"),
    ],
)
def test_half_a_digit_of_a_difference_is_rounded_away_from_0(mean, text):
    """Whichever float is next to it, and whatever a sum of floats leaves behind it."""
    assert interval([mean]).text(FIGURES["accuracy"]) == text


@pytest.mark.parametrize(
    ("mean", "deviation", "form", "text"),
    [
        (98.665, 0.005, ".2f", "98.67 ± 0.01"),
        (1234.5, None, ",.0f", "1,235"),
        (-0.004, None, ".2f", "0.00"),
    ],
)
def test_half_a_digit_of_a_mean_is_rounded_away_from_0(mean, deviation, form, text):
    assert Spread(mean, deviation, {}).text(form) == text


def runs_with(*points):
    """Make records of runs from pairs of spikes and accuracy in %."""
    runs = []
    for spikes, accuracy in points:
        runs.append({"spikes": {"total": spikes}, "accuracy": accuracy / 100})
    return runs


@pytest.mark.parametrize(
    ("accuracy", "spikes"),
    [
        (96, 100),  # the run with the fewest spikes has more
        (97.5, 150),  # 100 + (97.5 - 97) / (98 - 97) * (200 - 100), first reached on the way up
        (98, 200),
        (98.7, 380),  # 300 + (98.7 - 97.5) / (99 - 97.5) * (400 - 300)
        (99, 400),
    ],
)
def test_spikes_at_an_accuracy_by_hand(accuracy, spikes):
    """They are the first on the way from point to point."""
    runs = runs_with((400, 99.0), (100, 97.0), (200, 98.0), (300, 97.5))
    assert at_accuracy(runs, accuracy)["spikes"]["total"] == pytest.approx(spikes)


def test_the_accuracy_of_a_point_between_runs_is_the_one_asked_for():
    runs = runs_with((400, 99.0), (100, 97.0), (200, 98.0), (300, 97.5))
    assert at_accuracy(runs, 97.5)["accuracy"] == 0.975


def test_an_accuracy_that_no_run_reaches_has_no_spikes():
    runs = runs_with((400, 99.0), (100, 97.0), (200, 98.0), (300, 97.5))
    assert at_accuracy(runs, 99.1) is None


def test_accuracy_at_equal_spikes_by_hand():
    """Both have 100 to 300 spikes: with 98.0 to 99.0 %, and with 97.5 to 98.5 %."""
    ours = runs_with((100, 98.0), (400, 99.5))
    theirs = runs_with((50, 97.25), (300, 98.5))

    apart = comparing.at_spikes({0: ours}, {0: theirs})

    assert apart.mean == pytest.approx(0.5)
    assert apart.pairs == 1


def at_margins(name, *points):
    """Make a network's series, one for each point: spikes, and accuracy in percent."""
    several = []
    for bound, run in enumerate(runs_with(*points)):
        settings = {"T": "8", "rule": "confidence", "gap_bound": str(bound)}
        several.append(comparing.Series(name, settings, "9 test images", {0: run}))
    return several


def test_an_accuracy_that_is_not_reached_is_said_of_each_network():
    low = at_margins("low", (100, 90.0), (200, 95.0))
    high = at_margins("high", (100, 96.0), (200, 97.0))
    words = r"99: no network reaches it with every seed \(low 95.00 %, high 97.00 % in the worst"
    with pytest.raises(UserError, match=words) as refusal:
        comparing.at_equal_accuracy([*low, *high], 99)
    assert str(refusal.value).endswith("so nothing is compared: choose at most 95.00")
    with pytest.raises(UserError, match=r"96: it is not reached with every seed \(low 95.00 % in"):
        comparing.at_equal_accuracy([*low, *high], 96)


def test_a_line_says_where_networks_are_compared_at_another_accuracy():
    low = at_margins("low", (100, 90.0), (200, 95.0))
    high = at_margins("high", (100, 96.0), (200, 97.0))
    joined = comparing.at_equal_accuracy([*low, *high], 94)
    assert list(comparing.notes_on_accuracy(joined, 94)) == [
        "note: high is above 94 % with its fewest spikes already: 96.00 % with seed 0; "
        "compared are the spikes at that accuracy"
    ]


def test_epochs_are_judged_on_the_data_set_of_their_run(tmp_path):
    """Their records do not name it: without it, one data set would seem two."""
    parameters = {"dataset": "/here/cats"}
    opening = {"event": "run", "command": "", "seed": 0, "parameters": parameters}
    judged = {"accuracy": 0.5, "images": 8}
    epoch = {"event": "epoch", "epoch": 1, "train": {}, "selected_on": "test", "evaluated": judged}
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(opening)}\n{json.dumps(epoch)}\n")
    (result,) = read_run(path).results
    assert result.on == "8 cats test images"


def test_spikes_at_equal_accuracy_are_those_of_runs_with_four_margins(recipes):
    flags = f"fed baseline --seeds 0 1 --output_dir {recipes.folder} --timesteps 6 --limit_test 64"

    pairs, printed = run_here("compare", flags, "--evaluate --at_accuracy 1")

    ((fed, baseline),) = pairs
    logs = (recipes.folder / "logs/snn").glob("fed_1_compared*.jsonl")
    latest = max(logs, key=lambda path: path.stat().st_mtime_ns)
    runs = records(latest, "evaluation")
    assert [run["bounds"] for run in runs] == [
        {"gap_bound": 0.5},
        {"gap_bound": 1},
        {"gap_bound": 2},
        {"gap_bound": 4},
    ]
    assert fed.results[1]["spikes"]["total"] == at_accuracy(runs, 1)["spikes"]["total"]
    assert list(baseline.results) == [0, 1]
    assert "T = 6, margin = 0.5 1 2 4" in printed
    assert "fed_1, margin 4: accuracy" in printed

    x = fed.results[0]["spikes"]["total"]
    y = fed.results[1]["spikes"]["total"]
    row = "^accuracy, % .*\nspikes, all parts +(.*?)  "
    (spikes,) = re.findall(row, printed, re.MULTILINE)
    assert spikes == f"{(x + y) / 2:,.0f} ± {abs(x - y) / 2**0.5:,.0f}"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("90", "^error: --at_accuracy: fed has no run with early exit: --evaluate"),
        (
            "101 --evaluate --limit_test 8",
            r"101: no network reaches it with every seed \(fed \d+\.\d\d %, baseline",
        ),
    ],
    ids=["no early exit in the logs", "higher than any"],
)
def test_an_accuracy_that_cannot_be_compared_is_refused(recipes, words, line):
    flags = f"fed baseline --output_dir {recipes.folder} --at_accuracy {words}"
    assert re.search(line, refused("compare", flags))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("fedd baseline", "fedd is missing: did you mean fed\\?"),
        (
            "fed baseline --seeds 0 2 3",
            "fed_2 is missing: train it as the others were, with --seeds 2 3",
        ),
        (
            "quick_feedback quick_baseline --seeds 0 7",
            "snn_wFeedback.py --preset quick_feedback --seeds 7 --output_dir .* makes",
        ),
        (
            "fed quick_baseline",
            "on 16 MNIST test images, quick_baseline on 10,000 MNIST test images: .*--evaluate",
        ),
        ("fed_1 baseline", "fed_1.jsonl is of seed 1, not 0"),
        (
            "accurate_baseline baseline",
            "accurate_baseline.jsonl is of another training than "
            ".*accurate_baseline.pth: --evaluate",
        ),
        (
            "unlogged baseline",
            "unlogged.jsonl is missing, but .*unlogged.pth is there: --evaluate measures it",
        ),
        ("fed --output {}/mine.csv", "mine.csv exists: --overwrite replaces it"),
    ],
)
def test_lines_on_bad_input(recipes, words, line):
    folder = recipes.folder
    (folder / "mine.csv").write_text("mine")
    shutil.copy(folder / "trained_models/snn/fed.pth", folder / "trained_models/snn/unlogged.pth")
    before = digests(folder)

    found = refused("compare", f"{words.format(folder)} --output_dir {folder}")

    assert re.search(line, found)
    assert digests(folder) == before


def test_a_network_run_in_two_ways_is_paired_with_what_runs_alike():
    results = {0: {"accuracy": 0.5}}
    fed_3 = Series("fed", {"T": "3"}, "16 images", results)
    fed_6 = Series("fed", {"T": "6"}, "16 images", results)
    baseline_3 = Series("baseline", {"T": "3"}, "16 images", results)
    baseline_6 = Series("baseline", {"T": "6"}, "16 images", results)

    pairs = comparing.pairs_of([fed_3, fed_6, baseline_3])
    assert pairs == [(fed_3, baseline_3), (fed_6, None)]

    pairs = comparing.pairs_of([fed_3, baseline_3, baseline_6])
    assert pairs == [(fed_3, baseline_3), (baseline_6, None)]


def test_a_signal_stops_all_seeds(tmp_path):
    begun = []

    def train(args):
        begun.append(args)
        if len(begun) == 2:
            raise Interrupted(15)

    words = f"--preset quick_feedback --seeds 4 0 5 --output_dir {tmp_path}".split()
    with pytest.raises(Interrupted):
        train_each(train, build_parser(), words, "snn")

    assert [args.seed for args in begun] == [4, 0]
    assert [args.run_name for args in begun] == ["quick_feedback_4", "quick_feedback"]
    assert begun[0].pretrained_ann.endswith("quick_feedback_4.pth")


def test_names_of_test_only_follow_seeds():
    words = ["--seeds", "0", "2", "--test_only", "--pretrained_snn", "a.pth"]
    found = train_each(lambda args: args, build_parser(), words, "snn")
    assert [args.run_name for args in found] == ["a_test", "a_test_2"]


@pytest.mark.parametrize(("as_trained", "gate"), [(True, "open"), (False, "block")])
def test_a_network_is_evaluated_with_its_own_gate_or_the_scripts(as_trained, gate, tmp_path):
    path = tmp_path / "open.pth"
    save_checkpoint(path, build(VGG_SNN_STDB_wFeedback, gate="open"))
    words = ["--pretrained_snn", str(path), *DATA.split()]
    args = posthoc_parser("", words, InputBlockingSNN).parse_args(words)

    open_evaluated(args, as_trained=as_trained)

    assert args.gate == gate
