const SHORTEST = 3;

/**
 * Removes known secret values from text on its way out: to the terminal, events, logs, records and error messages.
 * It is the second line of defence; the first is that secrets travel as Sensitive and are not put into text at all.
 * Forms that tools make of a value are covered: its lines, JSON and shell quoting, URL encoding, base64.
 */
export class Redactor {
  readonly #needles = new Set<string>();
  #pattern: RegExp | undefined;

  /** Registers a value. Values shorter than three characters cannot be told from other text and are not searched for. */
  add(secret: string): void {
    for (const form of formsOf(secret)) this.#needles.add(form);
    this.#pattern = undefined;
  }

  redact(text: string): string {
    if (this.#needles.size === 0) return text;
    this.#pattern ??= new RegExp(
      [...this.#needles]
        .sort((a, b) => b.length - a.length)
        .map((needle) => needle.replaceAll(/[.*+?^${}()|[\]\\/]/g, String.raw`\$&`))
        .join("|"),
      "g",
    );
    return text.replace(this.#pattern, "(sensitive)");
  }

  /** A copy of plain data in which every string, keys included, is redacted. */
  redactDeep<T>(data: T): T {
    if (this.#needles.size === 0) return data;
    return this.#deep(data) as T;
  }

  #deep(data: unknown): unknown {
    if (typeof data === "string") return this.redact(data);
    if (Array.isArray(data)) return data.map((item) => this.#deep(item));
    if (data !== null && typeof data === "object") {
      return Object.fromEntries(Object.entries(data).map(([key, item]) => [this.redact(key), this.#deep(item)]));
    }
    return data;
  }
}

function formsOf(secret: string): string[] {
  const lines = secret.split(/\r?\n/).map((line) => line.trim());
  // A whole key file is searched for line by line too; short lines of it ("}", "fi") would redact half the output.
  const parts = [secret, secret.trim(), ...(lines.length > 1 ? lines.filter((line) => line.length >= 8) : [])];
  const forms = parts.flatMap((part) => [
    part,
    JSON.stringify(part).slice(1, -1),
    part.replaceAll("'", String.raw`'\''`),
    encodeURIComponent(part.replaceAll(/\p{Cs}/gu, "")),
    ...base64Forms(part),
  ]);
  return forms.filter((form) => form.length >= SHORTEST);
}

/** Base64 of a secret anywhere inside a longer text: one form for each alignment, without the ends that neighbours change. */
function base64Forms(text: string): string[] {
  if (text.length < 8) return [];
  return [0, 1, 2].map((shift) => {
    const encoded = Buffer.from("\0".repeat(shift) + text)
      .toString("base64")
      .replace(/=+$/, "");
    return encoded.slice(shift === 0 ? 0 : shift + 1, -2);
  });
}
