"""Peers to be dialled, or not any more."""

from weavepy.client.schema.base import Struct


class ConnectRequest(Struct):
    targets: list[str]
    """Each "host", "host:port" or "[v6]:port"."""
    replace: bool = False
    """Forget all other given targets."""


class ForgetRequest(Struct):
    targets: list[str]


class TargetsAnswer(Struct):
    targets: list[str]
