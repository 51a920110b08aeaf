"""Kernels of the loihi machine: spikes to messages and synapse events, bits to neurons of a core, steps to their busiest core.

Letters: B bytes of 8 steps each (bit t & 7 of byte t >> 3 is step t), T steps, N neurons, U places (neurons of one place reach
the same synapses), E ends (a layer on a core), S slots.
"""

from __future__ import annotations

import numpy as np
from numba import njit


def _spread() -> np.ndarray:
    """For every byte a word whose byte lane k is bit k."""
    spread = np.zeros(256, np.uint64)
    for byte in range(256):
        for k in range(8):
            spread[byte] |= np.uint64((byte >> k) & 1) << np.uint64(8 * k)
    return spread


SPREAD = _spread()


@njit(cache=True, nogil=True)
def count_bits(packed_BN: np.ndarray, slot_N: np.ndarray, spread: np.ndarray, found_TS: np.ndarray) -> None:
    """Add to ``found_TS[t, slot]`` the neurons of a slot whose bit t is set; int64.

    Eight steps are counted at once in the lanes of a word, which is emptied before a lane can overflow and where the slot changes.
    """
    num_steps = found_TS.shape[0]
    for b in range(packed_BN.shape[0]):
        steps = min(8, num_steps - 8 * b)
        word, held, slot = np.uint64(0), 0, slot_N[0]
        for n in range(packed_BN.shape[1]):
            if slot_N[n] != slot or held == 255:
                for k in range(steps):
                    found_TS[8 * b + k, slot] += np.int64((word >> np.uint64(8 * k)) & np.uint64(255))
                word, held, slot = np.uint64(0), 0, slot_N[n]
            word += spread[packed_BN[b, n]]
            held += 1
        for k in range(steps):
            found_TS[8 * b + k, slot] += np.int64((word >> np.uint64(8 * k)) & np.uint64(255))


@njit(cache=True, nogil=True)
def send(
    packed_BN: np.ndarray,  # uint8, what one group sends in one sample
    place_N: np.ndarray,  # int32
    slot_N: np.ndarray,  # int32
    paths_N: np.ndarray,  # int32 (N, 3): hops in x, hops in y and chip boundaries of all messages of one spike
    messages_U: np.ndarray,  # int32, messages of one spike
    arrives_UE: np.ndarray,  # uint8, 1 where a message to the core is booked on the layer
    synapses_UE: np.ndarray,  # int32
    sent_TS: np.ndarray,  # int64, zeroed by the caller: messages sent by each core
    arrived_TE: np.ndarray,  # int64, zeroed: messages received
    events_TE: np.ndarray,  # int64, zeroed: synapse events
    paths: np.ndarray,  # int64 (3), zeroed: sums over all spikes
) -> None:
    """Messages and synapse events of all spikes; spikes are gathered by place first, so the work grows with places, not synapses."""
    num_steps, num_ends = events_TE.shape
    num_places = messages_U.shape[0]
    fired_8U = np.zeros((8, num_places), np.int32)
    # sums of one step as floats, exact below 2**53: processors multiply those side by side and 64-bit integers one by one
    arrived_E, events_E = np.zeros(num_ends), np.zeros(num_ends)
    hops_x, hops_y, chips = np.int64(0), np.int64(0), np.int64(0)
    for b in range(packed_BN.shape[0]):
        steps = min(8, num_steps - 8 * b)
        for n in range(packed_BN.shape[1]):
            byte = np.int64(packed_BN[b, n])
            if byte == 0:
                continue
            place, slot = place_N[n], slot_N[n]
            messages, spikes = np.int64(messages_U[place]), np.int64(0)
            for k in range(steps):
                fired = (byte >> k) & 1  # no branch: which steps fire cannot be foreseen
                spikes += fired
                fired_8U[k, place] += fired
                sent_TS[8 * b + k, slot] += fired * messages
            hops_x += spikes * paths_N[n, 0]
            hops_y += spikes * paths_N[n, 1]
            chips += spikes * paths_N[n, 2]
        for k in range(steps):
            t = 8 * b + k
            arrived_E[:] = 0
            events_E[:] = 0
            for u in range(num_places):
                if fired_8U[k, u] == 0:
                    continue
                times = np.float64(fired_8U[k, u])
                fired_8U[k, u] = 0
                if messages_U[u] == 0:
                    continue
                for e in range(num_ends):
                    arrived_E[e] += times * arrives_UE[u, e]
                    events_E[e] += times * synapses_UE[u, e]
            for e in range(num_ends):
                arrived_TE[t, e] += np.int64(arrived_E[e])
                events_TE[t, e] += np.int64(events_E[e])
    paths[0], paths[1], paths[2] = hops_x, hops_y, chips


