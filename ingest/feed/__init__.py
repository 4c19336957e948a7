"""WebSocket connections and REST clients of the venues."""
