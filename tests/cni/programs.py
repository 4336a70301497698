"""The plugin's two forms. What is promised of the plugin is promised of both.

WEAVEPY_PLUGIN=python     what would test one form, the native one, tests the script
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from cni.conflist import IPAM_PLUGIN, PLUGIN
from cni.executable import script, write_whole
from cni.native import CannotCompile, executable

FORMS: dict[str, Callable[[], bytes]] = {"native": executable, "python": script}


@cache
def usual() -> str:
    """The form that `weavepy cni install` would choose here."""
    if os.environ.get("WEAVEPY_PLUGIN"):
        return os.environ["WEAVEPY_PLUGIN"]
    try:
        executable()
    except CannotCompile as error:
        print(f"the plugin is the Python script: {error}")
        return "python"
    return "native"


def install(directory: Path, form: str = "") -> Path:
    """Under both names; the plugin's path is returned."""
    content = FORMS[form or usual()]()
    for name in (IPAM_PLUGIN, PLUGIN):
        write_whole(directory / name, content, 0o755)
    return directory / PLUGIN


def skip_without_compiler(form: str) -> None:
    try:
        FORMS[form]()
    except CannotCompile as error:
        pytest.skip(str(error))
