"""An nbdkit plugin: a disk in a file, and a log of every write and flush that reaches it, in their order.

Each record of the log: offset and length as two 64-bit numbers (little endian), then the bytes; length 0 is a
flush. nbdkit loads this file; it is no module of the tests.
"""

import os
import struct

API_VERSION = 2
_settings = {}
_RECORD = struct.Struct("<QQ")


def config(key, value):
    _settings[key] = value


def open(readonly):  # noqa: A001  # the plugin's interface
    return {
        "disk": os.open(_settings["disk"], os.O_RDWR),
        "log": os.open(_settings["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
    }


def get_size(handle):
    return os.fstat(handle["disk"]).st_size


def thread_model():
    import nbdkit  # noqa: PLC0415

    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def pread(handle, buffer, offset, flags):
    os.preadv(handle["disk"], [buffer], offset)


def pwrite(handle, buffer, offset, flags):
    data = bytes(buffer)
    os.pwrite(handle["disk"], data, offset)
    os.write(handle["log"], _RECORD.pack(offset, len(data)) + data)


def can_zero(handle):
    return False


def can_trim(handle):
    return False


def can_flush(handle):
    return True


def flush(handle, flags):
    os.write(handle["log"], _RECORD.pack(0, 0))
