"""Report of a night: one self-contained HTML page from its files and tables."""

from serving.report.page import write_report

__all__ = ["write_report"]
