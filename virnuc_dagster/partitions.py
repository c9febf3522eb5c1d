"""The two partition dimensions: input files and their shards. Both grow as batches arrive."""

import dagster as dg

batches = dg.DynamicPartitionsDefinition(name="batches")
shards = dg.DynamicPartitionsDefinition(name="shards")
