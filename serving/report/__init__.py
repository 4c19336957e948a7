"""What does a night look like to a person: one self-contained page, drawn from its files and tables?"""

from serving.report.page import write_report

__all__ = ["write_report"]
