"""Contention: how long a step of a many-core machine lasts when its messages queue at senders, links and receivers.

Letters: T steps, M cores, F flows (pairs of source and target core). All times are ticks of 0.1 ns from the start of a step.
The equations, what each is for and how far they are from a cycle-accurate network: docs/models/loihi-contention.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.hw.mesh import Mesh
from spikeloom.hw.traffic import Traffic

#: Later than any step.
_NEVER = 2**62


@dataclass(frozen=True)
class Routes:
    """Ways of flows over the mesh, east-west first; flow f takes the links ``begin_F1[f]`` to ``begin_F1[f + 1] - 1``.

    link_L: numbers of the links in the order in which a flow meets them; a link is a tile and one of four directions, and
        links that no flow takes have no number. at_L: ticks from sending until the message enters the link. path_F: ticks
        from sending until it is at its core. num_links: links that are taken.
    """

    begin_F1: np.ndarray
    link_L: np.ndarray
    at_L: np.ndarray
    path_F: np.ndarray
    num_links: int


def routes(source_F: np.ndarray, target_F: np.ndarray, mesh: Mesh, arch: LoihiArch) -> Routes:
    """The ways of flows, with their times.

    With ``router_ns`` a message spends that time in every router on its way, those of its source and its target included;
    without (0), hop_x_ns or hop_y_ns on every hop.
    """
    router, hop_x, hop_y = arch.network_ticks["router"], arch.ticks["hop_x"], arch.ticks["hop_y"]
    if router:
        hop_x = hop_y = router
    dx_F, dy_F = mesh.hops(source_F, target_F)
    dx_F, dy_F = dx_F.astype(np.int64), dy_F.astype(np.int64)
    begin_F1 = np.concatenate(([0], np.cumsum(dx_F + dy_F)))
    flow_L = np.repeat(np.arange(len(dx_F)), dx_F + dy_F)
    step_L = np.arange(begin_F1[-1]) - begin_F1[flow_L]  # hops already made
    made_x_L, made_y_L = np.minimum(step_L, dx_F[flow_L]), np.maximum(step_L - dx_F[flow_L], 0)
    sign_x_F = np.sign(mesh.x(target_F) - mesh.x(source_F)).astype(np.int64)
    sign_y_F = np.sign(mesh.y(target_F) - mesh.y(source_F)).astype(np.int64)
    x_L = mesh.x(source_F)[flow_L] + sign_x_F[flow_L] * made_x_L
    y_L = mesh.y(source_F)[flow_L] + sign_y_F[flow_L] * made_y_L
    east_west_L = step_L < dx_F[flow_L]
    direction_L = np.where(east_west_L, sign_x_F[flow_L] > 0, 2 + (sign_y_F[flow_L] > 0))
    taken, link_L = np.unique((x_L * mesh.rows + y_L) * 4 + direction_L, return_inverse=True)
    return Routes(
        begin_F1=begin_F1.astype(np.int64),
        link_L=link_L.astype(np.int64),
        at_L=router + made_x_L * hop_x + made_y_L * hop_y,
        path_F=router + dx_F * hop_x + dy_F * hop_y,
        num_links=len(taken),
    )


def contention(traffic: Traffic, mesh: Mesh, arch: LoihiArch) -> np.ndarray:
    """Ticks of every step without its barrier; int64 (T,). Never less than the longest sum of work of a core.

    Args:
        traffic: work of the cores and messages between them.
        mesh: where the cores stand.
        arch: latencies.
    """
    order_F = np.lexsort((traffic.flow_target_F, traffic.flow_source_F))
    source_F, target_F = traffic.flow_source_F[order_F], traffic.flow_target_F[order_F]
    ways = routes(source_F, target_F, mesh, arch)
    cores_M = np.unique(np.concatenate((traffic.cores_M, source_F, target_F)))
    work_5TM = np.stack(
        [
            _columns(array_TM, traffic.cores_M, cores_M)
            for array_TM in (
                traffic.generate_TM, traffic.updated_TM, traffic.fired_TM, traffic.before_TM, traffic.behind_TM
            )
        ]
    )  # fmt: skip
    neurons_M = _columns(traffic.neurons_M[None], traffic.cores_M, cores_M)[0]
    by_target_F = np.argsort(target_F, kind="stable")
    ticks = arch.ticks
    steps_T = _steps(
        work_5TM,
        neurons_M,
        np.searchsorted(source_F, cores_M, side="left"),
        np.searchsorted(source_F, cores_M, side="right"),
        np.ascontiguousarray(traffic.messages_TF[:, order_F]),
        np.ascontiguousarray(traffic.receive_TF[:, order_F]),
        by_target_F,
        np.searchsorted(target_F[by_target_F], cores_M, side="left"),
        np.searchsorted(target_F[by_target_F], cores_M, side="right"),
        (ways.begin_F1, ways.link_L, ways.at_L, ways.path_F),
        ways.num_links,
        (ticks["access"], ticks["update"], ticks["spike_out"], ticks["axon_out"]),
        (arch.network_ticks["link"], arch.network_ticks["noc_cycle"]),
    )
    busiest_T = np.maximum(traffic.generate_TM.max(axis=1, initial=0), traffic.receive_TM.max(axis=1, initial=0))
    return np.asarray(np.maximum(steps_T, busiest_T))


def _columns(array_TM: np.ndarray, cores_M: np.ndarray, all_M: np.ndarray) -> np.ndarray:
    """Columns of ``array_TM`` for ``all_M``; 0 for a core that ``cores_M`` lacks (the port has no neurons)."""
    wide = np.zeros((array_TM.shape[0], len(all_M)), np.int64)
    wide[:, np.searchsorted(all_M, cores_M)] = array_TM
    return wide


@njit(cache=True)
def _whole(ticks: int, cycle: int) -> int:
    """The nearest whole cycles."""
    return (2 * ticks + cycle) // (2 * cycle) * cycle


@njit(cache=True)
def _alike(total: int, count: int, cycle: int) -> int:
    """Sum of ``count`` pieces of work in whole cycles: known if all are alike, else the rounding is taken to even out."""
    if total % count:
        return total
    return count * _whole(total // count, cycle)


@njit(cache=True)
def _send(work_5, neurons, messages_F, latencies, cycle, first_F, last_F):  # type: ignore[no-untyped-def]
    """When the first and the last message of every flow of a core leave; returns (last message of all, end of its neurons)."""
    access, update, spike_out, axon_out = latencies
    generate, updated, fired, before, behind = work_5
    messages = most = 0
    for n in messages_F:
        messages += n
        most = max(most, n)
    if messages == 0:
        return -1, _whole(generate, cycle)
    senders = max(most, min(fired, messages))
    silent = max(neurons - senders, 0) * access + max(updated - senders, 0) * update
    silent += max(fired - senders, 0) * spike_out
    further = messages - senders  # messages of a neuron behind its first
    block = max(generate - silent - further * axon_out, 0)
    axon_out = _whole(axon_out, cycle)
    # neurons that do not send: of layers before and behind those that do, and evenly between the senders
    among = max(silent - before - behind, 0)
    if among == 0:
        before, behind, block = _whole(before, cycle), _whole(behind, cycle), _alike(block, senders, cycle)
    gap = among // (senders + 1)
    begin, end = before + gap, before + among + block + further * axon_out + behind
    last = end - behind - gap
    passed = 0
    for f in range(len(messages_F) - 1, -1, -1):
        n = messages_F[f]
        if n == 0:
            continue
        k0, k1 = senders // (2 * n), (2 * n - 1) * senders // (2 * n)
        wait = passed // senders * axon_out
        first_F[f] = begin + (last - begin) * (k0 + 1) // senders - wait
        last_F[f] = begin + (last - begin) * (k1 + 1) // senders - wait
        passed += n
    return last, end


@njit(cache=True)
def _arrived_from(time, first, last, messages):  # type: ignore[no-untyped-def]
    """Messages of a flow, evenly spread from ``first`` to ``last``, that arrive at ``time`` or later."""
    if time <= first:
        return messages
    if time > last:
        return 0
    return messages - -(-(time - first) * (messages - 1) // (last - first))


@njit(cache=True)
def _receive(flows, messages_F, work_F, first_F, last_F):  # type: ignore[no-untyped-def]
    """When a core is done with what arrives: the latest end of a busy period that begins with a flow's first or last message."""
    done = 0
    for f in flows:
        if messages_F[f] == 0:
            continue
        for begin in (first_F[f], last_F[f]):
            end = begin
            for g in flows:
                if messages_F[g] > 0:
                    end += _arrived_from(begin, first_F[g], last_F[g], messages_F[g]) * work_F[g] // messages_F[g]
            done = max(done, end)
    return done


