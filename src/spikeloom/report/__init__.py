"""Reports for people: tables and one sentence. Nothing here prints; `spikeloom.cli` does."""

from spikeloom.report.terminal import breakdown_table, caveats, comparison_table, groups, labels, summary_sentence

__all__ = ["breakdown_table", "caveats", "comparison_table", "groups", "labels", "summary_sentence"]
