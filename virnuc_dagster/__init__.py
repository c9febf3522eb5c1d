"""VirNucPro on Dagster: find the viral sequences in a batch, with results that survive a crash."""

__version__ = "0.1.0"
