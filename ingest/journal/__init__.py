"""The write-ahead log of raw frames: format, writer, reader, retention."""
