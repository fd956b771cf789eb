/** How a program's keys and values become bytes, and come back. */
export interface Serializer<T> {
  encode(value: T): Uint8Array;
  /** `bytes` may be kept. */
  decode(bytes: Buffer): T;
}

/** Bytes as they are. */
export const bytesSerializer: Serializer<Uint8Array> = {
  encode: (value) => value,
  decode: (bytes) => bytes,
};

export const stringSerializer: Serializer<string> = {
  encode: (value) => Buffer.from(value),
  decode: (bytes) => bytes.toString(),
};

/** Any value that JSON carries. */
export function createJsonSerializer<T>(): Serializer<T> {
  return {
    encode: (value) => Buffer.from(JSON.stringify(value)),
    decode: (bytes) => JSON.parse(bytes.toString()) as T,
  };
}
