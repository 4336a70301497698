"""The end of a router."""

from weavepy.client.schema.base import Struct


class StopRequest(Struct):
    """`keep_datapath`: containers go on talking; a router started later adopts everything."""

    keep_datapath: bool = False


class ResetRequest(Struct):
    """Leave the mesh for good: hand ranges over, then forget identity, ring and peers."""

    timeout_s: float = 10.0
