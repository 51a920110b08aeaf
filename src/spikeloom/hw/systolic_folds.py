"""Folds of a matrix product on the dense array in the three dataflows of SCALE-Sim (docs/models/systolic.md): closed forms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Folds:
    """One matrix product M x V x N of one step and group on the array.

    M: output pixels; V: synapses of an output; N: filters. inner: folds that share an outer fold's operands.
    """

    M: int
    V: int
    N: int
    rows: int
    cols: int
    dataflow: str

    @property
    def extent(self) -> tuple[int, int]:
        """What lies along the rows and along the columns of the PEs."""
        return {"os": (self.M, self.N), "ws": (self.V, self.N), "is": (self.V, self.M)}[self.dataflow]

    @property
    def inner(self) -> int:
        """Folds along the rows."""
        return -(-self.extent[0] // self.rows)

    @property
    def outer(self) -> int:
        """Folds along the columns: the outer loop."""
        return -(-self.extent[1] // self.cols)

    @property
    def cycles(self) -> int:
        """Every fold, full or not: ``V + rows + cols - 2``, or ``2 rows + cols + streamed - 2`` (rows to load, then stream)."""
        if self.dataflow == "os":
            line = self.V + self.rows + self.cols - 2
        else:
            line = 2 * self.rows + self.cols + (self.M if self.dataflow == "ws" else self.N) - 2
        return self.inner * self.outer * line

    @property
    def streamed(self) -> tuple[int, int]:
        """Words the array reads: (ifmap, weight)."""
        ifmap, weight = self.M * self.V, self.V * self.N
        return {
            "os": (self.outer * ifmap, self.inner * weight),
            "ws": (self.outer * ifmap, weight),
            "is": (ifmap, self.outer * weight),
        }[self.dataflow]

    @property
    def revisits(self) -> int:
        """Times that a sum leaves the array unfinished and comes back."""
        return 0 if self.dataflow == "os" else self.inner - 1

    @property
    def open_sums(self) -> int:
        """Unfinished sums of one outer fold; 0 when none leaves the array."""
        if not self.revisits:
            return 0
        return min(self.cols, self.extent[1]) * (self.M if self.dataflow == "ws" else self.N)
