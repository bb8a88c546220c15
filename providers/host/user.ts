import {
  defineKind,
  LabError,
  type Machine,
  type OperationContext,
  type PropertyDiff,
  shJoin,
  type ShellText,
} from "../../src/index.ts";
import { failure, machineOf, PROLOGUE, readByMachine, refuseUnproven, requireSuccess, runScript } from "./common.ts";
import { sha256 } from "./entries.ts";
import { afterForUser } from "./order.ts";
import {
  attributes,
  diffUser,
  everWanted,
  fieldChanges,
  type Fields,
  groupChanges,
  mergeKeys,
  type Observed,
  observedOf,
  restoreKeys,
  schema,
  USER_PATTERN,
  type UserItem,
} from "./user-model.ts";
import {
  keyLines,
  keysScript,
  parseUsers,
  userRemoval,
  userScript,
  type UserState,
  usersScript,
  usesBusybox,
} from "./user-script.ts";

type State = UserState & { readonly raw: string };

async function look(ctx: OperationContext, machine: Machine, name: string): Promise<State | undefined> {
  const result = requireSuccess(
    await machine.exec(usersScript([name]), { signal: ctx.signal, keep: 8 << 20 }),
    `looking at the user ${name}`,
  );
  return parseUsers(result.stdout.toString("utf8").split("\n"), 1)[0];
}

async function doing(ctx: OperationContext, item: UserItem, script: ShellText): Promise<void> {
  const result = requireSuccess(
    await runScript(machineOf(ctx, item), script, { signal: ctx.signal }),
    "changing a user",
  );
  const failed = /^E (keys|create|change|group \S+) (.*)$/m.exec(result.stdout.toString("utf8"));
  if (failed === null) return;
  throw userError(item, failed[1] ?? "", (failed[2] ?? "").trim());
}

function userError(item: UserItem, step: string, text: string): LabError {
  const { name } = item.desired;
  const group = /^group (\S+)$/.exec(step)?.[1];
  if (group !== undefined && /does not exist|unknown group|no such/i.test(text)) {
    return new LabError("E_MISMATCH", `the group ${group} that ${name} is to be in does not exist`, {
      address: item.address,
      hint: "create the group, or install the package that brings it (`packages:`)",
    });
  }
  if (step === "keys") {
    const hint = /symbolic link/.test(text)
      ? "labctl does not follow links in a user's home; replace it by hand"
      : undefined;
    return failure(`authorized_keys of ${name} cannot be written: ${text}`, text, hint).atAddress(item.address);
  }
  const hint = /currently used by process/.test(text)
    ? "end the user's processes (`loginctl terminate-user`), and run again"
    : undefined;
  return failure(`the user ${name} cannot be ${step === "create" ? "made" : "changed"}: ${text}`, text, hint).atAddress(
    item.address,
  );
}

function temporary(item: UserItem): string {
  return `.labctl-${sha256(item.instance_id).slice(0, 20)}`;
}

async function writeKeys(ctx: OperationContext, item: UserItem, state: State, lines: readonly string[]): Promise<void> {
  const now = state.raw === "" ? [] : state.raw.replace(/\n$/, "").split(/\r?\n/);
  if (lines.join("\n") === now.join("\n")) return;
  await doing(ctx, item, keysScript(state, lines, temporary(item)));
}

async function reconcile(ctx: OperationContext, item: UserItem): Promise<Observed> {
  const { desired } = item;
  const machine = machineOf(ctx, item);
  const before = await look(ctx, machine, desired.name);
  const { add, remove } = groupChanges(desired, before, item.prior);
  await doing(
    ctx,
    item,
    userScript({
      name: desired.name,
      create: before === undefined,
      ...fieldChanges(desired, before),
      system: desired.system,
      addGroups: add,
      removeGroups: remove,
    }),
  );
  const made = await look(ctx, machine, desired.name);
  if (made === undefined) throw mismatch(item, [{ path: "name" }]);
  await writeKeys(ctx, item, made, mergeKeys(made.raw, desired, item.prior));
  const after = await look(ctx, machine, desired.name);
  if (after === undefined) throw mismatch(item, [{ path: "name" }]);
  const observed = observedOf(after);
  const differing = diffUser({ desired, observed, prior: item.prior });
  if (differing.length > 0) throw mismatch(item, differing);
  return observed;
}

