"""Tables in files: reading them in batches, writing them all or nothing, and spilling what does not fit in memory."""
