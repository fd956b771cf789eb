"""Every character that a key may hold, written, listed, read and deleted by Arrow's S3FileSystem: with a key, and without.

The keys come as JSON in S3_KEYS. Prints `all gone` when each was listed as it is, and is gone afterwards.
"""

import json
import os

from pyarrow.fs import FileSelector, FileType, S3FileSystem

host = os.environ["S3_URL"].removeprefix("http://")
keys = json.loads(os.environ["S3_KEYS"])


def check(bucket, **access):
    s3 = S3FileSystem(endpoint_override=host, scheme="http", region="us-east-1", **access)

    def listed():
        return sorted(
            info.path.removeprefix(f"{bucket}/d/")
            for info in s3.get_file_info(FileSelector(f"{bucket}/d", recursive=True))
            if info.type == FileType.File
        )

    for key in keys:
        with s3.open_output_stream(f"{bucket}/d/{key}") as out:
            out.write(key.encode())
    assert listed() == sorted(keys), set(listed()) ^ set(keys)
    for key in keys:
        with s3.open_input_stream(f"{bucket}/d/{key}") as stream:
            assert stream.read() == key.encode()
    s3.delete_dir_contents(f"{bucket}/d")
    assert listed() == []


check("arrow", access_key="EBBTESTKEY", secret_key="any secret")
check("arrow", anonymous=True)
print("all gone")
