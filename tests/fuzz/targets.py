"""All readers that are fuzzed, by name."""

from __future__ import annotations

from tests.fuzz import data_targets, model_targets
from tests.fuzz.harness import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*data_targets.TARGETS, *model_targets.TARGETS)
}
