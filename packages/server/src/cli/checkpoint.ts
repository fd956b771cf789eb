import { Command } from '@commander-js/extra-typings';
import { createDiff } from './checkpoint/diff.ts';
import { createExport } from './checkpoint/export.ts';
import { createImport } from './checkpoint/import.ts';
import { createLatest, createList, createShow } from './checkpoint/list.ts';
import {
  createBad,
  createGood,
  createPin,
  createRemove,
  createUnpin,
  createWait,
} from './checkpoint/marks.ts';
import { createPolicy } from './checkpoint/policy.ts';
import { createRestore } from './checkpoint/restore.ts';
import { createVerify } from './checkpoint/verify.ts';
import type { AnyCommand } from './command.ts';
import { examples } from './options.ts';

export function create(): AnyCommand {
  return new Command('checkpoint')
    .addCommand(createList())
    .addCommand(createShow())
    .addCommand(createLatest())
    .addCommand(createRestore())
    .addCommand(createExport())
    .addCommand(createPin())
    .addCommand(createUnpin())
    .addCommand(createBad())
    .addCommand(createGood())
    .addCommand(createRemove())
    .addCommand(createVerify())
    .addCommand(createDiff())
    .addCommand(createWait())
    .addCommand(createImport())
    .addCommand(createPolicy())
    .addHelpText(
      'after',
      `${examples('ebb checkpoint ls', 'ebb checkpoint show gpt', 'ebb checkpoint export gpt --to gpt.safetensors')}

A run is one training job's checkpoints, a snapshot one of them, at a step: docs/checkpoints.md.`,
    ) as AnyCommand;
}
