/** The structures of libvirt's src/remote/remote_protocol.x and src/rpc/virnetprotocol.x that the calls here carry. */
import {
  chars,
  type Codec,
  double,
  flag,
  hyper,
  int,
  list,
  type Of,
  opaque,
  optional,
  quantity,
  struct,
  text,
  uint,
  XdrError,
  type XdrReader,
  type XdrWriter,
} from "./xdr.ts";

/** REMOTE_STRING_MAX. */
export const string = text(4_194_304);
export const maybeString = optional(string);
/** REMOTE_DOMAIN_LIST_MAX, REMOTE_NETWORK_LIST_MAX, REMOTE_STORAGE_POOL_LIST_MAX, REMOTE_STORAGE_VOL_LIST_MAX. */
export const LIST_MAX = 16_384;

const UUID_BYTES = 16;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const bytes16 = opaque(UUID_BYTES);

/** Sixteen bytes, as people write them: `6695eb01-f6a4-8304-79aa-97f2502e193f`. */
export const uuid: Codec<string> = {
  write(writer: XdrWriter, value: string) {
    const lower = value.toLowerCase();
    if (!UUID.test(lower)) throw new XdrError(`${JSON.stringify(value)} is not a UUID`);
    bytes16.write(writer, Buffer.from(lower.replaceAll("-", ""), "hex"));
  },
  read(reader: XdrReader): string {
    return bytes16
      .read(reader)
      .toString("hex")
      .replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  },
};

/** A domain as libvirt names it. `id` is -1 while it does not run; calls find it by its UUID. */
export const domain = struct({ name: string, uuid, id: int });
export type Domain = Of<typeof domain>;
export const network = struct({ name: string, uuid });
export type Network = Of<typeof network>;
export const pool = struct({ name: string, uuid });
export type Pool = Of<typeof pool>;
/** `key` is unique on the host: for files the path. */
export const volume = struct({ pool: string, name: string, key: string });
export type Volume = Of<typeof volume>;

export const errorShape = struct({
  code: int,
  domain: int,
  message: maybeString,
  level: int,
  dom: optional(domain),
  str1: maybeString,
  str2: maybeString,
  str3: maybeString,
  int1: int,
  int2: int,
  net: optional(network),
});

/** A hole in a stream; length in bytes. */
export const hole = struct({ length: hyper, flags: uint });

/** Numbers of 64 bits are exact up to 2^53 and rounded above. */
export type ParamValue = number | string | boolean;

/** virTypedParameterType: INT, UINT, LLONG, ULLONG, DOUBLE, BOOLEAN, STRING. */
const paramValue: Codec<{ readonly type: number; readonly value: ParamValue }> = {
  write(writer, { type, value }) {
    writer.int(type);
    if (type === 7 && typeof value === "string") string.write(writer, value);
    else if (type === 6 && typeof value === "boolean") flag.write(writer, value);
    else if (typeof value !== "number")
      throw new XdrError(`${typeof value} is not what a parameter of type ${type} holds`);
    else if (type === 1) int.write(writer, value);
    else if (type === 2) uint.write(writer, value);
    else if (type === 3 && Number.isSafeInteger(value)) hyper.write(writer, BigInt(value));
    else if (type === 4) quantity.write(writer, value);
    else if (type === 5) double.write(writer, value);
    else throw new XdrError(`${value} does not fit a parameter of type ${type}`);
  },
  read(reader) {
    const type = reader.int();
    switch (type) {
      case 1:
        return { type, value: int.read(reader) };
      case 2:
        return { type, value: uint.read(reader) };
      case 3:
        return { type, value: Number(hyper.read(reader)) };
      case 4:
        return { type, value: quantity.read(reader) };
      case 5:
        return { type, value: double.read(reader) };
      case 6:
        return { type, value: flag.read(reader) };
      case 7:
        return { type, value: string.read(reader) };
      default:
        throw new XdrError(`a parameter of the unknown type ${type}`);
    }
  },
};

export const typedParam = struct({ field: string, value: paramValue });
/** REMOTE_CONNECT_GET_ALL_DOMAIN_STATS_MAX. */
export const statsRecord = struct({ domain, params: list(typedParam, 262_144) });

/** virNodeInfo: memory in KiB, mhz 0 where unknown. */
export const nodeInfo = struct({
  model: chars(32),
  memory: quantity,
  cpus: int,
  mhz: int,
  nodes: int,
  sockets: int,
  cores: int,
  threads: int,
});
export const namedValue = struct({ field: string, value: quantity });

export const dhcpLease = struct({
  iface: string,
  /** Seconds since 1970; 0: never. */
  expires: hyper,
  /** 0: IPv4, 1: IPv6. */
  type: int,
  mac: maybeString,
  iaid: maybeString,
  address: string,
  prefix: uint,
  hostname: maybeString,
  clientId: maybeString,
});

export const interfaceAddresses = struct({
  name: string,
  mac: maybeString,
  addresses: list(struct({ type: int, address: string, prefix: uint }), 2048),
});
