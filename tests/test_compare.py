"""compare.py, and --seeds of the scripts that train: what a user types, the table against sums by hand, and bad input."""

import csv
import json
import re
import shutil

import pytest
from conftest import (
    BALANCE,
    DATA,
    REPOSITORY,
    commands_in,
    digests,
    module_of,
    records,
    refused,
    run_here,
    run_script,
    same_weights,
)

from harness import UserError
from harness.command_line import scripts
from harness.command_line.scripts import SeedsFailed, train_each
from harness.measuring import comparing
from harness.measuring.comparing import (
    FIGURES,
    Difference,
    Series,
    Spread,
    at_accuracy,
    difference,
    interval,
    surviving,
)
from harness.runs.ranks import Interrupted
from snn_wFeedback import build_parser

PAGE = "docs/how_to/compare.md"
HELD_OUT = f"--fc_width 16 --holdout 8 --epochs 1 {DATA}"
SHORT = f"{HELD_OUT} --timesteps 3 --update immediate"
FED = f"{SHORT} {BALANCE} --readout membrane_rescaled --epsilon 0.2"


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """(folder, what training printed) of two tiny recipes, `fed` with a decoder and `baseline`, of seeds 0 and 1 each."""
    folder = tmp_path_factory.mktemp("recipes")
    here = f"--seeds 0 1 --output_dir {folder}"
    run_here("ann", f"-a VGG5_wFeedback_small -lr 5e-3 {HELD_OUT} --run_name ann {here}")
    ann = folder / "trained_models/ann/ann.pth"
    fed = run_here("snn", "--pretrained_ann", ann, f"{FED} --run_name fed {here}")
    run_here("snn", f"-a VGG5_small {SHORT} --run_name baseline {here}")
    return folder, fed[1]


def test_seeds_one_after_the_other(recipes, tmp_path):
    """Each run is what --seed makes of it, from an ANN of its own; those that are whole are left as they are."""
    folder, said = recipes
    ann = folder / "trained_models/ann/ann_1.pth"
    assert re.findall("== seed .*", said) == [
        "== seed 0: fed; --pretrained_ann " + str(ann).replace("_1", ""),
        f"== seed 1: fed_1; --pretrained_ann {ann}",
    ]
    run_here(
        "snn", "--pretrained_ann", ann, FED, f"--seed 1 --run_name alone --output_dir {tmp_path}"
    )
    alone, fed = tmp_path / "trained_models/snn/alone.pth", folder / "trained_models/snn/fed_1.pth"
    assert same_weights(alone, fed) and not same_weights(
        alone, folder / "trained_models/snn/fed.pth"
    )
    before = digests(folder)
    found, printed = run_here("snn", f"--run_name fed --seeds 0 1 --resume --output_dir {folder}")
    assert found == [] and printed.count("left as it is: ") == 2
    line = refused(
        "snn", f"-a VGG5_small {SHORT} --run_name baseline --seeds 2 1 --output_dir {folder}"
    )  # before seed 2 trains
    assert (
        "baseline_1.pth exists: --resume goes on with that run" in line
        and digests(folder) == before
    )


def test_seeds_are_evaluated_again_under_the_next_free_names(recipes, tmp_path):
    """As without --seeds: --test_only replaces nothing, so it need not be refused."""
    ann = recipes[0] / "trained_models/ann/ann.pth"
    flags = f"--test_only --seeds 0 1 --limit_test 4 --run_name x --output_dir {tmp_path}"
    for _ in range(2):
        run_here("ann", "--pretrained_ann", ann, flags)
    logs = sorted(path.stem for path in (tmp_path / "logs/ann").glob("*.jsonl"))
    assert logs == ["x", "x_1", "x_1_2", "x_2"]


def test_one_seed_fails_and_the_others_are_trained(tmp_path):
    """Its line names seed and run, and the exit status is 1; Ctrl-C still ends all."""
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


