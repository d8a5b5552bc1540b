"""The parts that docs/extending.md writes, a gate, a rule and a read-out, go through every script as those that are here do."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import DATA, REPOSITORY

from self_models.basics.errors import ModelError
from self_models.basics.settings import NOT_NEGATIVE, objective_setting
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES, Rule

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


def test_a_name_that_is_taken_stays_whose_it_is():
    before = RULES["confidence"]
    with pytest.raises(ModelError, match="rule 'confidence' is there already"):
        RULES.register("confidence")(type("Own", (Rule,), {"holds": id}))
    assert RULES["confidence"] is before
