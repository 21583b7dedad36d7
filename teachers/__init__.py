"""Teachers, one module each, found through the entry point group ``kdnas.teachers``."""
