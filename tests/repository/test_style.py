"""How plain the code is, where ruff has no rule.

Statements must not be packed, and docstrings of public functions must say some things.
CONTRIBUTING.md explains the rules with an example.
"""

import ast
import re

import pytest
from conftest import REPOSITORY

# Where statements say one thing each: everywhere, but in the copies of users' files.
PLAIN = (
    "*.py",
    "self_models/**/*.py",
    "wfeedback/**/*.py",
    "studies/**/*.py",
    "benchmarks/**/*.py",
    "docs/**/*.py",
    "examples/**/*.py",
    "tests/**/*.py",
)

# What is public: what `self_models` offers, and what a page or examples/ shows. A class
# stands for its methods without an underscore, too.
PUBLIC = {
    "self_models/data/events.py": ["rows_in"],
    "self_models/data/folders.py": ["labelled_recordings"],
    "self_models/data/sets.py": ["load_data"],
    "wfeedback/export/formats.py": ["export"],
    "wfeedback/runs/saving.py": ["save_checkpoint"],
    "wfeedback/training/losses.py": ["Loss"],
    "self_models/traced/converting.py": ["from_ann"],
    "self_models/data/images.py": ["read_images"],
    "self_models/settings.py": ["Registry", "Number", "Choice", "Switch", "setting"],
    "wfeedback/event/conformance.py": ["Difference", "first_difference"],
    "self_models/evaluation/evaluate.py": ["Evaluation", "evaluate", "figures_per_image"],
    "self_models/evaluation/operations.py": [
        "OperationCounter",
        "energies",
        "energy_joules",
        "fan_out",
    ],
    "wfeedback/nir/graph_snn.py": ["GraphSNN"],
    "studies/link/films.py": ["read_film", "reduction_to"],
    "studies/link/loop.py": ["LinkStep", "run_link"],
    "studies/link/measures.py": ["LinkCount", "LinkFigures", "price_that_pays"],
    "studies/link/predictors.py": [
        "BestShift",
        "Motion",
        "MotionPredictor",
        "Report",
        "SendOnDelta",
    ],
    "wfeedback/event/quantize.py": ["IntegerSNN", "Whole", "WholeForm"],
    "self_models/checkpoints/loading.py": ["load"],
    "self_models/running/graph.py": ["Graph"],
    "self_models/neurons/spiking.py": ["SpikingNeuron"],
    "self_models/neurons/norms.py": ["QCFS"],
    "self_models/neurons/surrogates.py": ["Surrogate", "linear", "stdb", "triangle"],
    "wfeedback/nir/reading.py": ["from_nir"],
    "self_models/feedback/contrast.py": [
        "Contrast",
        "local_contrast",
        "local_gain",
        "original_contrast",
    ],
    "self_models/feedback/encoders.py": ["Encoding", "direct", "poisson"],
    "self_models/feedback/gates.py": ["Blocking", "Gate", "Reconstruct", "Tolerance"],
    "self_models/feedback/readouts.py": [
        "Membrane",
        "MembraneLinear",
        "MembraneRescaled",
        "Readout",
        "Rescaled",
        "SpikeCount",
        "SpikeCountRescaled",
    ],
    "self_models/feedback/stopping.py": [
        "AllPredicted",
        "Both",
        "Confidence",
        "Entropy",
        "Never",
        "Rule",
        "output_entropy",
        "output_gap",
    ],
    "self_models/running/outputs.py": [
        "ANNOutput",
        "SNNOutput",
        "by_part",
        "part_of",
        "total_spikes",
    ],
    "wfeedback/streams/stream.py": ["Stream"],
    "self_models/vgg_wFeedback.py": ["VGG_wFeedback"],
    "self_models/vgg_wFeedback_spiking.py": ["VGG_SNN_STDB_wFeedback"],
}

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def plain_files():
    """Return the paths of the files that are checked, relative to the repository."""
    paths = set()
    for pattern in PLAIN:
        found = list(REPOSITORY.glob(pattern))
        assert found, f"PLAIN names {pattern}, which is not there"
        paths.update(str(path.relative_to(REPOSITORY)) for path in found)
    return sorted(paths)


# --- packed statements


def names_in(node):
    """Return the source of each element of a tuple, in alphabetical order."""
    return sorted(ast.unparse(element) for element in node.elts)


def is_packed_assignment(node):
    """Return whether a statement assigns several values at once, such as `a, b = 1, 2`.

    A swap, `a, b = b, a`, has the same names on both sides. It is one thought.
    """
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    tuples = [target for target in node.targets if isinstance(target, ast.Tuple)]
    return any(names_in(target) != names_in(node.value) for target in tuples)


def is_nested_conditional(node):
    """Return whether a conditional expression has another one inside."""
    if not isinstance(node, ast.IfExp):
        return False
    inner = [child for child in ast.walk(node) if isinstance(child, ast.IfExp)]
    return len(inner) > 1


def is_packed_comprehension(node):
    """Return whether a comprehension has several loops, or several conditions."""
    if not isinstance(node, COMPREHENSIONS):
        return False
    conditions = sum(len(loop.ifs) for loop in node.generators)
    return len(node.generators) > 1 or conditions > 1


