/**
 * Events: what happened to objects, as JSON of the control surface. `GET /v1/events` sends them as server-sent events: `id`
 * is the event's id, `event` its type, `data` this JSON. A stream that ends says why in a last event named STREAM_END.
 */
import { z } from 'zod';
import { ackSchema, tierNameSchema } from './control.ts';

export const EVENT_TYPES = ['created', 'updated', 'deleted', 'tier'] as const;
export type EventType = (typeof EVENT_TYPES)[number];

/** Name of the last event of a stream; its data is an error body. */
export const STREAM_END = 'end';

export const objectEventSchema = z.object({
  id: z.number().describe('grows with time, is given once, and has gaps'),
  type: z
    .enum(EVENT_TYPES)
    .describe(
      'created; updated: a version replaced another; deleted; tier: bytes came to or left a tier, or durability changed',
    ),
  atMs: z.number(),
  bucket: z.string(),
  key: z.string(),
  version: z.number(),
  sizeBytes: z.number(),
  durability: ackSchema
    .nullable()
    .optional()
    .describe('of `tier`: what holds now; null when bytes are in no tier'),
  tiers: z
    .array(tierNameSchema)
    .optional()
    .describe('of `tier`: where copies of all its bytes lie now, nearest first'),
});
export type ObjectEvent = z.infer<typeof objectEventSchema>;
