import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type DeltaBase, type DeltaPlan, planDelta } from './delta-plan.ts';
import { Digests, digestOf } from './digest.ts';

const BLOCK = 4;

function digestsOf(image: Uint8Array): Digests {
  const blocks: Buffer[] = [];
  for (let at = 0; at < image.length; at += BLOCK)
    blocks.push(digestOf(image.subarray(at, at + BLOCK)));
  return new Digests(Buffer.concat(blocks));
}

/** Data objects as they would be stored, and each snapshot read back from them alone. */
class Stored {
  readonly objects = new Map<string, Buffer>();

  add(
    image: Uint8Array,
    key: string,
    base: DeltaBase | undefined,
  ): DeltaPlan & { base: DeltaBase } {
    const digests = digestsOf(image);
    const plan = planDelta({ imageBytes: image.length, digests, blockBytes: BLOCK }, key, base);
    const bytes = plan.pieces.map(({ offset, length }) => image.subarray(offset, offset + length));
    if (plan.newBytes > 0) this.objects.set(key, Buffer.concat(bytes));
    const named = new Set(plan.runs.map(([, , of]) => of));
    const objectBytes = new Map([...named].map((of) => [of, this.objects.get(of)?.length ?? 0]));
    return { ...plan, base: { imageBytes: image.length, digests, runs: plan.runs, objectBytes } };
  }

  read({ runs }: DeltaPlan): Buffer {
    let at = 0;
    const pieces = runs.map(([offset, length, key, from]) => {
      expect(offset).toBe(at);
      at += length;
      const piece = this.objects.get(key)?.subarray(from, from + length);
      expect(piece?.length).toBe(length);
      return piece as Buffer;
    });
    return Buffer.concat(pieces);
  }
}

const anyImage = fc.uint8Array({ minLength: 1, maxLength: 60, max: 3 });

test('whatever changes from snapshot to snapshot, each is read back from data objects whole', () => {
  fc.assert(
    fc.property(fc.array(anyImage, { minLength: 1, maxLength: 12 }), (images) => {
      const stored = new Stored();
      let base: DeltaBase | undefined;
      const plans = images.map((image, step) => {
        const plan = stored.add(image, `step-${step}`, base);
        base = plan.base;
        return plan;
      });
      plans.forEach((plan, step) => {
        expect(stored.read(plan).equals(images[step] as Uint8Array)).toBe(true);
      });
    }),
  );
});

test('only blocks that changed are stored, and one that comes twice is stored once', () => {
  const image = Buffer.alloc(40 * BLOCK);
  for (let n = 0; n < 40; n++) image.writeUInt32LE(n, n * BLOCK);
  const stored = new Stored();
  const { base } = stored.add(image, 'first', undefined);
  image.writeUInt32LE(1000, 7 * BLOCK);
  image.writeUInt32LE(1000, 30 * BLOCK);
  const second = stored.add(image, 'second', base);
  expect(second.newBytes).toBe(BLOCK);
  expect(second.pieces).toEqual([{ offset: 7 * BLOCK, length: BLOCK }]);
  expect(stored.read(second).equals(image)).toBe(true);
});

test('a tail of the same bytes as a whole block, but shorter, is not taken for it', () => {
  const stored = new Stored();
  const { base } = stored.add(Buffer.from('abcdab'), 'first', undefined);
  const second = stored.add(Buffer.from('ababab'), 'second', base);
  expect(stored.read(second).toString()).toBe('ababab');
});

test('with a tenth changing in each snapshot, twelve hundredths are stored, and old objects go in the end', () => {
  const blocks = 1000;
  const image = Buffer.alloc(blocks * BLOCK);
  for (let n = 0; n < blocks; n++) image.writeUInt32LE(n, n * BLOCK);
  const stored = new Stored();
  let { base } = stored.add(image, 'step-0', undefined);
  let next = 1 << 20;
  for (let step = 1; step <= 120; step++) {
    // Ever others, at places that a fixed sequence picks.
    for (let n = 0; n < blocks / 10; n++)
      image.writeUInt32LE(next++, ((step * 7919 + n * 613) % blocks) * BLOCK);
    const plan = stored.add(image, `step-${step}`, base);
    expect(plan.newBytes).toBeLessThanOrEqual(0.12 * image.length);
    expect(stored.read(plan).equals(image)).toBe(true);
    base = plan.base;
  }
  const held = base.objectBytes.values().reduce((sum, bytes) => sum + bytes, 0);
  expect(held).toBeLessThan(3.5 * image.length);
  expect(base.objectBytes.has('step-0')).toBe(false);
});
