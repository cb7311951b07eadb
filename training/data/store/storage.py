"""Read and write a flat folder of files, local or remote; files appear in it complete or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from training.errors import ConfigError
from training.files import open_location, open_whole

_CHUNK_BYTES = 8 << 20


class Storage:
    """One flat folder.

    Args:
        uri: A local folder, or any URI of ``pyarrow.fs`` (``s3://bucket/path``, ``gs://bucket/path``,
        ``file:///path``).

    Raises:
        ConfigError: ``uri`` is of an unknown kind.
        OSError: The storage cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._fs, root = open_location(uri)
        except (ValueError, NotImplementedError) as error:
            raise ConfigError(
                f"A store must be in a folder or at a URI such as s3://bucket/path, but got {uri} ({error})"
            ) from None
        self._root = root.rstrip("/")
        # Local folders are written by Python itself, which can sync and rename.
        self.folder = Path(self._root) if isinstance(self._fs, fs.LocalFileSystem) else None

    def put(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file, which appears under its name only once it is complete.

        Raises:
            OSError: It cannot be written.
        """
        if self.folder is None:
            # The content is sent in one piece, so an upload that fails half-way leaves no object behind.
            with self._fs.open_output_stream(self._path(name)) as stream:
                stream.write(content)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not pyarrow's local stream, which cannot be synced to the disk.
        with open_whole(self.folder / name) as file:
            file.write(content)

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: It does not exist.
            OSError: It cannot be read.
        """
        with self._fs.open_input_stream(self._path(name)) as stream:
            content: bytes = stream.read()
        return content

    @contextmanager
    def open(self, name: str) -> Iterator[pa.NativeFile]:
        """Open a file to read parts of it.

        Raises:
            FileNotFoundError: It does not exist.
            OSError: It cannot be read.
        """
        with self._fs.open_input_file(self._path(name)) as file:
            yield file

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a file's content in pieces of a few MiB.

        Raises:
            OSError: It cannot be read.
        """
        with self._fs.open_input_stream(self._path(name)) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    def sha256(self, name: str) -> str:
        """Return the hash of a file's content.

        Raises:
            OSError: It cannot be read.
        """
        digest = hashlib.sha256()
        for chunk in self.chunks(name):
            digest.update(chunk)
        return digest.hexdigest()

    def sizes(self) -> dict[str, int]:
        """Return name -> size in bytes of every file; nothing if the folder does not exist.

        Raises:
            OSError: The storage cannot be listed.
        """
        found = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return {info.base_name: info.size or 0 for info in found if info.type == fs.FileType.File}

    def folders(self) -> list[str]:
        """Return the sorted names of the folders in it; nothing if it does not exist.

        Raises:
            OSError: The storage cannot be listed.
        """
        found = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def delete(self, name: str) -> None:
        """Delete a file if it exists.

        Raises:
            OSError: It cannot be deleted.
        """
        try:
            self._fs.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
