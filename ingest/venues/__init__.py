"""The venues' wire formats: protocols, messages, schemas, rate limits."""
