"""Random clusters: small, so that everything meets everything, and odd in every legal way."""

from random import Random

from tests.policy.model import BROKEN, Document, World

NAMESPACES = ("x", "y", "z")
NODES = ("one", "two")
LABELS = {"app": ("web", "db", "ci"), "tier": ("front", "back"), "team": ("a", "b", "")}
NUMBERS = (80, 81, 443, 5353)
NAMES = ("web", "dns", "admin")
PROTOCOLS = ("TCP", "UDP", "SCTP")
OUTSIDE = ("192.0.2.1", "192.0.2.77", "198.51.100.5", "2001:db8::5", "2001:db8:1::9")


def random_world(rng: Random, pods: int = 9, policies: int | None = None) -> World:
    world = World()
    for name in NAMESPACES:
        if rng.random() < 0.9:
            world.put(random_namespace(rng, name))
    for number in range(pods):
        world.put(random_pod(rng, number))
    for number in range(rng.randint(0, 6) if policies is None else policies):
        world.put(random_policy(rng, f"policy-{number}"))
    return world


def random_namespace(rng: Random, name: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": random_labels(rng)},
    }


def random_pod(rng: Random, number: int) -> Document:
    """Pods 0, 1 and 2 of each namespace; addresses are now and then another's."""
    namespace, name = NAMESPACES[number % 3], f"pod-{number // 3}"
    where = rng.randrange(12) if rng.random() < 0.1 else number
    addresses = [f"10.1.0.{where + 1}", f"fd00:1::{where + 1:x}"]
    if rng.random() < 0.1:
        addresses = rng.choice([addresses[:1], addresses[1:], []])
    status: Document = {"phase": rng.choice(["Running"] * 9 + ["Pending", "Succeeded", "Failed"])}
    if addresses:
        status["podIP"] = addresses[0]
        status["podIPs"] = [{"ip": one} for one in addresses]
    spec: Document = {"nodeName": rng.choice(NODES)}
    if rng.random() < 0.05:
        spec["hostNetwork"] = True
    spec["containers"] = [random_container(rng, "main")]
    if rng.random() < 0.2:
        spec["containers"].append(random_container(rng, "beside"))
    if rng.random() < 0.2:
        first = random_container(rng, "first")
        spec["initContainers"] = [first | rng.choice([{}, {"restartPolicy": "Always"}])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": random_labels(rng),
            "creationTimestamp": f"2026-01-01T00:00:{rng.randint(0, 59):02}Z",
        },
        "spec": spec,
        "status": status,
    }


def random_container(rng: Random, name: str) -> Document:
    """The same port name in two containers of a pod is legal, with different numbers, too."""
    return {
        "name": name,
        "ports": [
            {"name": one, "containerPort": rng.choice(NUMBERS)}
            | ({"protocol": rng.choice(PROTOCOLS)} if rng.random() < 0.5 else {})
            for one in rng.sample(NAMES, rng.randint(0, 3))
        ],
    }


def random_policy(rng: Random, name: str) -> Document:
    spec: Document = {"podSelector": random_selector(rng)}
    types = rng.choice([None, None, [], ["Ingress"], ["Egress"], ["Ingress", "Egress"]])
    if types is not None or rng.random() < 0.2:
        spec["policyTypes"] = types
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        if rng.random() < 0.75:
            spec[direction] = rng.choice(
                [None, [], [{}]] + [[random_rule(rng, peers) for _ in range(rng.randint(1, 3))]] * 5
            )
    metadata: Document = {"namespace": rng.choice(NAMESPACES), "name": name}
    if rng.random() < 0.05:
        metadata["annotations"] = {BROKEN: "yes"}
        break_rules(rng, spec)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": spec,
    }


def break_rules(rng: Random, spec: Document) -> None:
    """In one of the ways that leave clear whom the policy is for, and in which directions."""
    broken: Document = rng.choice(
        [
            {"form": []},
            {"ports": [{"port": "web", "endPort": 90}]},
            {"ports": [{"port": 90, "endPort": 80}]},
            {"ports": [{"endPort": 80}]},
            {"ports": [{"protocol": "ICMP"}]},
            {"ports": [{"port": 0}]},
            {"ports": [{"port": "80"}]},
            {"ports": "80"},
        ]
    )
    spec["policyTypes"] = rng.choice([["Ingress"], ["Egress"], ["Ingress", "Egress"]])
    direction = rng.choice(["ingress", "egress"])
    spec[direction] = [*(spec.get(direction) or []), broken]


