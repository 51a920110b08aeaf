"""Speed of the exact count on event-camera data: 100 N-MNIST recordings at T = 300 (1 ms) through a trained CNN.

    SPIKELOOM_DATA=... python -m benchmarks.speed_nmnist [NETWORK.npz]

NETWORK.npz comes from ``spikeloom train nmnist-300`` [runs/nmnist-300/network.npz]. One thread, CPU time. Measured: the
network's forward pass (float32, as recording runs it), packing its spikes plus one ``agile`` count at L = T, L in
{1, 4, 16} x {agile, ptb with merge 2}, and the peak memory of each part (each in a process of its own).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WINDOWS = (1, 4, 16)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forward(network_file: str, trace_file: str) -> None:
    """Record the test set, time the forward pass alone, and write the trace."""
    import numpy as np
    import torch

    from spikeloom.files.network import read_network
    from spikeloom.files.store import write_trace
    from spikeloom.snn.execute import Execution, predict, runnable
    from spikeloom.studies.experiment import experiment_of, record_network, samples

    torch.set_num_threads(1)
    network = read_network(network_file)
    experiment = experiment_of(network, network_file)
    source = samples(experiment, "test")
    execution = Execution(experiment.num_steps, experiment.encoding)
    module = runnable(network)
    predict(module, source.take(np.arange(2)), execution, None)
    start = time.process_time()
    predict(module, source, execution, None)
    forward_s = time.process_time() - start
    start = time.process_time()
    trace = record_network(network, experiment)
    record_s = time.process_time() - start
    write_trace(trace_file, network, trace)
    print(
        f"forward of {len(source)} recordings, T = {trace.num_steps}: {forward_s:.2f} s; forward and recording: "
        f"{record_s:.2f} s; {100 * (trace.accuracy or 0):.0f} % right; peak memory {_peak():.0f} MB"
    )


def count(trace_file: str) -> None:
    """Time the counts of the six machines and of one agile count with the widest window."""
    from spikeloom.core.trace import Spikes
    from spikeloom.core.workload import Workload
    from spikeloom.evaluate import load_machine, load_workload
    from spikeloom.hw.spikex import Spikex, SpikexArch

    workload, machine = load_workload(trace_file), Spikex()

    def counted(workload: Workload, arch: SpikexArch) -> float:
        start = time.process_time()
        machine.count(workload, arch, machine.map(workload, arch), threads=1)
        return time.process_time() - start

    counted(workload, SpikexArch())  # warm: the kernels are loaded, the synaptic operations known
    total = 0.0
    for preset in ("spikex", "ptb"):
        for window in WINDOWS:
            arch = load_machine(f"{preset}:window={window}")[1]
            assert isinstance(arch, SpikexArch)
            seconds = counted(workload, arch)
            total += seconds
            print(f"{preset:7} L={window:<3} {seconds:6.2f} s")
    print(f"six evaluations: {total:.2f} s; peak memory {_peak():.0f} MB")
    packing = 0.0
    for layer in workload.layers:
        if isinstance(layer.arrival, Spikes):
            unpacked = layer.arrival.unpack()
            start = time.process_time()
            Spikes.pack(unpacked)
            packing += time.process_time() - start
    widest = SpikexArch(window=min(64, workload.num_steps))
    print(f"packing {packing:.2f} s + agile at L={widest.window} {counted(workload, widest):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="runs/nmnist-300/network.npz")
    options = parser.parse_args()
    if not Path(options.network).exists():
        sys.exit(f"{options.network}: no such file; run 'spikeloom train nmnist-300' first")
    with tempfile.TemporaryDirectory() as folder:
        trace = str(Path(folder) / "trace.npz")
        for call in (f"forward({options.network!r}, {trace!r})", f"count({trace!r})"):
            subprocess.run([sys.executable, "-c", f"import benchmarks.speed_nmnist as b; b.{call}"], check=True)


if __name__ == "__main__":
    main()
