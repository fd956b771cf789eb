/** Frames about the connection itself and about jobs. */
import { messages, OPS, PROTOCOL_VERSION, StoreError } from '@ebb/protocol';
import { EMPTY, type Handler } from './call.ts';

const hello: Handler = (context, payload) => {
  const { store, node } = context;
  // Only the number is at the same place in every version.
  const version = payload.length >= 2 ? payload.readUInt16LE(0) : 0;
  if (version !== PROTOCOL_VERSION)
    throw new StoreError(
      'version_unsupported',
      `protocol version ${version}; this node speaks ${PROTOCOL_VERSION}`,
      {
        offered: version,
        supported: PROTOCOL_VERSION,
      },
    );
  const { jobId } = messages.hello.request.decode(payload);
  context.jobId = jobId;
  const location = (tier: 0 | 1): string =>
    store.tiers().find((status) => status.tier === tier)?.location ?? '';
  return messages.hello.response.encode({
    protocolVersion: PROTOCOL_VERSION,
    nodeId: store.nodeId,
    instanceId: node.instanceId,
    memoryDir: location(0),
    diskDir: location(1),
    probeName: '',
    probeNonce: '',
  });
};

const ping: Handler = (_, payload) => {
  messages.empty.decode(payload);
  return EMPTY;
};

const proveHost: Handler = async (context, payload) => {
  await context.hostProofs.prove(messages.proveHost.request.decode(payload).challenge);
  context.mayShareHost = true;
  return EMPTY;
};

const jobOpen: Handler = async ({ store, node }, payload) => {
  const { jobId, token, heartbeatTtlMs, label } = messages.jobOpen.request.decode(payload);
  const ttlMs = heartbeatTtlMs === 0 ? node.jobHeartbeatTtlMs : heartbeatTtlMs;
  if (ttlMs < 1000)
    throw new StoreError(
      'request_invalid',
      `a job lives at least 1000 ms without a heartbeat, not ${ttlMs}`,
    );
  await store.openJob({ jobId, token, label, heartbeatTtlMs: ttlMs, budgetBytes: null });
  return EMPTY;
};

const jobHeartbeat: Handler = ({ store }, payload) => {
  const { jobId, token } = messages.jobHeartbeat.request.decode(payload);
  store.heartbeat(jobId, token);
  return EMPTY;
};

const jobEnd: Handler = async ({ store }, payload) => {
  const { jobId, token } = messages.jobEnd.request.decode(payload);
  return messages.jobEnd.response.encode(await store.endJob(jobId, token));
};

export const JOB_CALLS: readonly (readonly [op: number, handler: Handler])[] = [
  [OPS.hello, hello],
  [OPS.ping, ping],
  [OPS.proveHost, proveHost],
  [OPS.jobOpen, jobOpen],
  [OPS.jobHeartbeat, jobHeartbeat],
  [OPS.jobEnd, jobEnd],
];
