"""SpikeSim's non-ideality engine (hw_inference.py; Moitra et al., arXiv:2210.12899) on a probe: 64 -> 16 channels, 3x3, a map of 8x8.

The figures were measured with the released code, patched for the CPU, in float64; its draw of weights and spikes is not known, so a
draw of ours can only come near them: within a sixth where cells leak, within a quarter with wires. Weights are uniform over [-1, 1],
times 8, rounded; outputs count in eighths of a level. The release stores negative weights as w + 8, each in four binary resistors.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spikeloom.transform.crossbar import LSB_OHM, Crossbars, program

#: P(spike) -> (root mean square error of the sums, root mean square of the ideal sums).
LEAKING = {0.05: (0.001545, 2.922), 0.2: (0.005733, 5.593), 0.5: (0.013954, 8.555)}
#: Resistance between two cells of a column (ohm) -> error at P(spike) = 0.2; the release builds its columns with 0.
WIRED = {0.5: 6.3276, 1.0: 11.024, 5.0: 27.342}
RELEASE = Crossbars(size=64, cell_bits=4, pairs="negative", lsb_ohm=LSB_OHM, off_ohm=1e8)


def probe(crossbars: Crossbars, rate: float, seed: int = 0) -> tuple[float, float]:
    """(rms error, rms of the ideal sums) of one image-step."""
    rng = np.random.default_rng(seed)
    levels = np.rint(8 * rng.uniform(-1, 1, (16, 64, 3, 3)))
    spikes = torch.from_numpy((rng.random((1, 64, 8, 8)) < rate).astype(np.float64))
    chip = program(levels, 4, crossbars, rng)

    def rms(weight: np.ndarray) -> float:
        sums = torch.nn.functional.conv2d(spikes, torch.from_numpy(weight / 8), padding=1)
        return float(sums.square().mean().sqrt())

    return rms(chip.error), rms(levels)


@pytest.mark.parametrize("rate", LEAKING)
def test_a_finite_off_resistance_costs_what_the_release_loses(rate: float) -> None:
    error, ideal = np.mean([probe(RELEASE, rate, seed) for seed in range(8)], axis=0)
    assert error == pytest.approx(LEAKING[rate][0], rel=1 / 6)
    assert ideal == pytest.approx(LEAKING[rate][1], rel=1 / 6)


@pytest.mark.parametrize("ohm", WIRED)
def test_wires_cost_more_than_the_signal(ohm: float) -> None:
    wired = Crossbars(**{**vars(RELEASE), "column_wire_ohm": ohm})
    error, ideal = probe(wired, 0.2)
    assert error == pytest.approx(WIRED[ohm], rel=0.25)
    assert error > 0.85 * ideal
