/** Header names of the HTTP surfaces, lower case. User metadata travels as `x-ebb-meta-<name>`. */
export const HEADERS = {
  /** Request: `memory | disk | remote`. */
  ack: 'x-ebb-ack',
  /** Response: what holds now, `memory | disk | remote`. */
  durability: 'x-ebb-durability',
  version: 'x-ebb-version',
  tier: 'x-ebb-tier',
  crc32c: 'x-ebb-crc32c',
  job: 'x-ebb-job',
  metaPrefix: 'x-ebb-meta-',
  errorCode: 'x-ebb-error-code',
  /** Response to an upgrade to frames: path of the node's Unix socket, for clients that can see it. */
  socket: 'x-ebb-socket',
} as const;
