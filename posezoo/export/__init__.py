"""Files for other runtimes. None is written before it was read back and found to agree."""
