import type { Address, Row } from "../../src/model/index.ts";
import type { LockRequest } from "../../src/state/index.ts";

export function makeRow(address: Address, fields: Partial<Row> = {}): Row {
  return {
    address,
    kind: "host",
    version: 0,
    instance_id: `id-of-${address}`,
    desired: { name: address },
    observed: { name: address },
    original: null,
    depends: [],
    options: {},
    secrets: {},
    status: "ok",
    updated_at: "2026-01-01T00:00:00.000Z",
    updated_by: "test",
    ...fields,
  };
}

export function lockRequest(fields: Partial<LockRequest> = {}): LockRequest {
  return { holder: "tester", purpose: "test", timeout: 0, ...fields };
}
