"""How samples become what arrives at the input: 8-bit pixels to frames over time.

Letters: T time steps, N samples. Pixels are uint8; a pixel p stands for the value p / 255. Random codes take a generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from spikeloom.core.nodes import Input
from spikeloom.core.signals import LEVEL_MAX
from spikeloom.errors import NetworkError

InputKind = Literal["analog", "levels", "spikes"]


@dataclass(frozen=True, eq=False)
class Encoded:
    """What arrives at the input node.

    values: dtype uint8; shape (T, N, *shape), or (N, *shape) when ``constant``: the same frame at every step.
    kind: "analog" for pixels 0..255 that stand for p / 255, "levels" for integers taken as they are, "spikes" for 0/1.
    """

    values: np.ndarray
    num_steps: int
    constant: bool
    kind: InputKind


class Encoding(Protocol):
    """A code: (samples, T, generator) -> what arrives."""

    def __call__(self, samples: np.ndarray, num_steps: int, generator: np.random.Generator) -> Encoded: ...


def direct(samples: np.ndarray, num_steps: int, generator: np.random.Generator) -> Encoded:
    """The pixels themselves, 8 bits, at every step (direct coding)."""
    return Encoded(_pixels("direct", samples), num_steps, True, "analog")


def rate(samples: np.ndarray, num_steps: int, generator: np.random.Generator) -> Encoded:
    """Bernoulli spikes: ``P(spike[t]) = p / 255``, independent over steps and pixels.

    Drawn sample after sample, so that the spikes of a sample do not depend on how samples are cut into batches.
    """
    pixels = _pixels("rate", samples)
    drawn = generator.random((len(pixels), num_steps, *pixels.shape[1:]), dtype=np.float32)
    spikes = drawn < (pixels.astype(np.float32) / LEVEL_MAX)[:, None]
    return Encoded(np.moveaxis(spikes, 1, 0).astype(np.uint8), num_steps, False, "spikes")


def latency(samples: np.ndarray, num_steps: int, generator: np.random.Generator) -> Encoded:
    """One spike a pixel, brighter = earlier: step ``(255 - p) * T // 255``; a black pixel never spikes."""
    pixels = _pixels("latency", samples)
    step = (LEVEL_MAX - pixels.astype(np.int64)) * num_steps // LEVEL_MAX
    spikes = step[None] == np.arange(num_steps).reshape(-1, *([1] * pixels.ndim))
    return Encoded(spikes.astype(np.uint8), num_steps, False, "spikes")


def events(samples: np.ndarray, num_steps: int, generator: np.random.Generator) -> Encoded:
    """Recordings that already are 0/1 frames over time (T, N, *shape), taken as they are."""
    if samples.dtype != np.uint8 or samples.ndim < 3 or samples.shape[0] != num_steps:
        raise NetworkError(
            f"encoding 'events' got {samples.dtype} samples of shape {list(samples.shape)}, expected uint8 frames "
            f"[T={num_steps}, N, ...]; bin the recordings into as many steps as the network runs"
        )
    if samples.size and samples.max() > 1:
        raise NetworkError(f"encoding 'events' got a frame with the value {samples.max()}, expected only 0 and 1")
    return Encoded(samples, num_steps, False, "spikes")


def _pixels(code: str, samples: np.ndarray) -> np.ndarray:
    if samples.dtype != np.uint8:
        raise NetworkError(f"encoding '{code}' got {samples.dtype} samples, expected uint8 pixels [N, ...]")
    return samples


#: Every code by the name a configuration uses.
ENCODINGS: Mapping[str, Encoding] = {"direct": direct, "rate": rate, "latency": latency, "events": events}


def encode(name: str, samples: np.ndarray, num_steps: int, generator: np.random.Generator, node: Input) -> Encoded:
    """Encode a batch of samples for the input ``node`` of a network.

    Args:
        name: a key of ENCODINGS.
        samples: uint8; (N, *shape) pixels, or (T, N, *shape) frames for "events".
        num_steps: T.
        generator: source of randomness of the "rate" code.
        node: says the shape and what it expects: "direct" suits "analog" and "levels" inputs, all others "spikes".

    Raises:
        NetworkError: unknown code, T below 1, or a code or samples that do not fit the input.
    """
    if name not in ENCODINGS:
        raise NetworkError(f"unknown encoding '{name}', expected one of {', '.join(ENCODINGS)}")
    if num_steps < 1:
        raise NetworkError(f"num_steps must be at least 1, got {num_steps}")
    if (name == "direct") == (node.encoding == "spikes"):
        raise NetworkError(
            f"encoding '{name}' does not fit the network's input, which expects {node.encoding}; use "
            f"{'rate, latency or events' if node.encoding == 'spikes' else 'direct'}, or another network input"
        )
    if samples.ndim == len(node.shape) + 2 and name != "events":
        raise NetworkError(
            f"encoding '{name}' got samples of shape {list(samples.shape)} with a time axis, expected [N, "
            f"{', '.join(map(str, node.shape))}]; recordings need the encoding 'events'"
        )
    encoded = ENCODINGS[name](samples, num_steps, generator)
    if encoded.values.shape[1 if encoded.constant else 2 :] != node.shape:
        raise NetworkError(
            f"encoding '{name}' got samples of shape {list(samples.shape)}, expected the network's input shape "
            f"{list(node.shape)} behind the sample axis"
        )
    return replace(encoded, kind="levels") if node.encoding == "levels" else encoded
