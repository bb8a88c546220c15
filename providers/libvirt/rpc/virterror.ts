import { type Address, LabError } from "../../../src/index.ts";
import { errorShape } from "./shapes.ts";
import { decode } from "./xdr.ts";

/** virErrorNumber (include/libvirt/virterror.h of libvirt 9.0), without its prefix VIR_ERR_. */
export const VirErr = {
  INTERNAL_ERROR: 1,
  NO_MEMORY: 2,
  NO_SUPPORT: 3,
  UNKNOWN_HOST: 4,
  NO_CONNECT: 5,
  INVALID_CONN: 6,
  INVALID_DOMAIN: 7,
  INVALID_ARG: 8,
  OPERATION_FAILED: 9,
  GET_FAILED: 10,
  POST_FAILED: 11,
  HTTP_ERROR: 12,
  SEXPR_SERIAL: 13,
  NO_XEN: 14,
  XEN_CALL: 15,
  OS_TYPE: 16,
  NO_KERNEL: 17,
  NO_ROOT: 18,
  NO_SOURCE: 19,
  NO_TARGET: 20,
  NO_NAME: 21,
  NO_OS: 22,
  NO_DEVICE: 23,
  NO_XENSTORE: 24,
  DRIVER_FULL: 25,
  CALL_FAILED: 26,
  XML_ERROR: 27,
  DOM_EXIST: 28,
  OPERATION_DENIED: 29,
  OPEN_FAILED: 30,
  READ_FAILED: 31,
  PARSE_FAILED: 32,
  CONF_SYNTAX: 33,
  WRITE_FAILED: 34,
  XML_DETAIL: 35,
  INVALID_NETWORK: 36,
  NETWORK_EXIST: 37,
  SYSTEM_ERROR: 38,
  RPC: 39,
  GNUTLS_ERROR: 40,
  NO_DOMAIN: 42,
  NO_NETWORK: 43,
  INVALID_MAC: 44,
  AUTH_FAILED: 45,
  INVALID_STORAGE_POOL: 46,
  INVALID_STORAGE_VOL: 47,
  NO_STORAGE_POOL: 49,
  NO_STORAGE_VOL: 50,
  INVALID_NODE_DEVICE: 52,
  NO_NODE_DEVICE: 53,
  NO_SECURITY_MODEL: 54,
  OPERATION_INVALID: 55,
  NO_INTERFACE: 57,
  INVALID_INTERFACE: 58,
  MULTIPLE_INTERFACES: 59,
  INVALID_NWFILTER: 61,
  NO_NWFILTER: 62,
  BUILD_FIREWALL: 63,
  INVALID_SECRET: 65,
  NO_SECRET: 66,
  CONFIG_UNSUPPORTED: 67,
  OPERATION_TIMEOUT: 68,
  MIGRATE_PERSIST_FAILED: 69,
  HOOK_SCRIPT_FAILED: 70,
  INVALID_DOMAIN_SNAPSHOT: 71,
  NO_DOMAIN_SNAPSHOT: 72,
  INVALID_STREAM: 73,
  ARGUMENT_UNSUPPORTED: 74,
  STORAGE_PROBE_FAILED: 75,
  STORAGE_POOL_BUILT: 76,
  SNAPSHOT_REVERT_RISKY: 77,
  OPERATION_ABORTED: 78,
  AUTH_CANCELLED: 79,
  NO_DOMAIN_METADATA: 80,
  MIGRATE_UNSAFE: 81,
  OVERFLOW: 82,
  BLOCK_COPY_ACTIVE: 83,
  OPERATION_UNSUPPORTED: 84,
  SSH: 85,
  AGENT_UNRESPONSIVE: 86,
  RESOURCE_BUSY: 87,
  ACCESS_DENIED: 88,
  DBUS_SERVICE: 89,
  STORAGE_VOL_EXIST: 90,
  CPU_INCOMPATIBLE: 91,
  XML_INVALID_SCHEMA: 92,
  MIGRATE_FINISH_OK: 93,
  AUTH_UNAVAILABLE: 94,
  NO_SERVER: 95,
  NO_CLIENT: 96,
  AGENT_UNSYNCED: 97,
  LIBSSH: 98,
  DEVICE_MISSING: 99,
  INVALID_NWFILTER_BINDING: 100,
  NO_NWFILTER_BINDING: 101,
  INVALID_DOMAIN_CHECKPOINT: 102,
  NO_DOMAIN_CHECKPOINT: 103,
  NO_DOMAIN_BACKUP: 104,
  INVALID_NETWORK_PORT: 105,
  NETWORK_PORT_EXIST: 106,
  NO_NETWORK_PORT: 107,
  NO_HOSTNAME: 108,
  CHECKPOINT_INCONSISTENT: 109,
  MULTIPLE_DOMAINS: 110,
} as const;

