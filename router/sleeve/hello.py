"""The first that a datapath says to each router: which version of `messages` it speaks.

The two are not replaced together. On a host a new router adopts the datapath that the old one
left; in Kubernetes a datapath stays, by intent, while routers come and go for months. So a router
looks at this first, and says nothing to a datapath that it might misunderstand, which goes on with
what it has.

`PROTOCOL` changes when one end would mistake what the other says, or miss what it cannot do
without. A field with a default value does not change it (who does not know it ignores it), nor a
message that an end may do without (who does not know it drops it, and logs the first).

Of all versions the same are `Hello`, in a packet of its own, to which fields may only be added, and
`Shutdown`, by which any router, and `weavepy stop`, can end any datapath.
"""

import msgspec

from weavepy.base.wire import Decoder

PROTOCOL = 1


class Hello(msgspec.Struct, frozen=True, tag=True):
    protocol: int
    version: str
    """Of weavepy; for people."""
    pid: int
    """In the datapath's own namespace."""


hello_decoder = Decoder(Hello, "greeting of a datapath")
