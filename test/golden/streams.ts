import type { BuiltLine } from "../../src/cli/renderers/builds.ts";
import type { GuestLine } from "../../src/cli/renderers/guests.ts";
import type { Why } from "../../src/cli/renderers/why.ts";
import type { EventBody, LabEvent, Plan, PlannedAction, PropertyChange, RunSummary } from "../../src/model/index.ts";

/** Recorded streams for the renderers. Times and ids are fixed, so that each rendering is too. */
export const RUN = "20261123T010203Z-1f2e3d";

function stream(bodies: readonly (EventBody | { readonly wait: number })[]): LabEvent[] {
  let at = Date.parse("2026-11-23T01:02:03.000Z");
  let seq = 0;
  const events: LabEvent[] = [];
  for (const body of bodies) {
    if ("wait" in body) {
      at += body.wait;
      continue;
    }
    seq += 1;
    events.push({ run: RUN, seq, at: new Date(at).toISOString(), ...body });
  }
  return events;
}

export function action(partial: Pick<PlannedAction, "address" | "action"> & Partial<PlannedAction>): PlannedAction {
  return {
    kind: /(?:^|\/)([a-z_]+)[.[][^/]*$/.exec(partial.address)?.[1] ?? "host",
    reason: { code: "new", text: "not there yet" },
    changes: [],
    drift: [],
    envelope: { action: partial.action, properties: [], exact: true },
    after_actions: [],
    after_soft: [],
    depends: [],
    options: {},
    ...partial,
  };
}

export function plan(actions: readonly PlannedAction[], more: Partial<Plan> = {}): Plan {
  return {
    format_version: 2,
    labctl: "0.1.0",
    id: "5f0c",
    created_at: "2026-11-23T01:02:03.000Z",
    lab: "kernel-lab",
    mode: "normal",
    spec: [{ path: "lab.yaml", sha256: "0".repeat(64) }],
    state: { scopes: { lab: { lineage: "l", serial: 1 } }, rows: {} },
    secrets: {},
    settings: { root: "/lab", selection: { vars: {}, var_files: [] }, providers: [] },
    actions,
    outputs: [],
    warnings: [],
    ...more,
  };
}

const change = (
  path: string,
  before: PropertyChange["before"],
  after: PropertyChange["after"],
  more: Partial<PropertyChange> = {},
): PropertyChange => ({
  path,
  ...(before !== undefined && { before }),
  ...(after !== undefined && { after }),
  effect: "update",
  ...more,
});

const MOTD = 'host.builder-1/file["/etc/motd"]';
const LIMITS = 'host.builder-1/file["/etc/security/limits.d/lab.conf"]';

export const richPlan = plan(
  [
    action({ address: "host.builder-1", action: "noop", reason: { code: "unchanged", text: "as the spec says" } }),
    action({
      address: MOTD,
      action: "create",
      changes: [
        change("content", undefined, "managed by labctl\nsecond line\n"),
        change("mode", undefined, "0644"),
        change("owner", undefined, { $unknown: { $template: [{ $ref: ["host", "kvm-1", "user"] }] } }),
      ],
    }),
    action({
      address: LIMITS,
      action: "update",
      reason: { code: "changed", text: "the spec changed" },
      changes: [
        change("content", "a\nb\nc\nd\ne\nf\n", "a\nb\nC\nd\ne\nf\ng\n", { text: true }),
        change("mode", "0600", "0644"),
        change("token", { $sensitive: { from: null } }, { $sensitive: { from: null } }, { sensitive: true }),
      ],
    }),
    action({
      address: 'host.builder-1/file["/opt/blob"]',
      action: "update",
      reason: { code: "drifted", text: "changed behind labctl's back" },
      changes: [change("sha256", "ab".repeat(32), "cd".repeat(32))],
      drift: [change("sha256", "cd".repeat(32), "ab".repeat(32))],
    }),
    action({
      address: "host.builder-1/user.build",
      action: "replace",
      reason: { code: "changed", text: "uid cannot be changed in place" },
      changes: [change("uid", 1000, 1001, { effect: "replace" }), change("groups", ["kvm"], ["kvm", "disk"])],
    }),
    action({
      address: "host.builder-1/service.chrony",
      action: "update",
      reason: { code: "changed", text: "the spec changed" },
      changes: [change("config", "a", "b", { effect: "restart" })],
      options: { optional: true },
    }),
    action({
      address: "host.builder-1/package.gcc",
      action: "adopt",
      reason: { code: "already-there", text: "already as the spec says" },
    }),
    action({
      address: 'host.builder-1/file["/etc/old"]',
      action: "delete",
      reason: { code: "removed", text: "no longer in the spec" },
    }),
    action({
      address: "host.builder-1/sysctl.kernel_panic",
      action: "create",
      reason: { code: "missing", text: "it was there and is gone" },
    }),
    action({
      address: "host.kvm-1",
      action: "blocked",
      reason: { code: "unreachable", text: "connect ECONNREFUSED 10.0.0.21:22" },
    }),
    ...[1, 2, 3, 4, 5].map((n) =>
      action({
        address: `host.kvm-1/file["/srv/${n}"]`,
        action: "blocked",
        reason: { code: "dependency-blocked", text: "host.kvm-1 is blocked" },
      }),
    ),
    action({
      address: "network.test",
      action: "forget",
      reason: { code: "forgotten", text: "`removed:` says to forget it" },
    }),
  ],
  {
    outputs: [
      { name: "builder_address", after: "10.0.0.11" },
      { name: "gone", before: 1 },
      { name: "token", before: { $sensitive: { from: null } }, after: { $sensitive: { from: null } } },
    ],
    warnings: [{ code: "UNVERIFIED", text: "the console was not read", address: "host.kvm-1" }],
  },
);

export const emptyPlan = plan([
  action({ address: "host.a", action: "noop", reason: { code: "unchanged", text: "as the spec says" } }),
  action({ address: 'host.a/file["/x"]', action: "noop", reason: { code: "unchanged", text: "as the spec says" } }),
]);

/** A lab that tries to write on the terminal by itself. */
export const hostilePlan = plan([
  action({
    address: 'host.a/file["/tmp/\u001b[2J\nNo changes."]',
    action: "update",
    reason: { code: "changed", text: "because \u001b[1A\u001b[2K of this\r" },
    changes: [
      change("content", "one\n\u001b[31mtwo\n", "one\n\u202etwo\u0007\n", { text: true }),
      change("na\nme", "\u001b]0;title\u0007", "\u2066x\u2069"),
    ],
  }),
]);

const summary = (more: Partial<RunSummary>): RunSummary => ({
  command: "apply",
  result: "ok",
  exit_code: 0,
  duration_ms: 12_300,
  results: {},
  problems: [],
  manual_steps: [],
  ...more,
});

export const applyOk = stream([
  { type: "phase.started", phase: "load" },
  { type: "phase.finished", phase: "load", duration_ms: 30 },
  { type: "run.started", command: "apply", who: "ada", lab: "kernel-lab" },
  { type: "phase.started", phase: "read" },
  { type: "host.connecting", host: "host.a", attempt: 1 },
  { wait: 120 },
  { type: "host.connected", host: "host.a", duration_ms: 120 },
  { type: "phase.finished", phase: "read", duration_ms: 300 },
  {
    type: "plan.made",
    plan: plan([
      action({ address: 'host.a/file["/x"]', action: "create" }),
      action({ address: "host.a/package.gcc", action: "update" }),
      action({ address: "host.b/user.build", action: "delete" }),
    ]),
  },
  { type: "lock.acquired", token: 3, takeover: true },
  { type: "phase.started", phase: "apply" },
  { type: "action.started", address: 'host.a/file["/x"]', action: "create", attempt: 1 },
  { type: "action.started", address: "host.a/package.gcc", action: "update", attempt: 1 },
  { type: "action.started", address: "host.b/user.build", action: "delete", attempt: 1 },
  { wait: 400 },
  { type: "action.progress", address: 'host.a/file["/x"]', fraction: 0.42, text: "4.2 MiB of 10.0 MiB" },
  { wait: 11_000 },
  { type: "action.progress", address: 'host.a/file["/x"]', fraction: 0.8, text: "8.0 MiB of 10.0 MiB" },
  {
    type: "log.line",
    level: "info",
    component: "package",
    address: "host.a/package.gcc",
    message: "Setting up gcc\n",
    stream: "stdout",
  },
  { type: "action.finished", address: 'host.a/file["/x"]', action: "create", result: "ok", duration_ms: 11_400 },
  { type: "action.finished", address: "host.b/user.build", action: "delete", result: "ok", duration_ms: 150 },
  { type: "action.finished", address: "host.a/package.gcc", action: "update", result: "ok", duration_ms: 11_500 },
  { type: "phase.finished", phase: "apply", duration_ms: 11_600 },
  { type: "run.finished", summary: summary({ results: { ok: 3, noop: 12 } }) },
]);

export const failedSummary = summary({
  result: "failed",
  exit_code: 6,
  results: { ok: 1, failed: 1, skipped: 4, blocked: 6, cancelled: 1 },
  problems: [
    {
      code: "E_PACKAGE",
      message: "apt-get install gcc failed with exit code 100",
      address: "host.a/package.gcc",
      hint: "look at its log: labctl logs",
      causes: ["E: Unable to locate package gcc"],
    },
    { code: "E_CONNECT", message: "connect ECONNREFUSED 10.0.0.21:22", address: "host.kvm-1", retryable: true },
  ],
  manual_steps: ["on host.a: rm -- /srv/half"],
});

const gcc = {
  code: "E_PACKAGE",
  message: "apt-get install gcc failed with exit code 100",
  hint: "look at its log: labctl logs",
};

export const applyFailed = stream([
  { type: "run.started", command: "apply", who: "ada", lab: "kernel-lab" },
  { type: "lock.waiting", holder: "bob@desk", purpose: "labctl apply", since: "2026-11-23T01:00:00Z" },
  { type: "host.retrying", host: "host.kvm-1", attempt: 1, delay_ms: 1000, why: "connect ECONNREFUSED" },
  { type: "host.offline", host: "host.kvm-1", problem: { code: "E_CONNECT", message: "connect ECONNREFUSED" } },
  {
    type: "plan.made",
    plan: plan([
      action({ address: "host.a/package.gcc", action: "create" }),
      action({ address: 'host.a/file["/x"]', action: "create" }),
      action({ address: "host.a/service.build", action: "create" }),
      action({
        address: "host.kvm-1",
        action: "blocked",
        reason: { code: "unreachable", text: "connect ECONNREFUSED" },
      }),
    ]),
  },
  { type: "phase.started", phase: "apply" },
  { type: "action.started", address: "host.a/package.gcc", action: "create", attempt: 1 },
  { type: "action.started", address: 'host.a/file["/x"]', action: "create", attempt: 1 },
  { wait: 900 },
  { type: "action.retrying", address: "host.a/package.gcc", attempt: 1, delay_ms: 2000, problem: gcc },
  { wait: 2000 },
  { type: "action.finished", address: 'host.a/file["/x"]', action: "create", result: "ok", duration_ms: 2900 },
  { type: "warning.raised", problem: { code: "E_DISK_FULL", message: "this run cannot be recorded completely" } },
  {
    type: "action.finished",
    address: "host.a/package.gcc",
    action: "create",
    result: "failed",
    duration_ms: 4000,
    problem: gcc,
  },
  { type: "action.started", address: "host.a/module.loop", action: "create", attempt: 1 },
  {
    type: "action.finished",
    address: "host.a/module.loop",
    action: "create",
    result: "failed",
    duration_ms: 20,
    problem: { code: "E_COMMAND_FAILED", message: "modprobe: not found" },
    optional: true,
  },
  ...[1, 2, 3, 4].map(
    (n): EventBody => ({
      type: "action.finished",
      address: `host.a/service.s${n}`,
      action: "create",
      result: "skipped",
      duration_ms: 0,
      because: "host.a/package.gcc",
    }),
  ),
  { type: "cancel.requested", level: 1 },
  { type: "action.finished", address: "host.a/user.late", action: "create", result: "cancelled", duration_ms: 0 },
  { type: "phase.started", phase: "rollback" },
  { type: "action.finished", address: 'host.a/file["/x"]', action: "delete", result: "rolled_back", duration_ms: 80 },
  { type: "run.finished", summary: failedSummary },
]);

/** A failed deployment with all that can be said of one. */
export const why: Why = {
  run: RUN,
  command: "apply",
  at: "2026-11-23T01:02:03.000Z",
  state: "failed",
  action: {
    address: "environment.smoke",
    action: "update",
    reason: { code: "changed", text: "the spec changed: kernel_digest" },
    changes: [change("kernel_digest", "a".repeat(64), "b".repeat(64), { effect: "restart" })],
    drift: [change("running", true, false)],
    after_actions: ["build.kasan"],
  },
  result: "failed",
  problem: { code: "E_BOOT_CRASHED", message: "Kernel panic\u001b[31m - not syncing", hint: "see its console" },
  duration_ms: 61_000,
  attempts: 2,
  stages: [
    { stage: "transfer", result: "completed", duration_ms: 1200 },
    { stage: "verify", result: "failed", duration_ms: 4000 },
  ],
  notes: [
    {
      level: "info",
      text: "environment.smoke: deploying on host.kvm-1: 20% in use with it\nnot host.kvm-2: is arm64, not x86_64",
    },
    { level: "warn", text: "environment.smoke did not come up on host.kvm-1: booting it again (retry 1)" },
  ],
  changed_before: ["build.kasan"],
};

export const builds: readonly BuiltLine[] = [
  {
    address: "build.kasan-x86_64",
    result: "built",
    digest: "d".repeat(64),
    commit: "c".repeat(40),
    server: "host.builder-1",
    duration_ms: 754_000,
    artifacts: [
      { name: "kernel_image", type: "kernel_image", sha256: "a".repeat(64), size: 4 << 20 },
      { name: "tools\u001b[2J", type: "initrd", sha256: "b".repeat(64), size: 700 },
    ],
  },
  { address: "build.hello", result: "there", digest: "e".repeat(64), artifacts: [] },
  { address: "build.broken", result: "failed", artifacts: [] },
  { address: "build.late", result: "unstarted", artifacts: [] },
];

const owner = {
  lab: "kernel-lab",
  scope: "lab",
  instance_id: "0a1b2c",
  run: RUN,
  since: "2026-11-23T01:02:03.000Z",
};

export const guests: readonly GuestLine[] = [
  {
    address: "vm.scratch-1",
    kind: "vm",
    status: "running",
    host: "host.kvm-1",
    domain: "kernel-lab-scratch-1",
    arch: "x86_64",
    cpus: 2,
    memory: 2 ** 31,
    reached_at: "192.168.100.7",
    reached_through: "host.kvm-1",
    owner,
    drift: [change("autostart", true, false), change("disks.0.cache", "none", "writeback\u001b[31m")],
  },
  {
    address: "environment.smoke",
    kind: "environment",
    status: "off",
    why: "Kernel panic - not syncing",
    host: "host.kvm-2",
    owner: { ...owner, scope: "pipeline/ci" },
    drift: [],
  },
  { address: "vm.gone", kind: "vm", status: "gone", owner, drift: [] },
  { address: "vm.away", kind: "vm", status: "unknown", why: "host.kvm-3 (10.0.0.3) does not answer", owner, drift: [] },
  { address: "vm.new", kind: "vm", status: "not applied", drift: [] },
];
