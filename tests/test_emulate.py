"""Emulation without torch: equal to nested loops in the time of the recorder, and to its own slow reference in chip time."""

from __future__ import annotations

import subprocess
import sys


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, spikeloom.emulate; assert 'torch' not in sys.modules; print(spikeloom.emulate.emulate.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "emulate\n"
