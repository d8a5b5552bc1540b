"""A few mutated files and flag values; benchmarks/robustness/fuzz.py runs a thousand of each."""

import pytest

from benchmarks.robustness import fuzz


@pytest.mark.parametrize("kind", [fuzz.checkpoints, fuzz.data_files, fuzz.flag_values])
def test_only_clean_errors(kind, tmp_path):
    counts = kind(40, tmp_path)
    assert counts["examples"] >= 40 and 0 < counts["refused"] <= counts["examples"]
