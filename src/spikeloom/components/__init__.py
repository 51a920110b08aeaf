"""Component tables: what one action, one square micrometre and one second of standby cost, each with its source.

A table is one TOML file in ``tables/``; `TABLES` lists the shipped ones and `load_table` also takes the path of your
own. Nothing here has a default: a kind, an action, a width or a size that no entry covers raises `CostError`, and an
area or a leakage that a source does not give is an `Excluded` with its reason, never a zero.

A table file::

    include = ["aladdin32", "prosperity-dram"]   # shipped tables or parts whose entries are taken over
    title = "One line for people"
    notes = ["anything a reader should know"]

    [[entry]]
    kind = "sram"                                # the word an Arch uses in Component(kind, ...)
    source = "publication or tool with version and settings"
    node_nm = 32                                 # or: node = "not stated"
    voltage_v = 0.9                              # or: voltage = "not stated"
    voltage_source = "where the voltage, or the lack of one, comes from"
    rule = "log-log in size_bit at equal width_bit"
    width_bit = [64, 64]                         # valid range, never wider than the points
    size_kib = [2, 54]                           # only for rules with a size
    points = [
        { size_kib = 2, width_bit = 64, read_pj = 0.917, write_pj = 2.54, leakage_mw = 0.73 },
        { size_kib = 54, width_bit = 64, read_pj = 6.03, write_pj = 10.4, leakage_mw = 21.4 },
    ]
    [entry.excluded]
    area = "why there is no area"

In a point, ``area_*`` is an area, ``leakage_*`` standby power, and every other key the joules of the action it names;
the unit suffixes are those of `spikeloom.units`. Several entries may share a kind as long as each action, the area and
the leakage is settled by exactly one of them; area and leakage must be settled for every kind. To add a table: write
such a file next to your machine file and name its path, or put it in ``tables/`` and its name in `TABLES`; the tests
over all tables then run on it.
"""

from spikeloom.components.load import PARTS, TABLES, load_table
from spikeloom.components.table import Entry, Excluded, Point, Quote, Rule, Table

__all__ = ["PARTS", "TABLES", "Entry", "Excluded", "Point", "Quote", "Rule", "Table", "load_table"]
