// Modules of Debian's kernel that guests of the tests load: paths below its `kernel` folder, each after those that it needs. What
// the kernel has built in is not among its files.

/** In Debian's kernel all of virtio is a module: without these a guest sees nothing of it. */
export const VIRTIO = ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"].map(
  (name) => `drivers/virtio/${name}.ko`,
);
export const VIRTIO_NET = ["net/core/failover.ko", "drivers/net/net_failover.ko", "drivers/net/virtio_net.ko"];
/** A CD-ROM drive, and what a seed of cloud-init is written in. */
export const CD = ["drivers/cdrom/cdrom.ko", "fs/isofs/isofs.ko"];
/** The power button, and its event device. */
export const BUTTON = ["drivers/acpi/button.ko", "drivers/input/evdev.ko"];
