"""Nights replayed over history: what a policy of retraining, gate and demotion would have earned."""
