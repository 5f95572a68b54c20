"""The measurements behind the figures of tests/README.md; started by scripts/bench.

Each module of `measures` puts one question to a daemon in a process of its own and answers with `Figure`s. The floors
are what is promised; the measures are never adapted to the answers.
"""