def test_lines_and_status_where_seeds_fail(tmp_path, capsys):
    """Of runs that have begun each has a line; an error that lets none begin is a single line, as that of one run."""
    flags = (
        f"-a VGG5_small --fc_width 8 {HELD_OUT} --run_name x --seeds 0 1 --output_dir {tmp_path}"
    )
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
    """title -> figure of the one evaluation in a run's log."""
    (record,) = records(folder / f"logs/snn/{name}.jsonl", "evaluation")
    parts = ["input", "encoder", "decoder", "classifier"]
    if not record["feedback"]:
        parts.remove("decoder")
    found = {f"spikes, {part}": record["spikes"][part] for part in parts}
    found |= {
        "accuracy, %": 100 * record["accuracy"],
        "spikes, all parts": record["spikes"]["total"],
    }
    found |= {
        "timesteps": record["mean_steps"],
        "energy layer by layer, µJ": 1e6 * record["energy_joules"],
    }
    found |= {"energy event-driven, µJ": 1e6 * record["energy_event_joules"]}
    return found | (
        {"input open at the end, %": 100 * record["open_share"][-1]} if record["epsilon"] else {}
    )


def test_the_table_by_hand(recipes):
    """As numbers and as text: of two values x and y the mean is (x + y) / 2, the deviation |x - y| / sqrt 2; of two differences
    half the interval is t(1) = 12.706 times half of what is between them."""
    folder, _ = recipes
    path = folder / "table.json"
    said = run_script(
        "compare", f"fed baseline --seeds 0 1 --output_dir {folder} --output {path}"
    ).stdout
    rows = {(row["network"], row["figure"]): row for row in json.loads(path.read_text())}
    fed, baseline = (
        [figures_by_hand(folder, f"{name}{end}") for end in ("", "_1")]
        for name in ("fed", "baseline")
    )
    assert (
        {figure for name, figure in rows if name == "fed"}
        == fed[0].keys()
        == {one.title for one in FIGURES.values()}
    )
    assert {figure for name, figure in rows if name == "baseline"} == baseline[0].keys()
    for name, (one, two) in (("fed", fed), ("baseline", baseline)):
        for figure in one:
            row = rows[name, figure]
            assert row["by_seed"] == {
                "0": pytest.approx(one[figure]),
                "1": pytest.approx(two[figure]),
            }
            assert row["mean"] == pytest.approx((one[figure] + two[figure]) / 2)
            assert row["standard_deviation"] == pytest.approx(
                abs(one[figure] - two[figure]) / 2**0.5
            )
    for figure in baseline[0]:
        row, pairs = (
            rows["fed", figure],
            [(fed[seed][figure], baseline[seed][figure]) for seed in (0, 1)],
        )
        is_relative = figure.startswith(("spikes", "energy"))
        if is_relative and not all(other for _, other in pairs):
            assert row["difference"] is None
            continue
        a, b = (100 * (one / other - 1) if is_relative else one - other for one, other in pairs)
        assert (row["difference"], row["compared_with"], row["pairs"]) == (
            pytest.approx((a + b) / 2),
            "baseline",
            2,
        )
        assert row["half_of_95_percent_interval"] == pytest.approx(
            12.7062 * abs(a - b) / 2, rel=1e-4
        )
    (line,) = re.findall("spikes, all parts .*", said)
    row, other = rows["fed", "spikes, all parts"], rows["baseline", "spikes, all parts"]
    change = Difference(row["difference"], row["half_of_95_percent_interval"], 2).text(
        FIGURES["spikes"]
    )
    cells = [f"{one['mean']:,.0f} ± {one['standard_deviation']:,.0f}" for one in (row, other)]
    assert (
        re.split("  +", line) == ["spikes, all parts", *cells, change] and "read from logs" in said
    )
    row, other = rows["fed", "timesteps"], rows["baseline", "timesteps"]
    assert row["run_with"] == "T = 3, ε = 0.2" and other["images"] == "16 MNIST test images"


def test_measured_anew_it_is_the_same(recipes):
    """--evaluate has the figures that training logged; .csv holds them; other flags say how to evaluate."""
    folder, _ = recipes
    table = folder / "table.csv"
    flags = f"fed baseline --seeds 0 1 --output_dir {folder}"
    _, read = run_here("compare", f"{flags} --output {table} --equivalence 1e6")
    assert "\nCorrected for " in read and re.search(
        r"^Equivalent within ± 1e\+06 % .*spikes, input; ", read, re.MULTILINE
    )
    _, anew = run_here("compare", f"{flags} --evaluate {DATA.replace('--limit_train 32 ', '')}")
    rows = list(csv.DictReader(table.open()))
    assert [row["by_seed"].split()[0].split(":")[0] for row in rows] == ["0"] * len(
        rows
    ) and float(rows[0]["mean"]) <= 100
    cells = lambda text: re.findall(  # noqa: E731
        "^(?:accuracy|spikes|energy|timesteps|input open).*", text, re.MULTILINE
    )
    assert len(cells(read)) == len(FIGURES) and cells(anew) == cells(read)
    path, small = (
        folder / "trained_models/snn/fed.pth",
        "--evaluate --limit_test 8 --batch_size 8 --timesteps 2",
    )
    ((recipe, _),), _ = run_here(
        "compare", path, f"{small} --seeds 1 0 --output_dir {folder}"
    )  # a checkpoint by its path
    assert (recipe.name, list(recipe.results)) == ("fed", [1, 0])
    _, said = run_here("compare", flags, small)
    assert "T = 2, ε = 0.2" in said and "8 MNIST test images" in said


