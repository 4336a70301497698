"""A mesh of three as its `status` shows it: one direct peer, one behind a relay."""

from weavepy.client import schema

OURSELF = "7a:0c:00:00:00:01"
NEAR = "7a:0c:00:00:00:02"
FAR = "7a:0c:00:00:00:03"


def counter(name: str, value: int) -> schema.CounterStatus:
    return schema.CounterStatus(name=name, value=value)


def router_status() -> schema.RouterStatus:
    return schema.RouterStatus(
        version="0.1.0",
        name=OURSELF,
        nickname="host1",
        uid=11,
        short_id=1,
        pid=4242,
        uptime_s=125.0,
        port=6783,
        encrypted=True,
        discovery=True,
        connection_limit=100,
        peers=3,
        established=1,
        targets=2,
        refused=[counter("wrong-secret", 2)],
        warnings=["a peer at 10.0.0.9 has another secret"],
    )


def connections() -> list[schema.ConnectionStatus]:
    return [
        schema.ConnectionStatus(
            peer=NEAR,
            nickname="host2",
            address="10.0.0.2:6783",
            outbound=True,
            state="established",
            overlay="sleeve",
            encrypted=True,
            overlay_mtu_bytes=1410,
            rtt_ms=0.42,
            info="",
        ),
        schema.ConnectionStatus(
            peer="",
            nickname="",
            address="10.0.0.9:6783",
            outbound=True,
            state="retrying",
            overlay="",
            encrypted=False,
            overlay_mtu_bytes=0,
            rtt_ms=None,
            info="wrong secret; next attempt in 3.0 s",
        ),
    ]


def peer(name: str, nickname: str, route: str, short_id: int) -> schema.PeerStatus:
    return schema.PeerStatus(
        name=name,
        nickname=nickname,
        uid=short_id,
        version=3,
        short_id=short_id,
        ourself=route == "ourself",
        reachable=route != "none",
        route=route,
        connections=["-> host2"],
        addresses=[f"10.0.0.{short_id}:6783"],
    )


def ipam_status() -> schema.IpamStatus:
    return schema.IpamStatus(
        state="ready",
        reason="",
        universe="10.32.0.0/12",
        default_subnet="10.32.0.0/12",
        ring_id="5f2c",
        entries=3,
        allocated=5,
        cooling=1,
        free=524_000,
        owners=[
            schema.RangeOwner(
                peer=OURSELF,
                nickname="host1",
                addresses=524_288,
                share=0.5,
                free=524_000,
                reachable=True,
                ranges=["10.32.0.0-10.39.255.255"],
            ),
            schema.RangeOwner(
                peer="7a:0c:00:00:00:09",
                nickname="gone",
                addresses=524_288,
                share=0.5,
                free=None,
                reachable=False,
                ranges=["10.40.0.0-10.47.255.255"],
            ),
        ],
        frozen=[],
        waiting=[
            schema.IpamWaiting(
                owner="web", what="an address of 10.40.0.0/16", reason="no answer", since_s=2.5
            )
        ],
        warnings=[],
        picture=[0] * 32 + [1] * 32,
    )


def fastdp_status() -> schema.FastdpStatus:
    return schema.FastdpStatus(
        mode="auto",
        reason="",
        port=6784,
        trusted_subnets=["10.0.0.0/24"],
        tunnels=[
            tunnel(NEAR, "host2", "fastdp", ""),
            tunnel(FAR, "host3", "trying", "VXLAN heartbeats to 10.0.0.3 get no answer"),
        ],
        refused=[counter("forged_source", 4)],
    )


def tunnel(peer: str, nickname: str, state: str, reason: str) -> schema.TunnelStatus:
    return schema.TunnelStatus(
        peer=peer,
        nickname=nickname,
        state=state,
        reason=reason,
        remote="10.0.0.2",
        mtu_bytes=1450,
        since_s=12.0,
        failures=0,
        heartbeats_sent=40,
        heartbeats_received=39,
        frames_sent=7,
        bytes_sent=2048,
    )


def sample_addresses() -> schema.AddressList:
    return schema.AddressList(
        addresses=[
            schema.AddressInUse(
                address="10.32.0.9/12",
                owner="/run/netns/web",
                kind="attachment",
                interface="vethwe12",
                since=1.0,
            ),
            schema.AddressInUse(
                address="10.32.0.10/12", owner="backup", kind="manual", interface="", since=0.0
            ),
        ]
    )


