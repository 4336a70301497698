from weavepy.client import schema
from weavepy.lab.plan import Plan, make_plan
from weavepy.lab.readiness import missing, summary

IPAM = schema.IpamStatus(
    state="waiting",
    reason="",
    universe="10.32.0.0/12",
    default_subnet="10.32.0.0/12",
    ring_id="",
    entries=0,
    allocated=0,
    cooling=0,
    free=0,
    owners=[],
    frozen=[],
    waiting=[],
    warnings=[],
)


def a_status(
    ourself: str, established: list[str], reachable: list[str], datapath: bool = True
) -> schema.Status:
    return schema.Status(
        router=schema.RouterStatus(
            version="",
            name="",
            nickname=ourself,
            uid=1,
            short_id=1,
            pid=1,
            uptime_s=1,
            port=6783,
            encrypted=True,
            discovery=True,
            connection_limit=100,
            peers=1,
            established=1,
            targets=0,
            refused=[],
            warnings=[],
        ),
        connections=[a_connection(name, "established") for name in established],
        peers=[a_peer(name, name == ourself) for name in [ourself, *reachable]],
        targets=[],
        ipam=IPAM,
        datapath=schema.DatapathStatus(
            running=datapath,
            pid=1,
            uptime_s=1,
            tap="",
            bridge="",
            mtu_bytes=1400,
            encrypted=True,
            offloads=[],
            macs=0,
            sessions=[],
            drops=[],
        ),
    )


def a_connection(nickname: str, state: str, info: str = "") -> schema.ConnectionStatus:
    return schema.ConnectionStatus(
        peer="",
        nickname=nickname,
        address="",
        outbound=True,
        state=state,
        overlay="sleeve",
        encrypted=True,
        overlay_mtu_bytes=1400,
        rtt_ms=None,
        info=info,
    )


def a_peer(nickname: str, ourself: bool) -> schema.PeerStatus:
    return schema.PeerStatus(
        name="",
        nickname=nickname,
        uid=1,
        version=1,
        short_id=1,
        ourself=ourself,
        reachable=True,
        route="ourself" if ourself else "direct",
        connections=[],
        addresses=[],
    )


def chain() -> tuple[Plan, dict[str, schema.Status | str]]:
    """A chain of three that is complete: the ends are not connected, but have routes."""
    statuses: dict[str, schema.Status | str] = {
        "h1": a_status("h1", ["h2"], ["h2", "h3"]),
        "h2": a_status("h2", ["h1", "h3"], ["h1", "h3"]),
        "h3": a_status("h3", ["h2"], ["h1", "h2"]),
    }
    return make_plan(hosts=3, topology="chain"), statuses


def test_a_complete_mesh_misses_nothing() -> None:
    assert missing(*chain()) == []


def test_a_single_host_is_complete_alone() -> None:
    assert missing(make_plan(hosts=1), {"h1": a_status("h1", [], [])}) == []


def test_a_host_that_does_not_answer_is_missing_with_its_reason() -> None:
    plan, statuses = chain()
    statuses["h2"] = "no socket"
    del statuses["h3"]
    assert missing(plan, statuses) == ["h2: no socket", "h3: was not asked yet"]


def test_an_overlay_that_is_not_established_is_missing_with_its_reason() -> None:
    plan, statuses = chain()
    status = a_status("h1", [], ["h2", "h3"])
    status.connections = [a_connection("h2", "connected", "no UDP from there")]
    statuses["h1"] = status
    assert missing(plan, statuses) == ["h1: connection to h2 is connected (no UDP from there)"]


def test_a_peer_without_a_route_is_missing() -> None:
    plan, statuses = chain()
    statuses["h1"] = a_status("h1", ["h2"], ["h2"])
    status = a_status("h3", ["h2"], ["h1", "h2"])
    status.peers[1].route = "none"
    statuses["h3"] = status
    assert missing(plan, statuses) == ["h1: no route to h3", "h3: no route to h1"]


def test_a_router_without_datapath_is_not_ready() -> None:
    plan, statuses = chain()
    statuses["h1"] = a_status("h1", ["h2"], ["h2", "h3"], datapath=False)
    assert missing(plan, statuses) == ["h1: its datapath does not run"]


def test_a_long_list_of_reasons_is_cut() -> None:
    assert summary(["a", "b"]) == "a; b"
    assert summary([str(number) for number in range(9)]) == "0; 1; 2; and 6 more"
