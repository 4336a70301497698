"""Container images of one layer, written as an archive in the form of `docker save`.

No image tool and no registry: a tar of files, a tar of that with its digest, and three lines of
JSON. `ctr images import` and `podman load` take it.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDERS = ("bin", "dev", "etc", "host", "proc", "root", "sys", "tmp", "usr/bin", "var")
ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}


def write_image(
    archive: Path, name: str, programs: Mapping[str, Path], entrypoint: Sequence[str]
) -> None:
    """`programs`: where each static program goes. busybox gets a link for each of its applets."""
    layer = _layer(programs)
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_name = f"{digest}/layer.tar"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}])
    with tarfile.open(archive, "w") as tar:
        _add(tar, config_name, config)
        _add(tar, layer_name, layer)
        _add(tar, "manifest.json", manifest.encode())


def _layer(programs: Mapping[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in FOLDERS:
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(info)
        for path, text in ACCOUNTS.items():
            _add(tar, path, text.encode())
        for path, program in programs.items():
            _add(tar, path, program.read_bytes(), mode=0o755)
            if program.name == "busybox":
                applets = subprocess.check_output([program, "--list"], text=True).split()
                for applet in applets:
                    info = tarfile.TarInfo(f"bin/{applet}")
                    info.type, info.linkname = tarfile.SYMTYPE, f"/{path}"
                    if info.name != path:
                        tar.addfile(info)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))
