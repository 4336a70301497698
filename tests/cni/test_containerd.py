"""Two containerd nodes, and containers that `ctr` starts on them through the plugin."""

import contextlib

import pytest

from tests.cni.node import Node

CONTAINERD_SPEAKS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0")
"""Debian's containerd 1.6 has libcni 1.1, which refuses results of 1.1.0."""

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_containers_of_two_nodes_reach_each_other_with_every_version(nodes: list[Node]) -> None:
    first, second = nodes
    for version in CONTAINERD_SPEAKS:
        word = version.replace(".", "")
        for node in nodes:
            node.install(version)
            node.run(f"{node.host}v{word}")
        address = second.address(f"h2v{word}")
        done = first.exec(f"h1v{word}", "ping", "-c", "1", "-W", "5", address)
        assert done.returncode == 0, done.stdout + done.stderr
        for node in nodes:
            node.end(f"{node.host}v{word}")
            assert node.api.attachments().attachments == []
            assert node.api.check().findings == []


def test_debians_containerd_refuses_the_newest_version(nodes: list[Node]) -> None:
    """When it does not any more, `CONTAINERD_SPEAKS` wants one more entry."""
    node = nodes[0]
    node.install("1.1.0")
    with contextlib.suppress(AssertionError):
        node.run("h1v110")
    node.end("h1v110")
    assert 'unsupported CNI result version "1.1.0"' in node.log("h1v110")
    assert node.api.attachments().attachments == []
    assert node.api.check().findings == []