const NAMES: ReadonlyMap<number, string> = new Map(Object.entries(VirErr).map(([name, code]) => [code, name]));
/** virErrorDomain: the part of libvirt that spoke "unknown procedure" (VIR_FROM_REMOTE is its client; servers say VIR_FROM_RPC). */
const FROM_RPC = 7;

/** What libvirt itself said; the cause of a LabError with the code E_LIBVIRT. */
export class LibvirtFault extends Error {
  /** virErrorNumber, see {@link VirErr}. */
  readonly code: number;
  /** virErrorDomain: which part of libvirt. */
  readonly domain: number;
  /** 1: warning, 2: error. */
  readonly level: number;

  constructor(message: string, code: number, domain: number, level: number) {
    super(message);
    this.name = "LibvirtFault";
    this.code = code;
    this.domain = domain;
    this.level = level;
  }
}

/** What libvirt said, where that is why this failed. */
export function libvirtFault(error: unknown): LibvirtFault | undefined {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 8; at = at.cause, depth++) {
    if (at instanceof LibvirtFault) return at;
  }
  return undefined;
}

/** True where libvirt refused or failed; with codes: for one of these reasons. `isLibvirtError(error, VirErr.NO_DOMAIN)`. */
export function isLibvirtError(error: unknown, ...codes: readonly number[]): boolean {
  const fault = libvirtFault(error);
  return fault !== undefined && (codes.length === 0 || codes.includes(fault.code));
}

const HINTS: Readonly<Record<number, string>> = {
  [VirErr.AUTH_FAILED]: "allow the user to manage libvirt there (group libvirt, or a polkit rule), or set `become:`",
  [VirErr.AUTH_CANCELLED]: "nobody can answer polkit's question: put the user into the group libvirt, or set `become:`",
  [VirErr.AUTH_UNAVAILABLE]: "polkit does not run there: put the user into the group libvirt, or set `become:`",
  [VirErr.ACCESS_DENIED]: "libvirt's access control there forbids it to this user",
  [VirErr.OPERATION_DENIED]: "the connection may only read: use the socket without -ro",
  [VirErr.NO_SUPPORT]: "libvirt there does not know how: it needs a newer version, or another driver",
  [VirErr.RESOURCE_BUSY]: "something else works on it at the moment; run again",
};
/** Hints for what libvirt has no number for: QEMU's own words. */
const SAID: readonly (readonly [RegExp, string])[] = [
  [
    /unable to map backing store for guest RAM/,
    "the host has fewer huge pages free than its memory needs: set more aside there (`sysctl vm.nr_hugepages=N`; /proc/meminfo counts them), give it less memory, or leave `hugepages` out",
  ],
];
const RETRYABLE: ReadonlySet<number> = new Set([VirErr.RESOURCE_BUSY, VirErr.OPERATION_TIMEOUT]);

/** The error of a reply or a stream as libvirt sent it. `where`: `libvirt on host.a`. */
export function remoteError(payload: Buffer, where: string, address: Address): LabError {
  // An aborted stream may come without words.
  const sent = payload.length === 0 ? undefined : decode(errorShape, payload);
  const unknown =
    sent?.domain === FROM_RPC && sent.code === VirErr.RPC && (sent.message ?? "").startsWith("unknown procedure");
  const code = unknown ? VirErr.NO_SUPPORT : (sent?.code ?? VirErr.OPERATION_ABORTED);
  const message = sent?.message ?? "the operation was aborted";
  const name = NAMES.get(code);
  const hint = HINTS[code] ?? SAID.find(([words]) => words.test(message))?.[1];
  return new LabError(
    "E_LIBVIRT",
    `${where}: ${message} (${name === undefined ? `libvirt's error ${code}` : `VIR_ERR_${name}, ${code}`})`,
    {
      address,
      retryable: RETRYABLE.has(code),
      cause: new LibvirtFault(message, code, sent?.domain ?? 0, sent?.level ?? 2),
      ...(hint !== undefined && { hint }),
    },
  );
}
