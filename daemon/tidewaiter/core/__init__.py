"""The pure ring: bytes and structs in, effects as data out.

Nothing here reads a clock, touches a disk, starts a task or logs. That is checked by import-linter, and it is what
makes every flag reproducible.
"""
