"""What every room needs and no room owns: errors, files, the store of everything kept on disk, processes, randomness."""

__version__ = "0.1.0"
