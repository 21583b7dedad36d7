"""Search spaces, one module each, found through the entry point group ``kdnas.spaces``."""
