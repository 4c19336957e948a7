"""GaiaEx's wire format."""
