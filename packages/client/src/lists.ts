/** Answers that hold a list under one name. */
import type { Parser } from './http-client.ts';

/** Parses `{ [name]: T[] }` to `T[]`. */
export function listOf<T>(name: string, item: Parser<T>): Parser<T[]> {
  return {
    safeParse(value) {
      const items = (value as Record<string, unknown> | null)?.[name];
      if (!Array.isArray(items)) return { success: false, error: new Error(`no list "${name}"`) };
      const parsed: T[] = [];
      for (const found of items) {
        const result = item.safeParse(found);
        if (!result.success) return result;
        parsed.push(result.data);
      }
      return { success: true, data: parsed };
    },
  };
}
