// MinIO's Go client against the endpoint that S3_URL names. Prints a line for each step that held, and ends with 1 at the
// first that did not.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sort"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/cors"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/tags"
)

const bucket = "minio-go"

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func demand(holds bool, what string, found ...any) {
	if !holds {
		fmt.Println("failed:", what, found)
		os.Exit(1)
	}
}

func main() {
	ctx := context.Background()
	endpoint, err := url.Parse(os.Getenv("S3_URL"))
	must(err)
	client, err := minio.New(endpoint.Host, &minio.Options{
		Creds:           credentials.NewStaticV4(os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), ""),
		TrailingHeaders: true,
	})
	must(err)

	must(client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{Region: "us-east-1"}))
	exists, err := client.BucketExists(ctx, bucket)
	must(err)
	demand(exists, "the bucket is there")
	err = client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{})
	demand(minio.ToErrorResponse(err).Code == "BucketAlreadyOwnedByYou", "a bucket twice", err)
	fmt.Println("buckets")

	for _, size := range []int{0, 1, 65536, 65537, 20 << 20} {
		body := make([]byte, size)
		_, _ = rand.Read(body)
		key := fmt.Sprintf("größe/%d & more", size)
		info, err := client.PutObject(ctx, bucket, key, bytes.NewReader(body), int64(size), minio.PutObjectOptions{
			UserMetadata: map[string]string{"Who": "minio-go"},
			ContentType:  "x/y",
			UserTags:     map[string]string{"a": "1"},
			PartSize:     5 << 20,
		})
		must(err)
		object, err := client.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
		must(err)
		got, err := io.ReadAll(object)
		must(err)
		demand(bytes.Equal(got, body), "the bytes come back", size)
		stat, err := client.StatObject(ctx, bucket, key, minio.StatObjectOptions{Checksum: true})
		must(err)
		demand(stat.ETag == info.ETag && stat.ContentType == "x/y" && stat.UserMetadata["Who"] == "minio-go", "properties", stat)
	}
	fmt.Println("put by parts, get, stat")

	// Its length is not known: parts, signed chunk by chunk, with their checksums behind them.
	body := make([]byte, 12<<20)
	_, _ = rand.Read(body)
	_, err = client.PutObject(ctx, bucket, "stream", io.MultiReader(bytes.NewReader(body)), -1, minio.PutObjectOptions{PartSize: 5 << 20, Checksum: minio.ChecksumSHA256})
	must(err)
	options := minio.GetObjectOptions{}
	must(options.SetRange(7<<20, 7<<20+99))
	object, err := client.GetObject(ctx, bucket, "stream", options)
	must(err)
	got, err := io.ReadAll(object)
	must(err)
	demand(bytes.Equal(got, body[7<<20:7<<20+100]), "a range")
	seeker, err := client.GetObject(ctx, bucket, "stream", minio.GetObjectOptions{})
	must(err)
	last := make([]byte, 10)
	_, err = seeker.ReadAt(last, 12<<20-10)
	demand(err == nil || err == io.EOF, "read at the end", err)
	demand(bytes.Equal(last, body[12<<20-10:]), "the end")
	fmt.Println("streams and ranges")

	_, err = client.CopyObject(ctx, minio.CopyDestOptions{Bucket: bucket, Object: "copy", ReplaceMetadata: true, UserMetadata: map[string]string{"new": "1"}}, minio.CopySrcOptions{Bucket: bucket, Object: "stream"})
	must(err)
	_, err = client.ComposeObject(ctx, minio.CopyDestOptions{Bucket: bucket, Object: "composed"},
		minio.CopySrcOptions{Bucket: bucket, Object: "stream"}, minio.CopySrcOptions{Bucket: bucket, Object: "copy"})
	must(err)
	composed, err := client.StatObject(ctx, bucket, "composed", minio.StatObjectOptions{})
	must(err)
	demand(composed.Size == 24<<20, "composed of two", composed.Size)
	fmt.Println("copies")

	set, err := tags.NewTags(map[string]string{"b": "2"}, true)
	must(err)
	must(client.PutObjectTagging(ctx, bucket, "copy", set, minio.PutObjectTaggingOptions{}))
	found, err := client.GetObjectTagging(ctx, bucket, "copy", minio.GetObjectTaggingOptions{})
	must(err)
	demand(found.ToMap()["b"] == "2", "tags", found)
	must(client.SetBucketCors(ctx, bucket, cors.NewConfig([]cors.Rule{{AllowedOrigin: []string{"*"}, AllowedMethod: []string{"GET"}}})))
	rules, err := client.GetBucketCors(ctx, bucket)
	must(err)
	demand(len(rules.CORSRules) == 1, "rules", rules)
	fmt.Println("tags and CORS")

	var keys []string
	for entry := range client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Recursive: true, MaxKeys: 3}) {
		must(entry.Err)
		keys = append(keys, entry.Key)
	}
	demand(len(keys) == 8 && sort.StringsAreSorted(keys), "lists in pages", keys)
	tops := 0
	for entry := range client.ListObjects(ctx, bucket, minio.ListObjectsOptions{UseV1: true}) {
		must(entry.Err)
		tops++
	}
	demand(tops == 4, "one level", tops)
	fmt.Println("lists")

	link, err := client.PresignedPutObject(ctx, bucket, "linked", time.Minute)
	must(err)
	request, err := http.NewRequest(http.MethodPut, link.String(), bytes.NewReader([]byte("linked")))
	must(err)
	answer, err := http.DefaultClient.Do(request)
	must(err)
	demand(answer.StatusCode == 200, "a link to put", answer.Status)
	link, err = client.PresignedGetObject(ctx, bucket, "linked", time.Minute, url.Values{"response-content-type": {"a/b"}})
	must(err)
	answer, err = http.Get(link.String())
	must(err)
	got, err = io.ReadAll(answer.Body)
	must(err)
	demand(string(got) == "linked" && answer.Header.Get("Content-Type") == "a/b", "a link to get", string(got))
	policy := minio.NewPostPolicy()
	must(policy.SetBucket(bucket))
	must(policy.SetKeyStartsWith("form/"))
	must(policy.SetExpires(time.Now().Add(time.Minute)))
	must(policy.SetContentLengthRange(1, 100))
	_, fields, err := client.PresignedPostPolicy(ctx, policy)
	must(err)
	demand(fields["policy"] != "" && fields["x-amz-signature"] != "", "a signed form")
	fmt.Println("links")

	_, err = client.StatObject(ctx, bucket, "none", minio.StatObjectOptions{})
	demand(minio.ToErrorResponse(err).Code == "NoSuchKey", "an object that is not there", err)
	conditional := minio.PutObjectOptions{}
	conditional.SetMatchETagExcept("*")
	_, err = client.PutObject(ctx, bucket, "linked", bytes.NewReader(nil), 0, conditional)
	demand(minio.ToErrorResponse(err).Code == "PreconditionFailed", "If-None-Match", err)
	gone := make(chan minio.ObjectInfo)
	go func() {
		defer close(gone)
		for entry := range client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Recursive: true}) {
			gone <- entry
		}
	}()
	for failed := range client.RemoveObjects(ctx, bucket, gone, minio.RemoveObjectsOptions{}) {
		must(failed.Err)
	}
	must(client.RemoveBucket(ctx, bucket))
	fmt.Println("emptied and deleted")
}
