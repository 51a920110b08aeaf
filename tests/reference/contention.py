"""The contention timing of a many-core machine in plain nested loops: every message of a flow and every tile of a way on its own.

The law is that of docs/models/loihi-contention.md; times are ticks of 0.1 ns from the start of a step.
"""

from __future__ import annotations

from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.hw.mesh import Mesh
from spikeloom.hw.traffic import Traffic

Link = tuple[int, int, int, int]


def nearest(ticks: int, cycle: int) -> int:
    """Nearest multiple of ``cycle``, upwards in the middle."""
    rest = ticks % cycle
    return ticks - rest if 2 * rest < cycle else ticks - rest + cycle


def alike(total: int, count: int, cycle: int) -> int:
    """``count`` equal pieces are rounded one by one; unequal ones stay as they are."""
    if total % count != 0:
        return total
    return sum(nearest(total // count, cycle) for _ in range(count))


def way(source: int, target: int, mesh: Mesh, arch: LoihiArch) -> tuple[list[tuple[Link, int]], int]:
    """Links with the ticks from sending to entering them, and the ticks from sending to arrival: first along x, then along y."""
    router = arch.network_ticks["router"]
    x, y = mesh.x(source), mesh.y(source)
    links: list[tuple[Link, int]] = []
    time = router
    while x != mesh.x(target):
        to = x + 1 if mesh.x(target) > x else x - 1
        links.append(((x, y, to, y), time))
        time += router or arch.ticks["hop_x"]
        x = to
    while y != mesh.y(target):
        to = y + 1 if mesh.y(target) > y else y - 1
        links.append(((x, y, x, to), time))
        time += router or arch.ticks["hop_y"]
        y = to
    return links, time


def step_ticks(traffic: Traffic, t: int, mesh: Mesh, arch: LoihiArch) -> int:
    """Ticks of step ``t`` without the barrier."""
    ticks, link_ticks = arch.ticks, arch.network_ticks["link"]
    pause = arch.network_ticks["noc_cycle"]
    cycle = pause if pause > 0 else 1
    flows = sorted(
        (int(traffic.flow_source_F[f]), int(traffic.flow_target_F[f]), f)
        for f in range(len(traffic.flow_source_F))
        if traffic.messages_TF[t, f] > 0
    )
    busiest = max([0, *(int(n) for n in traffic.generate_TM[t]), *(int(n) for n in traffic.receive_TM[t])])

    # senders
    sent: dict[int, list[int]] = {}  # of a flow: when each of its messages leaves
    last_of: dict[int, int] = {}  # of a core: when its last message leaves
    slowest = 0
    columns = {int(core): m for m, core in enumerate(traffic.cores_M)}
    for core in sorted({*columns, *(source for source, _, _ in flows)}):
        m = columns.get(core)
        generate, neurons, updated, fired, before, behind = (
            (0, 0, 0, 0, 0, 0)
            if m is None
            else (
                int(traffic.generate_TM[t, m]),
                int(traffic.neurons_M[m]),
                int(traffic.updated_TM[t, m]),
                int(traffic.fired_TM[t, m]),
                int(traffic.before_TM[t, m]),
                int(traffic.behind_TM[t, m]),
            )
        )
        own = [f for source, _, f in flows if source == core]
        counts = [int(traffic.messages_TF[t, f]) for f in own]
        if not own:
            slowest = max(slowest, nearest(generate, cycle))
            continue
        senders = max(max(counts), min(fired, sum(counts)))
        silent = max(neurons - senders, 0) * ticks["access"]
        silent += max(updated - senders, 0) * ticks["update"] + max(fired - senders, 0) * ticks["spike_out"]
        further = sum(counts) - senders
        block = max(generate - silent - further * ticks["axon_out"], 0)
        axon_out = nearest(ticks["axon_out"], cycle)
        among = max(silent - before - behind, 0)
        if among == 0:
            before, behind, block = nearest(before, cycle), nearest(behind, cycle), alike(block, senders, cycle)
        gap = among // (senders + 1)
        end = before + among + block + further * axon_out + behind
        begin, last_of[core] = before + gap, end - behind - gap
        slowest = max(slowest, end)
        for i, f in enumerate(own):
            n = counts[i]
            passed = sum(counts[i + 1 :]) // senders
            ends = []
            for k in (senders // (2 * n), (2 * n - 1) * senders // (2 * n)):
                ends.append(begin + (last_of[core] - begin) * (k + 1) // senders - passed * axon_out)
            first, last = ends
            sent[f] = [first if n == 1 else first + j * (last - first) // (n - 1) for j in range(n)]
    if not flows:
        return max(busiest, slowest + pause if slowest > 0 else 0)

    # receivers
    work = {f: alike(int(traffic.receive_TF[t, f]), len(sent[f]), cycle) for f in sent}
    ways = {f: way(source, target, mesh, arch) for source, target, f in flows}
    drained = 0
    for core in {target for _, target, _ in flows}:
        inbound = [f for _, target, f in flows if target == core]
        arrivals = {f: [time + ways[f][1] for time in sent[f]] for f in inbound}
        for begin in [time for f in inbound for time in (arrivals[f][0], arrivals[f][-1])]:
            end = begin
            for f in inbound:
                end += sum(1 for time in arrivals[f] if time >= begin) * work[f] // len(arrivals[f])
            drained = max(drained, end)
    # the last message of a sender
    for core, last in last_of.items():
        drained = max(
            drained, last + min(ways[f][1] + work[f] // len(sent[f]) for source, _, f in flows if source == core)
        )
    # links
    for link in {link for links, _ in ways.values() for link, _ in links}:
        taking = [(f, time) for f in sent for other, time in ways[f][0] if other == link]
        load = sum(len(sent[f]) for f, _ in taking)
        head = min(sent[f][0] + time for f, time in taking)
        tail = min(ways[f][1] - time + work[f] // len(sent[f]) for f, time in taking)
        drained = max(drained, head + (load - 1) * link_ticks + tail)
    return max(busiest, drained + max(0, slowest - max(last_of.values())))


def contention(traffic: Traffic, mesh: Mesh, arch: LoihiArch) -> list[int]:
    """Ticks of every step without the barrier."""
    return [step_ticks(traffic, t, mesh, arch) for t in range(traffic.num_steps)]
