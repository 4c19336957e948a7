"""Coverage: spans that were watched, gaps that were not, and the evidence for both."""
