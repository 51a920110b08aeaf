"""``spikeloom show``: every name there is, and machine files that are the machine they show."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from spikeloom.components import TABLES
from spikeloom.data import DATASETS
from spikeloom.evaluate import ARCH_TYPES, PRESET_MODELS, load_machine
from spikeloom.files.schema import file_key
from spikeloom.nets import NETWORKS
from spikeloom.studies.experiment import EXPERIMENTS
from tests.cli.command import spikeloom

KINDS = {
    "hardware": tuple(PRESET_MODELS), "table": TABLES, "network": tuple(NETWORKS), "dataset": tuple(DATASETS),
    "experiment": EXPERIMENTS,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_names_every_one(kind: str) -> None:
    run = spikeloom("show", kind)
    assert run.code == 0
    assert all(name in run.out for name in KINDS[kind])


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in KINDS.items() for name in names])
def test_each_one_can_be_shown(kind: str, name: str) -> None:
    run = spikeloom("show", kind, name)
    assert run.code == 0
    assert name in run.out


@pytest.mark.parametrize("name", [*PRESET_MODELS, *ARCH_TYPES, "spikex:window=8,lbuf_kib=4.5"])
def test_every_field_of_a_machine_is_shown(name: str) -> None:
    run = spikeloom("show", "hardware", name)
    assert run.code == 0
    model = PRESET_MODELS.get(name.partition(":")[0], name)
    assert all(file_key(item) in run.out for item in fields(ARCH_TYPES[model]))  # type: ignore[arg-type]
    assert all(preset in run.out for preset in PRESET_MODELS if PRESET_MODELS[preset] == model)


@pytest.mark.parametrize("name", [*PRESET_MODELS, "spikex:window={conv=8,fc=1},clock_mhz=333.3,table=cacti32"])
def test_the_file_of_a_machine_is_the_machine(tmp_path: Path, name: str) -> None:
    run = spikeloom("show", "hardware", name, "--toml")
    assert run.code == 0
    path = tmp_path / "machine.toml"
    path.write_text(run.out)
    assert load_machine(str(path))[1] == load_machine(name)[1]
    assert spikeloom("check", path).code == 0
    assert spikeloom("show", "hardware", path, "--toml").out == run.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("hardware", "spikey"), "did you mean 'spikex'?"),
        (("table", "cacti23"), "did you mean 'cacti32'?"),
        (("network", "vgg"), "did you mean 'vgg9'?"),
        (("dataset", "mnits"), "did you mean 'mnist'?"),
        (("experiment", "digit"), "did you mean 'digits'?"),
    ],
)
def test_an_unknown_name_gets_the_nearest(words: tuple[str, str], says: str) -> None:
    run = spikeloom("show", *words)
    assert run.code == 1
    assert run.complaint is not None and says in run.complaint


@pytest.mark.parametrize("words", [(), ("hardwares",)])
def test_wrong_usage_is_code_2(words: tuple[str, ...]) -> None:
    assert spikeloom("show", *words).code == 2
