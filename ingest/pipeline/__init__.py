"""The pipeline from journal records to table rows, the same for live and replay."""
