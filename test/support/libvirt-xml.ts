/** XML for tests of libvirt's RPC, as plain as libvirt takes it. */

export function domainXml(
  name: string,
  options: { readonly disk?: string; readonly devices?: string; readonly metadata?: string } = {},
): string {
  const disk = options.disk
    ? `<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${options.disk}'/><target dev='vda' bus='virtio'/></disk>`
    : "";
  return `<domain type='qemu'><name>${name}</name><memory unit='MiB'>64</memory><vcpu current='1'>2</vcpu>
    <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
    ${options.metadata ?? ""}
    <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>${disk}
    <serial type='pty'><target port='0'/></serial><console type='pty'><target type='serial' port='0'/></console>
    <memballoon model='virtio'/>${options.devices ?? ""}</devices></domain>`;
}

export function networkXml(name: string, bridge: string, third: number): string {
  return `<network><name>${name}</name><bridge name='${bridge}'/><ip address='192.168.${third}.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.${third}.2' end='192.168.${third}.99'/></dhcp></ip></network>`;
}

export function poolXml(name: string, path: string): string {
  return `<pool type='dir'><name>${name}</name><target><path>${path}</path></target></pool>`;
}

export function volumeXml(name: string, bytes: number, format = "raw", allocation = 0): string {
  return `<volume><name>${name}</name><capacity unit='bytes'>${bytes}</capacity><allocation unit='bytes'>${allocation}</allocation>
    <target><format type='${format}'/></target></volume>`;
}
