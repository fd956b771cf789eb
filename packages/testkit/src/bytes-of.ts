/** Bytes that differ for every seed and never repeat at a block's distance. */
export function bytesOf(sizeBytes: number, seed: number): Buffer {
  const bytes = Buffer.allocUnsafe(sizeBytes);
  let state = (seed * 2654435761 + 12345) >>> 0;
  const whole = sizeBytes - (sizeBytes % 4);
  for (let at = 0; at < whole; at += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes.writeUInt32LE(state, at);
  }
  bytes.fill(seed & 0xff, whole);
  return bytes;
}