function mismatch(item: UserItem, differing: readonly PropertyDiff[]): LabError {
  const { name } = item.desired;
  const paths = differing.map(({ path }) => path).join(", ");
  const now = differing
    .map(({ path, before }) => `${path} is ${before === undefined ? "absent" : JSON.stringify(before)}`)
    .join("; ");
  return new LabError(
    "E_MISMATCH",
    `${paths} of ${name} did not become what was asked for: ${now.length > 500 ? `${now.slice(0, 500)}…` : now}`,
    {
      address: item.address,
      hint: "is the user kept in a directory service (LDAP, SSSD) rather than on the host?",
    },
  );
}

/** Removes a user that labctl made; gives one that was there before its groups, keys and fields back. */
async function remove(ctx: OperationContext, item: UserItem): Promise<void> {
  const { desired } = item;
  const machine = machineOf(ctx, item);
  const now = await look(ctx, machine, desired.name);
  if (now === undefined) return;
  const original = item.prior?.original;
  if (original === undefined) {
    const result = await machine.exec(shJoin([PROLOGUE, userRemoval(desired.name, desired.remove_home === true)]), {
      signal: ctx.signal,
    });
    // userdel -r exits 12 where the home or the mail is gone already, having removed the user.
    if (result.code !== 0 && (await look(ctx, machine, desired.name)) !== undefined) {
      throw userError(item, "change", result.stderr.toString("utf8").trim().replaceAll("\n", " "));
    }
    return;
  }
  await writeKeys(ctx, item, now, restoreKeys(now.raw, item, original));
  const touched = everWanted(item.prior).reduce<Fields>((all, one) => ({ ...all, ...one }), desired);
  const mine: Fields = {
    uid: touched.uid === undefined ? undefined : original.uid,
    shell: touched.shell === undefined ? undefined : original.shell,
    home: touched.home === undefined ? undefined : original.home,
    comment: touched.comment === undefined ? undefined : original.comment,
  };
  const added = [...new Set([desired, ...everWanted(item.prior)].flatMap((one) => one.groups ?? []))];
  await doing(
    ctx,
    item,
    userScript({
      name: desired.name,
      create: false,
      ...fieldChanges(mine, now),
      addGroups: [],
      removeGroups: [...new Set(added)].filter(
        (group) => !original.groups.includes(group) && now.groups.includes(group),
      ),
    }),
  );
}

export const user = defineKind({
  kind: "user",
  title: "A user on a host",
  description: [
    "An account with its groups and SSH keys. What is not set is left alone. A user that was there before is never removed:",
    "deleting takes away the groups and keys that labctl added and gives the other fields back. A user that labctl made is",
    "removed; its home stays unless `remove_home: true`. Where the shadow tools (useradd) are missing, busybox's serve, which no",
    "test has seen at work yet: that needs `--experimental`.",
  ].join("\n"),
  section: {
    name: "users",
    within: "host",
    shape: "map",
    key: "name",
    keySchema: { type: "string", pattern: USER_PATTERN },
  },
  schema,
  attributes,
  ownership: "shared",
  async prepare(ctx, item) {
    const { authorized_keys: listed } = item.desired;
    if (listed === undefined || item.unknown.has("authorized_keys")) return {};
    const lines: string[] = [];
    for (const entry of listed) {
      if (/\sAAAA/.test(entry)) lines.push(entry.trim());
      else {
        const found = keyLines((await ctx.local.read(entry)).toString("utf8"));
        if (found.length === 0 || found.some((line) => !/\sAAAA/.test(line))) {
          throw new LabError("E_SOURCE_FILE", `${entry} holds no SSH public key`, {
            address: item.address,
            hint: "name the public half of the key, which ends in .pub",
          });
        }
        lines.push(...found);
      }
    }
    return { keys: [...new Set(lines)] };
  },
  limits: (_desired, address) => [{ name: `${address.slice(0, address.indexOf("/"))}/accounts`, permits: 1 }],
  after: (_desired, siblings) => afterForUser(siblings),
  readMany: (ctx, items) =>
    readByMachine(ctx, items, {
      script: (group) => usersScript(group.map((item) => item.desired.name)),
      parse(lines, group) {
        const [first] = group;
        if (first !== undefined && usesBusybox(lines)) refuseUnproven(ctx, first, "users through busybox's adduser");
        return parseUsers(lines, group.length).map((state) =>
          state === undefined ? { is: "absent" } : { is: "present", value: observedOf(state) },
        );
      },
    }),
  diff: diffUser,
  reconcile,
  delete: remove,
  manualCleanup: (item) =>
    item.prior?.original === undefined
      ? `on the host, remove the user ${item.desired.name} (\`userdel ${item.desired.name}\`)`
      : `on the host, take the groups and keys that the spec lists from ${item.desired.name}`,
  fromImportId: (id) => ({ name: id }),
});