def packed_statements(source):
    """Return a line number and a sentence for each packed statement of a text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if is_packed_assignment(node):
            found.append((node.lineno, "assigns several values at once: one statement each"))
        if is_nested_conditional(node):
            found.append((node.lineno, "nests conditional expressions: write an if block"))
        if is_packed_comprehension(node):
            found.append((node.lineno, "packs a comprehension: one for, at most one if"))
    return sorted(found)


@pytest.mark.parametrize("path", plain_files())
def test_a_statement_says_one_thing(path):
    source = (REPOSITORY / path).read_text()
    assert packed_statements(source) == []


@pytest.mark.parametrize(
    ("source", "is_packed"),
    [
        ("a, b = 1, 2", True),
        ("a = 1", False),
        ("a, b = b, a", False),
        ("a[i], a[j] = a[j], a[i]", False),
        ("a, b = pair()", False),
        ("x = 1 if a else 2 if b else 3", True),
        ("x = 1 if a else 2", False),
        ("x = [i for row in rows for i in row]", True),
        ("x = [i for i in row if i if i > 2]", True),
        ("x = {i: j for i, j in row if i}", False),
    ],
)
def test_what_counts_as_packed(source, is_packed):
    assert bool(packed_statements(source)) == is_packed


# --- docstrings of what is public


def sections_of(docstring):
    """Return the sections of a NumPy docstring: title -> names of its entries."""
    sections = {}
    lines = docstring.splitlines()
    title = None
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch("-{3,}", following) and line == line.strip():
            title = line
            sections[title] = []
            continue
        entry = re.match(r"[*\w][\w*, ]*(?= : )|[*\w]+$", line)
        if title and entry:
            sections[title] += [name.strip() for name in entry[0].split(",")]
    return sections


def parameters_of(function):
    """Return the argument nodes that a caller passes, without self and cls."""
    arguments = function.args
    nodes = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    nodes += [node for node in (arguments.vararg, arguments.kwarg) if node]
    return [node for node in nodes if node.arg not in ("self", "cls")]


def lacks_of_function(function, is_method=False):
    """Return what the signature and the docstring of a public function do not say."""
    lacks = []
    parameters = parameters_of(function)
    for node in parameters:
        if node.annotation is None:
            lacks.append(f"{node.arg} has no annotation")
    if function.returns is None:
        lacks.append("the result has no annotation")

    docstring = ast.get_docstring(function)
    if docstring is None:
        return [*lacks, "no docstring"]
    # A method that overrides another one may lead to the docstring of that one, or have
    # a single line that says what is different. So one line is enough for any method.
    leads_elsewhere = re.search(r"[Ss]ee `", docstring) or docstring.count("\n") == 0
    if is_method and leads_elsewhere:
        return lacks
    sections = sections_of(docstring)
    documented = [name.lstrip("*") for name in sections.get("Parameters", [])]
    for node in parameters:
        if node.arg not in documented:
            lacks.append(f"{node.arg} is not under Parameters")
    returns = function.returns and ast.unparse(function.returns)
    if returns not in (None, "None", "NoReturn") and not {"Returns", "Yields"} & sections.keys():
        lacks.append("no section Returns")
    return lacks


def lacks_of_class(node):
    """Return what the docstrings of a public class and of its methods do not say."""
    lacks = []
    attributes = sections_of(ast.get_docstring(node) or "").get("Attributes", [])
    if ast.get_docstring(node) is None:
        lacks.append("no docstring")
    for child in node.body:
        if isinstance(child, ast.AnnAssign) and child.target.id not in attributes:
            lacks.append(f"{child.target.id} is not under Attributes")
        if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            own = lacks_of_function(child, is_method=True)
            lacks += [f"{child.name}: {lack}" for lack in own]
    return lacks


@pytest.mark.parametrize("path", [path for path in plain_files() if path in PUBLIC])
def test_public_docstrings_have_sections(path):
    tree = ast.parse((REPOSITORY / path).read_text())
    named = {node.name: node for node in tree.body if hasattr(node, "name")}
    for name in PUBLIC[path]:
        node = named[name]
        lacks = lacks_of_class(node) if isinstance(node, ast.ClassDef) else lacks_of_function(node)
        assert not lacks, f"{path}: {name}: {'; '.join(lacks)}"


def test_public_names_are_there():
    for path, names in PUBLIC.items():
        tree = ast.parse((REPOSITORY / path).read_text())
        defined = {node.name for node in tree.body if hasattr(node, "name")}
        missing = [name for name in names if name not in defined]
        assert not missing, f"{path} defines no {', '.join(missing)}: correct PUBLIC"


def test_a_docstring_that_lacks_something_is_noticed():
    source = '''
def area(width: float, height: float) -> float:
    """Return the area.

    Parameters
    ----------
    width : float
        In metres.
    """
'''
    lacks = lacks_of_function(ast.parse(source).body[0])
    assert lacks == ["height is not under Parameters", "no section Returns"]
