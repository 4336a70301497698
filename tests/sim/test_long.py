"""What a router holds stays the same, however long it lives: see `script/sim --hours 72`."""

from typing import Any
from unittest.mock import patch

from router.mesh.effects import LinkId
from router.mesh.mesh import Mesh
from tests.sim.long import LongRun
from tests.sim.plan import draw_plan

HOURS = 0.25


def test_a_router_that_lives_long_holds_no_more_than_before() -> None:
    run = LongRun(draw_plan(1, hours=HOURS), print)
    assert not run.run().failure


def test_what_is_never_let_go_of_is_noticed() -> None:
    handle_bytes = Mesh.handle_bytes

    def hoarding(mesh: Mesh, link: LinkId, data: bytes, now: float) -> Any:
        mesh.__dict__.setdefault("hoard", []).append(bytearray(data))
        return handle_bytes(mesh, link, data, now)

    with patch.object(Mesh, "handle_bytes", hoarding):
        failure = LongRun(draw_plan(1, hours=HOURS), print).run().failure
    assert "has grown" in failure
