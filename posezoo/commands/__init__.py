"""The commands of `posezoo`, one family per module: each does its work and adds itself to the parser."""
