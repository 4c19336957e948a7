"""Panel features that look back only: one definition from training to serving."""
