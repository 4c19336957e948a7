"""The steps of one retraining night."""
