"""The two that answer whether a packet passes: the model, and what was compiled."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.policy.interpreter import Packet, compiled, passes
from tests.policy.model import Document, World, allowed


@dataclass(frozen=True)
class Judge:
    judge: Callable[[World, Packet], bool]

    def lets(
        self,
        documents: Iterable[Document],
        source: str,
        destination: str,
        port: int | None = 80,
        protocol: str = "TCP",
    ) -> bool:
        world = World()
        for document in documents:
            world.put(document)
        return self.judge(world, Packet(source, destination, protocol, port))


JUDGES = {
    "model": Judge(
        lambda world, packet: allowed(
            world, packet.source, packet.destination, packet.protocol, packet.port
        )
    ),
    "compiled": Judge(lambda world, packet: passes(compiled(world), packet)),
}
