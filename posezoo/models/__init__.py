"""Networks, one readable file per family."""
