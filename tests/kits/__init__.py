"""Helpers of the tests: homes, platforms, services, browsers, and what they are filled with."""
