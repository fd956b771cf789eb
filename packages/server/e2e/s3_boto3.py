"""boto3 as it comes (checksums by trailer, retries, transfer manager) against the node that S3_URL names.

Prints one line for each step that held, and fails with a traceback at the first that did not.
"""

import base64
import hashlib
import io
import os
import urllib.error
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

url = os.environ["S3_URL"]
s3 = boto3.client("s3", endpoint_url=url, region_name="eu-central-1")
# Links are signed with version 2 in us-east-1 unless one says otherwise.
linker = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=Config(signature_version="s3v4"))


def code_of(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return "none"


def read(key, **more):
    return s3.get_object(Bucket="boto", Key=key, **more)["Body"].read()


s3.create_bucket(Bucket="boto", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
assert "boto" in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
assert code_of(s3.head_bucket, Bucket="nobody") == "404"
print("buckets")

for size in [0, 1, 65_536, 65_537, 5_000_000]:
    body = os.urandom(size)
    answer = s3.put_object(Bucket="boto", Key=f"size/{size}", Body=body)
    assert answer["ChecksumType"] == "FULL_OBJECT" and "ChecksumCRC32" in answer, answer
    assert read(f"size/{size}") == body
print("put and get with checksums")

body = os.urandom(200_000)
ran = 0
for algorithm in ["CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME"]:
    try:
        answer = s3.put_object(Bucket="boto", Key="sum", Body=body, ChecksumAlgorithm=algorithm)
    except Exception as error:  # CRC32C and CRC64NVME need awscrt, which boto3 does not bring
        assert "awscrt" in str(error) or "Missing Dependency" in str(error), error
        continue
    head = s3.head_object(Bucket="boto", Key="sum", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == answer[f"Checksum{algorithm}"]
    ran += 1
assert ran >= 3, f"{ran} checksum algorithms ran"
print("checksum algorithms")

s3.put_object(Bucket="boto", Key="stream", Body=io.BytesIO(body))
assert read("stream") == body
wrong = hashlib.md5(b"another body").digest()


assert code_of(s3.put_object, Bucket="boto", Key="md5", Body=body, ContentMD5=base64.b64encode(wrong).decode()) == "BadDigest"
assert code_of(s3.head_object, Bucket="boto", Key="md5") == "404"
print("a body that is not what was announced leaves nothing")

big = os.urandom(40 * 1024 * 1024)
config = TransferConfig(multipart_threshold=8 * 1024 * 1024, multipart_chunksize=8 * 1024 * 1024, max_concurrency=4)
s3.upload_fileobj(io.BytesIO(big), "boto", "big", Config=config, ExtraArgs={"Metadata": {"who": "boto"}})
out = io.BytesIO()
s3.download_fileobj("boto", "big", out, Config=config)
assert out.getvalue() == big
head = s3.head_object(Bucket="boto", Key="big", PartNumber=1)
assert head["PartsCount"] == 5 and head["Metadata"] == {"who": "boto"}, head
s3.copy({"Bucket": "boto", "Key": "big"}, "boto", "big copy", Config=config)
assert read("big copy", Range="bytes=10000000-10000099") == big[10_000_000:10_000_100]
print("transfer manager: parallel parts, ranged download, copy by parts")

for number in range(25):
    s3.put_object(Bucket="boto", Key=f"list/ä &{number:02}", Body=b"x")
keys = []
for page in s3.get_paginator("list_objects_v2").paginate(Bucket="boto", Prefix="list/", PaginationConfig={"PageSize": 10}):
    keys += [entry["Key"] for entry in page["Contents"]]
assert keys == [f"list/ä &{number:02}" for number in range(25)], keys
tops = s3.list_objects(Bucket="boto", Delimiter="/")
assert [prefix["Prefix"] for prefix in tops["CommonPrefixes"]] == ["list/", "size/"]
versions = s3.list_object_versions(Bucket="boto", Prefix="list/")
assert len(versions["Versions"]) == 25 and versions["Versions"][0]["VersionId"] == "null"
print("lists")

link = linker.generate_presigned_url("get_object", Params={"Bucket": "boto", "Key": "stream"}, ExpiresIn=60)
assert urllib.request.urlopen(link).read() == body
put = linker.generate_presigned_url("put_object", Params={"Bucket": "boto", "Key": "by link"}, ExpiresIn=60)
urllib.request.urlopen(urllib.request.Request(put, data=b"linked", method="PUT"))
assert read("by link") == b"linked"
print("presigned links")


def post(form, data, name):
    """Sends a form as a browser does; the status, or the code of the error."""
    boundary = "----boto" + os.urandom(8).hex()
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n' for field, value in form["fields"].items()]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: x/y\r\n\r\n'
    payload = ("".join(parts) + head).encode() + data + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(form["url"], data=payload, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.read().decode().split("<Code>")[1].split("</Code>")[0]


form = linker.generate_presigned_post("boto", "form/${filename}", Conditions=[["content-length-range", 1, 300_000]], ExpiresIn=60)
assert post(form, body, "größe 1.bin") == 204
assert read("form/größe 1.bin") == body
assert post(form, bytes(300_001), "large") == "EntityTooLarge"
form["fields"]["key"] = "elsewhere/${filename}"
assert post(form, body, "a") == "AccessDenied"
assert code_of(s3.head_object, Bucket="boto", Key="elsewhere/a") == "404"
print("forms")

rules = [{"AllowedMethods": ["GET"], "AllowedOrigins": ["https://app.example.com"], "MaxAgeSeconds": 60}]
s3.put_bucket_cors(Bucket="boto", CORSConfiguration={"CORSRules": rules})
assert s3.get_bucket_cors(Bucket="boto")["CORSRules"] == rules
s3.delete_bucket_cors(Bucket="boto")
assert code_of(s3.get_bucket_cors, Bucket="boto") == "NoSuchCORSConfiguration"
print("cors")

assert s3.get_bucket_acl(Bucket="boto")["Grants"][0]["Permission"] == "FULL_CONTROL"
assert s3.get_bucket_location(Bucket="boto")["LocationConstraint"] is None
assert "Status" not in s3.get_bucket_versioning(Bucket="boto")
assert code_of(s3.put_object, Bucket="boto", Key="x", Body=b"", ACL="public-read") == "AccessControlListNotSupported"
assert code_of(s3.get_object_lock_configuration, Bucket="boto") == "ObjectLockConfigurationNotFoundError"
assert code_of(s3.put_bucket_policy, Bucket="boto", Policy="{}") == "NotImplemented"
print("what is asked and not offered")

bucket = boto3.resource("s3", endpoint_url=url).Bucket("boto")
bucket.objects.all().delete()
s3.delete_bucket(Bucket="boto")
assert code_of(s3.head_bucket, Bucket="boto") == "404"
print("emptied and deleted")
