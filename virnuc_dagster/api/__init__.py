"""The Python face: what a call of the platform is, whoever makes it. The command line is its first user.

Here belong the inputs of a call, where its results may go, what it opens once, and what it hands back. Nothing here
prints, ends the process or handles signals. `from virnuc_dagster import predict` leads here; see docs/python.md.
"""
