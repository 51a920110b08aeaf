"""Groups of neurons of a workload on a many-core chip: who has neurons, who feeds them, when they work.

Layers whose sums reach the same neurons are one group, named after the layer that has the neurons. What cannot run on such a
chip is refused here, by name.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np

from spikeloom.core.arch import of_layer
from spikeloom.core.placement import INPUT
from spikeloom.core.trace import Levels, Spikes
from spikeloom.core.workload import WEIGHTED, Layer, NeuronRule, Workload
from spikeloom.errors import MappingError
from spikeloom.hw.base import SUMMING_POOLS, check_layer_tables, fold_pools, refuse_shapes_only, why_kept
from spikeloom.hw.loihi_arch import LoihiArch

#: Kind of the layer that stands for input neurons on cores.
INPUT_KIND = "input"


@dataclass(frozen=True, eq=False)
class Group:
    """Neurons that stand together, or the port through which spikes come from outside.

    name: layer that has the neurons; of the port the first layer it feeds. members: layers whose sums reach them, in execution
    order. shape_KPQ: their map. out: spikes they send (T N K P Q), None where they send none that anything hears. depth: step
    of the chip in which they work on step 0 of the trace. port: outside the cores. driven: which neurons every step updates, bool,
    for (K, P, Q), None where none is.
    """

    name: str
    members: tuple[str, ...]
    shape_KPQ: tuple[int, int, int]
    out: Spikes | None
    depth: int = 0
    port: bool = False
    driven: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Neurons."""
        return int(np.prod(self.shape_KPQ))


@dataclass(frozen=True, eq=False)
class Chart:
    """The groups of a workload in execution order, ports first, and through which layers they feed one another.

    edges: (number of the sending group, layer). group_of: number of the group by layer. num_steps: of the chip, for one sample.
    """

    workload: Workload
    groups: tuple[Group, ...]
    edges: tuple[tuple[int, str], ...]
    group_of: abc.Mapping[str, int]
    num_steps: int
    warnings: tuple[str, ...]

    def heard_by(self, group: int) -> tuple[str, ...]:
        """Layers that a group feeds, in execution order."""
        return tuple(layer for source, layer in self.edges if source == group)


#: What runs, kept as long as the workload: plain, and with input neurons.
_runs: tuple[WeakKeyDictionary[Workload, Workload], ...] = (WeakKeyDictionary(), WeakKeyDictionary())


def run_of(workload: Workload, arch: LoihiArch) -> Workload:
    """The workload as the chip runs it: pools folded, drawn layers one behind the other, and the input a layer of its own where its
    neurons stand on cores.

    Raises:
        MappingError: input neurons for layers whose inputs differ.
    """
    known = _runs[arch.input_on_chip]
    if workload not in known:
        chained = _chained(workload)
        # before pools fold: input neurons that a pool leaves out are neurons, too
        known[workload] = fold_pools(_with_input(chained) if arch.input_on_chip else chained)
    return known[workload]


def _with_input(workload: Workload) -> Workload:
    heard = inputs_of(workload)
    first = [layer for layer in workload.layers if not heard[layer.name] and isinstance(layer.arrival, Spikes)]
    if not first:
        return workload
    if any(layer.name == INPUT for layer in workload.layers):
        raise MappingError(
            f"layer '{INPUT}': with input_on_chip = true that is the name of the input's neurons; give the layer another name, or set "
            "input_on_chip = false"
        )
    one, names = _with_map(first), {layer.name for layer in first}
    for layer in first[1:]:
        if not _same(layer, first[0]):
            raise MappingError(
                f"layer '{layer.name}': hears another input than '{first[0].name}', and neurons for one input are known only; set "
                "input_on_chip = false"
            )
    assert isinstance(one.arrival, Spikes)
    silent = np.zeros((one.C, 1, 1, 1), np.int8)  # no synapse leads to it
    made = Layer(
        INPUT, INPUT_KIND, one.C, one.C, one.H, one.W, 1, 1, one.H, one.W, one.arrival, groups=one.C, out=one.arrival, weight=silent,
        neuron=NeuronRule("if"),
    )  # fmt: skip
    layers = tuple(replace(x, inputs=(INPUT,)) if x.name in names else x for x in workload.layers)
    return replace(workload, layers=(made, *layers))


def _same(one: Layer, other: Layer) -> bool:
    """Whether two first layers hear the same spikes, flattened or not."""
    a, b = (x.whole_arrival or x.arrival for x in (one, other))
    if not (isinstance(a, Spikes) and isinstance(b, Spikes)) or a.packed.size != b.packed.size:
        return False
    return a.packed is b.packed or np.array_equal(a.packed.reshape(b.packed.shape), b.packed)


