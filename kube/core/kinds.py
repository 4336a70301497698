"""Kinds of objects that an API server lists and tells changes of, read from its JSON.

A kind is where its objects are and what of each matters here. Only that is kept: a cluster's pods
as the server has them are hundreds of megabytes. Unknown members are ignored and absent ones have
defaults, as the server is older or newer than this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from weavepy.base.errors import WeavepyError


class Keyed(Protocol):
    @property
    def key(self) -> str:
        """Its name, with its namespace before it where it has one."""
        ...


Thing = TypeVar("Thing", bound=Keyed)
Found = TypeVar("Found")


class Unreadable(WeavepyError):
    """Not what an API server says. It is not a peer: what it says wrongly is the world's fault."""


class Expired(WeavepyError):
    """The server no longer knows what happened since that resource version: list anew."""


class Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Shape(msgspec.Struct):
    """What a kind's objects have of the server's members."""

    metadata: Meta = msgspec.field(default_factory=Meta)


AnyShape = TypeVar("AnyShape", bound=Shape)


@dataclass(frozen=True, slots=True)
class Page(Generic[Thing]):
    things: list[Thing]
    version: str
    """From which to watch on, once all pages are there."""
    rest: str = ""
    """What to ask for the next page by; empty after the last one."""


@dataclass(frozen=True, slots=True)
class Event(Generic[Thing]):
    """One line of a watch. `thing` is None for a bookmark."""

    version: str
    thing: Thing | None = None
    deleted: bool = False


class Kind(Generic[Thing]):
    """`resource` as roles name it; `read` makes of the server's shape what is kept."""

    def __init__(
        self,
        resource: str,
        path: str,
        shape: type[AnyShape],
        read: Callable[[AnyShape], Thing],
        page_size: int = 0,
    ) -> None:
        self.resource = resource
        self.path = path
        self.page_size = page_size
        """How many to ask for at once; 0 for all of them, from the server's cache."""
        self._read: Callable[[Any], Thing] = read
        self._one = msgspec.json.Decoder(shape)
        listed: Any = _List
        self._list: msgspec.json.Decoder[Any] = msgspec.json.Decoder(listed[shape])

    def decode(self, body: bytes) -> Thing:
        """Raises `Unreadable`, as all of these do."""
        return self._read(decode(self._one, body))

    def decode_page(self, body: bytes) -> Page[Thing]:
        found = decode(self._list, body)
        return Page(
            [self._read(one) for one in found.items or ()],
            found.metadata.resource_version,
            found.metadata.rest,
        )

    def decode_event(self, line: bytes) -> Event[Thing]:
        """Read one line of a watch. Raises `Expired` where the server says so."""
        event = decode(_event, line)
        if event.type == "ERROR":
            failure = decode(_failure, bytes(event.object))
            if failure.code == 410:
                raise Expired(failure.message)
            raise Unreadable(f"the watch failed: {failure.message} ({failure.code})")
        found = decode(self._one, bytes(event.object))
        version = found.metadata.resource_version
        if event.type == "BOOKMARK":
            return Event(version)
        return Event(version, self._read(found), deleted=event.type == "DELETED")


class _ListMeta(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    rest: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct, Generic[AnyShape]):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[AnyShape] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw = msgspec.Raw(b"{}")


class _Failure(msgspec.Struct):
    code: int = 0
    message: str = ""


_event = msgspec.json.Decoder(_Event)
_failure = msgspec.json.Decoder(_Failure)


def decode(decoder: msgspec.json.Decoder[Found], body: bytes) -> Found:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"the API server's answer cannot be read: {error}") from error
