"""Batch pipelines, the pure part: what a pipeline says, how it is checked, and what each step does to a batch of rows.

The way of a pipeline: `step_files` (TOML) or the Python API > `steps` (declarations) > `planning` (every step typed
against the columns before it) > `transforms` and `aggregates` (what happens to the rows). `validation` holds rows
against a contract, `inference` finds one where none is given. Reference for people who write pipelines:
config/README.md.

polars is imported by the modules of this package only, and this package by nothing that the daemon loads: a stream
monitor does not pay for it.
"""