def _with_map(layers: abc.Sequence[Layer]) -> Layer:
    """Of layers that hear the same, the one that knows most of its map: a linear layer hears a vector."""
    return max(layers, key=lambda layer: (layer.whole_arrival is not None, layer.H * layer.W))


def _chained(workload: Workload) -> Workload:
    """A drawn workload with each layer fed by the one before where the maps are as large; any other as it is."""
    if not workload.drawn:
        return workload
    layers = list(workload.layers[:1])
    for layer in workload.layers[1:]:
        before = layers[-1]
        fits = before.K * before.P * before.Q == layer.C * layer.H * layer.W
        layers.append(replace(layer, inputs=(before.name,)) if fits else layer)
    return replace(workload, layers=tuple(layers))


def inputs_of(workload: Workload) -> dict[str, tuple[str, ...]]:
    """Layers that feed each layer, those that run alone; none where its input comes from outside."""
    names = {layer.name for layer in workload.layers}
    return {layer.name: tuple(name for name in layer.inputs if name in names) for layer in workload.layers}


def chart_of(run: Workload, arch: LoihiArch) -> Chart:
    """Groups, edges and steps of a workload as `run_of` gives it.

    Raises:
        MappingError: a layer that the chip cannot run, or spikes that the trace does not hold, by name.
    """
    refuse_shapes_only(run, "give spikes: loihi prices events")
    if not run.layers:
        raise MappingError(
            "loihi found no layer to run in this workload; give one with a convolution or a linear layer"
        )
    heard = inputs_of(run)
    for layer in run.layers:
        _refuse_unsupported(layer, run, heard[layer.name], arch)
    check_layer_tables(arch, [layer.name for layer in run.layers])
    return _Charting(run, arch, heard).chart()


def _refuse_unsupported(layer: Layer, run: Workload, inputs: tuple[str, ...], arch: LoihiArch) -> None:
    where = f"layer '{layer.name}'"
    if layer.kind in SUMMING_POOLS:
        raise MappingError(
            f"{where}: loihi folds pools into the convolution or linear layer behind, and cannot fold this one: "
            f"{why_kept(layer, run)}; use a convolution with a stride instead"
        )
    if layer.kind not in (*WEIGHTED, "add", INPUT_KIND):
        raise MappingError(
            f"{where}: loihi cannot run a {layer.kind} layer, only {', '.join(WEIGHTED)}, add and pools that fold; use a convolution "
            "with a stride instead"
        )
    if layer.num_steps != run.num_steps:
        raise MappingError(
            f"{where}: has {layer.num_steps} steps, the trace {run.num_steps}; a chip has one step for all layers"
        )
    if layer.neuron.kind == "relu":
        raise MappingError(
            f"{where}: sends levels (relu), loihi sends spikes; convert the network to spiking neurons first"
        )
    if inputs == (layer.name,) and not layer.branches:
        raise MappingError(
            f"{where}: hears itself and the network's input at once; give what comes back a layer of its own, behind the Delay"
        )
    arrival = layer.arrival
    if isinstance(arrival, Spikes) or (arrival.analog and not inputs):
        if isinstance(arrival, Levels) and not _one_to_one(layer) and arch.analog_input == "refuse":
            raise MappingError(
                f"{where}: hears pixels, loihi takes spikes; put spiking neurons in front (a 1x1 depthwise convolution on the pixels), or "
                "set analog_input = 'bias' and leave its products to a computer outside"
            )
        return
    if arrival.signed or arrival.analog or len(inputs) < 2:
        what = "signed" if arrival.signed else "graded"
        raise MappingError(
            f"{where}: hears {what} levels of {arrival.bits} bits, loihi takes spikes of one; fold pools, convert without graded or signed "
            "spikes"
        )


def _one_to_one(layer: Layer) -> bool:
    """Whether every pixel reaches one neuron alone: a bias."""
    alone = layer.groups == layer.C == layer.K and (layer.R, layer.S) == (1, 1)
    return layer.kind in WEIGHTED and alone and (layer.P, layer.Q) == (layer.H, layer.W)


