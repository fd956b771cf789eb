"""Versions through boto3 with its default settings, the way its guides do it. Run by s3-versioning.test.ts."""
import os

import boto3

s3 = boto3.resource("s3", endpoint_url=os.environ["S3_URL"], region_name="eu-central-1")
bucket = s3.create_bucket(Bucket="boto-versions", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
versioning = bucket.Versioning()
assert versioning.status is None
versioning.enable()
versioning.reload()
assert versioning.status == "Enabled"

for text in (b"first", b"second", b"third"):
    bucket.put_object(Key="dir/a", Body=text)
found = list(bucket.object_versions.filter(Prefix="dir/a"))
assert [version.get()["Body"].read() for version in found] == [b"third", b"second", b"first"]
assert [version.is_latest for version in found] == [True, False, False]

# Restore: a copy of the old version over the object; then undo a delete.
source = {"Bucket": bucket.name, "Key": "dir/a", "VersionId": found[2].id}
bucket.Object("dir/a").copy_from(CopySource=source)
assert bucket.Object("dir/a").get()["Body"].read() == b"first"
marker = bucket.Object("dir/a").delete()
assert marker["DeleteMarker"] is True
bucket.Object("dir/a").delete(VersionId=marker["VersionId"])
assert bucket.Object("dir/a").get()["Body"].read() == b"first"

for number in range(40):
    bucket.put_object(Key=f"many/{number % 4}", Body=str(number).encode())
client = s3.meta.client
pages = list(client.get_paginator("list_object_versions").paginate(Bucket=bucket.name, Prefix="many/", PaginationConfig={"PageSize": 7}))
ids = [version["VersionId"] for page in pages for version in page["Versions"]]
assert len(ids) == 40 == len(set(ids)) and len(pages) == 6

bucket.objects.all().delete()
assert list(bucket.objects.all()) == []
assert len(list(bucket.object_versions.all())) == 4 + 40 + 5
bucket.object_versions.all().delete()
assert list(bucket.object_versions.all()) == []
bucket.delete()
print("emptied and deleted")
