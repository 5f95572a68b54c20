"""Lineage, the pure part: a graph over files, runs, transforms, contracts, stream slices, flags and audit positions."""