@njit(cache=True, nogil=True)
def _steps(  # type: ignore[no-untyped-def]
    work_5TM, neurons_M, out_M, out_end_M, messages_TF, receive_TF, by_target_F, in_M, in_end_M,
    ways, num_links, latencies, network,
):  # fmt: skip
    begin_F1, link_L, at_L, path_F = ways
    link_ticks, pause = network
    cycle = max(pause, 1)
    _, num_steps, num_cores = work_5TM.shape
    num_flows = messages_TF.shape[1]
    steps_T = np.zeros(num_steps, np.int64)
    first_F, last_F, work_F = (
        np.zeros(num_flows, np.int64),
        np.zeros(num_flows, np.int64),
        np.zeros(num_flows, np.int64),
    )
    load_K, head_K, tail_K = np.zeros(num_links, np.int64), np.zeros(num_links, np.int64), np.zeros(num_links, np.int64)
    for t in range(num_steps):
        messages_F = messages_TF[t]
        drained, last_sent, slowest = 0, -1, 0
        load_K[:] = 0
        head_K[:] = _NEVER
        tail_K[:] = _NEVER
        for m in range(num_cores):
            a, b = out_M[m], out_end_M[m]
            last, end = _send(
                work_5TM[:, t, m], neurons_M[m], messages_F[a:b], latencies, cycle, first_F[a:b], last_F[a:b]
            )  # fmt: skip
            slowest, last_sent = max(slowest, end), max(last_sent, last)
            after = _NEVER
            for f in range(a, b):
                n = messages_F[f]
                if n == 0:
                    continue
                work_F[f] = _alike(receive_TF[t, f], n, cycle)
                one = work_F[f] // n
                after = min(after, path_F[f] + one)
                for way in range(begin_F1[f], begin_F1[f + 1]):
                    k = link_L[way]
                    load_K[k] += n
                    head_K[k] = min(head_K[k], first_F[f] + at_L[way])
                    tail_K[k] = min(tail_K[k], path_F[f] - at_L[way] + one)
                first_F[f] += path_F[f]
                last_F[f] += path_F[f]
            if last >= 0:
                drained = max(drained, last + after)
        for k in range(num_links):
            if load_K[k] > 0:
                drained = max(drained, head_K[k] + (load_K[k] - 1) * link_ticks + tail_K[k])
        for m in range(num_cores):
            drained = max(drained, _receive(by_target_F[in_M[m] : in_end_M[m]], messages_F, work_F, first_F, last_F))
        if last_sent < 0:
            steps_T[t] = slowest + pause if slowest > 0 else 0
        else:
            steps_T[t] = drained + max(0, slowest - last_sent)
    return steps_T
