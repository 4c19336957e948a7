"""Built features on disk: day files, manifest, cache, eviction."""
