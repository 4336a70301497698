"""Many policies in one command: all of them, or none."""

import json
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeLab
from tests.policy.objects import labels, policy
from weavepy.client import schema
from weavepy.client.http import ApiError
from weavepy.daemon.api import MAX_OBJECTS_BYTES, MAX_REQUEST_BYTES

COUNT = 3000


def test_thousands_of_policies_are_applied_at_once_or_not_at_all(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab(hosts=2, containers=1)
    many = [policy(f"default/p{number}", labels(app=f"a{number}")) for number in range(COUNT)]
    file = tmp_path / "many.json"
    file.write_text("\n---\n".join(map(json.dumps, many)))
    assert file.stat().st_size > MAX_REQUEST_BYTES
    began = time.monotonic()
    done = lab.exec("h1", ["weavepy", "policy", "apply", "-f", str(file)])
    assert done.returncode == 0, done.stderr
    print(f"{COUNT} policies in {time.monotonic() - began:.1f} s")
    assert lab.api("h1").policy().policies_left_out == COUNT  # none has a pod here

    nameless = {"apiVersion": "v1", "kind": "Pod", "metadata": {}}
    file.write_text(file.read_text() + f"\n---\n{json.dumps(nameless)}")
    done = lab.exec("h1", ["weavepy", "policy", "delete", "-f", str(file)])
    assert done.returncode != 0
    assert lab.api("h1").policy().policies_left_out == COUNT  # none has a pod here

    padded = policy("default/large") | {"padding": "x" * MAX_OBJECTS_BYTES}
    with pytest.raises(ApiError, match="too much for one request"):
        lab.api("h1").policy_apply(schema.PolicyObjects(objects=[padded]))
