import { createHmac } from "node:crypto";
import { describe, expect, test } from "vitest";
import {
  hostKeyFingerprint,
  judgeHostKey,
  knownHostsLine,
  knownTypes,
  parseKnownHosts,
} from "../../src/transport/ssh/known-hosts.ts";
import { sshString } from "../../src/transport/ssh/wireformat.ts";

const key = (type: string, seed: number): Buffer => Buffer.concat([sshString(type), sshString(Buffer.alloc(32, seed))]);
const line = (names: string, blob: Buffer, type = "ssh-ed25519"): string =>
  `${names} ${type} ${blob.toString("base64")}`;
const [one, two] = [key("ssh-ed25519", 1), key("ssh-ed25519", 2)];
const rsa = key("ssh-rsa", 3);
const judge = (text: string, host: string, port = 22, shown = one): string =>
  judgeHostKey(parseKnownHosts(text, "known_hosts"), host, port, shown).is;

describe("known_hosts", () => {
  test.each([
    ["a plain name", line("host.example", one), "host.example", 22, "known"],
    ["a list of names", line("a,host.example,10.0.0.1", one), "10.0.0.1", 22, "known"],
    ["case does not matter", line("Host.Example", one), "hOST.example", 22, "known"],
    ["a comment and an empty line", `# x\n\n${line("h", one)} some comment`, "h", 22, "known"],
    ["a pattern", line("*.example", one), "a.example", 22, "known"],
    ["a question mark", line("h?st", one), "host", 22, "known"],
    ["a dot is a dot", line("a.b", one), "axb", 22, "unknown"],
    ["a negation", line("*.example,!bad.example", one), "bad.example", 22, "unknown"],
    ["a port", line("[h]:2222", one), "h", 2222, "known"],
    ["another port", line("[h]:2222", one), "h", 22, "unknown"],
    ["the host's own key on another port, as ssh does", line("h", one), "h", 2222, "known"],
    ["another key", line("h", two), "h", 22, "changed"],
    ["another key of the same host, one of them right", `${line("h", two)}\n${line("h", one)}`, "h", 22, "known"],
    ["only another type", line("h", rsa, "ssh-rsa"), "h", 22, "changed"],
    ["another key without a port says nothing about a port", line("h", two), "h", 2222, "unknown"],
    ["revoked", `${line("h", one)}\n@revoked ${line("*", one)}`, "h", 22, "revoked"],
    ["a certificate authority is no host key", `@cert-authority ${line("h", one)}`, "h", 22, "unknown"],
    ["an unknown marker", `@strange ${line("h", one)}`, "h", 22, "unknown"],
    ["a type that is not the key's", line("h", one, "ssh-rsa"), "h", 22, "unknown"],
    ["rubbish", "h\nh ssh-ed25519\n\u0000\u0001 x", "h", 22, "unknown"],
  ])("%s", (_what, text, host, port, verdict) => {
    expect(judge(text, host, port)).toBe(verdict);
  });

  test("hashed names", () => {
    const salt = Buffer.alloc(20, 7);
    const hashed = (name: string): string =>
      `|1|${salt.toString("base64")}|${createHmac("sha1", salt).update(name).digest("base64")}`;
    expect(judge(line(hashed("h"), one), "h")).toBe("known");
    expect(judge(line(hashed("[h]:22022"), one), "h", 22022)).toBe("known");
    expect(judge(line(hashed("other"), one), "h")).toBe("unknown");
    expect(judge(line("|1|broken", one), "h")).toBe("unknown");
  });

  test("types that are known, lines and fingerprints", () => {
    const entries = parseKnownHosts(`${line("h", one)}\n${line("h", rsa, "ssh-rsa")}\n${line("other", two)}`, "f");
    expect([...knownTypes(entries, "h", 22)]).toEqual(["ssh-ed25519", "ssh-rsa"]);
    expect([...knownTypes(entries, "h", 2222)]).toEqual(["ssh-ed25519", "ssh-rsa"]);
    expect(judge(knownHostsLine("h", 2222, one), "h", 2222)).toBe("known");
    expect(hostKeyFingerprint(one)).toMatch(/^SHA256:[A-Za-z0-9+/]{43}$/);
    expect(entries.map((entry) => entry.line)).toEqual([1, 2, 3]);
  });
});
