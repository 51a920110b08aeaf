"""Where bfloat16 and channels-last are chosen."""

from __future__ import annotations

import pytest
import torch

from spikeloom.core.network import chain
from spikeloom.core.nodes import Conv1d, Conv2d, Input, Linear
from spikeloom.errors import NetworkError
from spikeloom.snn import precision
from spikeloom.snn.precision import macs_per_step, resolve_device, uses_bf16, uses_channels_last

CPU = torch.device("cpu")
SMALL = chain("small", {"in": Input((3, 8, 8)), "c": Conv2d(3, 4, (3, 3), padding=(1, 1))})
BIG = chain("big", {"in": Input((64, 32, 32)), "c": Conv2d(64, 64, (3, 3), padding=(1, 1), groups=2)})


def test_multiplications() -> None:
    assert macs_per_step(SMALL) == 4 * 64 * 27
    assert macs_per_step(BIG) == 64 * 1024 * 32 * 9
    assert (
        macs_per_step(chain("c1", {"in": Input((2, 9)), "c": Conv1d(2, 5, 3), "x": Conv1d(5, 1, 7)})) == 5 * 7 * 6 + 35
    )
    assert macs_per_step(chain("fc", {"in": Input((7,)), "fc": Linear(7, 3)})) == 21


def test_auto_needs_the_instruction_and_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = (
        ({"cpu_name": "AMD EPYC 9575F", "avx512_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"cpu_name": "AMD EPYC 7763", "avx2": True}, False),
    )
    for flags, expected in machines:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert uses_bf16("auto", BIG, CPU) is expected
        assert uses_bf16("auto", SMALL, CPU) is False
        assert uses_bf16("bf16", SMALL, CPU) is True
        assert uses_bf16("fp32", BIG, CPU) is False
    monkeypatch.setattr(torch.cpu, "__all__", [])
    assert precision.has_fast_bf16(CPU) is False


def test_channels_last() -> None:
    assert uses_channels_last(None, BIG)
    assert not uses_channels_last(None, SMALL)
    assert uses_channels_last(True, SMALL)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_devices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(name) == CPU


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NetworkError, match="sees no CUDA device"):
        resolve_device("cuda")
    with pytest.raises(NetworkError, match="unknown device"):
        resolve_device("tpu")
    with pytest.raises(NetworkError, match="unknown precision"):
        uses_bf16("fp16", SMALL, CPU)  # type: ignore[arg-type]
