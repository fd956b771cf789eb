"""Every character that a key may hold, put, listed and deleted by boto3 against the node that S3_URL names.

The keys come as JSON in S3_KEYS. Prints `all gone` when each was listed as it is, and is gone afterwards.
"""

import json
import os

import boto3

s3 = boto3.client("s3", endpoint_url=os.environ["S3_URL"], region_name="us-east-1")
keys = json.loads(os.environ["S3_KEYS"])


def listed(operation):
    found = []
    for page in s3.get_paginator(operation).paginate(Bucket="boto", PaginationConfig={"PageSize": 50}):
        found += [entry["Key"] for entry in page.get("Contents", []) + page.get("Versions", [])]
    return sorted(found)


for key in keys:
    s3.put_object(Bucket="boto", Key=key, Body=key.encode())
for operation in ["list_objects", "list_objects_v2", "list_object_versions"]:
    assert listed(operation) == sorted(keys), (operation, set(listed(operation)) ^ set(keys))
for key in keys:
    assert s3.get_object(Bucket="boto", Key=key)["Body"].read() == key.encode()

# Its parser takes no control characters in an answer, so it asks for none of those that were deleted.
named = [key for key in keys if all(c >= " " or c in "\t\n\r" for c in key) and "\ufffe" not in key and "\uffff" not in key]
answer = s3.delete_objects(Bucket="boto", Delete={"Objects": [{"Key": key} for key in named]})
assert sorted(entry["Key"] for entry in answer["Deleted"]) == sorted(named)
assert listed("list_objects_v2") == sorted(set(keys) - set(named))
others = [{"Key": key} for key in set(keys) - set(named)]
s3.delete_objects(Bucket="boto", Delete={"Objects": others, "Quiet": True})
assert listed("list_objects_v2") == []
print("all gone")
