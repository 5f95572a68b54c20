"""The scenario language: a TOML ruleset compiled to one pass over the events.

The way of a ruleset: `source` (text and places) > `syntax` (declarations) > `expressions` (trees) > `checking` (typed
`terms`, put together as a `model`) > `planning` (order, sharing, digests) > `generating` (Python). The `state` rooms
are what it remembers, `flags` what it writes, `ruleset` the whole. Reference for people who write rules:
config/README.md.
"""

from tidewaiter.core.scenarios.ruleset import Ruleset, Scenario, list_files, load_ruleset
from tidewaiter.core.scenarios.state import FrozenState, RuleState

__all__ = ["FrozenState", "RuleState", "Ruleset", "Scenario", "list_files", "load_ruleset"]
