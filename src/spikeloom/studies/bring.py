"""A network from a file of another tool, and what it comes to on a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spikeloom.core.figures import Figures
from spikeloom.core.network import Network
from spikeloom.core.nodes import Firing, Reset
from spikeloom.errors import ConfigError, FileError
from spikeloom.studies.change import figures
from spikeloom.studies.experiment import Experiment, execution_of, samples, shown_to

if TYPE_CHECKING:
    from spikeloom.snn.execute import Progress


@dataclass(frozen=True)
class NirChoices:
    """What a NIR graph leaves open; fields as `spikeloom.files.nir.read_nir` takes them."""

    dt_s: float | None = None
    reset: Reset | None = None
    strict: bool = False
    discretisation: Literal["euler", "exponential"] = "euler"
    loop_delay: int | None = None
    encoding: Literal["spikes", "levels", "analog"] = "spikes"
    if_gain: Literal["auto", "per_step", "per_second"] = "auto"
    neurons: Literal["exact", "snntorch", "sinabs", "lava"] | None = None


def bring(
    file: Path,
    description: Path | None,
    choices: NirChoices,
    *,
    experiment: str | None = None,
    steps: int | None = None,
    limit: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Network, Figures]:
    """Read ``file`` (.nir, or a state dict with its description, normalisation folded) and measure it on an experiment's test set, if one is named.

    The network remembers the experiment and its T, ``steps`` or the experiment's, so that the other verbs know them; ``tell`` hears which.
    """
    suffix = file.suffix.lower()
    if suffix == ".nir":
        from spikeloom.files.nir import read_nir

        if description is not None:
            raise ConfigError(f"{file}: a NIR graph describes itself; leave out --network")
        network = read_nir(file, **asdict(choices))
    elif suffix in (".pth", ".pt"):
        from spikeloom.snn.importers import import_checkpoint
        from spikeloom.transform.fold import fold

        if description is None:
            raise ConfigError(
                f"{file}: a state dict holds weights but no structure; describe the network with --network FILE.toml"
            )
        if choices != NirChoices():
            raise ConfigError(
                f"{file}: is no NIR graph; --dt-ms, --reset, --strict, --neurons and what else a graph leaves open stand in {description}"
            )
        network = fold(import_checkpoint(file, description))
    else:
        raise FileError(
            f"{file}: cannot tell what this is; expected a NIR graph .nir or a PyTorch state dict .pth or .pt"
        )
    if experiment is None:
        if limit is not None:
            raise ConfigError("--limit: there are no samples to limit; name an experiment with --experiment")
        if steps:
            network = replace(network, metadata={**network.metadata, "num_steps": steps})
        return network, figures(file.name, network)
    network, chosen, said = shown_to(network, str(file), experiment, steps)
    tell(said)
    network = replace(network, metadata={**network.metadata, "experiment": chosen.told})
    return network, _measured(file.name, network, chosen, limit, data_dir, progress)


def _measured(
    name: str,
    network: Network,
    experiment: Experiment,
    limit: int | None,
    data_dir: Path | None,
    progress: Progress | None,
) -> Figures:
    from spikeloom.studies.convert import RECORDING_FRAMES, ann_accuracy

    test = samples(experiment, "test", data_dir, limit)
    execution = execution_of(experiment)
    if any(isinstance(node, Firing) for node in network.nodes.values()):
        return figures(name, network, test, execution, progress)
    # as `spikeloom convert` shows recordings to an ANN
    frames = RECORDING_FRAMES if execution.encoding == "events" else 1
    return replace(figures(name, network), accuracy=ann_accuracy(network, test, execution, frames))
