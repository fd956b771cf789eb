/**
 * Tensors that have no shard of their own in a part's table: tied ones, which are another name for a shard, and those that
 * lie on others. The tree of the state names them (docs/checkpoint-format.md), or a shard of torch.distributed.checkpoint.
 * Pure.
 */
import type { Shard } from '@ebb/protocol';

/** The shard with the tree that a `Checkpointer` writes. */
export const TREE = '';
/** The shard of torch.distributed.checkpoint's metadata with names of tied tensors of all parts, as a tree. */
export const TIED = '#tied';

export interface OtherNames {
  /** Names as if each had a shard. */
  readonly shards: readonly Shard[];
  readonly leftOut: readonly { readonly name: string; readonly why: string }[];
}

type View = readonly [
  of: string,
  offset: number,
  dtype: string,
  shape: readonly number[],
  strides: readonly number[],
];

/** `text` is what one of the two shards holds. Of what is no tree there are none. */
export function otherNames(text: string, shards: readonly Shard[]): OtherNames {
  const body = parse(text);
  const [views, root] =
    Array.isArray(body) && body[0] === 'views'
      ? [body[1] as Readonly<Record<string, View>>, body[2]]
      : [{}, body];
  const found: Shard[] = [];
  const leftOut: { name: string; why: string }[] = [];
  const known = new Set(shards.map(({ name }) => name));
  for (const [name, of] of namedLeaves(root)) {
    if (known.has(name)) continue;
    known.add(name);
    const view = Object.hasOwn(views, of) ? views[of] : undefined;
    if (view === undefined) {
      found.push(
        ...shards.filter((shard) => shard.name === of).map((shard) => ({ ...shard, name })),
      );
      continue;
    }
    const base = shards.find((shard) => shard.name === view[0]);
    const shard = base && shardOf(name, view, base);
    if (shard === undefined)
      leftOut.push({
        name,
        why: `it lies in ${view[0]} with gaps, in another order, or again and again`,
      });
    else found.push(shard);
  }
  return { shards: found, leftOut };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The view as a shard, if its elements lie row by row in the other one. */
function shardOf(
  name: string,
  [, offset, written, shape, strides]: View,
  base: Shard,
): Shard | undefined {
  const dtype = DTYPES.get(written);
  if (dtype === undefined) return undefined;
  let step = dtype.itemBytes;
  for (let d = shape.length - 1; d >= 0; d--) {
    if (shape[d] !== 1 && strides[d] !== step) return undefined;
    step *= shape[d] as number;
  }
  return { name, offset: base.offset + offset, length: step, dtype: dtype.name, shape: [...shape] };
}

const ITEM_BYTES = {
  ...{ bool: 1, uint8: 1, int8: 1, uint16: 2, int16: 2, uint32: 4, int32: 4, uint64: 8, int64: 8 },
  ...{ float16: 2, bfloat16: 2, float32: 4, float64: 8, complex64: 8, complex128: 16 },
  ...{ float8_e4m3fn: 1, float8_e5m2: 1, float8_e4m3fnuz: 1, float8_e5m2fnuz: 1 },
} as const;
type Dtype = keyof typeof ITEM_BYTES;

const LETTERS: Readonly<Record<string, string>> = {
  b: 'int',
  u: 'uint',
  i: 'int',
  f: 'float',
  c: 'complex',
};

/** By both ways in which a view writes them: PyTorch's, and NumPy's of this byte order (`<f4`). */
const DTYPES: ReadonlyMap<string, { readonly name: Dtype; readonly itemBytes: number }> = new Map(
  Object.entries(ITEM_BYTES).flatMap(([name, itemBytes]) => {
    const dtype = { name: name as Dtype, itemBytes };
    const letter = Object.entries(LETTERS).find(
      ([at, long]) => at !== 'b' && name === `${long}${itemBytes * 8}`,
    )?.[0];
    const numpy = name === 'bool' ? 'b1' : letter && `${letter}${itemBytes}`;
    const order = itemBytes === 1 ? '|' : '<';
    return [
      [name, dtype] as const,
      ...(numpy === undefined ? [] : [[order + numpy, dtype] as const]),
    ];
  }),
);

/** Every array of a tree: the name of its place, and the name that it has. */
function* namedLeaves(root: unknown): Generator<[place: string, name: string]> {
  const shared = new Map<unknown, unknown>();
  const left: [path: readonly string[], node: unknown][] = [[[], root]];
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    const [path, node] = next;
    if (typeof node === 'object' && node !== null && !Array.isArray(node)) {
      left.push(...children(path, Object.entries(node)));
      continue;
    }
    if (!Array.isArray(node)) continue;
    const [tag, body, more] = node as unknown[];
    if (tag === 'array' && typeof body === 'string') yield [path.join('.') || 'value', body];
    else if (tag === 'shared') {
      shared.set(body, more);
      left.push([path, more]);
    } else if (tag === 'again' && shared.has(body)) left.push([path, shared.get(body)]);
    else if (['list', 'tuple', 'deque'].includes(String(tag)) && Array.isArray(body))
      left.push(
        ...children(
          path,
          [...body.entries()].map(([n, one]) => [String(n), one]),
        ),
      );
    else if (
      ['dict', 'ordered', 'defaultdict', 'counter'].includes(String(tag)) &&
      Array.isArray(body)
    )
      left.push(
        ...children(
          path,
          body.map(([key, one]) => [textOf(key), one]),
        ),
      );
  }
}

/** The first comes off the stack first. */
function children(
  path: readonly string[],
  entries: readonly (readonly [string, unknown])[],
): [string[], unknown][] {
  return entries.map(([key, one]): [string[], unknown] => [[...path, key], one]).reverse();
}

/** A key as Python writes it. */
function textOf(key: unknown): string {
  if (key === null) return 'None';
  if (typeof key === 'boolean') return key ? 'True' : 'False';
  return typeof key === 'object' ? JSON.stringify(key) : String(key);
}
