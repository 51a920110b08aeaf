"""Placement files: what is written reads back, every mistake is one line that names file, place and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.arch import Mapping
from spikeloom.core.network import chain
from spikeloom.core.nodes import IF, Input, Linear, Output
from spikeloom.core.placement import Place, Placement
from spikeloom.core.trace import Spikes, SpikeTrace
from spikeloom.core.workload import Workload
from spikeloom.errors import ConfigError, FileError
from spikeloom.evaluate import decide, evaluate, load_machine
from spikeloom.files.placement import read_placement, write_placement
from spikeloom.lower import lower
from spikeloom.studies.check import describe_file
from tests.files.cases import complaint

LAYERS = ("conv1", "fc", 'odd "name"', "größe", "a.b/c")


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    """Layers cut into runs in either order, or into blocks of channels and rows."""
    places: list[Place] = []
    for layer in draw(st.lists(st.sampled_from(LAYERS), unique=True, min_size=1)):
        tiles, cores = st.integers(0, 127), st.integers(0, 3)
        cuts = [0, *sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=4)))]
        runs = list(zip(cuts, cuts[1:], strict=False))
        how = draw(st.sampled_from(("neurons", "channels", "rows", "both", "whole")))
        if how == "whole":
            places.append(Place(layer, draw(tiles), draw(cores)))
        for run in runs if how != "whole" else ():
            tile, core = draw(tiles), draw(cores)
            if how == "neurons":
                places.append(Place(layer, tile, core, neurons=run))
            elif how == "both":
                places.append(Place(layer, tile, core, channels=run, rows=(0, 2)))
                places.append(Place(layer, core, tile % 4, channels=run, rows=(2, 3)))
            else:
                places.append(replace(Place(layer, tile, core), **{how: run}))
        if how == "neurons":
            order: Any = draw(st.sampled_from(("chw", "hwc")))
            places = [replace(place, order=order) if place.layer == layer else place for place in places]
    return Placement(tuple(draw(st.permutations(places))))


@settings(deadline=None, max_examples=60)
@given(placements())
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, placement: Placement) -> None:
    path = tmp_path_factory.mktemp("placement") / "place.toml"
    write_placement(path, placement)
    assert read_placement(path) == placement
    assert [file.name for file in path.parent.iterdir()] == ["place.toml"]


def test_a_file_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "place.toml"
    path.write_text(
        """
[[place]]
layer = "conv"
tile = 0
core = 1
channels = [0, 2]

[[place]]
layer = "conv"
tile = 3
core = 0
channels = [2, 4]
rows = [0, 3]

[[place]]
layer = "conv"
tile = 3
core = 1
channels = [2, 4]
rows = [3, 5]

