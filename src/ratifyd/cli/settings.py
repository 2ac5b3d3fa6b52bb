"""The noisy part of reading a configuration: files, and the address of this machine."""

import importlib
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratifyd.config import ConfigError


def read_config_file(path: str) -> Mapping[str, object]:
    """Decode a YAML or JSON configuration file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise ConfigError(f"open {path}: {reason}", "--config-file must name a file this process can read") from error
    return decode_config(path, data)


def decode_config(path: str, data: bytes) -> Mapping[str, object]:
    """Settings in the content of a file. PyYAML is loaded only here, and only for files that are not JSON."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file: {error}", "write it as YAML or JSON in UTF-8") from error
    document = _decode(path, text)
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise ConfigError(f"{path} holds no settings", "write one `name: value` per line, see the reference")
    return document


def _decode(path: str, text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ConfigError(f"error parsing {path}: nested too deeply", "settings are one or two levels deep") from error
    except ValueError as error:
        if text.lstrip().startswith("{") and path.endswith(".json"):
            raise ConfigError(f"error parsing {path}: {error}", "correct the JSON there") from error
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError as error:
        raise ConfigError(
            f"cannot read {path}: PyYAML is not installed", "pip install pyyaml, or write the file as JSON"
        ) from error
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ConfigError(f"error parsing {path}: nested too deeply", "settings are one or two levels deep") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        where = " ".join(str(error).split())
        raise ConfigError(f"error converting YAML to JSON: yaml: {where}", f"correct the YAML in {path}") from error


def default_host() -> str | None:
    """The address this machine uses towards others: that of its default route. Nothing is sent."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                address: str = probe.getsockname()[0]
        except OSError:
            continue
        return f"[{address}]" if ":" in address else address
    return None
