"""Everything that knows Dagster: assets, checks, the IO manager, resources, partitions, runs, the instance, automation.

What an asset computes is in `stages`; nothing below this room imports Dagster.
"""