def test_what_is_wider_than_everything_is_not_known():
    def of(*totals):
        return {seed: {"spikes": {"total": spikes}} for seed, spikes in enumerate(totals)}

    ours, theirs = of(100, 300), of(100, 100)
    found = difference("spikes", ours, theirs)
    assert (found.mean, found.pairs, found.text(FIGURES["spikes"])) == (100, 2, "too uncertain")
    assert (
        difference("spikes", ours, {0: {"spikes": {"total": 0}}}) is None
        and difference("spikes", ours, {}) is None
    )


def test_correction_and_equivalence_by_hand():
    """t(2) = 4.303 and 2.920 for intervals of 95 and 90 %; p of t = 12, 9.92 and 4.30 is 0.0069, 0.01 and 0.05."""
    found = {
        name: Difference(t, 4.3027, 3)
        for name, t in (("c", 4.3028), ("a", 12.0), ("b", 9.925), ("d", -1.0))
    }
    assert [found[name].p for name in "abc"] == pytest.approx([0.0069, 0.01, 0.05], abs=1e-4)
    assert (
        surviving(found) == ["a", "b"]
        and surviving({"c": found["c"]}) == ["c"]
        and surviving({"d": found["d"]}) == []
    )
    assert found["d"].is_within(3.93) and not found["d"].is_within(3.91)
    assert (
        interval([0.0, 0.0]).is_within(1)
        and interval([2.0, 2.0]).is_within(2.1)
        and not interval([2.0, 2.0]).is_within(2)
    )
    alike = Series(
        "twin",
        {"T": "3"},
        "16 images",
        {seed: {"accuracy": 0.5, "spikes": {"total": 9}} for seed in (0, 1)},
    )
    assert list(comparing.differences([(alike, alike)], only_shares=True)) == ["spikes, all parts"]
    assert not comparing.differences([(alike, alike)])
    assert comparing.equivalence_line({}, 10).startswith(
        "Equivalence was not tested: it needs several seeds"
    )


def test_the_page_shows_what_is_printed():
    said = run_here("compare", *commands_in(PAGE)[3][1])[1]
    text = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    (shown,) = re.findall(r"--equivalence 10\n\n(.*?)\n\n- ", text, re.DOTALL)
    assert {line.strip() for line in shown.splitlines()} <= {
        line.strip() for line in said.splitlines()
    }


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


def test_a_half_is_rounded_away_from_0():
    """As it is in decimals, whatever float is next to it, and whatever sums of floats leave behind it."""
    texts = {
        -0.135: "-0.14",
        0.135: "+0.14",
        98.65 - 98.785: "-0.14",
        0.125: "+0.13",
        -0.1349: "-0.13",
    }
    assert {mean: interval([mean]).text(FIGURES["accuracy"]) for mean in texts} == texts
    assert (
        Spread(98.665, 0.005, {}).text(".2f") == "98.67 ± 0.01"
        and Spread(1234.5, None, {}).text(",.0f") == "1,235"
    )
    assert (
        Spread(-0.004, None, {}).text(".2f") == "0.00"
        and interval([-0.004]).text(FIGURES["accuracy"]) == "+0.00"
    )


def runs_of(*points):
    return [
        {"spikes": {"total": spikes}, "accuracy": accuracy / 100} for spikes, accuracy in points
    ]