def random_rule(rng: Random, peers: str) -> Document:
    rule: Document = {}
    if rng.random() < 0.8:
        rule[peers] = rng.choice(
            [None, []] + [[random_peer(rng) for _ in range(rng.randint(1, 3))]] * 6
        )
    if rng.random() < 0.6:
        rule["ports"] = rng.choice(
            [None, []] + [[random_port(rng) for _ in range(rng.randint(1, 3))]] * 6
        )
    return rule


def random_peer(rng: Random) -> Document:
    match rng.randrange(4):
        case 0:
            absent: Document = rng.choice([{}, {"namespaceSelector": None, "ipBlock": None}])
            return {"podSelector": random_selector(rng)} | absent
        case 1:
            return {"namespaceSelector": random_selector(rng)}
        case 2:
            return {
                "namespaceSelector": random_selector(rng),
                "podSelector": random_selector(rng),
            }
        case _:
            return {"ipBlock": random_block(rng)}


def random_block(rng: Random) -> Document:
    if rng.random() < 0.3:
        block: Document = {"cidr": rng.choice(["::/0", "fd00:1::/64", "2001:db8::/32"])}
        holes = {
            "::/0": ["fd00:1::4/126", "2001:db8::/48"],
            "fd00:1::/64": ["fd00:1::1/128", "fd00:1::4/127"],
            "2001:db8::/32": ["2001:db8:1::/48"],
        }[block["cidr"]]
    else:
        block = {"cidr": rng.choice(["0.0.0.0/0", "10.1.0.0/24", "10.1.0.5/29", "192.0.2.0/24"])}
        holes = {
            "0.0.0.0/0": ["10.1.0.0/30", "10.1.0.6/32", "192.0.2.64/26"],
            "10.1.0.0/24": ["10.1.0.1/32", "10.1.0.4/31", "10.1.0.0/29"],
            "10.1.0.5/29": ["10.1.0.3/32", "10.1.0.4/30"],
            "192.0.2.0/24": ["192.0.2.1/32"],
        }[block["cidr"]]
    if rng.random() < 0.6:
        block["except"] = rng.choice([None, [], rng.sample(holes, rng.randint(1, len(holes)))])
    return block


def random_port(rng: Random) -> Document:
    port: Document = {}
    if rng.random() < 0.6:
        port["protocol"] = rng.choice([*PROTOCOLS, None])
    match rng.randrange(5):
        case 0:
            port |= rng.choice([{}, {"port": None, "endPort": None}])
        case 1:
            port["port"] = rng.choice(NAMES)
        case 2:
            port["port"] = first = rng.choice(NUMBERS)
            port["endPort"] = first + rng.choice([0, 1, 400])
        case _:
            port["port"] = rng.choice(NUMBERS)
    return port


def random_selector(rng: Random) -> Document:
    selector: Document = {}
    if rng.random() < 0.5:
        selector["matchLabels"] = rng.choice([None, {}, random_pair(rng), random_pair(rng)])
    if rng.random() < 0.4:
        selector["matchExpressions"] = [random_expression(rng) for _ in range(rng.randint(0, 2))]
    return selector


def random_pair(rng: Random) -> dict[str, str]:
    key = rng.choice([*LABELS])
    return {key: rng.choice(LABELS[key])}


def random_expression(rng: Random) -> Document:
    if rng.random() < 0.1:
        return {
            "key": "kubernetes.io/metadata.name",
            "operator": rng.choice(["In", "NotIn"]),
            "values": rng.sample(NAMESPACES, rng.randint(1, 2)),
        }
    key = rng.choice([*LABELS])
    operator = rng.choice(["In", "NotIn", "Exists", "DoesNotExist"])
    if operator in ("Exists", "DoesNotExist"):
        return {"key": key, "operator": operator}
    values = rng.sample(LABELS[key], rng.randint(1, len(LABELS[key])))
    return {"key": key, "operator": operator, "values": values}


def random_labels(rng: Random) -> dict[str, str]:
    return {key: rng.choice(values) for key, values in LABELS.items() if rng.random() < 0.6}
