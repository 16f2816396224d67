"""Durable files: digests, JSON, atomic writes, locks, publication of directories. May import errors and units."""

from curriculum.fs.digests import (
    SEAL as SEAL,
    canonical_json as canonical_json,
    digest as digest,
    finite_json as finite_json,
    parse_json as parse_json,
    seal as seal,
    unseal as unseal,
)
from curriculum.fs.files import (
    BLOCK_BYTES as BLOCK_BYTES,
    append_json_line as append_json_line,
    blake3_file as blake3_file,
    blake3_hasher as blake3_hasher,
    check_writable as check_writable,
    fsync as fsync,
    line_error as line_error,
    link_error as link_error,
    make_directory as make_directory,
    make_durable as make_durable,
    open_file as open_file,
    processors as processors,
    read_blocks as read_blocks,
    read_bytes as read_bytes,
    read_json_lines as read_json_lines,
    read_sealed as read_sealed,
    remove as remove,
    sha256_file as sha256_file,
    sync_tree as sync_tree,
    write_blocks as write_blocks,
    write_bytes as write_bytes,
    write_json as write_json,
    write_sealed as write_sealed,
)
from curriculum.fs.locks import Lock as Lock, lock_holder as lock_holder
from curriculum.fs.publish import (
    ASIDE as ASIDE,
    REMOVED as REMOVED,
    build_directory as build_directory,
    move as move,
    publish as publish,
    remove_tree as remove_tree,
    set_aside as set_aside,
)
from curriculum.fs.records import ADDED_LATER as ADDED_LATER, fields_of as fields_of, from_json as from_json
