"""Which epoch counts: chosen on held-out training images, or the last one; on the test images only where that is asked for."""

import pytest
import torch
from conftest import ANN, DATA, SNN, SPIKING, records, refused, run_here, same_weights

import harness.training.fit
from harness.data.sets import default_holdout, load_data
from results import NETWORKS, row_of
from self_models.basics.checkpoints import load_checkpoint

NEW = f"-a VGG5_wFeedback_small --fc_width 8 -lr 5e-3 --epochs 3 {DATA} --run_name x"  # 32 training images


@pytest.fixture
def judged(monkeypatch):
    """What each evaluation of training looked at, as positions in a whole set, and whether they are training images; the
    accuracies that it finds are 0.2, 0.5, 0.5, 0.4, …"""
    seen, real, found = [], harness.training.fit.evaluate, iter([0.2, 0.5, 0.5, 0.4, 0.3])
    test_labels = load_data("MNIST")[2].labels

    def evaluate(model, batches, *more):
        kept = list(batches)
        index, labels = (torch.cat([getattr(batch, name) for batch in kept]) for name in ("index", "labels"))
        is_test = int(index.max()) < len(test_labels) and torch.equal(labels, test_labels[index])
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        seen.append(("test" if is_test else "train", index.tolist(), weights))
        return real(model, kept, *more) | {"accuracy": next(found)}

    monkeypatch.setattr("harness.training.fit.evaluate", evaluate)
    return seen


@pytest.fixture
def learned(monkeypatch):
    """Positions of the images that were learned from."""
    seen, real = [], harness.training.fit.training_batches

    def training_batches(*args):
        for batch in real(*args):
            seen.extend(batch.index.tolist())
            yield batch

    monkeypatch.setattr("harness.training.fit.training_batches", training_batches)
    return seen


def files(folder, kind="ann"):
    """The JSON lines on epochs, those on evaluations, the log, the best and the last checkpoint."""
    log = folder / f"logs/{kind}/x.jsonl"
    saved = (folder / f"trained_models/{kind}/x{ending}.pth" for ending in ("", "_last"))
    return records(log, "epoch"), records(log, "evaluation"), log.with_suffix(".log").read_text(), *saved


def test_a_tenth_of_the_training_images_at_most_5000():
    assert [default_holdout(count) for count in (60000, 50000, 49999, 100, 32, 9, 1)] == [5000, 5000, 4999, 10, 3, 1, 1]
    for limit, used, held_out in ((None, 55000, 5000), (32, 32, 3)):
        train, selection, _ = load_data("MNIST", limit_train=limit, holdout=None)
        assert (len(train), len(selection), selection.start) == (used, held_out, 60000 - held_out)
        assert train.start + len(train) <= selection.start
    assert "60000 training images, 5000 of them held out" in refused(ANN, "--limit_train 55001")


@pytest.mark.parametrize(("typed", "held_out"), [("", [59997, 59998, 59999]), ("--holdout 2", [59998, 59999])])
def test_by_default_the_best_epoch_is_chosen_on_training_images_that_are_held_out(tmp_path, judged, learned, typed, held_out):
    result, said = run_here(ANN, NEW, typed, f"--output_dir {tmp_path}")
    assert [(kind, index) for kind, index, _ in judged] == [("train", held_out)] * 3 + [("test", list(range(16)))]
    assert sorted(learned) == sorted(list(range(32)) * 3)
    epochs, (tested,), log, best, last = files(tmp_path)
    assert [record["selected_on"] for record in (*epochs, tested)] == ["held-out"] * 4 and tested["images"] == 16
    kept = load_checkpoint(best)
    assert (kept["epoch"], kept["accuracy"], kept["selected_on"]) == (2, 0.5, "held-out")  # of a tie the earlier
    for name, value in kept["state_dict"].items():
        assert torch.equal(judged[-1][2][name], value)  # the test is of the best epoch, not of the last
    assert not same_weights(best, last) and result["accuracy"] == tested["accuracy"] == 0.4
    assert said.count("held out") == 4 and f"best: epoch 2, held-out accuracy 50.00 %, {best}" in said
    assert f"holdout={len(held_out)}," in log and "select=held-out" in log


def test_without_held_out_images_nothing_is_chosen_and_the_last_epoch_counts(tmp_path, judged):
    _, said = run_here(ANN, NEW, f"--holdout 0 --output_dir {tmp_path}")
    assert [kind for kind, _, _ in judged] == ["test"]  # once, at the end
    epochs, (tested,), _, best, last = files(tmp_path)
    assert [record["selected_on"] for record in (*epochs, tested)] == ["last epoch"] * 4
    assert not any({"evaluated", "best"} & record.keys() for record in epochs)
    assert same_weights(best, last) and load_checkpoint(best)["epoch"] == 3 and tested["accuracy"] == 0.2
    assert f"last: epoch 3, nothing was chosen, {best}" in said and "best" not in said


def test_the_test_images_choose_only_where_told_and_it_is_said(tmp_path, judged):
    result, said = run_here(ANN, NEW, f"--select test --output_dir {tmp_path}")
    assert [kind for kind, _, _ in judged] == ["test"] * 3
    epochs, tested, log, best, _ = files(tmp_path)
    assert [record["selected_on"] for record in epochs] == ["test"] * 3 and not tested
    assert load_checkpoint(best)["epoch"] == result["epoch"] == 2 and "holdout=0," in log and "select=test," in log
    assert f"best: epoch 2, test accuracy 50.00 %, chosen on the test images, {best}" in said
    assert said.count("; test (which chooses) classification") == 3
    line = refused(ANN, NEW, f"--select test --holdout 4 --output_dir {tmp_path / 'other'}")
    assert "--select test" in line and "--holdout 0" in line


def test_records_of_a_network_say_what_its_epoch_was_chosen_on(trained, tmp_path):
    """Also long after training, and in the table."""
    marked = {}
    for name, typed in (("x", "--select test"), ("y", "")):
        here = f"{SPIKING} --select held-out {typed} --run_name {name} --output_dir {tmp_path}"
        run_here(SNN, f"--pretrained_ann {trained.ann}", here)
        snn = tmp_path / f"trained_models/snn/{name}.pth"
        run_here(SNN, f"--pretrained_snn {snn} --test_only {DATA} --run_name {name}_later --output_dir {tmp_path}")
        (record,) = records(tmp_path / f"logs/snn/{name}_later.jsonl", "evaluation")
        marked[name] = record["selected_on"], row_of(NETWORKS["baseline"], record)["name"]
    assert marked["x"] == ("test", "baseline of feedback (chosen on test images)")
    assert marked["y"] == ("held-out", "baseline of feedback")
