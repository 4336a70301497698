"""Questions about a table, against what nft put into it."""

import pytest

from tests.namespaces import Namespaces
from weavepy.kernel.nfqueries import elements_of, has_element, rules_per_chain
from weavepy.kernel.nftables import run_transaction

pytestmark = pytest.mark.root

MANY = 3000
"""Elements that one answer of the kernel does not hold."""

TABLE = f"""
add table bridge queried
add chain bridge queried one {{ type filter hook prerouting priority 0; }}
add chain bridge queried two
add rule bridge queried one iifname "lo" counter
add rule bridge queried one counter accept
add rule bridge queried two drop
add table bridge other
add chain bridge other one
add rule bridge other one drop
add set bridge queried names {{ type ifname; }}
add set bridge queried own {{ type ifname . ether_addr . ipv4_addr; }}
add element bridge queried names {{ "eth1", "eth10" }}
add element bridge queried own {{ "eth1" . 02:00:00:00:00:01 . 10.0.0.1 comment "/12" }}
add element bridge queried own {{ "eth1" . 02:00:00:00:00:01 . 10.0.0.2 }}
add element bridge queried own {{ "eth10" . 02:00:00:00:00:02 . 10.0.0.3 }}
add element bridge queried own {{ {
    ", ".join(f'"x{n}" . 02:00:00:00:00:00 . 10.1.{n >> 8}.{n & 255}' for n in range(MANY))
} }}
"""


def test_rules_and_elements_are_found_as_nft_has_put_them(namespaces: Namespaces) -> None:
    def work() -> None:
        assert rules_per_chain("queried") == {}
        assert elements_of("queried", "own", ["eth1"]) == []
        assert not has_element("queried", "names", "eth1")
        run_transaction(TABLE)
        assert rules_per_chain("queried") == {"one": 2, "two": 1}
        assert has_element("queried", "names", "eth1")
        assert has_element("queried", "names", "eth10")
        assert not has_element("queried", "names", "eth")
        assert not has_element("queried", "names", "a name that no interface has")
        mac = bytes.fromhex("0200000000010000")
        assert sorted(elements_of("queried", "own", ["eth1"])) == [
            ("eth1", mac + bytes([10, 0, 0, 1]), "/12"),
            ("eth1", mac + bytes([10, 0, 0, 2]), ""),
        ]
        assert len(elements_of("queried", "own", ["eth1", "eth10", "x7"])) == 4
        assert elements_of("queried", "nosuchset", ["eth1"]) == []
        run_transaction("flush ruleset\n")
        assert rules_per_chain("queried") == {}

    namespaces.inside(namespaces.add("host"), work)


def test_what_is_kept_open_follows_the_thread_to_another_namespace(namespaces: Namespaces) -> None:
    """`inside` is a thread each; here one thread goes to and fro."""
    from router.shell.namespaces import _enter

    first, second = namespaces.add("first"), namespaces.add("second")

    def work() -> None:
        with first.open() as one, second.open() as two:
            run_transaction("add table bridge queried\nadd chain bridge queried c\n")
            run_transaction("add rule bridge queried c drop\n")
            _enter(two.fileno())
            assert rules_per_chain("queried") == {}
            run_transaction("add table bridge queried\nadd chain bridge queried d\n")
            run_transaction("add rule bridge queried d drop\n")
            assert rules_per_chain("queried") == {"d": 1}
            _enter(one.fileno())
            assert rules_per_chain("queried") == {"c": 1}

    namespaces.inside(first, work)