@njit(cache=True, nogil=True)
def send_by_core(
    packed_BN: np.ndarray,  # uint8, what one group sends in one sample
    place_N: np.ndarray,  # int32
    order_N: np.ndarray,  # int64, neurons core by core
    first_S1: np.ndarray,  # int64, where each core begins in it
    arrives_UE: np.ndarray,
    synapses_UE: np.ndarray,
    arrived_TSE: np.ndarray,  # float64, zeroed by the caller: messages from core to end, exact
    events_TSE: np.ndarray,  # float64, zeroed: synapse events
) -> None:
    """As `send`, with messages and synapse events kept apart by the core that sends."""
    num_steps, num_cores, num_ends = events_TSE.shape
    num_places = arrives_UE.shape[0]
    fired_U8 = np.zeros((num_places, 8), np.int32)
    touched_U = np.empty(num_places, np.int32)
    is_touched_U = np.zeros(num_places, np.bool_)
    for b in range(packed_BN.shape[0]):
        steps = min(8, num_steps - 8 * b)
        for s in range(num_cores):
            num_touched = 0
            for i in range(first_S1[s], first_S1[s + 1]):
                byte = np.int64(packed_BN[b, order_N[i]])
                if byte == 0:
                    continue
                place = place_N[order_N[i]]
                if not is_touched_U[place]:
                    is_touched_U[place] = True
                    touched_U[num_touched] = place
                    num_touched += 1
                for k in range(steps):
                    fired_U8[place, k] += (byte >> k) & 1
            for i in range(num_touched):
                u = touched_U[i]
                is_touched_U[u] = False
                for k in range(steps):
                    times = np.float64(fired_U8[u, k])
                    fired_U8[u, k] = 0
                    if times == 0:
                        continue
                    for e in range(num_ends):
                        arrived_TSE[8 * b + k, s, e] += times * arrives_UE[u, e]
                        events_TSE[8 * b + k, s, e] += times * synapses_UE[u, e]


@njit(cache=True, nogil=True)
def reach(
    packed_BCHW: np.ndarray,  # uint8, non-zero where something arrives
    groups: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    reached_BKPQ: np.ndarray,  # uint8, or-ed into
) -> None:
    """Where a spike reaches a neuron through any synapse, weights of 0 included."""
    num_bytes, channels, height, width = packed_BCHW.shape
    _, K, P, Q = reached_BKPQ.shape
    inner, outer = channels // groups, K // groups
    any_HW = np.zeros((height, width), np.uint8)
    any_PQ = np.zeros((P, Q), np.uint8)
    for b in range(num_bytes):
        for g in range(groups):
            any_HW[:] = 0
            for c in range(g * inner, (g + 1) * inner):
                for y in range(height):
                    for x in range(width):
                        any_HW[y, x] |= packed_BCHW[b, c, y, x]
            for p in range(P):
                for q in range(Q):
                    seen = np.uint8(0)
                    for r in range(kernel[0]):
                        y = p * stride[0] + r * dilation[0] - padding[0]
                        if y < 0 or y >= height:
                            continue
                        for s in range(kernel[1]):
                            x = q * stride[1] + s * dilation[1] - padding[1]
                            if 0 <= x < width:
                                seen |= any_HW[y, x]
                    any_PQ[p, q] = seen
            for k in range(g * outer, (g + 1) * outer):
                for p in range(P):
                    for q in range(Q):
                        reached_BKPQ[b, k, p, q] |= any_PQ[p, q]


@njit(cache=True, nogil=True)
def reach_nonzero(
    packed_BCHW: np.ndarray,
    nonzero_KCRS: np.ndarray,  # uint8, K output channels with the channels of their group
    groups: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    reached_BKPQ: np.ndarray,
) -> None:
    """As `reach`, through weights that are not 0."""
    num_bytes, _, height, width = packed_BCHW.shape
    _, K, P, Q = reached_BKPQ.shape
    _, inner, R, S = nonzero_KCRS.shape
    outer = K // groups
    for k in range(K):
        first = k // outer * inner
        for c in range(inner):
            for r in range(R):
                for s in range(S):
                    if nonzero_KCRS[k, c, r, s] == 0:
                        continue
                    for p in range(P):
                        y = p * stride[0] + r * dilation[0] - padding[0]
                        if y < 0 or y >= height:
                            continue
                        for q in range(Q):
                            x = q * stride[1] + s * dilation[1] - padding[1]
                            if 0 <= x < width:
                                for b in range(num_bytes):
                                    reached_BKPQ[b, k, p, q] |= packed_BCHW[b, first + c, y, x]


@njit(cache=True, nogil=True)
def busiest(ticks_TS: np.ndarray, key_S: np.ndarray, num_keys: int, bound_T: np.ndarray, slot_T: np.ndarray) -> None:
    """Per step the largest sum over slots of one key, and the largest slot of that key; of equal ones the first.

    ticks_TS: int64. key_S: int32, below num_keys. bound_T, slot_T: int64, written.
    """
    sums = np.zeros(num_keys, np.int64)
    for t in range(ticks_TS.shape[0]):
        sums[:] = 0
        for s in range(ticks_TS.shape[1]):
            sums[key_S[s]] += ticks_TS[t, s]
        best = 0
        for key in range(1, num_keys):
            if sums[key] > sums[best]:
                best = key
        bound_T[t], largest = sums[best], np.int64(-1)
        for s in range(ticks_TS.shape[1]):
            if key_S[s] == best and ticks_TS[t, s] > largest:
                largest, slot_T[t] = ticks_TS[t, s], s


def shifted(packed_BN: np.ndarray, num_steps: int) -> np.ndarray:
    """The same bits one step later; what would fall behind the last step is lost."""
    later: np.ndarray = packed_BN << np.uint8(1)
    later[1:] |= packed_BN[:-1] >> np.uint8(7)
    later[-1] &= last_bits(num_steps)
    return later


def last_bits(num_steps: int) -> np.uint8:
    """The bits of the last byte that are steps."""
    used = (num_steps - 1) % 8 + 1
    return np.uint8((1 << used) - 1)
