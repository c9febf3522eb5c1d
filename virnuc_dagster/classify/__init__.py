"""From embeddings to calls: the head that scores frames, and the roll-up from frames to windows and sequences."""
