"""From a file of sequences to reading frames: reader, windows, translation.

Here belongs what is computed from text alone (method.md §1 to §3). Embeddings, scores and anything that knows
Dagster or torch do not.
"""
