"""Making the plugin one executable file that needs nothing but a Python interpreter.

A zip archive would do, and cost 5 ms per run: the interpreter then imports `runpy`, `zipimport` and
what these import. Here it is a script whose modules lie in it as marshalled code. What a verb needs
if all is well (`quick.py`) comes first, alone; the rest is unpacked only if that does not do. An
interpreter of another version compiles their source, which is there too.

The script has an argument only if `launcher.c` runs it, which was quicker: the plugin's name, and
where the router's answer is and when was asked for it, if it was.
"""

import importlib.util
import marshal
import os
import tempfile
import zlib
from pathlib import Path
from types import CodeType

MODULES = (
    "cni",
    "cni.errors",
    "cni.quick",
    "cni.text",
    "cni.link",
    "cni.call",
    "cni.result",
    "cni.journal",
    "cni.delegate",
    "cni.plugin",
)

INTERPRETER = "/usr/bin/python3"
FLAGS = "-ISXutf8"
"""Isolated from the caller's environment and directory, without `site` and its paths, whatever the
locale."""

_SCRIPT = """\
#!{interpreter} {flags}
# The CNI plugin of weavepy, made by `weavepy cni install`: do not edit, make it again.
import marshal
import sys
from _frozen_importlib_external import MAGIC_NUMBER

with open(__file__, "rb") as file:
    *_, quick, compiled, sources = (line[2:] for line in file.read().splitlines())
ours = MAGIC_NUMBER == bytes.fromhex("{magic}")
name, *told = sys.argv[1:] or [__file__.rpartition("/")[2]]
given = ()
if told:
    given = None, (open(int(told[0]), "rb").read(), float(told[1]))
elif ours and not sys.argv[1:]:
    space = {{"__name__": "quick"}}
    exec(marshal.loads(bytes.fromhex(quick.decode())), space)
    given = space["run"](name)

import zlib

modules = marshal.loads(zlib.decompress(bytes.fromhex((compiled if ours else sources).decode())))


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

start(name, *given)
# {quick}
# {compiled}
# {sources}
"""
"""The modules are in comments, in hexadecimal: a literal would take the parser 2 ms to read. They
are compressed, as comments have to be read as well."""


def script(interpreter: str = INTERPRETER) -> bytes:
    """The file's content; it runs under the name that says what it is to do."""
    directory = Path(__file__).parent
    sources = {}
    for name in MODULES:
        file = directory / ("__init__.py" if name == "cni" else f"{name.partition('.')[2]}.py")
        sources[name] = file.read_text()
    compiled = {name: compile(source, name, "exec") for name, source in sources.items()}
    return _SCRIPT.format(
        interpreter=interpreter,
        flags=FLAGS,
        magic=importlib.util.MAGIC_NUMBER.hex(),
        quick=marshal.dumps(compiled["cni.quick"]).hex(),
        compiled=_packed(compiled),
        sources=_packed(sources),
    ).encode()


def _packed(modules: dict[str, str] | dict[str, CodeType]) -> str:
    return zlib.compress(marshal.dumps(modules), 9).hex()


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