class _Charting:
    """Works out a chart, step by step."""

    def __init__(self, run: Workload, arch: LoihiArch, heard: abc.Mapping[str, tuple[str, ...]]) -> None:
        self.run, self.arch, self.heard = run, arch, heard
        self.layers = {layer.name: layer for layer in run.layers}
        self.order = {layer.name: i for i, layer in enumerate(run.layers)}
        self.listeners: dict[str, list[str]] = {name: [] for name in self.layers}
        for name, sources in heard.items():
            for source in sources:
                self.listeners[source].append(name)
        self.said: list[str] = []
        self.joined = {name: name for name in self.layers}

    def chart(self) -> Chart:
        """The chart."""
        for name in self.layers:
            self._join(name)
        names = list(dict.fromkeys(self._root(name) for name in self.layers))
        parts = [tuple(name for name in self.layers if self._root(name) == root) for root in names]
        parts.sort(key=lambda members: max(self.order[name] for name in members))
        groups = [self._group(members) for members in parts]
        numbers = {name: i for i, group in enumerate(groups) for name in group.members}
        edges = [
            (source, name)
            for name in self.layers
            for source in sorted({numbers[s] for s in self.heard[name] if not self._is_sum(s, name, numbers)})
        ]
        ports, port_edges = self._ports()
        shift = len(ports)
        edges = [*port_edges, *((source + shift, name) for source, name in edges)]
        groups = [*ports, *groups]
        numbers = {name: i + shift for name, i in numbers.items()}
        steps = self.run.num_steps
        if self._shifted():
            groups = self._with_depths(groups, edges, numbers)
            steps += max(group.depth for group in groups)
        self._check_heard(groups, edges)
        return Chart(self.run, tuple(groups), tuple(edges), numbers, steps, tuple(self.said))

    # --- which layers share neurons ---------------------------------------------------------------------------------

    def _root(self, name: str) -> str:
        while self.joined[name] != name:
            name = self.joined[name]
        return name

    def _bare(self, name: str) -> bool:
        """Without neurons of its own: what it sends are sums."""
        layer = self.layers[name]
        return layer.neuron.kind == "none" and layer.out is None

    def _join(self, name: str) -> None:
        """Join a layer without neurons with the layer whose neurons its sums reach."""
        if not self._bare(name):
            return
        if self.layers[name].joins in self.layers:
            self._unite(name, self.layers[name].joins)
            return
        for listener in self.listeners[name]:
            if self.layers[listener].kind == "add":
                self._unite(name, listener)
                continue
            beside = [other for other in self.heard[listener] if other != name]
            owners = [other for other in beside if not self._bare(other)]
            spikes = isinstance(self.layers[listener].arrival, Spikes)
            if len(owners) > 1 or not (owners or spikes):
                raise MappingError(
                    f"layer '{name}': has no neurons, and it is not clear whose neurons its sums reach before '{listener}'; put spiking "
                    "neurons behind it"
                )
            for other in owners or beside:
                self._unite(name, other)

    def _unite(self, name: str, other: str) -> None:
        shapes = [(x.K, x.P, x.Q) for x in (self.layers[name], self.layers[other])]
        if shapes[0] != shapes[1]:
            raise MappingError(
                f"layer '{name}': its sums of shape {shapes[0]} reach the neurons of '{other}' of shape {shapes[1]}; expected the same"
            )
        self.joined[self._root(name)] = self._root(other)

    def _is_sum(self, source: str, name: str, numbers: abc.Mapping[str, int]) -> bool:
        """Whether what ``name`` hears from ``source`` are sums on their way to the same neurons, not spikes."""
        return self.layers[name].kind == "add" and self._bare(source) and numbers[source] == numbers[name]

    # --- groups ----------------------------------------------------------------------------------------------------

    def _group(self, members: tuple[str, ...]) -> Group:
        owners = [name for name in members if not self._bare(name)] or [members[-1]]
        layer = self.layers[owners[-1]]
        out = next((self.layers[name].out for name in reversed(members) if self.layers[name].out is not None), None)
        if out is None:
            out = self._heard_spikes(members, (layer.K, layer.P, layer.Q))
        for knob in ("cores", "split"):
            values = {of_layer(getattr(self.arch, knob), name) for name in members}
            if len(values) > 1:
                raise MappingError(
                    f"layer '{layer.name}': has the neurons of {', '.join(members)} together; give them one value of {knob}, got {values}"
                )
        driven = self._driven(members, layer.updates is not None)
        return Group(layer.name, members, (layer.K, layer.P, layer.Q), out, driven=driven)

    def _driven(self, members: tuple[str, ...], recorded: bool) -> np.ndarray | None:
        """Where biases act, which every neuron has but one of: the sum of those of the layers that reach it."""
        everywhere = [self._from_outside(name) for name in members]  # of each, as it says so
        biased = [self.layers[name] for name in members if self.layers[name].has_bias]
        unknown = [layer.name for layer in biased if layer.bias is None]
        if unknown and not recorded:
            self.said.append(
                f"the biases of {', '.join(unknown)} are not in the trace and taken to act on all neurons; record them with the weights"
            )
        if unknown or any(everywhere):
            return np.ones((1, 1, 1), bool)
        if not biased:
            return None
        acts = np.asarray(sum(np.asarray(layer.bias, np.float32) for layer in biased)) != 0
        return acts if acts.any() else None

    def _from_outside(self, name: str) -> bool:
        """Whether the sums of a first layer are computed elsewhere."""
        layer = self.layers[name]
        outside = isinstance(layer.arrival, Levels) and layer.arrival.analog and not _one_to_one(layer)
        if outside:
            macs = layer.dense_synops() // layer.num_steps
            self.said.append(
                f"{name} takes its sums as biases: {macs} multiply-accumulates a step and sample are done elsewhere and not priced"
            )
        return outside

    def _heard_spikes(self, members: tuple[str, ...], shape: tuple[int, int, int]) -> Spikes | None:
        """What the group sends, from the arrival of a layer that hears nothing else."""
        for name, sources in self.heard.items():
            arrival = self.layers[name].arrival
            if name in members or not sources or not set(sources) <= set(members) or not isinstance(arrival, Spikes):
                continue
            if int(np.prod(arrival.shape)) == int(np.prod(shape)):
                return arrival.reshape(shape)
        return None

    def _check_heard(self, groups: list[Group], edges: list[tuple[int, str]]) -> None:
        """Refuse unknown spikes that something hears; say which others are unknown."""
        listened = {source for source, _ in edges}
        unknown = []
        for i, group in enumerate(groups):
            if group.out is not None:
                continue
            if i in listened:
                raise MappingError(
                    f"layer '{group.name}': the trace does not hold the spikes it sends, only sums that reach others; record them as the "
                    f"layer's output (out/{group.name})"
                )
            if self.layers[group.name].neuron.kind in ("if", "lif", "cubalif"):
                unknown.append(group.name)
        if unknown:
            self.said.append(
                f"the output spikes of {', '.join(unknown)} are not in the trace and counted as none: a lower bound; record them as outputs"
            )

    # --- where spikes come from outside ------------------------------------------------------------------------------

    def _ports(self) -> tuple[list[Group], list[tuple[int, str]]]:
        """One port for every different input map of spikes, and the layers behind it."""
        ports: list[Group] = []
        edges: list[tuple[int, str]] = []
        first = [x for x in self.run.layers if not self.heard[x.name] and x.kind != INPUT_KIND]
        if len(first) > 1 and self.run.drawn:
            self.said.append(
                f"nothing says what feeds {', '.join(x.name for x in first[1:])}: their spikes come from outside"
            )
        heard: list[list[Layer]] = []
        for layer in first:
            if not isinstance(layer.arrival, Spikes):
                continue
            together = next((others for others in heard if _same(layer, others[0])), None)
            if together is None:
                heard.append([layer])
            else:
                together.append(layer)
        for i, together in enumerate(heard):
            one = _with_map(together)
            arrival = one.whole_arrival or one.arrival
            assert isinstance(arrival, Spikes)
            C, H, W = arrival.shape
            ports.append(Group(together[0].name, (), (C, H, W), arrival, port=True))
            edges += [(i, layer.name) for layer in together]
        return ports, sorted(edges, key=lambda edge: (edge[0], self.order[edge[1]]))

    # --- when a group works -----------------------------------------------------------------------------------------

    def _shifted(self) -> bool:
        if self.arch.delay == "shift" and self.run.delay:
            raise MappingError(
                "delay: got 'shift' for a trace in which a spike acts one step after it is sent already; set delay = 'auto'"
            )
        return self.arch.delay == "shift" or (self.arch.delay == "auto" and self.run.delay == 0)

    def _with_depths(
        self, groups: list[Group], edges: list[tuple[int, str]], numbers: abc.Mapping[str, int]
    ) -> list[Group]:
        """The depth of a group is the longest way of spikes to it; what comes back from a later one does not count."""
        depths = [0] * len(groups)
        into: dict[int, list[int]] = {}
        for source, name in edges:
            into.setdefault(numbers[name], []).append(source)
        for i in range(len(groups)):
            depths[i] = max((depths[s] + 1 for s in into.get(i, ()) if s < i), default=0)
        loops = sorted({groups[s].name for i, sources in into.items() for s in sources if s > i})
        if loops:
            self.said.append(
                f"what {', '.join(loops)} sends back arrives later on the chip than in the trace, whose steps have no delay between layers"
            )
        return [replace(group, depth=depth) for group, depth in zip(groups, depths, strict=True)]
