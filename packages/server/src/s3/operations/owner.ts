/** The owner of everything here: S3 wants one named in listings and ACLs. */
import type { S3Call } from '../call.ts';
import type { XmlElement } from '../xml.ts';

export function ownerElement({ context }: S3Call): XmlElement {
  return { ID: context.ownerId, DisplayName: 'ebb' };
}
