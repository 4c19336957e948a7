"""The doors: what people and other programs touch."""
