"""The parts that docs/extending.md writes, a gate, a rule and a read-out, go through every script as those that are here do."""

import re
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from conftest import DATA, REPOSITORY

from self_models.basics.errors import ModelError
from self_models.basics.settings import NOT_NEGATIVE, Choice, objective_setting
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES, Rule
from self_models.running.steps import RunState, View
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

PAGE = (REPOSITORY / "docs/extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OWN = "--readout membrane_scaled --readout_gain 3 --gate relative --slack 0.05 --epsilon 0.2 --rule settled --lead 0.4"
PROGRAM = """
import ann_wFeedback, snn_wFeedback
import snn_wFeedback_posthoc_model_analysis as analysis
from snn_wFeedback_posthoc_model_inference_obj1 import main as obj1
from snn_wFeedback_posthoc_model_inference_obj2 import main as obj2
from snn_wFeedback_posthoc_model_inference_obj3 import main as obj3
from self_models import evaluate
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

data, out, own = {data!r}, {out!r}, {own!r}
path = out + "/trained_models/snn/own.pth"
ann_wFeedback.main(f"--epochs 1 -a VGG5_wFeedback_small --fc_width 8 {{data}} --run_name own".split())
started = f"--pretrained_ann {{out}}/trained_models/ann/own.pth --timesteps 3 --update immediate"
snn_wFeedback.main(f"{{started}} --epochs 1 {{own}} {{data}} --run_name own".split())
snn_wFeedback.main(f"--pretrained_snn {{path}} --epochs 2 --resume {{data}} --run_name own".split())
later = f"--pretrained_snn {{path}} {{data}}"
analysis.main(f"{{later}} --gate relative --rule settled --lead 0.2 --images 2".split())
obj1(f"{{later}} --gate relative --slack 0.02 --run_name o1".split())
print([name for name, *_ in obj2(f"{{later}} --rules settled all_predicted --run_name o2".split())] or "", end="")
print(obj2(f"{{later}} --rules settled --leads 0.1 0.9 --run_name o3".split())[0]["bounds"])
obj3(f"{{later}} --run_name o4".split())
snn = load(path)
print({{name: snn.settings[name] for name in ("readout", "readout_gain", "gate", "slack", "rule", "lead")}})
"""


def test_parts_of_ones_own_go_through_all_scripts(tmp_path):
    program = "\n".join([*BLOCKS, PROGRAM.format(data=f"{DATA} --output_dir {tmp_path}", out=str(tmp_path), own=OWN)])
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "{'lead': 0.1}" in done.stdout
    kept = {"readout": "membrane_scaled", "readout_gain": 3.0, "gate": "relative", "slack": 0.05, "rule": "settled", "lead": 0.4}
    assert done.stdout.splitlines()[-1] == str(kept)


@pytest.mark.parametrize(
    ("registry", "base", "own", "words"),
    [
        (RULES, SimpleNamespace, {}, "rule 'x': derive Own from Rule of self_models.objectives.stopping"),
        (GATES, SimpleNamespace, {}, "gate 'x': derive Own from Gate"),
        (READOUTS, Rule, {}, "readout 'x': derive Own from Readout"),
        (RULES, Rule, {}, r"Own lacks holds\(\)"),
        (RULES, Rule, {"holds": id, "lead": objective_setting(1.0, NOT_NEGATIVE, "")}, "write @dataclass under its registration"),
    ],
)
def test_what_a_part_lacks_is_said_at_once(registry, base, own, words):
    before = dict(registry)
    with pytest.raises(ModelError, match=words):
        registry.register("x")(type("Own", (base,), own))
    assert registry == before


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (0.5, r"rule 'x': declare lead of Own by setting\(\) or objective_setting\(\)"),
        (
            objective_setting(1.0, NOT_NEGATIVE, ""),
            "rule 'x': confidence has a setting gap_bound, too: inherit it, or take another",
        ),
    ],
)
def test_a_setting_is_declared_once(field, words):
    """A field that is no setting, and one of another rule's name, which would change that rule's default."""
    before, name = dict(RULES), "lead" if field == 0.5 else "gap_bound"
    own = {"__annotations__": {name: float}, name: field, "holds": id}
    with pytest.raises(ModelError, match=words):
        RULES.register("x")(dataclass(type("Own", (Rule,), own)))
    assert before == RULES


@pytest.mark.parametrize("names", [(0, 4), {"none": 1, None: 2}])
def test_a_choice_is_of_texts(names):
    """Else its setting would register, and --help_all end in a traceback."""
    with pytest.raises(ModelError, match=r"a Choice is one of several texts, and (0|None) is none: write '(0|None)', or a"):
        objective_setting(0, Choice(names), "")


def test_a_part_does_not_take_a_setting_of_the_network(monkeypatch):
    own = {"__annotations__": {"timesteps": float}, "timesteps": objective_setting(1.0, NOT_NEGATIVE, ""), "holds": id}
    monkeypatch.setitem(RULES, "x", dataclass(type("Own", (Rule,), own)))
    with pytest.raises(ModelError, match="a rule declares a setting timesteps, which InputBlockingSNN has already"):
        InputBlockingSNN.declared()


def test_a_rule_that_looks_at_the_input_must_say_so():
    """Else it would run with one gate and fail with another; other fields of the view it may read."""
    view = View(torch.ones(2, 1, 1, 1), is_open=torch.tensor([True, False]).view(2, 1, 1, 1))
    run = RunState(view.image, view, torch.zeros(2, 3), steps=1)

    def looking(says, field):
        return type("Own", (Rule,), {"looks_at_input": says, "holds": lambda self, run: getattr(run.view, field).flatten() > 0})()

    assert looking(True, "is_open").may_stop(run, 1).tolist() == [True, False]
    assert looking(False, "image").may_stop(run, 1).all()
    with pytest.raises(ModelError, match=r"rule Own asks for view.is_open: it must say looks_at_input = True"):
        looking(False, "is_open").may_stop(run, 1)


def test_a_name_that_is_taken_stays_whose_it_is():
    before = RULES["confidence"]
    with pytest.raises(ModelError, match="rule 'confidence' is there already"):
        RULES.register("confidence")(type("Own", (Rule,), {"holds": id}))
    assert RULES["confidence"] is before
