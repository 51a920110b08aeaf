"""Threads: one for little work, and always put back."""

from __future__ import annotations

import pytest
import torch

from spikeloom.core.network import chain
from spikeloom.core.nodes import Input, Linear
from spikeloom.snn.threads import threads, threads_for

NETWORK = chain("fc", {"in": Input((1000,)), "fc": Linear(1000, 1000)})


def test_little_work_gets_one_thread() -> None:
    with threads(3):
        assert threads_for(NETWORK, 999) == 1
        assert threads_for(NETWORK, 1000) == 3


def test_the_number_is_put_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), threads(before + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
