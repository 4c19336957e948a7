"""Models: networks, controls, trainer, checkpoints."""
