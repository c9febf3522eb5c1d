"""Embeddings of frames: the two encoders, the device they run on, and the loop that feeds them.

Nothing here knows of shards, checkpoints or Dagster. Importing this package does not import torch; its modules do.
"""
