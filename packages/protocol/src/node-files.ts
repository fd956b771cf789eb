/**
 * How a client and a node that may be strangers to each other come to share files.
 *
 * I1  A client believes a directory only when a file named after a secret that the client chose appears in it. A node on
 *     another host cannot make one here, whatever it knows of this host's files.
 * I2  A node makes such a file only for a challenge of the right form: no client chooses where it lies.
 * I3  A client opens only paths of the form that nodes give to blobs, follows no link, and uses a file only when it is a
 *     plain file of the owner of the proof.
 */

/** 128 random bits. */
const CHALLENGE = /^[0-9a-f]{32}$/;
/** The low byte of a blob's id, then the id. */
const BLOB_PATH = /^b\/[0-9a-f]{2}\/[0-9a-f]{1,16}$/;
/** Persisted for as long as a client may look for it: names of this form are removed when a node starts. */
const PROOF_PREFIX = '.ebb-here-';

export function isChallenge(text: string): boolean {
  return CHALLENGE.test(text);
}

/** Name of the file that answers a challenge, the same in both directories of a node. */
export function proofName(challenge: string): string {
  return `${PROOF_PREFIX}${challenge}`;
}

export function isProofName(name: string): boolean {
  return name.startsWith(PROOF_PREFIX) && isChallenge(name.slice(PROOF_PREFIX.length));
}

/** Whether a node may call a file of a tier so, relative to the tier's directory. */
export function isNodeFilePath(path: string): boolean {
  return BLOB_PATH.test(path);
}
