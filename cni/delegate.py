"""Another plugin that gives the addresses: found by CNI_PATH and run with what we were given."""

import os
import subprocess

from cni import text
from cni.call import Call, is_word
from cni.errors import BAD_CONFIG, BAD_ENVIRONMENT, FAILED, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TIMEOUT_S = 30.0


def run(call: Call, plugin: str) -> "dict[str, Any]":
    """Have the IPAM plugin do the same verb; return its result, {} if it has none to give."""
    path = _find(call, plugin)
    try:
        done = subprocess.run(
            [path],
            input=text.encode(call.config).encode(),
            stdout=subprocess.PIPE,
            env=dict(call.environment),
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CniError(FAILED, f"the IPAM plugin {plugin} failed", str(error)) from error
    answer = _decode(done.stdout)
    if done.returncode != 0:
        raise CniError(
            int(answer.get("code", FAILED)),
            f"the IPAM plugin {plugin}: {answer.get('msg', f'exit code {done.returncode}')}",
            str(answer.get("details", "")),
        )
    return answer


def _find(call: Call, plugin: str) -> str:
    if not is_word(plugin):
        raise CniError(BAD_CONFIG, f"ipam.type {plugin!r} cannot name a plugin")
    places = [place for place in call.environment.get("CNI_PATH", "").split(":") if place]
    for place in places:
        path = os.path.join(place, plugin)
        if os.access(path, os.X_OK):
            return path
    raise CniError(
        BAD_ENVIRONMENT if not places else BAD_CONFIG,
        f"there is no IPAM plugin {plugin} in CNI_PATH ({':'.join(places) or 'empty'})",
    )


def _decode(output: bytes) -> "dict[str, Any]":
    try:
        answer = text.decode(output)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