[[place]]
layer = "fc"
tile = 3
core = 1
neurons = [0, 10]
order = "hwc"
"""
    )
    owner_KPQ = read_placement(path).owners("conv", (4, 5, 2), 4)
    assert (owner_KPQ[:2] == 1).all() and (owner_KPQ[2:, :3] == 12).all() and (owner_KPQ[2:, 3:] == 13).all()
    assert describe_file(path) == "placement of 2 layers in 4 places on 3 cores of 2 tiles"
    write_placement(path, Placement((Place("a", 0, 0),)))
    assert describe_file(path) == "placement of 1 layer in 1 place on 1 core of 1 tile"


GOOD = "[[place]]\nlayer = 'a'\ntile = 0\ncore = 0\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "chanels = [0, 1]", "place[0].chanels: unknown key (did you mean 'channels'?)"),
        (GOOD + "[[places]]\nlayer = 'b'", "places: unknown key (did you mean 'place'?)"),
        ("", "place: is missing; add it"),
        ("place = []", "place: got [], expected: at least 1 value"),
        (GOOD.replace("core = 0\n", ""), "place[0].core: is missing; add it"),
        (GOOD.replace("core = 0", "core = -1"), "place[0].core: got -1"),
        (GOOD.replace("tile = 0", "tile = 0.5"), "place[0].tile: got 0.5"),
        (GOOD.replace("'a'", "''"), "place[0].layer"),
        (GOOD + "neurons = [0]", "place[0].neurons[1]"),
        (GOOD + "neurons = [0, 4]\norder = 'whc'", "place[0].order: got 'whc', expected: 'chw' or 'hwc'"),
        (GOOD + "channels = [0, 4]\norder = 'chw'", "place[0].order: goes with neurons only"),
        (GOOD + "neurons = [4, 4]", "neurons = [4, 4], expected [first, last) with 0 <= first < last"),
        (
            GOOD + "neurons = [0, 4]\nrows = [0, 1]",
            "got neurons together with channels or rows, expected one of the two",
        ),
        (GOOD + "neurons = [0, 4]\n" + GOOD + "neurons = [3, 8]", "some of its neurons already have a core"),
        (GOOD + "neurons = [0, 4]\n" + GOOD + "neurons = [5, 8]", "layer 'a': its places leave a gap"),
        (GOOD + "rows = [0, 4]\n" + GOOD + "channels = [1, 8]", "some of its neurons already have a core"),
        (GOOD + "rows = [1, 4]", "layer 'a': its places leave a gap"),
        (GOOD + GOOD, "some of its neurons already have a core"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "place.toml"
    path.write_text(text)
    for read in (read_placement, describe_file) if "[[place]]" in text else (read_placement,):
        assert words in complaint(path, read, ConfigError)


def test_mixed_ways_of_writing_wait_for_the_map(tmp_path: Path) -> None:
    path = tmp_path / "place.toml"
    path.write_text(GOOD + "channels = [0, 1]\n" + GOOD + "neurons = [6, 12]")
    assert (read_placement(path).owners("a", (2, 3, 2), 4) == 0).all()
    path.write_text(GOOD + "channels = [0, 9000000]\nrows = [0, 9000000]")
    assert len(read_placement(path).places) == 1


def test_a_missing_folder_or_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_placement(tmp_path / "none.toml")
    with pytest.raises(FileError, match="is a folder"):
        write_placement(tmp_path, Placement((Place("a", 0, 0),)))


def test_a_machine_gets_the_placement_that_its_field_names(tmp_path: Path) -> None:
    network = chain("n", {"in": Input((4,), "spikes"), "fc": Linear(4, 6), "if": IF(), "out": Output((6,))})
    quiet = Spikes(np.zeros((1, 1, 4), np.uint8), 2)
    out = Spikes(np.zeros((1, 1, 6), np.uint8), 2)
    workload = lower(network, SpikeTrace(2, 1, {"fc": quiet}, outputs={"fc": out}))
    _, arch = load_machine("loihi")
    write_placement(
        tmp_path / "place.toml", Placement((Place("fc", 1, 2, neurons=(0, 2)), Place("fc", 3, 0, neurons=(2, 6))))
    )
    for path, where in (("", "1 core of 1 tile"), (str(tmp_path / "place.toml"), "2 cores of 2 tiles")):
        report = evaluate(workload, replace(arch, placement=path))  # type: ignore[type-var]
        assert f"mapped on {where}" in report.warnings


def test_a_placement_is_found_beside_the_machine_file(tmp_path: Path) -> None:
    (tmp_path / "chip").mkdir()
    machine, place = tmp_path / "chip" / "chip.toml", tmp_path / "chip" / "place.toml"
    machine.write_text('model = "loihi"\nplacement = "place.toml"\n')
    write_placement(place, Placement((Place("fc", 1, 2),)))
    _, arch = load_machine(str(machine))
    assert decide(Workload((), 1, 1), arch) == Mapping("loihi", placement=Placement((Place("fc", 1, 2),)))
    assert describe_file(machine) == "machine of model 'loihi'"
    place.write_text("[[place]]\nlayer = 'fc'\ntile = 0\n")
    with pytest.raises(ConfigError, match=r"chip.toml: placement: .*place.toml: place\[0\].core: is missing"):
        describe_file(machine)
    place.unlink()
    with pytest.raises(ConfigError, match=r"chip.toml: placement: .*place.toml: no such file"):
        describe_file(machine)
