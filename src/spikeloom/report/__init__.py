"""Reports for people: tables and one sentence. Nothing here prints; `spikeloom.cli` does."""

from spikeloom.report.terminal import breakdown_table, comparison_table, labels, summary_sentence

__all__ = ["breakdown_table", "comparison_table", "labels", "summary_sentence"]
