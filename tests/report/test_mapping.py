"""What eval says of mappings that another verb would look for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from spikeloom.codesign.mapping import best_mapping
from spikeloom.evaluate import evaluate, load_machine, load_workload
from spikeloom.report.mapping import mapping_note

WORKLOAD = """
num_steps = 8
[[layer]]
name = "conv"
kind = "conv2d"
in_shape = [2, 12, 12]
out_channels = 4
kernel = [3, 3]
firing_rate = 0.05
[[layer]]
name = "fc"
kind = "linear"
in_shape = [400]
out_channels = 10
firing_rate = 0.3
"""


@pytest.mark.parametrize(
    ("machine", "words"),
    [("spikex", "`search` looks for the best window"), ("ptb", "`search`"), ("loihi", "`map`"), ("sata", "")],
)
def test_only_machines_that_have_a_mapping_search_say_so(tmp_path: Path, machine: str, words: str) -> None:
    (tmp_path / "w.toml").write_text(WORKLOAD)
    notes = mapping_note(evaluate(load_workload(tmp_path / "w.toml"), load_machine(machine)[1], threads=1))
    assert words in notes[0] if words else notes == ()


def test_a_mapping_that_was_found_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(WORKLOAD)
    report = best_mapping(load_workload(tmp_path / "w.toml"), load_machine("spikex")[1], threads=1).report
    told = replace(report, arch={**report.arch, "window": {"conv": 2, "fc": 8}})
    assert mapping_note(told) == ()
