"""Reading and writing files: whatever goes wrong is one line that names the file, and no file is ever half written."""

import contextlib
import errno
import io
import json
import os
import secrets
import stat
import warnings
import zipfile
from pathlib import Path

from common.errors import InputError

NOT_SUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}  # says a file system of what it lacks


def check_regular(path):
    """Checks that there is a file that can be read to its end.

    Raises:
        OSError: there is no such file.
        InputError: it is a pipe, a device or a socket.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a null character in the name
        raise InputError(f"{str(path)!r}: not a file name") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: a pipe, a device or a socket (expected: a regular file)")


@contextlib.contextmanager
def reading(path, kind):
    """Turns whatever a reader in its body raises over a file's content into one line.

    Libraries promise no set of exceptions for damaged files (NumPy, zipfile, pickle and soundfile raise some twenty between
    them), so all are caught here, and nowhere else. The body should hold the reader's call alone.

    Args:
        path: the file.
        kind: what was expected of it, in words.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not of that kind, or damaged.
    """
    check_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damage, or of what the reader does about it
            yield
    except InputError:
        raise
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # an offset in the file leads nowhere
            raise InputError(f"{path}: not {kind}, or a damaged one") from None
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory, or is damaged (expected: {kind})") from None
    except Exception:
        raise InputError(f"{path}: not {kind}, or a damaged one") from None


def checked(file):
    """What to give to `torch.load` in place of an open file; to be called in the body of `reading`, which explains what it raises.

    PyTorch writes checksums but does not look at them, and reads fields of the archive that no checksum covers. So it is given
    a fresh archive of what was checked. A file of the format before 2020 has no checksums, and is given as it is.
    """
    is_archive = file.read(4) == b"PK\3\4"
    file.seek(0)
    if not is_archive:
        return file
    copy = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as fresh:
        entries = archive.infolist()
        size = os.fstat(file.fileno()).st_size
        if sum(entry.file_size for entry in entries) > size:  # PyTorch compresses nothing: a small file that would fill the memory
            raise zipfile.BadZipFile
        for entry in entries:
            fresh.writestr(entry.filename, archive.read(entry))
    copy.seek(0)
    return copy


def read_text(path, kind):
    """The text of a UTF-8 file, without a byte-order mark.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not text; the message says that `kind` was wanted.
    """
    check_regular(path)
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8 (expected: {kind})") from None


def read_json(path, kind):
    """What a JSON file holds.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not JSON; the message says that `kind` was wanted.
    """
    text = read_text(path, kind)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise InputError(f"{path}: not JSON, {reason} (expected: {kind})") from None


def check_not_input(path, inputs):
    """Refuses a file to write that is one of the inputs, through a link perhaps; None stands for an input that is not given.

    Raises:
        InputError: names both.
    """
    for source in inputs:
        if source is not None and os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise InputError(f"{path}: the result would overwrite {source} (expected: another name)")


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`; what its body writes there becomes `path`, whole, and survives a power cut.

    Raises:
        OSError: it cannot be written; the error names `path`, which stays as it was.
        InputError: `path` is no place for a file.
    """
    path = Path(path)
    if not path.name or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: cannot be written (expected: the name of a file)")
    # Short and unique: a name of its own for each writer, and never longer than a file's name may be.
    temporary = path.with_name(f".{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename in (None, str(temporary), os.fsencode(temporary)) and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def save_atomically(write, path):
    """Calls `write(temporary_path)` and renames the result to `path`; see `replacing`."""
    with replacing(path) as temporary:
        write(temporary)


def save_text(text, path):
    """Writes a text file, atomically; a file name in it that is not UTF-8 stays what it is."""
    save_atomically(lambda temporary: temporary.write_text(text, encoding="utf-8", errors="surrogateescape"), path)


def _sync_folder(folder):
    """Makes a rename durable, where the system lets a folder be opened and flushed; shared folders and network drives may not."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
    finally:
        os.close(descriptor)
