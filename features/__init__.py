"""Backward-looking panel features, with one definition for training and serving."""
