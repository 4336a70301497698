"""What the API server said last, on disk."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from kube.core.pods import Namespace, NetworkPolicy, Pod, Port
from kube.core.watch import Change
from weavepy.daemon import snapshot
from weavepy.daemon.snapshot import Keeper, Snapshot, load, save

POD = Pod("x", "web", "u1", {"app": "web"}, ("10.32.0.1",), (Port("http", 80, "TCP"),), "n1")
KNOWN = Snapshot(
    namespaces=(Namespace("x", {}),), policies=(NetworkPolicy("x", "deny", "{}"),), pods=(POD,)
)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    assert load(file) is None
    save(file, KNOWN)
    assert load(file) == KNOWN
    assert [*KNOWN.changes()][-1] == Change(POD)


@pytest.mark.parametrize("content", [b"", b"{}", b'[1, [["x"]]]', b"[2, [], [], []]", b"\xff"])
def test_what_cannot_be_read_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "cluster.json"
    file.write_bytes(content)
    assert load(file) is None


def test_an_older_router_reads_what_a_newer_one_added_to_a_pod(tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    plain = msgspec.to_builtins(KNOWN)
    plain[3][0].append("something new")
    file.write_bytes(msgspec.json.encode(plain))
    assert load(file) == KNOWN


def test_one_that_is_too_large_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cluster.json"
    save(file, KNOWN)
    monkeypatch.setattr(snapshot, "MAX_BYTES", 400)
    many = Snapshot(pods=(POD,) * 9)
    with pytest.raises(snapshot.WeavepyError):
        save(file, many)
    assert load(file) == KNOWN


async def test_policies_are_kept_at_once_and_pods_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cluster.json"
    keeper = Keeper(file, lambda: KNOWN)
    keeping = asyncio.create_task(keeper.keep_for_ever())
    keeper.changed(at_once=True)
    async with asyncio.timeout(snapshot.SAVE_S - 1):
        while load(file) is None:
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    file.unlink()
    keeper.changed(at_once=False)
    await keeper.close()
    assert load(file) == KNOWN, "the last change is not lost"
    file.unlink()
    await keeper.close()
    assert load(file) is None, "and nothing is written for nothing"
