"""What a runtime asks: environment and standard input, checked before anybody is bothered."""

import os

from cni import quick, text
from cni.errors import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    INCOMPATIBLE_VERSION,
    IO_FAILURE,
    UNDECODABLE,
    UNSUPPORTED_FIELD,
    CniError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""Verbs that older versions of the specification do not have."""

NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
    "VERSION": (),
}
"""Every verb, and what it needs in the environment."""

MAX_INTERFACE_LENGTH = 15
MAX_ID_LENGTH = 128
"""The attachment's record in the kernel has room for it, the network's name and a path."""

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")

KNOWN_ARGUMENTS = frozenset(
    (
        "IgnoreUnknown",
        "IP",
        "MAC",
        "K8S_POD_NAMESPACE",
        "K8S_POD_NAME",
        "K8S_POD_INFRA_CONTAINER_ID",
        "K8S_POD_UID",
    )
)


class Call:
    def __init__(self, environment: "Mapping[str, str]", config: "dict[str, Any]") -> None:
        """The environment is checked already, `check` is for the rest."""
        self.environment = environment
        self.config = config
        self.verb = environment["CNI_COMMAND"]
        self.container = environment.get("CNI_CONTAINERID", "")
        self.namespace = environment.get("CNI_NETNS", "")
        self.interface = environment.get("CNI_IFNAME", "")
        self.version: str = config.get("cniVersion", "")
        self.network: str = config.get("name", "")
        self.arguments: dict[str, str] = {}

    def section(self, *keys: str) -> "dict[str, Any]":
        """An object in the configuration; {} where there is none."""
        found: Any = self.config
        for key in keys:
            found = found.get(key)
            if found is None:
                return {}
            if not isinstance(found, dict):
                raise CniError(BAD_CONFIG, f"{'.'.join(keys)} is not an object")
        return dict(found)

    def value(self, key: str, kind: type, default: "Any") -> "Any":
        """A value of the configuration, of this type or not given."""
        found = self.config.get(key)
        if found is None:
            return default
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            raise CniError(BAD_CONFIG, f"{key} is {found!r}, not a {kind.__name__}")
        return found


def check_environment(environment: "Mapping[str, str]") -> str:
    """Return the verb."""
    verb = environment.get("CNI_COMMAND", "")
    if verb not in NEEDS:
        raise CniError(
            BAD_ENVIRONMENT,
            f"CNI_COMMAND {verb!r} is none of {', '.join(NEEDS)}" if verb else "no CNI_COMMAND",
        )
    missing = [name for name in NEEDS[verb] if not environment.get(name)]
    if missing:
        raise CniError(BAD_ENVIRONMENT, f"{verb} needs {', '.join(missing)} in the environment")
    container = environment.get("CNI_CONTAINERID", "")
    if container and not is_word(container):
        raise CniError(BAD_ENVIRONMENT, f"CNI_CONTAINERID {container!r} is not a container's id")
    if len(container) > MAX_ID_LENGTH:
        raise CniError(BAD_ENVIRONMENT, f"CNI_CONTAINERID is longer than {MAX_ID_LENGTH}")
    interface = environment.get("CNI_IFNAME", "")
    if interface and not is_interface(interface):
        raise CniError(BAD_ENVIRONMENT, f"CNI_IFNAME {interface!r} cannot name an interface")
    return verb


def understand(environment: "Mapping[str, str]", data: bytes) -> Call:
    """Not checked yet."""
    if environment["CNI_COMMAND"] == "VERSION" and not data.strip():
        data = b"{}"
    return Call(environment, decode_config(data))


def check(call: Call) -> None:
    """Raise the `CniError` for the first thing that is wrong with the configuration."""
    if call.verb == "VERSION":
        return
    check_version(call)
    if not isinstance(call.network, str) or not is_word(call.network):
        raise CniError(BAD_CONFIG, f"name {call.network!r} cannot name a network")
    if call.verb in ("ADD", "DEL", "CHECK"):
        call.arguments = parse_arguments(call.environment.get("CNI_ARGS", ""))


def decode_config(data: bytes) -> "dict[str, Any]":
    if len(data) > quick.MAX_CONFIG_BYTES:
        raise CniError(
            UNDECODABLE, f"the configuration is longer than {quick.MAX_CONFIG_BYTES} bytes"
        )
    try:
        config = text.decode(data)
    except ValueError as error:
        raise CniError(UNDECODABLE, f"the configuration cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CniError(UNDECODABLE, "the configuration is not a JSON object")
    return config


def check_version(call: Call) -> None:
    verb, version = call.verb, call.version
    if not isinstance(version, str) or version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} is not supported",
            f"supported are {', '.join(VERSIONS)}",
        )
    if VERSIONS.index(version) < VERSIONS.index(SINCE.get(verb, VERSIONS[0])):
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion {version} has no {verb}",
            f"it came with {SINCE[verb]}",
        )


def parse_arguments(given: str) -> dict[str, str]:
    """`K=V;K=V`; an unknown one is refused unless IgnoreUnknown says not to care."""
    arguments: dict[str, str] = {}
    for pair in filter(None, given.split(";")):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS: {pair!r} is not KEY=VALUE")
        arguments[key] = value
    ignores = arguments.get("IgnoreUnknown", "").lower() in ("1", "true", "t", "yes")
    unknown = [key for key in arguments if key not in KNOWN_ARGUMENTS]
    if unknown and not ignores:
        raise CniError(
            UNSUPPORTED_FIELD, f"CNI_ARGS: {unknown[0]} is unknown", "IgnoreUnknown=1 ignores it"
        )
    return arguments


def is_word(name: str) -> bool:
    """As the specification has it: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`."""
    return bool(name) and name[0] not in "_.-" and _WORD.issuperset(name)


def is_interface(name: str) -> bool:
    return (
        0 < len(os.fsencode(name)) <= MAX_INTERFACE_LENGTH
        and name not in (".", "..")
        and not any(character in "/:" or character.isspace() for character in name)
    )


def read_input() -> bytes:
    """Of standard input, as much as is allowed and one byte more."""
    try:
        return quick.read_input()
    except OSError as error:
        raise CniError(IO_FAILURE, f"reading the configuration: {error.strerror}") from error
