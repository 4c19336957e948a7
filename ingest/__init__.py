"""From bytes on a wire to trades and bars: venues, feed, journal, decode, dedupe, coverage, bars."""
