"""Training: from labelled genomes to a bundle.

    records -> split -> frames -> encoders (each with a head of its own) -> one head -> calibration -> bundle

Everything is split by group, never by frame. Knows no Dagster; running it and fetching stored embeddings belong to
`virnuc_dagster.cli.train`.
"""
