import type { Kind, Provider } from "../provider/index.ts";

/** The providers that come with labctl, loaded when they are first needed. */
export async function builtinProviders(): Promise<readonly Provider[]> {
  const [{ hostProvider }, { buildProvider }, { libvirtProvider }] = await Promise.all([
    import("../../providers/host/index.ts"),
    import("../../providers/build/index.ts"),
    import("../../providers/libvirt/index.ts"),
  ]);
  return [hostProvider, buildProvider, libvirtProvider];
}

export async function builtinKinds(): Promise<readonly Kind[]> {
  return (await builtinProviders()).flatMap((provider) => provider.kinds);
}
