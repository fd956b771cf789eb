/**
 * Ratios between arms, from rounds in which every arm ran the same query one after the other.
 *
 * A ratio is taken inside each round, and the median over rounds is shown: a machine that was slow for a minute then weighs on both
 * sides. CPU is that of Spark plus the service; what a service burns is time that Spark's two cores do not have.
 */
import { BACK_ENDS, type BackEnd } from './back-ends.ts';
import type { Run } from './measure.ts';
import type { Mode } from './modes.ts';

export interface Line {
  mode: Mode;
  /** A query, or `all`: sums over the queries of a round. */
  query: string;
  backend: BackEnd;
  rounds: number;
  wallSeconds: number;
  cpuSeconds: number;
  serviceCpuSeconds: number;
  shuffleBytes: number;
  resultEqual: boolean;
  /** This arm's figure by the baseline's, per round; medians. `undefined` where no round has both. */
  wallRatio: number | undefined;
  cpuRatio: number | undefined;
}

export const ALL_QUERIES = 'all';

/** One line per mode, query and arm, in the order in which they first ran, and an `all` line where there are several queries. */
export function summarise(runs: readonly Run[], baseline: BackEnd): Line[] {
  const lines: Line[] = [];
  for (const ofMode of groupBy(runs, (run) => run.mode).values()) {
    const byQuery = groupBy(ofMode, (run) => run.query);
    for (const ofQuery of byQuery.values()) lines.push(...compareArms(ofQuery, baseline));
    if (byQuery.size > 1) lines.push(...compareArms(sumRounds(ofMode, byQuery.size), baseline));
  }
  return lines;
}

export interface RatioPair {
  mode: Mode;
  backend: BackEnd;
  baseline: BackEnd;
  wallRatio: number;
  cpuRatio: number;
}

/** Every arm by every other, over all queries: by vanilla alone one cannot see what a setting would have given. */
export function pairRatios(runs: readonly Run[]): RatioPair[] {
  const backends = [...new Set(runs.map((run) => run.backend))];
  const pairs = backends.flatMap((baseline) => {
    const lines = summarise(runs, baseline);
    const isTotal = (line: Line): boolean =>
      line.query === ALL_QUERIES ||
      !lines.some((other) => other.mode === line.mode && other.query === ALL_QUERIES);
    return lines
      .filter((line) => line.backend !== baseline && isTotal(line))
      .map((line) => ({ ...line, baseline }));
  });
  return pairs.flatMap(({ mode, backend, baseline, wallRatio, cpuRatio }) =>
    wallRatio === undefined || cpuRatio === undefined
      ? []
      : [{ mode, backend, baseline, wallRatio, cpuRatio }],
  );
}

export function median(values: readonly number[]): number | undefined {
  const sorted = values.toSorted((left, right) => left - right);
  const middle = sorted.length / 2;
  if (sorted.length === 0) return undefined;
  if (sorted.length % 2 === 1) return sorted[Math.floor(middle)];
  return ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

function compareArms(runs: readonly Run[], baseline: BackEnd): Line[] {
  const byArm = groupBy(runs, (run) => run.backend);
  const base = new Map((byArm.get(baseline) ?? []).map((run) => [run.round, run]));
  // Rounds begin with one arm or another; the lines always come in the same order.
  const arms = BACK_ENDS.flatMap((backend) => [byArm.get(backend) ?? []]).filter(
    (arm) => arm.length > 0,
  );
  return arms.map((ofArm) => {
    const first = ofArm[0] as Run;
    const ratioOf = (pick: (run: Run) => number): number | undefined =>
      median(
        ofArm.flatMap((run) => {
          const other = base.get(run.round);
          return other === undefined ? [] : [pick(run) / pick(other)];
        }),
      );
    const medianOf = (pick: (run: Run) => number): number => median(ofArm.map(pick)) as number;
    return {
      mode: first.mode,
      query: first.query,
      backend: first.backend,
      rounds: ofArm.length,
      wallSeconds: medianOf((run) => run.wallSeconds),
      cpuSeconds: medianOf(totalCpu),
      serviceCpuSeconds: medianOf((run) => run.serviceCpuSeconds),
      shuffleBytes: medianOf((run) => run.shuffleBytes),
      resultEqual: ofArm.every((run) => run.resultEqual),
      wallRatio: ratioOf((run) => run.wallSeconds),
      cpuRatio: ratioOf(totalCpu),
    };
  });
}

function totalCpu(run: Run): number {
  return run.cpuSeconds + run.serviceCpuSeconds;
}

/** One made-up run per arm and round: the sums over all queries. A round that lacks a query is left out. */
function sumRounds(runs: readonly Run[], queries: number): Run[] {
  const groups = groupBy(runs, (run) => `${run.backend} ${run.round}`);
  return [...groups.values()]
    .filter((group) => group.length === queries)
    .map((group) => {
      const sum = (pick: (run: Run) => number): number =>
        group.reduce((total, run) => total + pick(run), 0);
      return {
        ...(group[0] as Run),
        query: ALL_QUERIES,
        wallSeconds: sum((run) => run.wallSeconds),
        cpuSeconds: sum((run) => run.cpuSeconds),
        serviceCpuSeconds: sum((run) => run.serviceCpuSeconds),
        shuffleBytes: sum((run) => run.shuffleBytes),
        resultEqual: group.every((run) => run.resultEqual),
      };
    });
}

function groupBy<K>(runs: readonly Run[], key: (run: Run) => K): Map<K, Run[]> {
  return Map.groupBy(runs, key);
}
