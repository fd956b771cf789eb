/** Small documents beside buckets and objects: tags, ACLs in their private form, and settings that are asked for and not there. */
import { checkTags, parseTags, type Tag, withTags } from '../attributes.ts';
import { isBlank, readBody } from '../body.ts';
import { type S3Call, sendEmpty, sendXml } from '../call.ts';
import { parseXml, type XmlReader } from '../read-xml.ts';
import { S3Error } from '../s3-error.ts';
import type { XmlElement } from '../xml.ts';
import { ownerElement } from './owner.ts';
import { headNamed, tellVersion, withNamed } from './versions.ts';

const XML_BYTES_MAX = 64 * 1024;

export async function getObjectTagging(call: S3Call): Promise<void> {
  const object = await headNamed(call);
  const tags = parseTags(object.attributes);
  sendXml(call, 'Tagging', {
    TagSet: { Tag: tags.map(([Key, Value]) => ({ Key, Value })) },
  });
}

export async function putObjectTagging(call: S3Call): Promise<void> {
  const tags = await parseTagging(await readBody(call, XML_BYTES_MAX));
  checkTags(tags);
  await setTags(call, tags);
  sendEmpty(call, 200);
}

/** @throws {S3Error} `MalformedXML` */
export async function parseTagging(xml: Uint8Array | string): Promise<readonly Tag[]> {
  const root = await parseXml(xml, 'Tagging');
  return root
    .child('TagSet')
    .all('Tag')
    .map((tag) => [tag.child('Key').plainText(), tag.child('Value').plainText()]);
}

export async function deleteObjectTagging(call: S3Call): Promise<void> {
  await setTags(call, []);
  sendEmpty(call, 204);
}

async function setTags(call: S3Call, tags: readonly Tag[]): Promise<void> {
  const { store } = call.context;
  const { object } = await withNamed(call, (ref) =>
    store.setAttributes(ref, (attributes) => withTags(attributes, tags)),
  );
  await tellVersion(call, object);
}

/** Everything belongs to the one owner, and to nobody else. */
export async function getBucketAcl(call: S3Call): Promise<void> {
  await call.context.store.getBucket(call.bucket);
  sendXml(call, 'AccessControlPolicy', privateAcl(call));
}

export async function getObjectAcl(call: S3Call): Promise<void> {
  await headNamed(call);
  sendXml(call, 'AccessControlPolicy', privateAcl(call));
}

/** Takes the canned form `private` and the document that `getAcl` gives, and nothing else. */
export async function putAcl(call: S3Call): Promise<void> {
  const body = await readBody(call, XML_BYTES_MAX);
  if (!isBlank(body)) {
    const grants = (await parseAcl(body)).child('AccessControlList').all('Grant');
    const isPrivate = grants.every(
      (grant) => grant.child('Grantee').textOf('ID') === call.context.ownerId,
    );
    if (!isPrivate) throw new S3Error('AccessControlListNotSupported');
  }
  if (call.key === '') await call.context.store.getBucket(call.bucket);
  else await headNamed(call);
  sendEmpty(call, 200);
}

/** @throws {S3Error} `MalformedACLError` */
async function parseAcl(body: Uint8Array): Promise<XmlReader> {
  try {
    return await parseXml(body, 'AccessControlPolicy');
  } catch (error) {
    throw new S3Error('MalformedACLError', undefined, {}, { cause: error });
  }
}

function privateAcl(call: S3Call): XmlElement {
  const owner = ownerElement(call);
  return {
    Owner: owner,
    AccessControlList: {
      Grant: {
        Grantee: {
          '@xmlns:xsi': 'http://www.w3.org/2001/XMLSchema-instance',
          '@xsi:type': 'CanonicalUser',
          ...owner,
        },
        Permission: 'FULL_CONTROL',
      },
    },
  };
}
