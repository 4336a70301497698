"""As much of a mesh as captures and measurements look at: its peers."""

from router.mesh.status import PeerRow

OURSELF, NEAR, FAR, NEW = (f"7a:0c:00:00:00:0{number}" for number in range(1, 5))


def row(name: str, nickname: str, short_id: int, route: str) -> PeerRow:
    reachable = route != "none"
    return PeerRow(name, nickname, 1, 1, short_id, name == OURSELF, reachable, route, (), ())


class Rows:
    def __init__(self) -> None:
        self.rows = [
            row(OURSELF, "host1", 1, "ourself"),
            row(NEAR, "host2", 2, "direct"),
            row(FAR, "twin", 3, "none"),
            row(NEW, "twin", 0, "direct"),
        ]

    def peer_rows(self) -> list[PeerRow]:
        return self.rows

    def nickname(self, name: str) -> str:
        return next(row.nickname for row in self.rows if row.name == name)
