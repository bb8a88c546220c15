/** Flags and numbers of libvirt's API (include/libvirt/*.h of libvirt 9.0), without their prefixes. Flags are joined with `|`. */

/** virDomainCreateFlags. */
export const DomainStart = { PAUSED: 1, AUTODESTROY: 2, BYPASS_CACHE: 4, FORCE_BOOT: 8, VALIDATE: 16, RESET_NVRAM: 32 };
/** virDomainDefineFlags. */
export const DomainDefine = { VALIDATE: 1 };
/** virDomainDestroyFlagsValues. GRACEFUL fails rather than kill a QEMU that does not answer a TERM. */
export const DomainDestroy = { GRACEFUL: 1, REMOVE_LOGS: 2 };
/** virDomainUndefineFlagsValues. */
export const DomainUndefine = {
  MANAGED_SAVE: 1,
  SNAPSHOTS_METADATA: 2,
  NVRAM: 4,
  KEEP_NVRAM: 8,
  CHECKPOINTS_METADATA: 16,
  TPM: 32,
  KEEP_TPM: 64,
};
/** virDomainXMLFlags. */
export const DomainXml = { SECURE: 1, INACTIVE: 2, UPDATE_CPU: 4, MIGRATABLE: 8 };
/** virDomainModificationImpact, and what the calls for memory, virtual CPUs and devices add. */
export const Affect = {
  CURRENT: 0,
  LIVE: 1,
  CONFIG: 2,
  MAXIMUM: 4,
  VCPU_GUEST: 8,
  VCPU_HOTPLUGGABLE: 16,
  DEVICE_FORCE: 4,
};
/** virDomainShutdownFlagValues and virDomainRebootFlagValues. */
export const DomainShutdown = { ACPI_POWER_BTN: 1, GUEST_AGENT: 2, INITCTL: 4, SIGNAL: 8, PARAVIRT: 16 };
/** virDomainMetadataType. */
export const MetadataType = { DESCRIPTION: 0, TITLE: 1, ELEMENT: 2 };
/** virDomainConsoleFlags. FORCE takes it from who has it; SAFE refuses where the host cannot lock it. */
export const DomainConsole = { FORCE: 1, SAFE: 2 };
/** virDomainStatsTypes; 0 is all that the host can give. */
export const DomainStats = {
  STATE: 1,
  CPU_TOTAL: 2,
  BALLOON: 4,
  VCPU: 8,
  INTERFACE: 16,
  BLOCK: 32,
  PERF: 64,
  IOTHREAD: 128,
  MEMORY: 256,
  DIRTYRATE: 512,
  VM: 1024,
};
/** virConnectListAllDomainsFlags; the first eight also for stats in bulk, which add NOWAIT (do not wait for a busy domain). */
export const DomainList = {
  ACTIVE: 1,
  INACTIVE: 2,
  PERSISTENT: 4,
  TRANSIENT: 8,
  RUNNING: 16,
  PAUSED: 32,
  SHUTOFF: 64,
  OTHER: 128,
  AUTOSTART: 1024,
  NO_AUTOSTART: 2048,
  STATS_NOWAIT: 2 ** 29,
  STATS_BACKING: 2 ** 30,
};
/** virDomainInterfaceAddressesSource. */
export const AddressSource = { LEASE: 0, AGENT: 1, ARP: 2 };
/** virNetworkUpdateCommand. */
export const NetworkUpdate = { MODIFY: 1, DELETE: 2, ADD_LAST: 3, ADD_FIRST: 4 };
/** virNetworkUpdateSection: those whose entries come and go. */
export const NetworkSection = { IP_DHCP_HOST: 4, DNS_HOST: 10 };
/** virStorageVolCreateFlags. */
export const VolumeCreate = { PREALLOC_METADATA: 1, REFLINK: 2, VALIDATE: 4 };
/** virStorageVolResizeFlags. */
export const VolumeResize = { ALLOCATE: 1, DELTA: 2, SHRINK: 4 };
/** virStorageVolUploadFlags, virStorageVolDownloadFlags. */
export const SPARSE_STREAM = 1;
/** virDomainBlockResizeFlags: the size is in bytes and not KiB. */
export const BLOCK_RESIZE_BYTES = 1;
/** virDomainEventID. */
export const EVENT_LIFECYCLE = 0;
export const EVENT_REBOOT = 1;

/** virDomainState by number. */
const DOMAIN_STATES = [
  "nostate",
  "running",
  "blocked",
  "paused",
  "shutdown",
  "shutoff",
  "crashed",
  "pmsuspended",
] as const;
export type DomainState = (typeof DOMAIN_STATES)[number];
/** virStoragePoolState by number. */
const POOL_STATES = ["inactive", "building", "running", "degraded", "inaccessible"] as const;
export type PoolState = (typeof POOL_STATES)[number] | "unknown";
/** virStorageVolType by number. */
const VOLUME_TYPES = ["file", "block", "dir", "network", "netdir", "ploop"] as const;
export type VolumeType = (typeof VOLUME_TYPES)[number] | "unknown";
/** virDomainEventType by number. */
const LIFECYCLE_EVENTS = [
  "defined",
  "undefined",
  "started",
  "suspended",
  "resumed",
  "stopped",
  "shutdown",
  "pmsuspended",
  "crashed",
] as const;
export type LifecycleEventName = (typeof LIFECYCLE_EVENTS)[number] | "unknown";
/** virDomainEventStoppedDetailType by number. */
const STOPPED_DETAILS = ["shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from-snapshot"] as const;
export type StoppedDetail = (typeof STOPPED_DETAILS)[number];

export const domainState = (state: number): DomainState => DOMAIN_STATES[state] ?? "nostate";
/** virDomainPausedReason by number, in words. */
const PAUSED_REASONS = [
  "somebody or something",
  "a user",
  "its migration",
  "its being saved",
  "its being dumped",
  "an input or output error",
  "its watchdog",
  "a snapshot",
  "its shutting down",
  "a snapshot that is taken",
  "a crash",
  "its start",
] as const;
export const pausedReason = (reason: number): string => PAUSED_REASONS[reason] ?? PAUSED_REASONS[0];
export const poolState = (state: number): PoolState => POOL_STATES[state] ?? "unknown";
export const volumeType = (type: number): VolumeType => VOLUME_TYPES[type] ?? "unknown";
export const lifecycleEvent = (event: number): LifecycleEventName => LIFECYCLE_EVENTS[event] ?? "unknown";
export const stoppedDetail = (detail: number): StoppedDetail | undefined => STOPPED_DETAILS[detail];
