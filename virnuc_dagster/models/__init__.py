"""Model bundles: the folders that hold the weights of both encoders and the head, and what is known about them.

The packaged bundles lie beside this module, one folder each.
"""
