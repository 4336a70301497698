"""Making the plugin one executable file that needs nothing but a Python interpreter.

A zip archive would do, and cost 5 ms per run: the interpreter then imports `runpy`, `zipimport` and
what these import. Here it is a script whose modules lie in it as marshalled code, which takes half
a millisecond to load. An interpreter of another version compiles their source, which is there too.
"""

import importlib.util
import marshal
import os
import tempfile
from pathlib import Path

MODULES = (
    "cni",
    "cni.errors",
    "cni.text",
    "cni.link",
    "cni.call",
    "cni.result",
    "cni.journal",
    "cni.delegate",
    "cni.plugin",
)

INTERPRETER = "/usr/bin/python3"
FLAGS = "-IS"
"""Isolated from the caller's environment and directory, and without `site` and its paths."""

_SCRIPT = """\
#!{interpreter} {flags}
# The CNI plugin of weavepy, made by `weavepy cni install`: do not edit, make it again.
import marshal
import sys
from _frozen_importlib_external import MAGIC_NUMBER

with open(__file__, "rb") as file:
    *_, compiled, sources = file.read().splitlines()
ours = MAGIC_NUMBER == bytes.fromhex("{magic}")
modules = marshal.loads(bytes.fromhex((compiled if ours else sources)[2:].decode()))


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in modules:
            return type(sys.__spec__)(name, Finder, is_package=name == "cni")

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        code = modules[module.__name__]
        exec(code if ours else compile(code, module.__name__, "exec"), module.__dict__)


sys.meta_path.insert(0, Finder)
from cni.plugin import start

start()
# {compiled}
# {sources}
"""
"""The modules are in comments, in hexadecimal: a literal would take the parser 2 ms to read."""


def script(interpreter: str = INTERPRETER) -> bytes:
    """The file's content; it runs under the name that says what it is to do."""
    directory = Path(__file__).parent
    sources = {}
    for name in MODULES:
        file = directory / ("__init__.py" if name == "cni" else f"{name.partition('.')[2]}.py")
        sources[name] = file.read_text()
    compiled = marshal.dumps(
        {name: compile(source, name, "exec") for name, source in sources.items()}
    )
    return _SCRIPT.format(
        interpreter=interpreter,
        flags=FLAGS,
        magic=importlib.util.MAGIC_NUMBER.hex(),
        compiled=compiled.hex(),
        sources=marshal.dumps(sources).hex(),
    ).encode()


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """By a rename: whoever runs or reads it meets the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
