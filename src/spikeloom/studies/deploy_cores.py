"""On which cores the neurons of a deployed network stand: filled in order where that fits, else on the fewest cores, or mapped."""

from __future__ import annotations

from dataclasses import replace

from spikeloom.codesign.mapper import map_network
from spikeloom.codesign.mapper_moves import Divisions, missing_room, options, smallest
from spikeloom.codesign.mapper_problem import problem_of, room_of
from spikeloom.core.arch import AbstractArch
from spikeloom.core.placement import Place, Placement
from spikeloom.core.workload import Workload
from spikeloom.errors import MappingError
from spikeloom.evaluate import decide
from spikeloom.hw.loihi_arch import LoihiArch

#: Mappings that the mapper compares, on so many samples.
MAPPINGS, MAPPED_SAMPLES = 1500, 4


def place(workload: Workload, arch: AbstractArch, how: str, objective: str) -> Placement | None:
    """Where the neurons stand, None on a machine without cores.

    how: "" for the machine's own fill, or the fewest cores where that breaks a limit; "mapped" for the mapper's.

    Raises:
        MappingError: nothing fits.
    """
    if not isinstance(arch, LoihiArch):
        return None
    if how == "mapped":
        aim = objective if objective in ("energy", "latency") else "edp"
        return map_network(workload, arch, objective=aim, budget=MAPPINGS, samples=MAPPED_SAMPLES).placement  # type: ignore[arg-type]
    try:
        return decide(workload, arch).placement
    except MappingError as error:
        if arch.placement:
            raise
        return fewest_cores(workload, arch, str(error))


def fewest_cores(workload: Workload, arch: LoihiArch, refusal: str = "") -> Placement:
    """Layers in order, each on few cores so that every core keeps its limits: one split after the other is made finer, always the
    one that mends most for each core it adds.

    refusal: why the machine's own fill does not do, for the error.

    Raises:
        MappingError: no splits keep the limits.
    """
    fill = decide(workload, replace(arch, limits="warn")).placement
    assert fill is not None
    problem = problem_of(workload, arch, fill)
    room = room_of(problem, arch, None)
    choices = [options(problem, group, room) for group in range(len(problem.groups))]
    now = smallest(problem, choices, room)
    while missing := missing_room(problem, room, now):
        finer: list[tuple[float, Divisions]] = []
        for group, splits in enumerate(choices):
            for split in splits:
                tried = (*now[:group], split, *now[group + 1 :])
                added = split.num_cores - now[group].num_cores
                mended = missing - missing_room(problem, room, tried)
                if mended > 0:
                    finer.append((-mended / max(added, 0.5), tried))
        if not finer:
            raise MappingError(f"no splits of the layers keep the limits of the cores: {refusal}")
        now = min(finer, key=lambda pair: pair[0])[1]
    places: list[Place] = []
    first = 0
    for group_, split in zip(problem.groups, now, strict=True):
        slots = list(range(first, first + split.num_cores))
        places += split.places(group_.name, group_.shape_KPQ, slots, problem.mesh.cores_per_tile)
        first += split.num_cores
    return Placement(tuple(places))