def test_a_curve_through_margins_by_hand():
    """Spikes at an accuracy are the first on the way from point to point; at equal spikes, 100 to 300, it is 0.5 points ahead."""
    ours = runs_of((400, 99.0), (100, 97.0), (200, 98.0), (300, 97.5))
    found = {accuracy: at_accuracy(ours, accuracy) for accuracy in (96, 97.5, 98, 98.7, 99, 99.1)}
    totals = {accuracy: record and record["spikes"]["total"] for accuracy, record in found.items()}
    assert totals == pytest.approx({96: 100, 97.5: 150, 98: 200, 98.7: 380, 99: 400, 99.1: None})
    assert found[97.5]["accuracy"] == 0.975
    apart = comparing.at_spikes(
        {0: runs_of((100, 98.0), (400, 99.5))}, {0: runs_of((50, 97.25), (300, 98.5))}
    )
    assert (apart.mean, apart.pairs) == (pytest.approx(0.5), 1)


def test_spikes_at_equal_accuracy(recipes):
    """--evaluate runs four margins of each network and seed; logs without early exit are refused, as is too high an accuracy."""
    folder, _ = recipes
    flags = f"fed baseline --seeds 0 1 --output_dir {folder} --timesteps 6 --limit_test 64"
    ((fed, other),), said = run_here("compare", flags, "--evaluate --at_accuracy 1")
    logs = (folder / "logs/snn").glob("fed_1_compared*.jsonl")
    ran = records(max(logs, key=lambda path: path.stat().st_mtime_ns), "evaluation")
    assert [record["bounds"] for record in ran] == [
        {"gap_bound": bound} for bound in (0.5, 1, 2, 4)
    ]
    assert fed.results[1]["spikes"]["total"] == at_accuracy(ran, 1)["spikes"]["total"] and list(
        other.results
    ) == [0, 1]
    assert "T = 6, margin = 0.5 1 2 4" in said and "fed_1, margin 4: accuracy" in said
    table = "^accuracy, % .*\nspikes, all parts +(.*?)  "
    (spikes,) = re.findall(table, said, re.MULTILINE)
    totals = [fed.results[seed]["spikes"]["total"] for seed in (0, 1)]
    assert spikes == f"{sum(totals) / 2:,.0f} ± {abs(totals[0] - totals[1]) / 2**0.5:,.0f}"
    flags = f"fed baseline --output_dir {folder} --at_accuracy"
    assert refused("compare", flags, "90").startswith(
        "error: --at_accuracy: fed has no run with early exit: --evaluate"
    )
    assert re.search(
        r"--at_accuracy 101: fed reaches \d+\.\d\d %",
        refused("compare", flags, "101 --evaluate --limit_test 8"),
    )


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
            "accurate_baseline.jsonl is of another training than .*accurate_baseline.pth: --evaluate",
        ),
        (
            "unlogged baseline",
            "unlogged.jsonl is missing, but .*unlogged.pth is there: --evaluate measures it",
        ),
        ("fed --output {}/mine.csv", "mine.csv exists: --overwrite replaces it"),
    ],
)
def test_lines_on_bad_input(recipes, words, line):
    folder, _ = recipes
    (folder / "mine.csv").write_text("mine")
    shutil.copy(folder / "trained_models/snn/fed.pth", folder / "trained_models/snn/unlogged.pth")
    before = digests(folder)
    assert re.search(line, refused("compare", f"{words.format(folder)} --output_dir {folder}"))
    assert digests(folder) == before


def test_a_network_run_in_two_ways_is_paired_with_what_runs_alike():
    three, six, other, longer = (
        Series(name, {"T": steps}, "16 images", {0: {"accuracy": 0.5}})
        for name in ("fed", "baseline")
        for steps in ("3", "6")
    )
    assert comparing.pairs_of([three, six, other]) == [(three, other), (six, None)]
    assert comparing.pairs_of([three, other, longer]) == [(three, other), (longer, None)]


def test_a_signal_stops_all_and_names_follow_seeds(tmp_path):
    called = []

    def train(args):
        called.append(args)
        if len(called) == 2:
            raise Interrupted(15)

    words = f"--preset quick_feedback --seeds 4 0 5 --output_dir {tmp_path}".split()
    with pytest.raises(Interrupted):
        train_each(train, build_parser(), words, "snn")
    assert [(args.seed, args.run_name) for args in called] == [
        (4, "quick_feedback_4"),
        (0, "quick_feedback"),
    ]
    assert called[0].pretrained_ann.endswith("quick_feedback_4.pth")
    words = ["--seeds", "0", "2", "--test_only", "--pretrained_snn", "a.pth"]
    found = train_each(lambda args: args, build_parser(), words, "snn")
    assert [args.run_name for args in found] == ["a_test", "a_test_2"]
