"""Files: written whole or not at all, locked, and with checksums; the weights of a run."""

from .atomic import (
    json_digest,
    lock_file,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    replacing,
    sync,
    temporary_directory,
    write_bytes,
    write_text,
)
from .checkpoints import policy_directory, run_of, step_of
from .checksums import (
    CHECKSUMS,
    check_files,
    checksums,
    compare_checksums,
    crc32,
    forget_checksums,
    write_checksums,
)

__all__ = [
    "CHECKSUMS",
    "check_files",
    "checksums",
    "compare_checksums",
    "crc32",
    "forget_checksums",
    "json_digest",
    "lock_file",
    "open_regular",
    "parse_json",
    "policy_directory",
    "read_bytes",
    "read_json",
    "replacing",
    "run_of",
    "step_of",
    "sync",
    "temporary_directory",
    "write_bytes",
    "write_checksums",
    "write_text",
]