def sample_history() -> schema.HistoryAnswer:
    return schema.HistoryAnswer(
        events=[
            schema.HistoryEntry(
                at=1.0,
                kind="donated",
                ranges=["10.36.0.0-10.39.255.255"],
                addresses=262_144,
                peer="host2",
                reason="it asked for space",
            )
        ]
    )


def datapath_status() -> schema.DatapathStatus:
    return schema.DatapathStatus(
        running=True,
        pid=4243,
        uptime_s=3700.0,
        tap="weave-tap",
        bridge="weave",
        mtu_bytes=1410,
        encrypted=True,
        offloads=["tap-tso", "udp-gso"],
        macs=7,
        mac_moves=3,
        refused_messages=1,
        sessions=[
            schema.SessionStatus(
                peer=NEAR,
                nickname="host2",
                up=True,
                reason="",
                endpoint="10.0.0.2:6783",
                overlay_mtu_bytes=1410,
                path_mtu_bytes=1500,
                epoch=3,
                rtt_ms=0.5,
                frames_sent=10,
                frames_received=12,
                bytes_sent=1500,
                bytes_received=2_500_000,
                drops=[counter("replayed", 4)],
            )
        ],
        drops=[counter("unknown-index", 9)],
    )


def sample_status() -> schema.Status:
    return schema.Status(
        router=router_status(),
        connections=connections(),
        peers=[
            peer(OURSELF, "host1", "ourself", 1),
            peer(NEAR, "host2", "direct", 2),
            peer(FAR, "host3", "relayed via host2", 3),
        ],
        targets=[
            schema.TargetStatus(
                target="10.0.0.2",
                nickname="host2",
                origin="given",
                state="connected",
                next_attempt_s=None,
                last_error="",
            ),
            schema.TargetStatus(
                target="10.0.0.9",
                nickname="",
                origin="given",
                state="waiting",
                next_attempt_s=3.0,
                last_error="wrong secret",
            ),
        ],
        ipam=ipam_status(),
        datapath=datapath_status(),
        fastdp=fastdp_status(),
        policy=schema.PolicySummary(
            policies=3,
            faulty=1,
            repairs=2,
            drops=[schema.PodDrops(namespace="shop", name="web", ingress=7, egress=0)],
            passed=[schema.PolicyPassed(namespace="shop", name="allow", ingress=5, egress=0)],
            rules=60,
            enforced=schema.Durations(bounds_s=[0.1, 1.0], counts=[4, 2, 1], sum_s=3.5),
        ),
    )


def sample_attachment() -> schema.Attachment:
    return schema.Attachment(
        id="/run/netns/web",
        namespace="/run/netns/web",
        interface="ethwe",
        host_interface="vethwe1",
        mac="02:00:00:00:00:05",
        addresses=["10.32.0.9/12", "10.40.1.5/24"],
    )


def sample_report() -> schema.Report:
    return schema.Report(
        status=sample_status(),
        attachments=[sample_attachment()],
        exposed=["10.32.0.1/12"],
        routes={f"{FAR}(host3)": f"{NEAR}(host2)"},
        broadcast={f"{OURSELF}(host1)": [f"{NEAR}(host2)"]},
        options={"port": "6783"},
        kernel="6.1",
        python="3.11",
    )


def sample_policy_answer() -> schema.PolicyAnswer:
    return schema.PolicyAnswer(
        changes=[
            schema.PolicyChange(
                kind="NetworkPolicy",
                namespace="default",
                name="deny",
                done="created",
                fault="spec has a field 'Ingress'",
            ),
            schema.PolicyChange(
                kind="Namespace", namespace="", name="shop", done="changed", fault=""
            ),
        ]
    )


def sample_policy_status() -> schema.PolicyStatus:
    return schema.PolicyStatus(
        enforced=True,
        policies=[
            schema.PolicyRow(
                namespace="default",
                name="deny",
                selector="app=web",
                directions=["ingress"],
                pods=1,
                fault="",
            )
        ],
        pods=[
            schema.PolicyPod(
                namespace="default",
                name="web",
                addresses=["10.32.0.1"],
                labels={"app": "web"},
                local=True,
                isolated=["ingress"],
                drops=7,
            )
        ],
        pods_left_out=0,
        repairs=0,
    )
