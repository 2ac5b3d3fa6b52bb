"""Feature gates: etcd's names, defaults and stages, and the value of each after `--feature-gates`.

A gate marked unavailable is known, but this version refuses to switch it away from its default.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ratifyd.config.values import Kind, parse_bool, quote


class Feature(NamedTuple):
    """A row: default value, stage, whether this version can switch it, and what it does."""

    default: bool
    stage: str
    available: bool
    help: str


FEATURES: Mapping[str, Feature] = {
    "StopGRPCServiceOnDefrag": Feature(False, "alpha", True, "Report NOT_SERVING while defragmenting."),
    "InitialCorruptCheck": Feature(False, "alpha", True, "Compare data with the other members before serving."),
    "CompactHashCheck": Feature(False, "alpha", True, "Let the leader compare hashes of compactions."),
    "TxnModeWriteWithSharedBuffer": Feature(True, "beta", True, "Write transactions read through a shared buffer."),
    "LeaseCheckpoint": Feature(False, "alpha", True, "Replicate the remaining time of leases."),
    "LeaseCheckpointPersist": Feature(False, "alpha", True, "Keep the remaining time of leases over restarts."),
    "SetMemberLocalAddr": Feature(False, "alpha", False, "Call other members from the advertised peer address."),
}
"""The gates of etcd 3.6."""

_STAGES = {"AllAlpha": "alpha", "AllBeta": "beta"}


def parse_features(text: str) -> dict[str, bool]:
    """Read Name=true,Name=false,...; ValueError carries etcd's text."""
    given: dict[str, bool] = {}
    for item in text.split(","):
        if not item:
            continue
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ValueError(f"missing bool value for {name}")
        try:
            given[name] = parse_bool(value)
        except ValueError:
            raise ValueError(
                f"invalid value of {name}={value}, err: strconv.ParseBool: parsing {quote(value)}: invalid syntax"
            ) from None
        if name not in FEATURES and name not in _STAGES:
            raise ValueError(f"unrecognized feature gate: {name}")
    return given


def effective_features(text: str) -> dict[str, bool]:
    """Every gate with its value: named gates win over AllAlpha and AllBeta, those over the defaults."""
    given = parse_features(text)
    return {name: _value(given, name, row) for name, row in FEATURES.items()}


def feature_states(text: str) -> dict[str, tuple[str, bool]]:
    """Every gate with its stage and value, those that stand for all gates of a stage included."""
    given = parse_features(text)
    stages = {name: (stage, given.get(name, False)) for name, stage in _STAGES.items()}
    return stages | {name: (row.stage, _value(given, name, row)) for name, row in FEATURES.items()}


def _value(given: Mapping[str, bool], name: str, row: Feature) -> bool:
    for all_name, stage in _STAGES.items():
        if row.stage == stage and name not in given and all_name in given:
            return given[all_name]
    return given.get(name, row.default)


def _parse_gates(text: str) -> str:
    parse_features(text)
    return text


GATES = Kind("feature list", _parse_gates, lambda value: _parse_gates(str(value or "")), str)
