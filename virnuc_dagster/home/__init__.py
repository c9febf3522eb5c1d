"""The home folder: its settings, its version, its journal, its locks, the stores that it knows, and who wrote what."""
