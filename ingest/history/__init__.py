"""History that was not recorded here: candles, and later archives."""
