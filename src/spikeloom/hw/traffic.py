"""Traffic: what the cores of a many-core machine do in every step, as arrays; what a model of its timing reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Traffic:
    """Work of the cores and messages between them, over the steps of all samples one after the other.

    Letters: T steps (all samples), M cores with work, F flows. A flow is a pair (source core, target core) that carries
    a message in some step; a core may send to itself. Ticks are those of the machine's clock.

    cores_M: numbers of the cores, ascending; int32. The port through which spikes come from outside is `mesh.PORT` (-1, at tile 0),
        here and as the source of a flow; it has no neurons and only sends.
    generate_TM: ticks a core spends on its neurons and on sending: soma access, update, spike out, and axon-out of
        each message; int64.
    receive_TM: ticks a core spends on what arrives: axon-in of each message and its synapse events; int64.
    flow_source_F, flow_target_F: core numbers; int32.
    messages_TF: messages of a flow in a step; int64.
    receive_TF: ticks that the target of a flow spends on its messages; summed over the flows to a core they are its
        receive_TM; int64.
    updated_TM, fired_TM: neurons of a core that were updated, and that fired, in a step; int64.
    neurons_M: neurons of a core; int64.
    before_TM, behind_TM: of generate_TM, the ticks of layers that send nothing in the step and stand on the core before the first, and
        behind the last, layer that does; 0 without a message; int64.
    """

    cores_M: np.ndarray
    generate_TM: np.ndarray
    receive_TM: np.ndarray
    flow_source_F: np.ndarray
    flow_target_F: np.ndarray
    messages_TF: np.ndarray
    receive_TF: np.ndarray
    updated_TM: np.ndarray
    fired_TM: np.ndarray
    neurons_M: np.ndarray
    before_TM: np.ndarray
    behind_TM: np.ndarray

    @property
    def num_steps(self) -> int:
        """Steps of all samples."""
        return int(self.generate_TM.shape[0])
